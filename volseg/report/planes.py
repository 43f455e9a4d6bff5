"""Which planes of a volume are shown, and which way round."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.report.parts import Report

__all__ = ["Plane", "cut", "planes_of"]

_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Plane:
    """A view: axis ``across`` to the right, axis ``down`` downwards, slices along ``normal``.

    Args:
        normal: ``None`` for an image, which has one slice.
        flipped: whether the two axes are shown backwards.
        letters: what lies left, right, up, down, such as ``("R", "L", "A", "P")``; empty if unknown.
    """

    name: str
    across: int
    down: int
    normal: int | None
    flipped: tuple[bool, bool]
    letters: tuple[str, ...]

    def extent(self, size: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
        """Width and height in world units."""
        return size[self.across] * spacing[self.across], size[self.down] * spacing[self.down]


def planes_of(report: Report) -> list[Plane]:
    """xy, xz and yz; of an image, xy."""
    axes: list[tuple[str, int, int, int | None]] = [("xy", 0, 1, 2), ("xz", 0, 2, 1), ("yz", 1, 2, 0)]
    if len(report.size) == 2:
        axes = [("xy", 0, 1, None)]
    planes = []
    for name, across, down, normal in axes:
        letters: tuple[str, ...] = ()
        flipped = (False, False)
        if report.orientation:
            # Radiologists: head and face up, the patient's left on the right, the face to the left.
            right, below = report.orientation[across], report.orientation[down]
            flipped = (right in "RA", below in "SA")
            right = _OPPOSITE[right] if flipped[0] else right
            below = _OPPOSITE[below] if flipped[1] else below
            letters = (_OPPOSITE[right], right, _OPPOSITE[below], below)
        planes.append(Plane(name, across, down, normal, flipped, letters))
    return planes


def cut(array: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """One slice, rows downwards and columns to the right as a screen shows them."""
    cut = array if plane.normal is None else np.take(array, index, axis=plane.normal)
    if plane.across < plane.down:
        cut = cut.T
    return cut[:: -1 if plane.flipped[1] else 1, :: -1 if plane.flipped[0] else 1]
