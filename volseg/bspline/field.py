"""Displacement fields: cubic B-splines on a coarse grid, and whether the map they make folds.

The deformation of Çiçek et al. (2016, Sec. 3) and Ronneberger et al. (2015, Sec. 3.1): random
vectors on a coarse grid become a smooth dense displacement through a tensor product of uniform
cubic B-splines.

Words, all in voxels, one number per spatial axis:

* ``control``       coefficients of the spline; control point j sits at ``(j - 1) * grid_spacing``
* ``grid_spacing``  distance of neighbouring control points; need not be a whole number
* ``displacement``  backward: ``out(x) = in(x + d(x))``

How strong is a deformation? A spline passes *between* its coefficients, not through them. The
released 2016 code uses the random vectors as coefficients, so a standard deviation of 4 displaces
voxels by only 1.3 along each axis in 3D and 1.9 in 2D (rms: a factor of sqrt(151/315) per axis, the
root of the mean squared weight). The other reading of the papers, in which the vectors hold at the
grid points, is :func:`interpolating_coefficients`; it displaces by the full 4 there.

Does a deformation fold? Where the Jacobian determinant of x + d(x) is not positive, space is turned over.

A fold shows the same tissue twice, once as its mirror image: no real organ looks like that. The published
settings do not fold: in 60 draws the determinant stayed above 0.64 with 4 voxels on a grid of 32 in 3D,
above 0.9 with 10 pixels on 3 x 3 points over 572. The same vectors taken to hold at the grid points
(interpolating) come close to it in 3D: 0.01.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "SplineMap",
    "bspline_displacement",
    "control_shape",
    "interpolating_coefficients",
    "jacobian_bound",
    "numbers_per_axis",
    "smallest_jacobian",
    "spline_taps",
]

FloatArray = npt.NDArray[np.float64]


def numbers_per_axis(value: float | Sequence[float], spatial_dims: int, name: str) -> tuple[float, ...]:
    """One finite real number per spatial axis; a single number stands for all axes."""
    given: Any = value.tolist() if isinstance(value, (np.ndarray, np.generic, Tensor)) else value
    numbers = tuple(given) if isinstance(given, (list, tuple)) else (given,) * spatial_dims
    if len(numbers) != spatial_dims or not all(
        isinstance(number, (int, float, np.number)) and not isinstance(number, bool) and math.isfinite(number)
        for number in numbers
    ):
        raise ValueError(
            f"{name} = {value!r} does not say one finite number per axis. "
            f"Give one number, or {spatial_dims}, one per axis."
        )
    return tuple(float(number) for number in numbers)


def control_shape(size: Sequence[int], grid_spacing: float | Sequence[float]) -> tuple[int, ...]:
    """Control points per axis for a spline over ``size`` voxels: ``(size - 1) // grid_spacing + 4``."""
    spacings = _positive_spacing(grid_spacing, len(size))
    return tuple(math.floor((n - 1) / spacing) + 4 for n, spacing in zip(size, spacings, strict=True))


def spline_taps(
    size: int, spacing: float, n: int, *, offset: int = 0, name: str = "control"
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Per voxel the first of its four control points, ``(size,)``, and their weights, ``(4, size)``.

    Voxel i stands at ``i + offset`` of the spline's own axis. The weights of a voxel are not
    negative and sum to one: constants and straight lines are reproduced, and no value leaves the
    range of its four coefficients.
    """
    position = (np.arange(size, dtype=np.float64) + offset) / spacing
    first = np.floor(position).astype(np.int64)
    if size and (first[0] < 0 or first[-1] + 4 > n):
        raise ValueError(
            f"{name} holds {n} points along an axis of {size} voxels from {offset} with grid spacing "
            f"{spacing:g}; the spline reaches from point {first[0]} to {first[-1] + 3}. "
            f"At least {first[-1] + 4} points are needed, the first one grid step before voxel 0."
        )
    return first, cubic_weights(position - first)


def cubic_weights(t: FloatArray) -> FloatArray:
    """Weights of a uniform cubic B-spline's four coefficients, ``(4, *t)``, t of the way through a cell."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6


def bspline_displacement(
    control: Tensor, size: Sequence[int], grid_spacing: float | Sequence[float]
) -> Tensor:
    """Dense cubic B-spline field in voxels, the smooth displacement of every voxel of a patch.

    The coefficients are used as they are, without prefilter, one axis after the other, as in the
    deformation layer released with Çiçek et al. (2016). Differentiable in ``control``.

    Args:
        control: coefficients, the first one grid step before the array.
        size: voxels per axis.
        grid_spacing: voxels between control points, one number or one per axis.

    Shape:
        - control: ``(spatial_dims, *n)``, n at least ``(size - 1) // grid_spacing + 4`` per axis.
        - output: ``(spatial_dims, *size)``, of control's dtype and on its device.
    """
    spatial_dims = len(size)
    if control.ndim != spatial_dims + 1 or control.shape[0] != spatial_dims:
        raise ValueError(
            f"control has shape {tuple(control.shape)}, which is not (spatial_dims, *n) for an array of "
            f"{spatial_dims} axes. Give one grid of coefficients per axis."
        )
    if not control.is_floating_point():
        raise ValueError(f"control is {control.dtype}; a displacement needs floating-point coefficients.")
    return evaluate_spline(control, (0,) * spatial_dims, size, _positive_spacing(grid_spacing, spatial_dims))


def evaluate_spline(
    control: Tensor, start: Sequence[int], size: Sequence[int], grid_spacing: Sequence[float]
) -> Tensor:
    """The spline at the voxels of the window ``start`` .. ``start + size``: ``(channels, *size)``."""
    values = control
    for axis, (offset, length, spacing) in enumerate(zip(start, size, grid_spacing, strict=True), start=1):
        first, weights = spline_taps(length, spacing, values.shape[axis], offset=offset)
        # Copies that do not wait: to a GPU, every other kind would hold up the program until it is idle.
        taps = torch.as_tensor(weights, dtype=control.dtype).to(control.device, non_blocking=True)
        index = torch.as_tensor(first).to(control.device, non_blocking=True)
        taps = taps.reshape(4, length, *(1,) * (values.ndim - axis - 1))
        # Four products instead of one matmul: TF32, bf16 and autocast round what goes into a matmul,
        # and ten bits of mantissa would be a tenth of a voxel.
        values = sum(
            (values.index_select(axis, index + k) * taps[k] for k in range(1, 4)),
            values.index_select(axis, index) * taps[0],
        )
    return values


def interpolating_coefficients(values: npt.ArrayLike) -> FloatArray:
    """Coefficients of the spline that takes the given values at the control points.

    ``values`` is ``(channels, *n)``. Beyond the outermost points the values are continued as a
    mirror image, which closes the equations.
    """
    coefficients: FloatArray = np.asarray(values, dtype=np.float64)
    for axis in range(1, coefficients.ndim):
        n = coefficients.shape[axis]
        if n < 2:
            raise ValueError(
                f"values has shape {coefficients.shape}: a spline needs two or more points per axis."
            )
        matrix = (np.eye(n, k=-1) + 4 * np.eye(n) + np.eye(n, k=1)) / 6
        matrix[0, 1] = matrix[-1, -2] = 1 / 3
        inverse = np.linalg.inv(matrix)
        coefficients = np.moveaxis(np.tensordot(inverse, coefficients, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(coefficients)


@dataclass(frozen=True)
class SplineMap:
    """Where in the source each voxel of a patch comes from: ``source(o) = matrix @ (o + d(o)) + shift``.

    An affine map is itself a cubic B-spline, whose coefficients are its values at the control
    points. So rotation, scaling, flip, crop and deformation together are *one* spline, and the
    patch costs one interpolation (:meth:`composed_control`).

    ``displacement`` holds the coefficients of d, ``(spatial_dims, *n)``, in voxels of the patch;
    ``None`` means no deformation.
    """

    matrix: FloatArray
    shift: FloatArray
    displacement: FloatArray | None = None
    grid_spacing: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.displacement is None) != (self.grid_spacing is None):
            raise ValueError("displacement and grid_spacing go together: give both or neither.")
        parts = [self.matrix, self.shift, *([] if self.displacement is None else [self.displacement])]
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError("A map from patch to source holds numbers that are not finite.")

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.shift)

    def __call__(self, point: npt.ArrayLike) -> FloatArray:
        """Source position of one whole-numbered voxel of the patch, exactly."""
        moved = np.asarray(point).astype(np.float64)
        if self.displacement is not None and self.grid_spacing is not None:
            vectors = self.displacement
            for offset, spacing in zip(np.asarray(point).tolist(), self.grid_spacing, strict=True):
                (first,), weights = spline_taps(1, spacing, vectors.shape[1], offset=offset)
                vectors = np.tensordot(vectors[:, first : first + 4], weights[:, 0], axes=(1, 0))
            moved += vectors
        return self.matrix @ moved + self.shift

    def through(self, point: npt.ArrayLike, source: npt.ArrayLike) -> "SplineMap":
        """The same map, shifted so that it takes voxel ``point`` of the patch to ``source``."""
        shift = self.shift + (np.asarray(source, dtype=np.float64) - self(point))
        return SplineMap(self.matrix, shift, self.displacement, self.grid_spacing)

    def lattice(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
        """``(start, step)`` where the map only crops and flips, so that no interpolation is needed."""
        if self.displacement is not None and np.any(self.displacement):
            return None
        step = np.rint(np.diag(self.matrix))
        start = np.rint(self.shift)
        on_grid = np.array_equal(start, self.shift) and np.array_equal(np.diag(step), self.matrix)
        return (
            (start.astype(np.int64), step.astype(np.int64)) if on_grid and np.all(np.abs(step) == 1) else None
        )

    def composed_control(
        self, start: Sequence[int], size: Sequence[int]
    ) -> tuple[FloatArray, tuple[float, ...]]:
        """Coefficients of the whole map over a window of the patch, and their grid spacing.

        As everywhere, control point j sits at ``(j - 1) * grid_spacing`` of the patch.
        """
        if self.displacement is None or self.grid_spacing is None:
            spacing = tuple(float(max(s + n, 1)) for s, n in zip(start, size, strict=True))
            shape = tuple([4] * self.spatial_dims)
            moved = np.zeros((self.spatial_dims, *shape))
        else:
            spacing, shape = self.grid_spacing, self.displacement.shape[1:]
            moved = self.displacement.copy()
        axes = [(np.arange(n) - 1.0) * step for n, step in zip(shape, spacing, strict=True)]
        moved += np.stack(np.meshgrid(*axes, indexing="ij"))
        control = np.einsum("ij,j...->i...", self.matrix, moved)
        return control + self.shift.reshape(-1, *(1,) * self.spatial_dims), spacing


def _positive_spacing(grid_spacing: float | Sequence[float], spatial_dims: int) -> tuple[float, ...]:
    spacings = numbers_per_axis(grid_spacing, spatial_dims, "grid_spacing")
    if min(spacings) <= 0:
        raise ValueError(f"grid_spacing = {grid_spacing!r} must be positive: it is a distance in voxels.")
    return spacings


_SAMPLES_PER_CELL = 4


def smallest_jacobian(
    control: npt.ArrayLike, size: Sequence[int], grid_spacing: float | Sequence[float]
) -> float:
    """Smallest Jacobian determinant of ``x + d(x)`` over a patch; 0 or less means that it folds.

    1 leaves volumes alone, 0.5 halves them. The determinant is exact, and looked at in four places per
    cell of the control grid and axis, between which it changes little: far cheaper than the patch itself,
    but a fold smaller than that may be missed.

    Args:
        control: coefficients, see :func:`volseg.bspline.bspline_displacement`.
    """
    coefficients = np.asarray(control, dtype=np.float64)
    dims = len(size)
    spacings = numbers_per_axis(grid_spacing, dims, "grid_spacing")
    bases = [_bases(*line) for line in zip(size, spacings, coefficients.shape[1:], strict=True)]
    jacobian = np.empty((dims, dims, *(len(value) for value, _ in bases)))
    for along in range(dims):
        field = coefficients
        for axis, basis in enumerate(bases):  # the axis in front goes to the end, so each comes in front once
            field = np.tensordot(field, basis[axis == along], axes=(1, 1))
        jacobian[:, along] = field
        jacobian[along, along] += 1
    return float(np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1))).min())


def jacobian_bound(control: npt.ArrayLike, grid_spacing: Sequence[float]) -> float:
    """A number below every Jacobian determinant of ``x + d(x)``, at a glance; -infinity if it says nothing.

    The slopes of a spline lie between those of its coefficients. While they sum to less than 1 along every
    row, the matrix is diagonally dominant, and its determinant no less than the product of what is left.
    """
    coefficients = np.asarray(control, dtype=np.float64)
    left = np.ones(len(coefficients))
    for axis, spacing in enumerate(grid_spacing, start=1):
        steps = np.abs(np.diff(coefficients, axis=axis)).reshape(len(coefficients), -1)
        left -= steps.max(axis=1) / spacing
    return float(np.prod(left)) if left.min() > 0 else -np.inf


@lru_cache(maxsize=16)
def _bases(length: int, spacing: float, n: int) -> tuple[FloatArray, FloatArray]:
    """Weights of n coefficients in a spline's value and slope where it is looked at: ``(places, n)`` each."""
    places = np.unique(np.append(np.arange(0, length - 1, spacing / _SAMPLES_PER_CELL), length - 1)) / spacing
    first = np.minimum(np.floor(places).astype(np.int64), n - 4)
    t = places - first
    value = cubic_weights(t)
    slope = np.stack([-3 * (1 - t) ** 2, 9 * t**2 - 12 * t, -9 * t**2 + 6 * t + 3, 3 * t**2]) / 6 / spacing
    bases = np.zeros((2, len(places), n))
    for basis, weights in zip(bases, (value, slope), strict=True):
        np.put_along_axis(basis, first[:, None] + np.arange(4), weights.T, axis=1)
    return bases[0], bases[1]
