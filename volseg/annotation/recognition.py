"""Which voxels of a painted file are labelled, where the file itself does not say it.

Slices *explain* the paint that lies on them. Those are looked for that explain all of it and cover the least
of the volume. Every painted slice leaves a line in each slice that crosses it; the slices those lines come
from explain them, so that nothing is left for the others to explain.

What is unlabelled where it was not said: concluded where it is plain, asked where it is not.

Programs write 0 where nothing was painted, scripts write 255, -1 or NaN. Read by the wrong rule, everything
that no one painted becomes a class, and that class is learnt. Two signs are plain enough to act on, and what
was done is said: a class that is *called* background although 0 occurs as well, and a usual value for
unlabelled that fills everything beside a few full slices. What looks like it, but not beyond doubt, is
asked about: an error that spells out the option for each answer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from volseg.annotation.slices import SliceSearch, annotated_slices, on_slices, project
from volseg.arguments import option
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX, background_of

__all__ = ["Intent", "intent_of", "looks_grey", "painted_slices"]

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Slices = tuple[tuple[int, ...], ...]

_SPECKS = 6  # painted voxels that a slice needs at least
_SPECK_SHARE = 0.01  # of the paint that slices found before carry: less is specks
_THIN = 0.5  # of the paint of a slice that stands alone, this share has no paint before and behind it
_MIN_UNEXPLAINED = 0.1  # of a slice's area: a smaller rest of it is taken to be this large
_OTHER_DIRECTION = 0.5  # of what slices along the last axis cover, what those along another have to cover
_MIXED = 0.7  # of what a simpler solution covers, what slices of several directions have to cover
_EVEN = 0.7  # paint that is this even (mean density by that of the fullest slice) is in all slices


def painted_slices(paint: Mask) -> Slices:
    """Per axis, the indices of the slices that explain the paint of a volume.

    A few specks make no slice, unless they are all there is.
    """
    counts = [project(paint, axis) for axis in range(paint.ndim)]
    for least in (_SPECKS, 1):
        solutions = [_one_direction(counts, axis, least) for axis in reversed(range(paint.ndim))]
        if any(map(len, solutions[0])):
            break
    best = solutions[0]  # along the last axis: how editors show a volume
    for other in solutions[1:]:
        if _covered(paint, other) < _OTHER_DIRECTION * _covered(paint, best):
            best = other
    if _is_even(counts, paint.shape):
        return best  # a dense label, which needs no search
    most = max(sum(map(len, slices)) for slices in solutions)
    single, full = (_mixture(paint, least, most, single_first=first) for first in (True, False))
    mixed = full if _covered(paint, full) < _MIXED * _covered(paint, single) else single
    return mixed if _covered(paint, mixed) < _MIXED * _covered(paint, best) else best


def _is_even(counts: Sequence[Counts], shape: tuple[int, ...]) -> bool:
    """Whether no slice carries much more paint than the volume does on average."""
    fullest = max(
        found.max(initial=0) / max(1, math.prod(shape) // max(1, n))
        for found, n in zip(counts, shape, strict=True)
    )
    return int(counts[0].sum()) >= _EVEN * fullest * math.prod(shape)


def _one_direction(counts: Sequence[Counts], axis: int, least: int) -> Slices:
    """All slices along one axis that carry paint."""
    carrying = counts[axis][counts[axis] >= least]
    enough = max(least, _SPECK_SHARE * float(np.median(carrying))) if carrying.size else math.inf
    chosen = tuple(np.flatnonzero(counts[axis] >= enough).tolist())
    return tuple(chosen if other == axis else () for other in range(len(counts)))


def _covered(paint: Mask, slices: Slices) -> float:
    """Voxels on the slices; those painted beside them count as one more slice for every few."""
    on = on_slices(paint.shape, slices)
    beside = int(np.count_nonzero(paint & ~on))
    return int(np.count_nonzero(on)) + beside / _SPECKS * paint.size / max(paint.shape)


def _mixture(paint: Mask, least: int, most: int, *, single_first: bool) -> Slices:
    """Slices of all directions, the one with the densest paint first; each explains what others did not.

    Args:
        most: slices that may be found.
        single_first: slices that have no painted neighbours come first.
    """
    search = SliceSearch(paint)
    axes = range(paint.ndim)
    thin = [project(_without_neighbours(paint, axis), axis) for axis in axes]
    densities: list[float] = []
    for single in (True, False)[not single_first :]:

        def judge(axis: int, single: bool = single) -> tuple[Mask, float]:
            area = max(search.area(axis), _MIN_UNEXPLAINED * (paint.size // max(1, paint.shape[axis])))
            typical = float(np.median(densities)) if densities else 0.0
            good = search.counts[axis] >= max(least, _SPECK_SHARE * typical * area)
            return good & (thin[axis] >= _THIN * search.counts[axis]) if single else good, area

        while len(densities) < most and (best := search.best(judge)) is not None:
            density, axis, index = best
            explained = search.explain(axis, index)
            painted = np.take(paint, index, axis=axis)
            for position, other in enumerate(o for o in axes if o != axis):
                thin[other] -= project(explained & _without_neighbours(painted, position), position)
            densities.append(density)
    return _needed(paint, search.found, least)


def _needed(paint: Mask, found: list[list[int]], least: int) -> Slices:
    """What was found, without slices that those found after them explain as well."""
    kept = found
    for axis, indices in enumerate(found):
        for index in indices:
            fewer = [[i for i in among if (o, i) != (axis, index)] for o, among in enumerate(kept)]
            plane = np.take(paint, index, axis=axis)
            crossing = [among for o, among in enumerate(fewer) if o != axis]
            if np.count_nonzero(plane & ~on_slices(plane.shape, crossing)) < least:
                kept = fewer
    return tuple(tuple(sorted(indices)) for indices in kept)


def _without_neighbours(paint: Mask, axis: int) -> Mask:
    """Paint that has none before and behind it along an axis."""
    paint = np.moveaxis(paint, axis, 0)
    thin = paint.copy()
    thin[1:] &= ~paint[:-1]
    thin[:-1] &= ~paint[1:]
    return np.moveaxis(thin, 0, axis)


_MARKS = (-1, 255, 254, 65535, 2**31 - 1, 2**32 - 1)  # usual values for unlabelled
_MOST = 0.5  # of the voxels, what is unlabelled fills at least
_FULL = 0.9  # of a slice that was labelled and not scribbled on
_STRAY = 0.01  # of the labelled voxels may lie beside full slices
_GREY_VALUES = 6  # fewer are not grey values, and no distances either
_GREY_PAIRS = 20  # of neighbouring voxels, without which nothing can be said
_GREY_STEPS = 0.3  # of neighbouring voxels differ in an image; in labels those at borders do
_SOME = 2**22  # voxels that are looked at


class Intent(NamedTuple):
    """How to read an array: the value for unlabelled, or that 0 is unlabelled everywhere; and why.

    ``mark`` is the value in doubt, whether it was taken for unlabelled or has to be asked about.
    """

    unlabelled: int | None = None
    painted_only: bool = False
    doubt: Finding | None = None
    mark: int | None = None


def intent_of(
    array: npt.NDArray[Any],
    counts: Mapping[int, int],
    classes: Sequence[int] | None,
    names: Mapping[int, str],
) -> Intent:
    """What is unlabelled in an array of values, where it was not said.

    Args:
        counts: every value and how many voxels hold it.
        classes: values that are classes; all but unlabelled if None.
        names: of the classes, by value.
    """
    known = {*names, *(classes or ())}
    background = background_of(list(names.values()))
    if background is not None and 0 in counts and 0 not in known:
        value, name = list(names.items())[background]
        return Intent(painted_only=True, doubt=_named_background(value, name))
    marks = [value for value in counts if value in _MARKS or value < 0]
    for mark in sorted(marks, key=lambda value: -counts[value]):
        others = [value for value in counts if value != mark]
        if mark in known:
            continue
        share = counts[mark] / max(1, array.size)
        if not others or (share >= _MOST and (mark < 0 or known or _beside_full_slices(array, mark))):
            return Intent(mark, doubt=_taken(mark, share), mark=mark)
        if mark < 0 or (share >= _MOST and others != [0]):
            return Intent(doubt=_asked(mark, share), mark=mark)
    return Intent()


def looks_grey(array: npt.NDArray[Any]) -> bool:
    """Whether values are those of an image, or of a map of distances, and not labels: neighbours differ."""
    step = max(1, array.size // _SOME)
    part = array if step == 1 or array.ndim < 3 else array[..., ::step]
    pairs = (part[1:] != 0) & (part[:-1] != 0)  # small objects on nothing are labels all the same
    n = int(np.count_nonzero(pairs))
    if n < _GREY_PAIRS or np.count_nonzero(pairs & (part[1:] != part[:-1])) < _GREY_STEPS * n:
        return False
    return len(np.unique(part)) >= _GREY_VALUES


def _beside_full_slices(array: npt.NDArray[Any], mark: int) -> bool:
    """Whether a value fills all but a few slices that hold other values everywhere."""
    if array.ndim != 3:
        return False
    labelled = array != mark
    slices = annotated_slices(np.where(labelled, np.uint8(0), np.uint8(IGNORE_INDEX)), min_fraction=_FULL)
    if not any(slices) or any(len(found) == n for found, n in zip(slices, array.shape, strict=True)):
        return False
    return bool(
        np.count_nonzero(labelled & ~on_slices(array.shape, slices)) <= _STRAY * np.count_nonzero(labelled)
    )


def _named_background(value: int, name: str) -> Finding:
    return Finding(
        "unlabelled_zero",
        "note",
        f"The class {value} is named {name!r}, and 0 occurs as well and has no name",
        f"So 0 was taken as unlabelled everywhere, as with {option('painted_only', True)}",
        "If 0 is a class of its own, name it, too, beside all others: "
        f"{option('names', {0: 'NAME', value: name})}",
    )


def _taken(mark: int, share: float) -> Finding:
    return Finding(
        "unlabelled_value",
        "warning",
        f"{mark} fills {share:.1%} of the voxels and is not a class that was named: it was taken as "
        f"unlabelled, as with {option('unlabelled', mark)}",
        todo=f"If it is a class, name it and all others: {option('names', {mark: 'NAME'})}",
    )


def _asked(mark: int, share: float) -> Finding:
    return Finding(
        "unlabelled_value",
        "error",
        f"{mark} fills {share:.1%} of the voxels. Is it the value for unlabelled, or a class?",
        "If it is taken for the wrong one, everything that is unlabelled is learnt as a class",
        f"Say {option('unlabelled', mark)}, or name it as a class, beside all others: "
        f"{option('names', {mark: 'NAME'})}",
    )
