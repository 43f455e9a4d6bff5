"""A person simulated by the truth: strokes through the worst place of the slice that is looked at.

The person looks at a slice for some turns, sees where the result is wrong, and draws a short stroke through
the middle of the largest wrong place, with the class that is right there, along it, without crossing the
border of that class. Then the next; after some turns the person goes on to another slice. Or the person
adopts the result of a slice and outlines what is wrong on it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.labels import IGNORE_INDEX

__all__ = ["Person", "around"]

LONG, WIDE = 15, 1.0  # voxels on either side of the middle, and radius of the brush
TURNS = 3  # on one slice
SMALL = 5  # voxels up to which a person leaves what is wrong


class Person:
    """Paints what is wrong.

    Args:
        truth: class indices ``(*spatial)``.
        background: the class that everything not drawn has.
    """

    def __init__(self, truth: npt.NDArray[np.uint8], seed: int, background: int = 0) -> None:
        self.truth = truth
        self.labels = np.full_like(truth, IGNORE_INDEX)
        self.rng = np.random.default_rng(seed)
        self.background = background
        self.strokes = 0
        self.length = 0  # voxels along all strokes
        self.turns = 0
        self.axis, self.index = 0, 0
        self.look_elsewhere()

    def look_elsewhere(self) -> None:
        """Another slice on which something other than background is."""
        dims = self.truth.ndim
        for _ in range(100):
            self.axis = int(self.rng.integers(dims)) if dims > 2 else 0
            axes = tuple(a for a in range(dims) if a != self.axis)
            if dims == 2:
                return
            there = np.flatnonzero((self.truth != self.background).any(axes))
            self.index = int(self.rng.choice(there))
            plane = self.plane(self.truth)
            if len(np.unique(plane)) > 1:
                return

    @property
    def where(self) -> tuple[slice, ...]:
        """The slice as a block."""
        if self.truth.ndim == 2:
            return (slice(None), slice(None))
        return tuple(
            slice(self.index, self.index + 1) if a == self.axis else slice(None)
            for a in range(self.truth.ndim)
        )

    def plane(self, volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The slice of a volume; a view."""
        block = volume[self.where]
        return block if self.truth.ndim == 2 else block.squeeze(self.axis)

    def begin(self) -> None:
        """A stroke of each class on the first slice."""
        plane = self.plane(self.truth)
        for c in np.unique(plane):
            self._draw(plane == c, int(c))

    def correct(self, found: npt.NDArray[Any], strokes: int) -> None:
        """Draw some strokes where the slice ``found`` is wrong, and look elsewhere after some turns."""
        plane, labels = self.plane(self.truth), self.plane(self.labels)
        wrong = (found.reshape(plane.shape) != plane) & (labels == IGNORE_INDEX)
        for _ in range(strokes):
            parts, count = ndimage.label(wrong)
            if not count:
                break
            sizes = np.bincount(parts.reshape(-1))[1:]
            largest = parts == 1 + int(np.argmax(sizes + self.rng.random(count)))
            c = int(np.bincount(plane[largest]).argmax())
            self._draw(largest & (plane == c), c)
            wrong &= ~ndimage.binary_dilation(largest, iterations=2)
        self._next_turn()

    def adopt(self, found: npt.NDArray[Any]) -> None:
        """Take ``found`` for the slice, outline and fill each place that is wrong, and look elsewhere."""
        plane, labels = self.plane(self.truth), self.plane(self.labels)
        labels[...] = np.where(labels == IGNORE_INDEX, found.reshape(plane.shape), labels)
        self.strokes += 1
        for c in np.unique(plane):
            parts, _ = ndimage.label((labels != plane) & (plane == c))
            for number in np.flatnonzero(np.bincount(parts.reshape(-1))[1:] > SMALL) + 1:
                labels[parts == number] = c
                self.strokes += 1
                self.length += around(parts == number)
        self.look_elsewhere()

    def anywhere(self, strokes: int) -> None:
        """Draw some strokes at random places, of all classes equally often, whatever the result is."""
        plane = self.plane(self.truth)
        present = np.unique(plane)
        for _ in range(strokes):
            own = plane == present[self.strokes % len(present)]
            parts, _ = ndimage.label(own)
            middle = self.rng.choice(np.argwhere(own))
            near = np.ones(plane.shape, bool)
            near[tuple(middle)] = False
            near = ndimage.distance_transform_edt(near) <= LONG / 2
            self._draw((parts == parts[tuple(middle)]) & near, int(plane[tuple(middle)]))
        self._next_turn()

    def _next_turn(self) -> None:
        self.turns += 1
        if self.turns % TURNS == 0:
            self.look_elsewhere()

    def _draw(self, region: npt.NDArray[np.bool_], c: int) -> None:
        """A stroke along a region, through its middle."""
        plane, labels = self.plane(self.truth), self.plane(self.labels)
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        depth += self.rng.random(depth.shape) * 0.5 * region
        middle = np.array(np.unravel_index(int(np.argmax(depth)), depth.shape))
        away = np.argwhere(region) - middle
        near = away[(np.abs(away) <= LONG).all(1)]
        direction = np.linalg.eigh(near.T @ near + 1e-3 * np.diag([1.0, 1.0]))[1][:, -1]
        own = plane == c
        inner = ndimage.binary_erosion(own, border_value=1)
        allowed = inner if inner[tuple(middle)] else own
        points = []
        for sign in (1, -1):
            for t in np.arange(0 if sign == 1 else 1, LONG + 1):
                place = np.round(middle + sign * t * direction).astype(int)
                if (place < 0).any() or (place >= plane.shape).any() or not allowed[tuple(place)]:
                    break
                points.append(place)
        brush = np.ones(plane.shape, bool)
        brush[tuple(np.transpose(points))] = False
        drawn = (ndimage.distance_transform_edt(brush) <= WIDE) & allowed
        labels[drawn] = c
        self.strokes += 1
        self.length += len(points)


def around(plane: npt.NDArray[Any]) -> int:
    """The length of all borders in a slice, in voxels."""
    padded = np.pad(plane.astype(int), 1, "edge") if plane.dtype != bool else np.pad(plane.astype(int), 1)
    return sum(int((np.diff(padded, axis=axis) != 0).sum()) for axis in range(2))
