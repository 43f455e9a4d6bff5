"""Random vectors on a coarse grid: the elastic deformations of 2015 and 2016, drawn and checked for folds."""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from volseg.bspline import (
    SplineMap,
    control_shape,
    interpolating_coefficients,
    jacobian_bound,
    smallest_jacobian,
)
from volseg.bspline.field import numbers_per_axis
from volseg.geometry import per_axis

__all__ = ["Lattice", "RandomVectors", "Spline"]

Spline = Literal["approximating", "interpolating"]

_GRID_SPACING = 32.0
_log = logging.getLogger(__name__)


class Lattice(NamedTuple):
    """A grid of vectors over a patch: voxels between them, how many there are, how large they get."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    std: tuple[float, ...]


class RandomVectors:
    """Draws deformations; the arguments are those of :class:`volseg.transforms.RandDeformedPatchd`.

    ``drawn`` counts the deformations that were handed out, ``folded`` those of them that fold.
    """

    def __init__(
        self,
        grid_spacing: float | Sequence[float] | None = None,
        grid_points: int | Sequence[int] | None = None,
        std: float | Sequence[float] = 4.0,
        spline: Spline = "approximating",
        max_redraws: int = 0,
    ) -> None:
        if grid_spacing is not None and grid_points is not None:
            raise ValueError(
                "grid_spacing and grid_points both say how coarse the deformation is. Give one of them."
            )
        if spline not in get_args(Spline):
            raise ValueError(f"spline = {spline!r} must be 'approximating' or 'interpolating'.")
        self.grid_spacing = _GRID_SPACING if grid_spacing is None else grid_spacing
        self.grid_points = grid_points
        self.std = std
        self.spline = spline
        (self.max_redraws,) = per_axis(max_redraws, 1, "max_redraws", minimum=0)
        self.drawn = 0
        self.folded = 0

    def over(self, size: Sequence[int]) -> Lattice:
        """The grid over a patch of ``size`` voxels."""
        dims = len(size)
        std = numbers_per_axis(self.std, dims, "std")
        if min(std) < 0:
            raise ValueError(
                f"std = {self.std!r} must not be negative: it is a standard deviation in voxels."
            )
        if self.grid_points is None:
            spacing = numbers_per_axis(self.grid_spacing, dims, "grid_spacing")
            return Lattice(spacing, control_shape(size, spacing), std)
        points = per_axis(self.grid_points, dims, "grid_points", minimum=2)
        spacing = tuple(max(n - 1, 1) / (p - 1) for n, p in zip(size, points, strict=True))
        return Lattice(spacing, tuple(p + 3 for p in points), std)

    def draw(
        self, generator: np.random.RandomState, size: Sequence[int], matrix: npt.NDArray[np.float64]
    ) -> SplineMap:
        """A random deformation followed by ``matrix``."""
        lattice = self.over(size)
        if not any(lattice.std):
            return SplineMap(matrix, np.zeros(len(size)))
        best, largest = self._vectors(generator, lattice), -np.inf
        for redraw in range(self.max_redraws + 1):
            vectors = best if redraw == 0 else self._vectors(generator, lattice)
            jacobian = jacobian_bound(vectors, lattice.spacing)
            if jacobian <= 0:
                jacobian = smallest_jacobian(vectors, size, lattice.spacing)
            if jacobian > largest:
                best, largest = vectors, jacobian
            if jacobian > 0:
                break
        self._note(largest)
        return SplineMap(matrix, np.zeros(len(size)), best, lattice.spacing)

    def _vectors(self, generator: np.random.RandomState, lattice: Lattice) -> npt.NDArray[np.float64]:
        dims = len(lattice.shape)
        vectors = generator.standard_normal((dims, *lattice.shape)) * np.reshape(
            lattice.std, (-1, *(1,) * dims)
        )
        return interpolating_coefficients(vectors) if self.spline == "interpolating" else vectors

    def _note(self, jacobian: float) -> None:
        self.drawn += 1
        if jacobian > 0:
            return
        self.folded += 1
        _log.log(
            logging.WARNING if self.folded == 1 else logging.DEBUG,
            "A deformation folds: its smallest Jacobian determinant is %.2f (%d of %d so far). Allow redraws "
            "(max_redraws), take a wider grid or a smaller std.",
            jacobian,
            self.folded,
            self.drawn,
        )
