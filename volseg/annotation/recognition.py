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

from volseg.annotation.slices import annotated_slices, on_slices
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
    points = _Points(paint)
    for least in (_SPECKS, 1):
        solutions = [points.one_direction(axis, least) for axis in reversed(range(paint.ndim))]
        if any(map(len, solutions[0])):
            break
    best = solutions[0]  # along the last axis: how editors show a volume
    for other in solutions[1:]:
        if points.covered(other) < _OTHER_DIRECTION * points.covered(best):
            best = other
    if points.is_even():
        return best  # a dense label, which needs no search
    most = max(sum(map(len, slices)) for slices in solutions)
    single, full = (_Search(points, least, most).mixture(single_first=first) for first in (True, False))
    mixed = full if points.covered(full) < _MIXED * points.covered(single) else single
    return mixed if points.covered(mixed) < _MIXED * points.covered(best) else best


class _Points:
    """The painted voxels: where they are, and along which axes they have no painted neighbour."""

    def __init__(self, paint: Mask) -> None:
        self.shape = paint.shape
        self.places = tuple(axis.astype(np.int32) for axis in np.nonzero(paint))
        self.thin = tuple(_without_neighbours(paint, axis)[paint] for axis in range(paint.ndim))

    def __len__(self) -> int:
        return len(self.places[0])

    def counts(self, axis: int, chosen: Mask | slice = slice(None)) -> Counts:
        """Painted voxels per slice."""
        return np.bincount(self.places[axis][chosen], minlength=self.shape[axis])

    def area(self, axis: int) -> int:
        return math.prod(self.shape) // max(1, self.shape[axis])

    def is_even(self) -> bool:
        """Whether no slice carries much more paint than the volume does on average."""
        fullest = max(
            self.counts(axis).max(initial=0) / max(1, self.area(axis)) for axis in range(len(self.shape))
        )
        return len(self) >= _EVEN * fullest * math.prod(self.shape)

    def one_direction(self, axis: int, least: int) -> Slices:
        """All slices along one axis that carry paint."""
        counts = self.counts(axis)
        carrying = counts[counts >= least]
        enough = max(least, _SPECK_SHARE * float(np.median(carrying))) if carrying.size else math.inf
        chosen = tuple(np.flatnonzero(counts >= enough).tolist())
        return tuple(chosen if other == axis else () for other in range(len(self.shape)))

    def outside(self, slices: Slices) -> Mask:
        """Which of the points lie on none of the slices."""
        outside = np.ones(len(self), bool)
        for place, n, indices in zip(self.places, self.shape, slices, strict=True):
            chosen = np.zeros(n, bool)
            chosen[list(indices)] = True
            outside &= ~chosen[place]
        return outside

    def covered(self, slices: Slices) -> float:
        """Voxels on the slices; those painted beside them count as one more slice for every few."""
        size = math.prod(self.shape)
        on = size - math.prod(n - len(indices) for n, indices in zip(self.shape, slices, strict=True))
        beside = int(np.count_nonzero(self.outside(slices)))
        return on + beside / _SPECKS * size / max(self.shape)


class _Search:
    """Slices of all directions, the one with the densest paint first; each explains what others did not."""

    def __init__(self, points: _Points, least: int, most: int) -> None:
        self.points, self.least, self.most = points, least, most
        axes = range(len(points.shape))
        self.left = np.ones(len(points), bool)
        self.counts = [points.counts(axis) for axis in axes]
        self.thin_counts = [points.counts(axis, points.thin[axis]) for axis in axes]
        self.found: list[list[int]] = [[] for _ in axes]
        self.densities: list[float] = []

    def mixture(self, *, single_first: bool) -> Slices:
        """What explains the paint; ``single_first``: slices that have no painted neighbours come first."""
        for single in (True, False)[not single_first :]:
            while len(self.densities) < self.most and (best := self._densest(single)) is not None:
                self._explain(*best)
        return self._needed()

    def _densest(self, single: bool) -> tuple[float, int, int] | None:
        best = None
        typical = float(np.median(self.densities)) if self.densities else 0.0
        shape = self.points.shape
        for axis, counts in enumerate(self.counts):
            rest = math.prod(n - len(self.found[o]) for o, n in enumerate(shape) if o != axis)
            area = max(rest, _MIN_UNEXPLAINED * self.points.area(axis))
            good = counts >= max(self.least, _SPECK_SHARE * typical * area)
            if single:
                good &= self.thin_counts[axis] >= _THIN * counts
            index = int(np.argmax(np.where(good, counts, -1)))
            density = float(counts[index]) / area
            if good[index] and (best is None or density >= best[0]):
                best = (density, axis, index)
        return best

    def _explain(self, density: float, axis: int, index: int) -> None:
        points = self.points
        explained = np.flatnonzero((points.places[axis] == index) & self.left)
        for other, place in enumerate(points.places):
            n = points.shape[other]
            self.counts[other] -= np.bincount(place[explained], minlength=n)
            thin = explained[points.thin[other][explained]]
            self.thin_counts[other] -= np.bincount(place[thin], minlength=n)
        self.left[explained] = False
        self.found[axis].append(index)
        self.densities.append(density)

    def _needed(self) -> Slices:
        """What was found, without slices that those found after them explain as well."""
        kept = self.found
        for axis, found in enumerate(self.found):
            for index in found:
                fewer = [[i for i in indices if (o, i) != (axis, index)] for o, indices in enumerate(kept)]
                alone = self.points.outside(tuple(map(tuple, fewer))) & (self.points.places[axis] == index)
                if np.count_nonzero(alone) < self.least:
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
