"""What is wrong with the classes of an annotation: missing, hardly there, or no classes at all."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from volseg.annotation.audit.planes import AnnotatedSlice, Names, class_name
from volseg.annotation.numbering import summarise
from volseg.annotation.paint import Paint
from volseg.annotation.strokes import are_strokes
from volseg.findings import Finding

__all__ = ["check_classes"]

_RARE = 1 / 2000  # share of the labelled voxels below which a class is hardly there
_FEW = 20  # voxels
_IN_BETWEEN = 3  # values that have no region of their own: no accident
_SLICES = 4  # slices that have to be labelled before a class on one of them is odd


def check_classes(paint: Paint, planes: Sequence[AnnotatedSlice], names: Names) -> Iterator[Finding]:
    """Findings about the values in the file and how often they occur."""
    for value, n in paint.unknown.items():
        yield Finding(
            "unknown_value",
            "error",
            f"{n} voxels hold the value {value}, which is none of the classes "
            f"{', '.join(map(str, paint.values))}",
            "They count as unlabelled",
            "Relabel them, or name the value as a class",
        )
    counts = paint.counts
    if not any(counts.values()):
        yield Finding(
            "empty",
            "error",
            "No voxel is labelled",
            "There is nothing to learn from",
            "Paint a few slices, all classes on each",
        )
        return
    in_between = _in_between(paint, planes)
    if in_between:
        plane, index, voxel = in_between[0]
        values = [paint.values[i] for _, i, _ in in_between]
        yield Finding(
            "interpolated",
            "error",
            f"The values {', '.join(map(str, sorted(values)[:6]))} stand only in thin lines between larger "
            f"and smaller ones, such as {paint.values[index]} on {plane.name}, voxel {voxel}",
            "The labels were interpolated when they were resampled or rotated, and these are not classes",
            "Export them again with nearest neighbours",
            slices=plane.slices,
            voxel=voxel,
        )
        return
    present = [value for value, n in counts.items() if n]
    if len(present) == 1:
        yield Finding(
            "one_class",
            "error",
            f"Every labelled voxel has the class {class_name(paint, paint.values.index(present[0]), names)}",
            "With nothing beside it, nothing can be learnt",
            "Paint the other classes, too, the background among them",
        )
        return
    nobody_asked = {0} if paint.background is not None and 0 not in names else set()
    for value in sorted({*names, *paint.values} - set(present) - nobody_asked):
        name = f"{value} {names[value]!r}" if value in names else str(value)
        yield Finding(
            "missing_class",
            "warning",
            f"The class {name} is painted nowhere",
            "It will never be predicted",
            "Paint it, or leave it out",
        )
    total = sum(counts.values())
    for index, value in enumerate(paint.values):
        if 0 < counts[value] < max(_FEW, _RARE * total):
            where = _first(planes, index)
            yield Finding(
                "rare_class",
                "warning",
                f"The class {class_name(paint, index, names)} has {counts[value]} of {total} labelled "
                f"voxels{_see(where)}",
                "It is too little to learn from",
                "Paint more of it, or leave it out if it is a slip",
                slices=where[0].slices if where else (),
                voxel=where[1] if where else None,
            )
        elif counts[value]:
            yield from _on_one_slice(paint, planes, index, names)


def _on_one_slice(
    paint: Paint, planes: Sequence[AnnotatedSlice], index: int, names: Names
) -> Iterator[Finding]:
    if len(planes) < _SLICES or are_strokes(paint.labels):
        return
    carrying = [plane for plane in planes if np.any((plane.labels == index) & ~plane.is_crossed())]
    if len(carrying) == 1:
        (plane,) = carrying
        voxel = plane.voxel(np.argwhere((plane.labels == index) & ~plane.is_crossed())[0])
        yield Finding(
            "one_slice_class",
            "warning",
            f"The class {class_name(paint, index, names)} is painted on {plane.name} only, from voxel "
            f"{voxel} on, though {len(planes)} slices are painted",
            "Whether it is learnt cannot be tested, and on the others it may have been forgotten",
            "Paint it on a second slice, or check the others",
            slices=plane.slices,
            voxel=voxel,
        )


def _in_between(
    paint: Paint, planes: Sequence[AnnotatedSlice]
) -> list[tuple[AnnotatedSlice, int, tuple[int, ...]]]:
    """Classes without a region of their own, between two that have one; a place of each."""
    solid = np.zeros(len(paint.values), bool)
    for plane in planes:
        labels = plane.labels
        same = ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)
        inside = labels[same]
        solid[np.unique(inside[inside < len(solid)])] = True
    if not solid.any():
        return []
    values = np.array(paint.values)
    low, high = values[solid].min(), values[solid].max()
    thin = [i for i in np.flatnonzero(~solid) if low < values[i] < high]
    places = [(place[0], int(i), place[1]) for i in thin if (place := _first(planes, int(i))) is not None]
    return places if len(places) >= _IN_BETWEEN else []


def _first(planes: Sequence[AnnotatedSlice], index: int) -> tuple[AnnotatedSlice, tuple[int, ...]] | None:
    """The first plane with a class, and a voxel of it."""
    for plane in planes:
        places = np.argwhere(plane.labels == index)
        if len(places):
            return plane, plane.voxel(places[0])
    return None


def _see(where: tuple[AnnotatedSlice, tuple[int, ...]] | None) -> str:
    return f" ({summarise([(where[0].axis, where[0].index)])}, voxel {where[1]})" if where else ""
