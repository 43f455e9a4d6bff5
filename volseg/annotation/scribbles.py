"""Strokes that look like strokes: then what lies between them is unlabelled, and not background.

ilastik, Labkit and others teach people to draw a few lines of each class, the background among them. Read as
finished slices, everything between the lines becomes a class that nobody painted. A finished slice of thin
structures, vessels or membranes, can look the same, but its borders lie on edges of the image, and those of
a stroke lie anywhere.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation.findings import Finding, Mask, Names, Plane, class_name, planes
from volseg.annotation.numbering import summarise
from volseg.annotation.paint import Paint
from volseg.annotation.slices import project
from volseg.labels import IGNORE_INDEX

__all__ = ["check_scribbles"]

_SPARSE = 0.15  # of a slice, strokes cover no more
_LONG = 3.0  # times the area of the largest disc that fits into it, a stroke has at least
_WIDE = 0.04  # of a slice's shorter side, half of a brush's width at most
_THIN = 0.4  # of the paint is long and thin, or it may be regions whose borders the image does not show
_ALL_THIN = 0.9  # without an image, nothing but the shape tells
_BY_CHANCE = 1.2  # times as strong as on average, the image's edges at borders that lie anywhere
_AVOIDED = 0.9  # weaker than that, where a brush kept away from them
_FEW = 0.5  # of all planes of a direction, those that carry paint if it was painted in that direction
_LEAST = 20  # voxels of paint without which nothing can be told


def check_scribbles(paint: Paint, names: Names, image: npt.NDArray[Any] | None) -> Iterator[Finding]:
    """Paint that was read as finished slices and looks like strokes: asked about, or warned of.

    Args:
        image: ``(C, *spatial)``; without it, only the shape of the paint tells.
    """
    if paint.background is None or paint.finished:
        return
    drawn = _planes(paint)
    painted = sum(np.count_nonzero(mask) for _, mask in drawn)
    if painted < _LEAST or np.median([mask.mean() for _, mask in drawn]) > _SPARSE:
        return
    classes = [i for i in range(len(paint.values)) if np.any(paint.labels == i) and i != paint.background]
    several = len(classes) > 1
    strokes = [_strokes(plane.labels == i) for plane, _ in drawn for i in classes]
    thin = sum(map(np.count_nonzero, strokes)) / painted
    if image is None:
        if thin < _ALL_THIN or not several:
            return
    elif (edges := _edges_at_borders(drawn, image)) > _BY_CHANCE or (edges > _AVOIDED and thin < _THIN):
        return
    slices = [(plane.axis, plane.index) for plane, _ in drawn]
    named = ", ".join(class_name(paint, index, names) for index in classes)
    yield Finding(
        "scribbles",
        "error" if several else "warning",
        f"The paint on {summarise(slices)} looks like strokes (class{'es' * several} {named}), not like "
        "finished slices. Was all the rest left out on purpose, as background? If 0 means not painted, say "
        "--painted-only (painted_only=True in Python), and paint some background as a class. If these "
        "slices are finished and 0 on them is background, say --finished (finished=True).",
        tuple(("xyz"[axis], i) for axis, i in slices if axis >= 0),
        drawn[0][0].voxel(np.argwhere(drawn[0][1])[0]),
    )


def _planes(paint: Paint) -> list[tuple[Plane, Mask]]:
    """The planes that carry paint, and where it is on them.

    Along the axis along which fewest do: a stroke that runs across many planes of another direction makes no
    slice of it. Where slices of several directions were painted, every plane carries some, and it is them.
    """
    painted = (paint.labels != IGNORE_INDEX) & (paint.labels != paint.background)
    found = planes(paint)
    if painted.ndim == 3:
        carrying = [np.flatnonzero(project(painted, axis)) for axis in range(3)]
        axis = min((2, 1, 0), key=lambda a: len(carrying[a]))
        if len(carrying[axis]) < _FEW * painted.shape[axis]:
            found = [
                Plane(axis, int(index), np.take(paint.labels, index, axis=axis), ((), ()))
                for index in carrying[axis]
            ]
    masks = [(plane.labels != IGNORE_INDEX) & (plane.labels != paint.background) for plane in found]
    return [(plane, mask) for plane, mask in zip(found, masks, strict=True) if mask.any()]


def _strokes(mask: Mask) -> Mask:
    """The regions of a plane that are long and no wider than a brush."""
    regions, n = ndimage.label(mask, np.ones((3, 3)))
    if not n:
        return mask
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    radius = np.asarray(ndimage.maximum(depth, regions, range(n + 1)))
    area = np.bincount(regions.ravel(), minlength=n + 1)
    limit = max(2.0, _WIDE * min(mask.shape))
    stroke = (radius <= limit) & (area >= _LONG * np.pi * radius**2)
    stroke[0] = False
    return np.asarray(stroke[regions], bool)


def _edges_at_borders(planes: list[tuple[Plane, Mask]], image: npt.NDArray[Any]) -> float:
    """How strong the image's edges are at borders of the paint, in terms of those on all of the planes."""
    at, everywhere, count, n = 0.0, 0.0, 0, 0
    for plane, mask in planes:
        border = mask ^ ndimage.binary_dilation(mask) | mask ^ ndimage.binary_erosion(mask)
        cut = image if plane.axis < 0 else np.take(image, plane.index, axis=1 + plane.axis)
        for channel in cut:
            edges = ndimage.gaussian_gradient_magnitude(channel.astype(np.float32), 1.0)
            at, count = at + float(edges[border].sum()), count + int(np.count_nonzero(border))
            everywhere, n = everywhere + float(edges.sum()), n + edges.size
    return (at / max(1, count)) / (everywhere / max(1, n) or 1.0)
