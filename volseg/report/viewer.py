"""The views through the volume, as values for ``templates/viewer.html``."""

import base64
from collections.abc import Sequence
from typing import Any

import imagecodecs

from volseg.annotation import COUNTED, numbered, ordinal
from volseg.geometry import AXES
from volseg.report.embedding import Embedded
from volseg.report.figures import slice_picture
from volseg.report.parts import Report
from volseg.report.picture import Plane, planes_of

__all__ = ["viewer"]

_FLAT = 0.65  # volumes flatter than this are shown with xz above yz, others with all three in a row
_MAX_MARKS = 120  # under a slider
_STILL = 384  # pixels of the picture for pages without scripts


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
