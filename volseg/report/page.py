"""One HTML page about a result, whole in itself: it opens from the disk, asks no network for anything.

It is made of the templates in ``templates/``, which escape whatever a person named or wrote; what they show
and no attribute of a report holds (tables, sums, charts, views) is made here. The page also forbids itself
any connection and any script but its own (Content-Security-Policy), so that a class name or a path with
markup in it stays text even if an escape were forgotten.
"""

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import imagecodecs

from volseg.annotation import COUNTED, annotated_slices, numbered, ordinal
from volseg.geometry import AXES
from volseg.io import write_text
from volseg.report.charts import calibration_chart, curve_charts, scores_chart
from volseg.report.colours import class_colours
from volseg.report.embedding import Embedded, embed
from volseg.report.figures import slice_picture
from volseg.report.gallery import gallery
from volseg.report.parts import ClassScore, Report
from volseg.report.picture import Plane, planes_of
from volseg.report.rendering import render, svg

__all__ = ["sections", "unit_of", "viewer", "write_report"]


_FLAT = 0.65  # volumes flatter than this are shown with xz above yz, others with all three in a row
_MAX_MARKS = 120  # under a slider
_STILL = 384  # pixels of the picture for pages without scripts
_BESIDE = {"dice": "Dice", "surface": "surface Dice"}  # shown of the first method, by attribute


def sections(report: Report) -> dict[str, Any]:
    """Values for the templates, by the names that these use."""
    sizes = [amount for amount in report.amounts if amount.size is not None]
    return {
        "subtitle": _subtitle(report),
        "names": report.labels.names,
        "colours": class_colours(len(report.labels)).tolist(),
        "scores": _scores(report) if report.scores else None,
        "voxels": _voxels(report),
        "units": list(dict.fromkeys(amount.unit_in_words for amount in sizes)),
        "mean_of": _mean_of(report),
        "curves": [svg(chart) for chart in curve_charts(report.curves)] if report.curves else [],
        "calibration": report.calibration and svg(calibration_chart(report.calibration)),
    }


def unit_of(report: Report) -> str:
    """The unit as people write it; empty where the voxel size is unknown."""
    return "" if report.spacing is None else {"um": "µm", "micron": "µm"}.get(report.unit, report.unit)


def _voxels(report: Report) -> str:
    return "voxels" if len(report.size) == 3 else "pixels"


def _mean_of(report: Report) -> str:
    return "mean over foreground classes" if report.headline.leaves_out else "mean over all classes"


def _subtitle(report: Report) -> str:
    size = f"{' × '.join(map(str, report.size))} {_voxels(report)}"
    if report.spacing is not None:
        size += f" of {' × '.join(f'{s:.4g}' for s in report.spacing)} {unit_of(report)}".rstrip()
    channels, classes = report.image.shape[0], len(report.labels)
    return (
        f"{size} · {channels} {'channel' if channels == 1 else 'channels'} · "
        f"{classes} {'class' if classes == 1 else 'classes'}"
    )


def _scores(report: Report) -> dict[str, Any]:
    """The table of scores: a row per class, then the means, with the best of each marked."""
    names, methods = report.score_rows()
    shown = methods[0].classes
    beside = [name for name in _BESIDE if any(getattr(score, name) is not None for score in shown)]
    rows = [_row(name, [method.classes[i] for method in methods]) for i, name in enumerate(names)]
    leaves_out = report.headline.leaves_out
    if any(method.headline is not None for method in methods):
        rows.append(_row(_mean_of(report), [_or_none(method.headline) for method in methods], "mean"))
    if any(method.mean is not None for method in methods) and (leaves_out or len(rows) == len(names)):
        kind = "" if len(rows) > len(names) else "mean"
        name = "with background" if leaves_out else "mean over all classes"
        rows.append(_row(name, [_or_none(method.mean) for method in methods], kind))
    intervals = any(score.interval for method in methods for score in method.classes)
    caption = ["IoU by class."]
    if intervals:
        caption = ["In brackets and as bars: the confidence interval of the IoU over what was held out."]
    if "surface" in beside:
        caption.append("Surface Dice: share of the border that is off by one voxel at most.")
        caption += ["It has no interval."] if intervals else []
    return {
        "caption": " ".join(caption),
        "heads": [("IoU", method.method) for method in methods]
        + [(_BESIDE[name], methods[0].method) for name in beside],
        "rows": rows,
        "beside": beside,
        "methods": [method.method for method in methods],
        "chart": svg(scores_chart(names, methods)),
    }


def _or_none(score: ClassScore | None) -> ClassScore:
    return score or ClassScore(None)


def _row(name: str, scores: Sequence[ClassScore], kind: str = "") -> dict[str, Any]:
    known = [score.iou for score in scores if score.iou is not None and math.isfinite(score.iou)]
    return {"name": name, "scores": scores, "kind": kind, "best": max(known) if len(known) > 1 else None}


def viewer(report: Report, embedded: Embedded, painted: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Views and their controls; ``painted`` are the slices that carry paint, per axis."""
    planes = planes_of(report.size, report.orientation)
    spacing = report.spacing or (1.0,) * len(report.size)
    depth = 0.0
    if len(planes) == 3:
        depth = report.size[2] * spacing[2] / max(planes[0].extent(report.size, spacing))
    marks = {"painted": any(painted), "next": report.suggestion is not None} if len(planes) > 1 else {}
    return {
        "layout": "one" if len(planes) == 1 else "flat" if depth <= _FLAT else "deep",
        "views": [_view(report, embedded, plane, painted) for plane in planes],
        "key_marks": marks if any(marks.values()) else None,
        "thinning": _thinning(report, embedded),
        "still": _still(report),
    }


def _view(
    report: Report, embedded: Embedded, plane: Plane, painted: Sequence[Sequence[int]]
) -> dict[str, Any]:
    steps = embedded.steps
    shape = [n * step for n, step in zip(embedded.shape, steps, strict=True)]
    width, height = plane.extent(shape, report.spacing or (1.0,) * len(report.size))
    view: dict[str, Any] = {"name": plane.name, "ratio": width / height, "axis": ""}
    if plane.normal is not None:
        axis = plane.normal
        view |= {"axis": AXES[axis], "n": report.size[axis], "step": steps[axis]}
        view["marks"] = _marks(report, axis, painted[axis])
    return view


def _marks(report: Report, axis: int, painted: Sequence[int]) -> list[dict[str, Any]]:
    """Where the painted slices are, and the one to paint next, under a slider."""

    def mark(index: int, kind: str, title: str) -> dict[str, Any]:
        where = numbered(AXES[axis], index, report.size[axis])
        place = index / max(1, report.size[axis] - 1)
        return {"kind": kind, "place": place, "title": f"{title}: {where}"}

    marks = [mark(i, "mark", "painted") for i in painted] if len(painted) <= _MAX_MARKS else []
    suggestion = report.suggestion
    if suggestion is not None and suggestion.axis == AXES[axis]:
        marks.append(mark(int(suggestion.index), "mark next", "paint next"))
    return marks


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
    return " ".join(text)


def _still(report: Report) -> str:
    plane = planes_of(report.size, report.orientation)[0]
    layer = "paint" if report.result is None else "result"
    picture = slice_picture(report, plane, report.size[-1] // 2, layer=layer)
    step = -(-max(picture.shape[:2]) // _STILL)
    return base64.b64encode(imagecodecs.png_encode(picture[::step, ::step].copy(), level=6)).decode("ascii")


_MAX_BYTES = 15_000_000
_LEAST = 50_000  # bytes for the volumes


def write_report(
    path: str | os.PathLike[str], report: Report, *, overwrite: bool = False, max_bytes: int = _MAX_BYTES
) -> Path:
    """Write a page about a result, and give its path.

    Large volumes are shown at every second, third, … voxel, so that the page stays below ``max_bytes``;
    the page says so. Where ``path`` exists and ``overwrite`` is not set, nothing is written.
    """
    target = Path(path)
    write_text(target, _page(report, max_bytes), overwrite=overwrite, errors="replace")
    return target


def _page(report: Report, max_bytes: int) -> str:
    script = _script()
    values = {
        **sections(report),
        "report": report,
        "style": _resource("base.css") + _resource("page.css"),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "gallery": gallery(report),
    }
    text = render("page.html", **values, views=None, meta={}, data=[])
    taken = len(text.encode("utf-8", errors="replace"))
    room = max_bytes - taken - _LEAST  # the views need a few thousand bytes more
    if room < _LEAST:
        raise ValueError(
            f"max_bytes = {max_bytes} leaves no room for pictures: the text of this page takes {taken}. "
            f"Allow {taken + 2 * _LEAST} or more."
        )
    embedded = embed(report, max_bytes=room)
    painted: list[list[int]] = [[] for _ in report.size]
    if report.painted is not None:
        painted = [list(map(int, indices)) for indices in report.painted or painted]
    elif report.paint is not None:
        painted = [list(map(int, indices)) for indices in annotated_slices(report.paint)]
    values |= viewer(report, embedded, painted)
    return render("page.html", **values, meta=_meta(report, embedded, painted), data=_data(embedded))


def _meta(report: Report, embedded: Embedded, painted: list[list[int]]) -> dict[str, Any]:
    """What the page's script must know."""
    sheets = {}
    for name, found in embedded.pictures.items():
        sheets[name] = [{k: v for k, v in asdict(sheet).items() if k != "data"} for sheet in found]
    dims = len(report.size)
    colours = class_colours(len(report.labels)).tolist()
    return {
        "size": report.size,
        "shape": embedded.shape,
        "steps": embedded.steps,
        "spacing": [float(s) for s in report.spacing or (1.0,) * dims],
        "unit": unit_of(report),
        "start": [*(n // 2 for n in report.size), 0][:3],
        "channels": 1 if report.image.shape[0] == 1 else 3,
        "classes": [
            {"name": name, "colour": colour}
            for name, colour in zip(report.labels.names, colours, strict=True)
        ],
        "labels": list(embedded.labels),
        "sheets": sheets,
        "painted": painted,
        "views": [
            {
                "name": plane.name,
                "h": plane.across,
                "v": plane.down,
                "n": plane.normal,
                "flip": plane.flipped,
                "letters": plane.letters or None,
            }
            for plane in planes_of(report.size, report.orientation)
        ],
    }


def _data(embedded: Embedded) -> list[tuple[str, str]]:
    """The volumes by name, as text."""
    pictures = [
        (f"{name}-{i}", sheet.data)
        for name, sheets in embedded.pictures.items()
        for i, sheet in enumerate(sheets)
    ]
    return [*embedded.labels.items(), *pictures]


def _script() -> str:
    """In a block of its own: what a part declares, the next may use, and nothing else sees it."""
    parts = map(_resource, ("volumes.js", "shared.js", "drawing.js", "page.js"))
    return '"use strict";\n{\n' + "\n".join(parts) + "}\n"


def _resource(name: str) -> str:
    return files("volseg.report").joinpath(name).read_text(encoding="utf-8")
