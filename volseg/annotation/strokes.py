"""What is wrong within a painted slice: specks, and holes that nobody filled.

Real structures have small sections and narrow gaps of their own. So nothing is told from its shape alone: a
class's specks are compared with its other small sections, its holes with those in its other regions and with
the image.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation.findings import Finding, Labels, Mask, Names, Plane, class_name
from volseg.annotation.numbering import summarise
from volseg.annotation.paint import Paint
from volseg.labels import IGNORE_INDEX

__all__ = ["check_strokes"]

_SPECK = 3  # voxels of a speck at most
_SMALL = 12  # voxels of a small section at most
_SPECKS = 5  # specks that are no accident
_ALONE = 4  # voxels around a speck without any other of its class
_HOLE = 0.1  # of the region around it, a hole that is meant to be filled has no more
_SOLID = 0.1  # of its planes, a class that is painted solid has holes in no more
_NEARER = 0.25  # standard deviations by which a hole has to look more like its class than like background


def check_strokes(
    paint: Paint, planes: Sequence[Plane], names: Names, image: npt.NDArray[Any] | None
) -> Iterator[Finding]:
    """Findings about what is drawn on each slice; ``image`` is ``(C, *spatial)``."""
    if paint.rule == "unlabelled" and not paint.unknown:
        yield from _gaps(planes)
    for index in range(len(paint.values)):
        if index != paint.background:
            yield from _specks(paint, planes, index, names)
            if paint.background is not None and image is not None:
                yield from _holes(paint, planes, index, paint.background, names, image)


def _specks(paint: Paint, planes: Sequence[Plane], index: int, names: Names) -> Iterator[Finding]:
    """Many tiny regions of a class that has hardly any small ones: clicks, not sections."""
    places: list[tuple[Plane, tuple[int, ...]]] = []
    small = 0
    for plane in planes:
        regions, _ = ndimage.label(plane.labels == index, np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        sizes[0] = 0
        touching = np.unique(regions[plane.is_crossed() | _frame(regions.shape)])
        sizes[touching] = 0
        for region in np.flatnonzero((sizes > 0) & (sizes <= _SMALL)):
            voxel = plane.voxel(np.argwhere(regions == region)[0])
            if not _is_alone(paint.labels, voxel, index, int(sizes[region])):
                continue
            if sizes[region] > _SPECK:
                small += 1
            else:
                places.append((plane, voxel))
    if len(places) < _SPECKS or len(places) <= 2 * small:
        return
    plane, voxel = places[0]
    slices = sorted({(p.axis, p.index) for p, _ in places})
    yield Finding(
        "specks",
        "warning",
        f"The class {class_name(paint, index, names)} has {len(places)} specks of 1 to {_SPECK} voxels on "
        f"{summarise(slices)}, the first at voxel {voxel}, and hardly any regions little larger. They look "
        "like slips of the mouse, and each counts as much as any other voxel. Erase them.",
        tuple(("xyz"[axis], i) for axis, i in slices if axis >= 0),
        voxel,
    )


def _is_alone(labels: Labels, voxel: tuple[int, ...], index: int, size: int) -> bool:
    """Whether a region of ``size`` voxels is all there is of its class near a voxel of it."""
    near = labels[tuple(slice(max(0, i - _ALONE), i + _ALONE + 1) for i in voxel)]
    return int(np.count_nonzero(near == index)) == size


def _gaps(planes: Sequence[Plane]) -> Iterator[Finding]:
    """Unlabelled voxels enclosed in a labelled slice."""
    for plane in planes:
        regions, n = ndimage.label(plane.labels == IGNORE_INDEX)
        sizes = np.bincount(regions.ravel(), minlength=n + 1)
        sizes[np.unique(regions[_frame(regions.shape)])] = 0
        sizes[0] = 0
        holes = np.flatnonzero(
            (sizes > 0) & (sizes <= _HOLE * np.count_nonzero(plane.labels != IGNORE_INDEX))
        )
        if len(holes):
            voxel = plane.voxel(np.argwhere(regions == holes[0])[0])
            yield Finding(
                "hole",
                "warning",
                f"{plane.name} has {len(holes)} unlabelled hole{'s' * (len(holes) > 1)} of "
                f"{int(sizes[holes].sum())} voxels, the first at voxel {voxel}, with labels all around. "
                "They look forgotten, and nothing is learnt or tested there. Fill them.",
                plane.slices,
                voxel,
            )


def _holes(
    paint: Paint,
    planes: Sequence[Plane],
    index: int,
    background: int,
    names: Names,
    image: npt.NDArray[Any],
) -> Iterator[Finding]:
    """Background enclosed in a class that is painted solid elsewhere, and looks like that class."""
    carrying, with_holes, found = 0, 0, []
    for plane in planes:
        mask = plane.labels == index
        if not mask.any():
            continue
        carrying += 1
        inside = ndimage.binary_fill_holes(mask) & ~mask
        if not inside.any():
            continue
        with_holes += 1
        regions, n = ndimage.label(inside)
        for region in range(1, n + 1):
            hole = regions == region
            if np.all(plane.labels[hole] == background) and np.count_nonzero(hole) > 1:
                found.append((plane, hole, mask))
    if with_holes > max(1, _SOLID * carrying) or carrying < 3:
        return
    for plane, hole, mask in found:
        regions, _ = ndimage.label(mask, np.ones((3, 3)))
        around = ndimage.binary_dilation(hole, np.ones((3, 3))) & ~hole
        body = int(np.count_nonzero(regions == regions[around][0]))
        size = int(np.count_nonzero(hole))
        if size > _HOLE * body or not _looks_like(plane, hole, mask, plane.labels == background, image):
            continue
        voxel = plane.voxel(np.argwhere(hole)[0])
        yield Finding(
            "hole",
            "warning",
            f"The class {class_name(paint, index, names)} has a hole of {size} voxels on {plane.name} at "
            f"voxel {voxel}, and has hardly any elsewhere. It counts as background, though it was probably "
            "not filled by mistake. Fill it, or leave it if there is a gap.",
            plane.slices,
            voxel,
        )


def _looks_like(plane: Plane, hole: Mask, mask: Mask, background: Mask, image: npt.NDArray[Any]) -> bool:
    """Whether the image in a hole looks like the class around it, not like background."""
    nearer = 0.0
    for channel in image if plane.axis < 0 else np.take(image, plane.index, axis=1 + plane.axis):
        inside, same, other = (channel[where].astype(float) for where in (hole, mask, background & ~hole))
        spread = (same.std() + other.std()) or 1.0
        nearer += (abs(inside.mean() - other.mean()) - abs(inside.mean() - same.mean())) / spread
    return nearer > _NEARER


def _frame(shape: tuple[int, ...]) -> Mask:
    """True on the outermost voxels of a plane."""
    frame = np.ones(shape, bool)
    frame[1:-1, 1:-1] = False
    return frame
