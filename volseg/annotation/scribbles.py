"""Strokes that look like strokes: then what lies between them is unlabelled, and not background.

ilastik, Labkit and others teach people to draw a few lines of each class, the background among them. Read as
finished slices, everything between the lines becomes a class that nobody painted. A finished slice of thin
structures, vessels or membranes, can look the same, but its borders lie on edges of the image, and those of
a stroke lie anywhere: see :mod:`volseg.annotation.surroundings`.
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
from volseg.annotation.surroundings import Surroundings, surroundings_of
from volseg.labels import IGNORE_INDEX

__all__ = ["check_scribbles"]

_SPARSE = 0.5  # of a slice, strokes cover no more
_LONG = 3.0  # times the area of the largest disc that fits into it, a stroke has at least
_WIDE = 0.04  # of a slice's shorter side, half of a brush's width at most
_ALL_THIN = 0.9  # of the paint is long and thin; without an image, nothing but the shape tells
_FEW = 0.5  # of all planes of a direction, those that carry paint if it was painted in that direction
_LEAST = 20  # voxels of paint without which nothing can be told

# Chosen on finished slices and on strokes of ten kinds over five phantoms and twelve data sets of microscopy,
# CT and MRI: of 121 finished annotations, four are asked about, three of them of lesions on a T1 image that
# does not show them.
_DISTINCT = 0.03  # of what lies beside a finished region looks like it; less: nothing goes on there
_NO_EDGE = 1.2  # times as strong as a few voxels beside, edges at borders of strokes are not
_NO_RIM = 1.8  # nor as strong as that, in terms of those inside; or else
_LESS, _USUAL = 0.9, 1.05  # so strong, in terms of those beside and on average
_NOWHERE = 2.0  # nor as that of the average, for paint that has no inside
_GOES_ON = 0.2  # of what lies beside strokes looks as below them, and far more than elsewhere
_WEAK = 1.4  # edges at their borders, then
_EVERYWHERE = 0.7  # of all voxels look as below strokes of several classes, background among them
_FAINT, _THINLY = 1.5, 0.3  # edges at their borders, then, and the share of a slice they cover


def check_scribbles(paint: Paint, names: Names, image: npt.NDArray[Any] | None) -> Iterator[Finding]:
    """Paint that was read as finished slices and looks like strokes: asked about.

    Args:
        image: ``(C, *spatial)``; without it, only the shape of the paint tells.
    """
    if paint.background is None or paint.finished:
        return
    drawn = _planes(paint)
    painted = sum(np.count_nonzero(mask) for _, mask in drawn)
    if painted < _LEAST:
        return
    covered = float(np.median([mask.mean() for _, mask in drawn]))
    classes = [i for i in range(len(paint.values)) if np.any(paint.labels == i) and i != paint.background]
    several = len(classes) > 1
    if image is None:
        strokes = [_strokes(plane.labels == i) for plane, _ in drawn for i in classes]
        thin = sum(map(np.count_nonzero, strokes)) / painted
        if covered > _SPARSE or thin < _ALL_THIN or not several:
            return
    elif covered > _SPARSE or not _are_strokes(surroundings_of(drawn, image), covered, several):
        return
    slices = [(plane.axis, plane.index) for plane, _ in drawn]
    named = ", ".join(class_name(paint, index, names) for index in classes)
    why = "" if image is None else ": the image goes on beside it as below it"
    yield Finding(
        "scribbles",
        "error",
        f"The paint on {summarise(slices)} looks like strokes (class{'es' * several} {named}), not like "
        f"finished slices{why}. Taken as finished, all the rest of these slices would be learnt as "
        "background. If 0 means not painted, say --painted-only (painted_only=True in Python), and paint "
        "some background as a class. If these slices are finished and 0 on them is background, say "
        "--finished (finished=True). Or do they belong to another image?",
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


def _are_strokes(seen: Surroundings, covered: float, several: bool) -> bool:
    """Whether the image goes on beside the paint as below it."""
    if not seen.alike_near >= _DISTINCT:
        return False
    rimless = seen.on_average < _NOWHERE if np.isnan(seen.inside) else seen.inside < _NO_RIM
    if (seen.beside < _NO_EDGE and rimless) or (seen.beside < _LESS and seen.on_average < _USUAL):
        return True
    elsewhere = np.nan_to_num(seen.alike_far)
    if seen.beside < _WEAK and seen.alike_near > max(_GOES_ON, 2 * elsewhere + 0.05):
        return True
    like_all = min(seen.alike_near, elsewhere) > _EVERYWHERE
    return several and like_all and seen.beside < _FAINT and covered < _THINLY
