"""The views through the volume as HTML: what ``drawing.js`` and ``page.js`` bring to life."""

import base64
from collections.abc import Sequence
from html import escape

import imagecodecs

from volseg.annotation import COUNTED, numbered, ordinal
from volseg.report.embedding import Embedded
from volseg.report.figures import slice_picture
from volseg.report.parts import AXES, Report
from volseg.report.picture import Plane, class_colours, planes_of

__all__ = ["viewer"]

_FLAT = 0.65  # volumes flatter than this are shown with xz above yz, others with all three in a row
_MAX_MARKS = 120  # under a slider
_STILL = 384  # pixels of the picture for pages without scripts
_KEYS = (
    ("← → ↑ ↓", "move the cross (with Shift: ten voxels)"),
    ("Page Up, Page Down, wheel", "next and previous slice"),
    ("n, p", "next and previous painted slice"),
    ("1, 2, 3, …", "switch a layer"),
    ("c", "hide or show the cross"),
)
_KEY_LIST = "".join(f"<dt><kbd>{escape(key)}</kbd></dt><dd>{text}</dd>" for key, text in _KEYS)
_INFO = """<p id="readout" class="readout" role="status" aria-label="at the cross">Loading the volume …</p>
<div class="under">{legend}{thinning}
<details><summary>Keyboard</summary><p class="quiet">Click a view first, or reach it with Tab.</p>
<dl class="keys">{keys}</dl></details></div>"""
_DOUBT = """<fieldset><legend>Doubt</legend>
<div class="scale" role="img" aria-label="colours of doubt: dark where sure, bright where a guess"></div>
<div class="scale-ends"><span>sure</span><span>a guess</span></div></fieldset>"""


def viewer(report: Report, embedded: Embedded, painted: Sequence[Sequence[int]]) -> str:
    """The views with their controls; ``painted`` are the slices that carry paint, per axis."""
    planes = planes_of(report)
    spacing = report.spacing or (1.0,) * len(report.size)
    depth = 0.0
    if len(planes) == 3:
        depth = report.size[2] * spacing[2] / max(planes[0].extent(report.size, spacing))
    layout = "one" if len(planes) == 1 else "flat" if depth <= _FLAT else "deep"
    columns = [[_view(report, embedded, plane, painted)] for plane in planes]
    info = _INFO.format(
        legend=_legend(report, planes, painted), thinning=_thinning(report, embedded), keys=_KEY_LIST
    )
    if layout == "flat":  # the space under xy is free
        columns = [[*columns[0], f"<div>{info}</div>"], columns[1] + columns[2]]
        info = ""
    views = "\n".join(f'<div class="column">{"".join(column)}</div>' for column in columns)
    return f"""<section id="viewer" aria-labelledby="viewer-title">
<h2 id="viewer-title">Views</h2>
<p id="trouble" class="trouble" role="alert" hidden></p>
<noscript>
<p class="trouble">The views need JavaScript. This is the middle slice.</p>
<img src="data:image/png;base64,{_still(report)}" alt="The middle slice of the image">
</noscript>
<div class="controls">
{_layers(report)}
{_classes(report)}
</div>
<div id="views" class="views {layout}">
{views}
</div>
{info}
</section>"""


def _view(report: Report, embedded: Embedded, plane: Plane, painted: Sequence[Sequence[int]]) -> str:
    steps = embedded.steps
    spacing = report.spacing or (1.0,) * len(report.size)
    shape = [n * step for n, step in zip(embedded.shape, steps, strict=True)]
    width, height = plane.extent(shape, spacing)
    caption, slide = "", ""
    if plane.normal is not None:
        axis = AXES[plane.normal]
        n = report.size[plane.normal]
        caption = f"<output>{numbered(axis, n // 2, n)}</output>"
        slide = f"""
<div class="slide">{_step("previous", "‹", axis)}
<div class="track"><input type="range" min="0" max="{n - 1}" step="{steps[plane.normal]}" value="{n // 2}"
 aria-label="slice along {axis}">{_marks(report, plane.normal, painted[plane.normal])}</div>
{_step("next", "›", axis)}</div>"""
    return f"""<figure class="view" data-view="{plane.name}" style="--ratio: {width / height:.5f}">
<figcaption><b>{plane.name}</b>{caption}</figcaption>
<canvas tabindex="0" role="img" aria-label="{plane.name} view"></canvas>{slide}
</figure>"""


def _legend(report: Report, planes: Sequence[Plane], painted: Sequence[Sequence[int]]) -> str:
    if len(planes) == 1:
        return ""
    marks = []
    if any(painted):
        marks.append('<span class="key-mark"></span>painted slice')
    if report.suggestion is not None:
        marks.append('<span class="key-next"></span>slice to paint next')
    return f'<span class="quiet">{"".join(marks)}</span>' if marks else ""


def _step(direction: str, sign: str, axis: str) -> str:
    return (
        f'<button type="button" class="{direction}-painted" title="{direction} painted slice" '
        f'aria-label="{direction} painted slice along {axis}">{sign}</button>'
    )


def _marks(report: Report, axis: int, painted: Sequence[int]) -> str:
    """Where the painted slices are, and the one to paint next, under a slider."""

    def mark(index: int, kind: str, title: str) -> str:
        place = index / max(1, report.size[axis] - 1)
        left = f"calc(8px + {place:.5f} * (100% - 16px))"  # the slider's thumb is 16 pixels wide
        where = numbered(AXES[axis], index, report.size[axis])
        return f'<span class="{kind}" style="left: {left}" title="{title}: {where}"></span>'

    marks = [mark(i, "mark", "painted") for i in painted] if len(painted) <= _MAX_MARKS else []
    suggestion = report.suggestion
    if suggestion is not None and suggestion.axis == AXES[axis]:
        marks.append(mark(int(suggestion.index), "mark next", "paint next"))
    return "".join(marks)


def _layers(report: Report) -> str:
    rows = [_layer("image", "image", on=True, amount=50, what="brightness")]
    if report.result is not None:
        rows.append(_layer("result", "result", on=True, amount=45, style="filled"))
    if report.truth is not None:
        rows.append(_layer("truth", "truth", on=False, amount=100, style="outline"))
    if report.paint is not None:
        alone = report.result is None
        style, amount = ("filled", 45) if alone else ("outline", 100)
        rows.append(_layer("paint", "paint", on=alone, amount=amount, style=style))
    if report.confidence is not None:
        rows.append(_layer("confidence", "doubt", on=False, amount=70))
    if report.truth is not None:
        rows.append(_layer("errors", "errors", on=False, amount=85))
    return f"<fieldset><legend>Layers</legend>{''.join(rows)}</fieldset>"


def _layer(name: str, label: str, *, on: bool, amount: int, style: str = "", what: str = "opacity") -> str:
    choices = "".join(
        f"<option{' selected' if choice == style else ''}>{choice}</option>"
        for choice in ("filled", "outline")
    )
    select = f'<select aria-label="{label}: style">{choices}</select>' if style else "<span></span>"
    return f"""
<div class="layer" data-layer="{name}">
<label><input type="checkbox"{" checked" if on else ""}>{label}</label>{select}
<input type="range" min="0" max="100" value="{amount}" aria-label="{label}: {what}" title="{what}">
<output>{amount}</output></div>"""


def _classes(report: Report) -> str:
    hidden = report.headline.background
    colours = class_colours(len(report.labels)).tolist()
    rows = "".join(
        f'<div class="class"><label><input type="checkbox"{"" if i == hidden else " checked"}>'
        f'<span class="swatch" style="background: rgb({r}, {g}, {b})"></span>{escape(name)}</label></div>'
        for i, (name, (r, g, b)) in enumerate(zip(report.labels.names, colours, strict=True))
    )
    classes = f'<fieldset><legend>Classes</legend><div class="classes">{rows}</div></fieldset>'
    return classes if report.confidence is None else classes + _DOUBT


def _thinning(report: Report, embedded: Embedded) -> str:
    """What is not shown, and how slices are counted."""
    text = []
    steps = [(axis, step) for axis, step in zip(AXES, embedded.steps, strict=True) if step > 1]
    if steps:
        along = ", ".join(f"every {ordinal(step)} voxel along {axis}" for axis, step in steps)
        text.append(f"To keep this page small, it shows {along}; the numbers are those of the whole volume.")
    if report.image.shape[0] > 3:
        text.append(f"Channels 1 to 3 of {report.image.shape[0]} are shown.")
    text.append(COUNTED if len(report.size) == 3 else "Voxels are counted from 0.")
    return f'<span class="quiet">{" ".join(text)}</span>'


def _still(report: Report) -> str:
    plane = planes_of(report)[0]
    layer = "paint" if report.result is None else "result"
    picture = slice_picture(report, plane, report.size[-1] // 2, layer=layer)
    step = -(-max(picture.shape[:2]) // _STILL)
    return base64.b64encode(imagecodecs.png_encode(picture[::step, ::step].copy(), level=6)).decode("ascii")
