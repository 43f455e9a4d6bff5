"""Painted slices as pictures: what was understood of a painted file, on a page or as PNG.

Each class has its colour over the image, background a weak one; what is unlabelled is hatched. So it is seen
at a glance whether a slice counts as finished, and whether paint lies on what it should lie on.
"""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volseg.annotation import even_positions, numbered
from volseg.io import atomic_write
from volseg.labels import IGNORE_INDEX
from volseg.report.colours import class_colours
from volseg.report.embedding import contrast, grey
from volseg.report.parts import AXES, Report, readable
from volseg.report.picture import Plane, cut, planes_of

__all__ = ["gallery", "paint_picture", "write_gallery"]

_MOST = 8  # pictures of a direction
_SIDE = 320  # pixels of the longer side
_FILLED, _WEAK = 0.45, 0.18  # opacity of classes, and of background
_HATCH, _STRIPE = 9, 2  # pixels from line to line, and of a line
_QUALITY = 88
_COLUMNS = 4


def gallery(report: Report) -> dict[str, Any] | None:
    """What was understood, as values for ``templates/gallery.html``; ``None`` if there is nothing."""
    if not report.understood or report.paint is None:
        return None
    counts = np.bincount(report.paint.ravel(), minlength=256).tolist()
    groups = []
    for plane, indices, total in _chosen(report):
        few = f" ({len(indices)} of {total} are shown)" if len(indices) < total else ""
        title = "the image" if plane.normal is None else f"{plane.name} slices{few}"
        groups.append({"title": title, "pictures": [_figure(report, plane, index) for index in indices]})
    return {
        "counts": counts,
        "unlabelled": counts[IGNORE_INDEX] / max(1, report.paint.size),
        "groups": groups,
    }


def write_gallery(path: str | os.PathLike[str], report: Report, *, overwrite: bool = False) -> Path:
    """The same as one PNG, with the findings in words."""
    target = Path(path)
    shown = [(plane, index) for plane, indices, _ in _chosen(report) for index in indices]
    rows = max(1, -(-len(shown) // _COLUMNS))
    words = [*report.understood, *(f"{f.severity} ({f.kind}): {f.message}" for f in report.findings or ())]
    lines = sum(1 + len(text) // 150 for text in words)
    figure = Figure(figsize=(12, 3.1 * rows + 0.19 * lines + 0.9), layout="constrained")
    figure.suptitle(readable(report.title), parse_math=False, fontsize=11)
    parts: Any = figure.subfigures(2, 1, height_ratios=[0.19 * lines + 0.3, 3.1 * rows + 0.3])
    head, body = parts
    text = head.text(
        0.01, 0.98, readable("\n".join(words)), va="top", fontsize=8, wrap=True, parse_math=False
    )
    text.set_in_layout(False)
    grid = body.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (plane, index) in zip(grid.flat, shown, strict=False):
        axes.imshow(paint_picture(report, plane, index))
        axes.set_title(_name(report, plane, index), fontsize=8)
    for colour, name in zip(class_colours(len(report.labels)), report.labels.names, strict=True):
        grid[0, 0].plot([], [], "s", color=tuple(colour / 255), label=name.replace("$", r"\$"))
    grid[0, 0].fill_between([], [], facecolor="0.75", hatch="////", edgecolor="white", label="unlabelled")
    body.legend(loc="outside lower center", ncols=min(6, len(report.labels) + 1), frameon=False, fontsize=8)
    with atomic_write(target, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    return target


def paint_picture(report: Report, plane: Plane, index: int) -> NDArray[np.uint8]:
    """One slice of the image under its paint, ``(H, W, 3)``, as large on the page as in the world."""
    assert report.paint is not None
    spacing = report.spacing or (1.0,) * len(report.size)
    width, height = plane.extent(report.size, spacing)
    scale = _SIDE / max(width, height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    channels = [
        _enlarged(grey(cut(channel, plane, index), *contrast(channel)), size).astype(np.float32)
        for channel in report.image[:3]
    ]
    channels = channels * 3 if len(channels) == 1 else [*channels, np.zeros_like(channels[0])][:3]
    picture = np.stack(channels, axis=-1)
    classes = _enlarged(cut(report.paint, plane, index), size)
    opacity = np.full(256, _FILLED, np.float32)
    hidden = report.headline.background
    opacity[[] if hidden is None else hidden] = _WEAK
    opacity[IGNORE_INDEX] = 0
    colours = np.zeros((256, 3), np.float32)
    colours[: len(report.labels)] = class_colours(len(report.labels))
    share = opacity[classes][..., None]
    picture = picture * (1 - share) + colours[classes] * share
    rows, columns = np.ogrid[: size[0], : size[1]]
    striped = (rows + columns) % _HATCH < _STRIPE
    blank = classes == IGNORE_INDEX
    picture[blank] = 0.6 * picture[blank] + 0.4 * 160
    picture[blank & striped] = 0.45 * picture[blank & striped] + 0.55 * 235
    mixed: NDArray[np.uint8] = np.rint(picture).clip(0, 255).astype(np.uint8)
    return mixed


def _chosen(report: Report) -> Iterator[tuple[Plane, list[int], int]]:
    """For each direction the slices that are shown, and how many are painted."""
    for plane in planes_of(report.size, report.orientation):
        if plane.normal is None:
            yield plane, [0], 1
            continue
        painted = list(report.painted[plane.normal]) if report.painted else []
        if report.painted and all(len(p) == n for p, n in zip(report.painted, report.size, strict=True)):
            painted = painted if plane.normal == 2 else []  # a dense label, which one direction shows whole
        if painted:
            few = min(_MOST, len(painted))
            yield plane, [painted[i] for i in even_positions(len(painted), few)], len(painted)


def _figure(report: Report, plane: Plane, index: int) -> dict[str, Any]:
    picture = paint_picture(report, plane, index)
    data = imagecodecs.jpeg8_encode(picture, level=_QUALITY, subsampling="444")
    return {
        "data": base64.b64encode(data).decode("ascii"),
        "height": picture.shape[0],
        "width": picture.shape[1],
        "name": _name(report, plane, index),
        "to": None if plane.normal is None else [[plane.normal, index]],
    }


def _name(report: Report, plane: Plane, index: int) -> str:
    if plane.normal is None:
        return "image"
    return numbered(AXES[plane.normal], index, report.size[plane.normal])


def _enlarged(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Nearest voxels, so that classes stay what they are."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, array.shape, strict=True))
    enlarged: NDArray[Any] = array[rows[:, None], columns]
    return enlarged
