"""What a painted file means: which voxels are labelled, with what, and which are unlabelled.

Editors (3D Slicer, ITK-SNAP, napari, Fiji) leave 0 both for "background, on a slice I finished" and for
"not looked at". Here the annotated slices are found, 0 on them is background, and 0 elsewhere is
unlabelled. A slice perpendicular to x is a *yz slice*, to y an *xz slice*, to z an *xy slice*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from volseg.annotation.numbering import PLANES, ranges
from volseg.annotation.recognition import intent_of, looks_grey, painted_slices
from volseg.annotation.slices import (
    MIN_FRACTIONS,
    annotated_slices,
    annotation_counts,
    check_spatial,
    on_slices,
    project,
)
from volseg.arguments import option
from volseg.errors import InputError
from volseg.findings import Finding
from volseg.labels import IGNORE_INDEX, LabelScheme, as_integers

__all__ = ["Paint", "Rule", "understand_paint"]

Rule = Literal["slices", "unlabelled", "painted"]

_MAX_CLASSES = 254
_LOOKUP_SPAN = 2**20
_CHUNK = 2**22
_MOST_SHOWN = 20  # classes in one line
_FEW_SLICES = 0.5  # of the slices of one direction; more of them are too many for slices with strokes
_GREY = Finding(
    "grey_values",
    "error",
    "The labels look like an image, a map of distances or probabilities, or labels that were interpolated: "
    "neighbours hardly ever have the same of the many values, and each would be a class",
    todo="If image and label were exchanged, give the image first and the painted file second. If labels "
    "were resampled or rotated, export them again with nearest neighbours",
)


@dataclass(frozen=True)
class Paint:
    """A painted array as it was understood.

    Attributes:
        labels: class indices, uint8 ``(*spatial)``, 255 where it is unlabelled.
        values: the value of each class in the file, in the order of the class indices.
        slices: per axis x, y, z, the indices of the annotated slices; empty for an image.
        rule: ``"slices"``: 0 is background on these slices and unlabelled elsewhere; ``"unlabelled"``: one
            value marks what is unlabelled; ``"painted"``: 0 is unlabelled everywhere.
        unknown: values that are not a class, and how many voxels hold them; these count as unlabelled.
        stray: voxels painted outside of all slices; they have the class they were painted with.
        unlabelled: the value that marks what is unlabelled, by the rule ``"unlabelled"``.
        doubts: what was concluded although it was not said, and what has to be asked; the auditor says it.
        finished: whether painted slices are declared finished, so that 0 on them is background.
    """

    labels: npt.NDArray[np.uint8]
    values: tuple[int, ...]
    slices: tuple[tuple[int, ...], ...]
    rule: Rule
    unknown: Mapping[int, int]
    stray: int
    unlabelled: int | None = None
    doubts: tuple[Finding, ...] = field(default=(), compare=False)
    finished: bool = False

    @property
    def background(self) -> int | None:
        """The class index of 0 where that was taken for background on the painted slices."""
        return self.values.index(0) if self.rule == "slices" and 0 in self.values else None

    @property
    def counts(self) -> dict[int, int]:
        """Labelled voxels of each class, by the value in the file."""
        counts = annotation_counts(self.labels, len(self.values))
        return dict(zip(self.values, counts.tolist(), strict=True))

    def describe(self, names: Mapping[int, str] | None = None) -> str:
        """One line: ``xy: 12, 30, 51 · xz: 80 · yz: none; classes 1 'tubule', 2 'lumen'``.

        Slices are counted from 0; :meth:`counted` says so and gives their numbers from 1.

        Args:
            names: of the classes, by their values in the file.
        """
        names = names or {}
        painted = [value for value in self.values if not (self.rule == "slices" and value == 0)]
        shown = [f"{value} {names[value]!r}" if value in names else str(value) for value in painted]
        more = len(shown) - _MOST_SHOWN
        classes = ", ".join(shown if more <= 1 else [*shown[:_MOST_SHOWN], f"and {more} more"])
        return f"{self._where()}; {'class' if len(painted) == 1 else 'classes'} {classes or 'none'}"

    def explain(self) -> str:
        """What 0 was taken for, and the share that is unlabelled, as one sentence."""
        share = f"{np.mean(self.labels == IGNORE_INDEX):.1%} of the voxels"
        if self.rule == "unlabelled":
            return f"One value marks what is unlabelled ({self.unlabelled}), {share}."
        if self.rule == "painted":
            return f"Only painted voxels count; 0 is unlabelled, {share}."
        if not self.slices:
            return "0 is background, everywhere on the image."
        if self.background is not None and not np.any(self.labels == self.background):
            return f"These slices are painted throughout; everything without paint is unlabelled, {share}."
        return f"0 on these slices is background; everything else without paint is unlabelled, {share}."

    def scheme(self, names: Mapping[int, str]) -> LabelScheme:
        """A name for every class; what no one named is called by its value. For no class at all, one."""
        chosen: list[str] = []
        for index, value in enumerate(self.values):
            name = names.get(value, "background" if index == self.background else f"class {value}")
            while name in chosen:
                name = f"{name} ({value})"
            chosen.append(name)
        return LabelScheme(chosen or ["nothing"], self.values or (0,))

    def counted(self) -> str:
        """The numbers of the slices in programs that count from 1; of an image, nothing."""
        if not any(self.slices):
            return ""
        other = self._where(first=1)
        return f"Slices and voxels are counted from 0. Fiji and ITK-SNAP count from 1: {other}."

    def _where(self, first: int = 0) -> str:
        if not self.slices:
            return "image: painted" if np.any(self.labels != IGNORE_INDEX) else "image: none"
        per_axis = zip(PLANES, self.slices, self.labels.shape, strict=True)
        shown = [f"{plane}: {ranges(indices, n, first)}" for plane, indices, n in per_axis]
        return " · ".join(reversed(shown))


def understand_paint(
    labels: npt.ArrayLike,
    *,
    classes: Sequence[int] | None = None,
    names: Mapping[int, str] | None = None,
    unlabelled: int | None = None,
    painted_only: bool = False,
    finished: bool = False,
    blank: int | None = None,
    source: str = "",
) -> Paint:
    """Which voxels of a painted array count, and as what.

    With ``unlabelled``, that value marks what was not looked at, and every other value, 0 too, is a class.
    With ``painted_only``, 0 does. If neither is said, a value that plainly marks what is unlabelled is taken
    for that, and so is 0 if another class is named background; ``Paint.doubts`` says so. Otherwise the slices
    that carry paint are found, along any axes: those that explain all of it and cover least, so that lines
    left by crossing slices make no slice of their own, and neither do a few specks unless they are all there
    is. 0 on those slices is background, 0 elsewhere unlabelled. NaN is unlabelled.

    Some paint can be read in two ways, and a reading can be wrong without a trace in the array:

    - *Every slice painted* (a dense label): everything is labelled. Slices at the ends without any paint are
      not, as nothing shows that they were looked at; ``unlabelled`` with a value that does not occur
      makes every voxel count.
    - *An object painted in 3D*, over a few adjacent slices: slices along the last axis, or along another
      in which it is less than half as thick. The rest of these slices becomes background, which is wrong
      if there are other objects: use ``painted_only``, or a value for unlabelled. The auditor warns of
      such a block.
    - *A slice finished in one corner only*: 0 in the rest of it becomes background, just the same.
    - *A finished slice without any paint* is not found: mark it with a value of its own for background.

    A 2D image has no slices: 0 is background everywhere if there is any paint.

    Args:
        labels: values as the file holds them, ``(*spatial)``.
        classes: values that are classes; all that occur if None. 0 becomes the first class, background,
            if not listed though it counts. Values that are not listed count as unlabelled and
            stand in ``Paint.unknown``.
        names: of the classes, by value.
        finished: every slice that carries paint is finished: 0 on it is background, and nothing is asked.
        blank: a number that stands for NaN, as it was put there on reading: it is unlabelled.
        source: the file to name in messages.
    """
    array = np.asarray(labels)
    if blank is not None and (painted_only or unlabelled is not None):
        array = np.where(array == blank, 0 if unlabelled is None else unlabelled, array)
    elif blank is not None:
        unlabelled, finished = blank, False
    check_spatial(array)
    if finished and (painted_only or unlabelled is not None):
        other = option("painted_only", True) if painted_only else option("unlabelled", unlabelled)
        raise ValueError(
            f"{option('finished', True)} and {other} say two different things: choose one of them."
        )
    if unlabelled is not None and painted_only:
        raise ValueError(
            f"{option('unlabelled', unlabelled)} and {option('painted_only', True)} both say what is "
            "unlabelled: leave one of them out."
        )
    if classes is not None and unlabelled in classes:
        raise ValueError(
            f"{option('unlabelled', unlabelled)} is also among the classes {tuple(classes)}: not both."
        )
    doubts: list[Finding] = []
    if array.dtype.kind == "f" and np.isnan(array).any():
        array, unlabelled = _without_nan(array, 0 if painted_only else unlabelled)
        unlabelled = None if painted_only else unlabelled
    array = as_integers(array, source)
    found = _value_counts(array)
    if unlabelled is None and not (painted_only or finished):
        intent = intent_of(array, found, classes, names or {})
        unlabelled, painted_only = intent.unlabelled, intent.painted_only
        doubts += [intent.doubt] if intent.doubt else []
    if looks_grey(array):
        doubts.insert(0, _GREY)
    rule: Rule = "painted" if painted_only else "slices" if unlabelled is None else "unlabelled"
    nothing = 0 if unlabelled is None else unlabelled
    paint: npt.NDArray[np.bool_] = array != nothing
    slices: tuple[tuple[int, ...], ...] = ()
    if array.ndim == 3:
        slices = _labelled_slices(paint) if rule == "unlabelled" else _painted_slices(paint)
        if rule == "painted":
            slices = _strokes_on(paint) or slices
    looked_at = on_slices(array.shape, slices) if array.ndim == 3 else np.full(array.shape, paint.any())
    values = _classes(found, classes, nothing, rule, source)
    encoded = _encode(array, values)
    if rule == "slices":
        encoded[~(looked_at | paint)] = IGNORE_INDEX
    else:
        encoded[~paint] = IGNORE_INDEX
    unknown = {value: n for value, n in found.items() if value not in (*values, nothing)}
    stray = int(np.count_nonzero(paint & ~looked_at)) if any(map(len, slices)) else 0
    return Paint(encoded, values, slices, rule, unknown, stray, unlabelled, tuple(doubts), finished)


def _painted_slices(paint: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    slices = painted_slices(paint)
    if any(len(found) == n for found, n in zip(slices, paint.shape, strict=True)):
        return tuple(tuple(range(n)) for n in paint.shape)
    return slices


def _strokes_on(paint: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], ...] | None:
    """The slices of one direction that carry all paint, where that is less than half of them."""
    carrying = [np.flatnonzero(project(paint, axis)) for axis in range(paint.ndim)]
    axis = min(reversed(range(paint.ndim)), key=lambda a: len(carrying[a]))
    if not 0 < len(carrying[axis]) < _FEW_SLICES * paint.shape[axis]:
        return None
    return tuple(tuple(map(int, carrying[a])) if a == axis else () for a in range(paint.ndim))


def _without_nan(array: npt.NDArray[Any], unlabelled: int | None) -> tuple[npt.NDArray[Any], int]:
    """Values with a number in the place of NaN, which is unlabelled, and that number."""
    number = -1 - int(max(0, -np.nanmin(array, initial=0))) if unlabelled is None else unlabelled
    return np.where(np.isnan(array), number, array), number


def _labelled_slices(labelled: npt.NDArray[np.bool_]) -> tuple[tuple[int, ...], ...]:
    mask = np.where(labelled, np.uint8(0), np.uint8(IGNORE_INDEX))
    for fraction in MIN_FRACTIONS:
        slices = annotated_slices(mask, min_fraction=fraction)
        if any(slices):
            break
    return tuple(map(tuple, slices))


def _value_counts(array: npt.NDArray[Any]) -> dict[int, int]:
    """Every value, ascending, and how many voxels hold it."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if high - low >= _LOOKUP_SPAN:
        values, counts = np.unique(array, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    counts = np.zeros(high - low + 1, np.int64)
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        counts += np.bincount(flat[start : start + _CHUNK].astype(np.int64) - low, minlength=counts.size)
    return {int(i) + low: int(counts[i]) for i in np.flatnonzero(counts)}


def _classes(
    found: Mapping[int, int], classes: Sequence[int] | None, nothing: int, rule: Rule, source: str
) -> tuple[int, ...]:
    values = [value for value in found if value != nothing] if classes is None else list(classes)
    if rule == "painted":
        values = [value for value in values if value != 0]
    elif rule == "slices" and 0 not in values and values:
        values.insert(0, 0)
    if len(values) > _MAX_CLASSES:
        raise InputError(
            f"{source or 'The label array'} holds {len(values)} different values, {_MAX_CLASSES} classes are "
            "possible: these are an image's grey values or the numbers of single objects. Give a file in "
            "which each class has one value. If image and label were exchanged: the image comes first."
        )
    return tuple(values)


def _encode(array: npt.NDArray[Any], values: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Class indices, ``IGNORE_INDEX`` for what is not a class."""
    encoded = np.full(array.shape, IGNORE_INDEX, np.uint8)
    for index, value in enumerate(values):
        encoded[array == value] = index
    return encoded
