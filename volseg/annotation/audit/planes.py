"""The planes that the auditor looks at: annotated slices one by one, or a whole image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from volseg.annotation.numbering import summarise
from volseg.annotation.paint import Paint

__all__ = ["Names", "AnnotatedSlice", "class_name", "planes"]

Names = Mapping[int, str]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AnnotatedSlice:
    """An annotated slice, or a whole image.

    Attributes:
        axis: it stands perpendicular to this axis; -1 for an image.
        index: along that axis.
        labels: class indices, 2D, the remaining axes in order.
        crossed: per remaining axis, where slices of other directions cross.
    """

    axis: int
    index: int
    labels: Labels
    crossed: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def name(self) -> str:
        """``xy slice 12 (the 13th)``."""
        return summarise([(self.axis, self.index)])

    @property
    def slices(self) -> tuple[tuple[str, int], ...]:
        return () if self.axis < 0 else (("xyz"[self.axis], self.index),)

    def voxel(self, place: Sequence[int] | npt.NDArray[np.intp]) -> tuple[int, ...]:
        """A place on the plane as a voxel of the volume."""
        voxel = [int(i) for i in place]
        if self.axis >= 0:
            voxel.insert(self.axis, self.index)
        return tuple(voxel)

    def without_crossings(self) -> tuple[Labels, tuple[npt.NDArray[np.intp], ...]]:
        """The labels without the lines other slices leave, and which rows and columns are left."""
        kept = tuple(
            np.setdiff1d(np.arange(n), np.asarray(lines, int))
            for n, lines in zip(self.labels.shape, self.crossed, strict=True)
        )
        return self.labels[np.ix_(*kept)], kept

    def is_crossed(self) -> Mask:
        """True on the lines where other slices cross."""
        mask = np.zeros(self.labels.shape, bool)
        mask[list(self.crossed[0])] = True
        mask[:, list(self.crossed[1])] = True
        return mask


def planes(paint: Paint) -> list[AnnotatedSlice]:
    """The annotated slices; of a dense label those along the last axis."""
    if not paint.slices:
        return [AnnotatedSlice(-1, 0, paint.labels, ((), ()))]
    slices = paint.slices
    if all(len(found) == n for found, n in zip(slices, paint.labels.shape, strict=True)):
        slices = ((), (), slices[2])
    return [
        AnnotatedSlice(
            axis,
            index,
            np.take(paint.labels, index, axis=axis),
            (slices[(1, 0, 0)[axis]], slices[(2, 2, 1)[axis]]),
        )
        for axis in range(3)
        for index in slices[axis]
    ]


def class_name(paint: Paint, index: int, names: Names) -> str:
    """``2 'lumen'``: the value in the file, and the name if it has one."""
    value = paint.values[index]
    return f"{value} {names[value]!r}" if value in names else str(value)
