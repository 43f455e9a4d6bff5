"""What is wrong with strokes, and within painted slices.

Real structures have small sections and narrow gaps of their own. Nothing is concluded from its shape alone: a
class's specks are compared with its other small sections, its holes with those in its other regions and with
the image.

Strokes that look like strokes: then what lies between them is unlabelled, and not background.

ilastik, Labkit and others teach people to draw a few lines of each class, the background among them. Read as
finished slices, everything between the lines becomes a class that no one painted. A finished slice of thin
structures, vessels or membranes, can look the same, but its borders lie on edges of the image, and those of
a stroke lie anywhere: see :mod:`volseg.annotation.surroundings`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation.audit.planes import AnnotatedSlice, Labels, Mask, Names, class_name, planes
from volseg.annotation.numbering import summarise
from volseg.annotation.paint import Paint
from volseg.annotation.slices import project
from volseg.annotation.strokes import FEWEST_PLACES, Strokes, counted
from volseg.annotation.surroundings import Surroundings, surroundings_of
from volseg.arguments import option
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX

__all__ = ["check_coverage", "check_scribbles", "check_strokes"]

_SPECK = 3  # voxels of a speck at most
_SMALL = 12  # voxels of a small section at most
_SPECKS = 5  # so many specks are not an accident
_ALONE = 4  # voxels around a speck without any other of its class
_HOLE = 0.1  # of the region around it, a hole that is meant to be filled has no more
_SOLID = 0.1  # of its planes, a class that is painted solid has holes in no more
_NEARER = 0.25  # standard deviations by which a hole has to look more like its class than like background


def check_strokes(
    paint: Paint, planes: Sequence[AnnotatedSlice], names: Names, image: npt.NDArray[Any] | None
) -> Iterator[Finding]:
    """Findings about what is drawn on each slice; ``image`` is ``(C, *spatial)``."""
    if paint.rule == "unlabelled" and not paint.unknown:
        yield from _gaps(planes)
    for index in range(len(paint.values)):
        if index != paint.background:
            yield from _specks(paint, planes, index, names)
            if paint.background is not None and image is not None:
                yield from _holes(paint, planes, index, paint.background, names, image)


def _specks(paint: Paint, planes: Sequence[AnnotatedSlice], index: int, names: Names) -> Iterator[Finding]:
    """Many tiny regions of a class that has hardly any small ones: clicks, not sections."""
    places: list[tuple[AnnotatedSlice, tuple[int, ...]]] = []
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
        f"{summarise(slices)}, the first at voxel {voxel}, and hardly any regions little larger",
        "They look like slips of the mouse, and each counts as much as any other voxel",
        "Erase them",
        slices=tuple(("xyz"[axis], i) for axis, i in slices if axis >= 0),
        voxel=voxel,
    )


def _is_alone(labels: Labels, voxel: tuple[int, ...], index: int, size: int) -> bool:
    """Whether a region of ``size`` voxels is all there is of its class near a voxel of it."""
    near = labels[tuple(slice(max(0, i - _ALONE), i + _ALONE + 1) for i in voxel)]
    return int(np.count_nonzero(near == index)) == size


def _gaps(planes: Sequence[AnnotatedSlice]) -> Iterator[Finding]:
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
                f"{int(sizes[holes].sum())} voxels, the first at voxel {voxel}, with labels all around",
                "They look forgotten, and nothing is learnt or tested there",
                "Fill them",
                slices=plane.slices,
                voxel=voxel,
            )


def _holes(
    paint: Paint,
    planes: Sequence[AnnotatedSlice],
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
            f"voxel {voxel}, and has hardly any elsewhere",
            "It counts as background, though it was probably not filled by mistake",
            "Fill it, or leave it if there is a gap",
            slices=plane.slices,
            voxel=voxel,
        )


def _looks_like(
    plane: AnnotatedSlice, hole: Mask, mask: Mask, background: Mask, image: npt.NDArray[Any]
) -> bool:
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


_SPARSE = 0.5  # of a slice, strokes cover no more,
_BROAD = 0.75  # or no more than this if they are of several classes: bars of a wide brush across a picture
_LONG = 3.0  # times the area of the largest disc that fits into it, a stroke has at least
_WIDE = 0.04  # of a slice's shorter side, half of a brush's width at most
_ALL_THIN = 0.9  # of the paint is long and thin; without an image, nothing but the shape shows it
_FEW = 0.5  # of all planes of a direction, those that carry paint if it was painted in that direction
_LEAST = 20  # voxels of paint without which nothing can be said

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
_NO_BORDER = 1.3  # times as strong as elsewhere, edges at borders of bars over most of a slice are not
_EVERYWHERE = 0.55  # of all voxels look as below strokes of several classes, which run across everything
_FAINT, _THINLY = 2.0, 0.4  # edges at their borders, then, and the share of a slice they cover


def check_scribbles(paint: Paint, names: Names, image: npt.NDArray[Any] | None) -> Iterator[Finding]:
    """Paint that was read as finished slices and looks like strokes: asked about.

    Args:
        image: ``(C, *spatial)``; without it, only the shape of the paint shows it.
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
    most = _BROAD if several else _SPARSE
    if image is None:
        strokes = [_strokes(plane.labels == i) for plane, _ in drawn for i in classes]
        thin = sum(map(np.count_nonzero, strokes)) / painted
        if covered > _SPARSE or thin < _ALL_THIN or not several:
            return
    elif covered > most or not _are_strokes(surroundings_of(drawn, image), covered, several):
        return
    slices = [(plane.axis, plane.index) for plane, _ in drawn]
    named = ", ".join(class_name(paint, index, names) for index in classes)
    seen = "" if image is None else ": the image goes on beside it as below it"
    yield Finding(
        "scribbles",
        "error",
        f"The paint on {summarise(slices)} looks like strokes (class{'es' * several} {named}), not like "
        f"finished slices{seen}",
        "Taken as finished, all the rest of these slices would be learnt as background",
        f"If 0 means not painted, say {option('painted_only', True)}, and paint some background as a class. "
        f"If these slices are finished and 0 on them is background, say {option('finished', True)}. Or do "
        "they belong to another image?",
        slices=tuple(("xyz"[axis], i) for axis, i in slices if axis >= 0),
        voxel=drawn[0][0].voxel(np.argwhere(drawn[0][1])[0]),
    )


def _planes(paint: Paint) -> list[tuple[AnnotatedSlice, Mask]]:
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
                AnnotatedSlice(axis, int(index), np.take(paint.labels, index, axis=axis), ((), ()))
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
    if covered > _SPARSE:
        return seen.alike_near > _EVERYWHERE and not max(seen.on_average, seen.inside) >= _NO_BORDER
    rimless = seen.on_average < _NOWHERE if np.isnan(seen.inside) else seen.inside < _NO_RIM
    if (seen.beside < _NO_EDGE and rimless) or (seen.beside < _LESS and seen.on_average < _USUAL):
        return True
    elsewhere = seen.alike_near if np.isnan(seen.alike_far) else seen.alike_far
    if seen.beside < _WEAK and seen.alike_near > max(_GOES_ON, 2 * elsewhere + 0.05):
        return True
    like_all = min(seen.alike_near, elsewhere) > _EVERYWHERE
    return several and like_all and seen.beside < _FAINT and covered < _THINLY


_UNSHOWN = 0.25  # of the image, that strokes have to leave unshown to be warned of
_TAILS = (1.0, 99.0)  # percentiles of the painted grey values between which they lie


def check_coverage(
    paint: Paint, strokes: Strokes, names: Names, image: npt.NDArray[Any] | None
) -> Iterator[Finding]:
    """What strokes do not show: a class elsewhere, other slices, what lies between the objects."""
    for index, (count, places) in strokes.per_class().items():
        if places < FEWEST_PLACES:
            voxel = tuple(int(i) for i in strokes.voxels[strokes.classes == index][0])
            more = FEWEST_PLACES - places
            yield Finding(
                "few_places",
                "warning",
                f"The class {class_name(paint, index, names)} is {counted(count, 'stroke')} at "
                f"{counted(places, 'place')}, the first at voxel {voxel}",
                "How it looks elsewhere is not learnt, and no place of it can be held out for a score",
                f"Paint it at {counted(more, 'more place')}, some way from there",
                voxel=voxel,
            )
    axis, carrying = strokes.planes()
    if len(strokes.shape) == 3 and len(carrying) == 1 and strokes.shape[axis] > 1:
        yield Finding(
            "one_plane",
            "warning",
            f"All strokes lie on {summarise([(axis, carrying[0])])}",
            "Nothing shows what the other slices look like, and nothing tests the result there",
            "Paint on a second slice, too, far from this one",
            slices=(("xyz"[axis], carrying[0]),),
        )
    if image is None:
        return
    for channel in image:
        low, high = np.percentile(channel[tuple(strokes.voxels.T)], _TAILS)
        outside = float(np.mean((channel < low) | (channel > high)))
        if outside > _UNSHOWN:
            voxel = tuple(int(i) for i in np.argwhere((channel < low) | (channel > high))[0])
            yield Finding(
                "no_background",
                "warning",
                f"{outside:.0%} of the image is darker or brighter than all paint, as at voxel {voxel}",
                "It will be given one of the painted classes, whatever it is",
                "Paint strokes there, too: the background is a class like the others",
                voxel=voxel,
            )
            return
