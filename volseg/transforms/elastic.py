"""Smooth elastic deformation: random vectors on a coarse grid, checked for folds, and images moved by them.

The vectors are those of 2015 and 2016. :mod:`volseg.transforms.deformation` draws them for patches; here they
deform one array, or several alike, in any MONAI pipeline.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from volseg.bspline import (
    Part,
    SplineMap,
    control_shape,
    interpolating_coefficients,
    jacobian_bound,
    sample_maps,
    smallest_jacobian,
)
from volseg.bspline.field import numbers_per_axis
from volseg.bspline.sampling import Mode, Outside, check_mode, check_outside
from volseg.geometry import per_axis
from volseg.transforms.arrays import like, plain_tensor, probability

__all__ = ["Lattice", "RandBSplineDeform", "RandBSplineDeformd", "RandomVectors", "Spline"]


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


class RandBSplineDeform(RandomizableTransform):
    """Smooth elastic deformation of an array ``(C, *spatial)``, which keeps its size, kind and metadata.

    Linear and cubic give float32 (also when nothing is deformed, so that samples stay alike), nearest
    keeps the dtype. Not invertible.

    Args:
        mode: ``"linear"``, ``"cubic"`` or ``"nearest"`` (labels).
        outside: what comes in from beyond the border: ``"mirror"``, or a number such as the ignored label.
        grid_spacing, grid_points, std, spline, max_redraws: see :class:`RandDeformedPatchd`.
    """

    def __init__(
        self,
        *,
        grid_spacing: float | Sequence[float] | None = None,
        grid_points: int | Sequence[int] | None = None,
        std: float | Sequence[float] = 4.0,
        spline: Spline = "approximating",
        max_redraws: int = 0,
        mode: Mode = "linear",
        outside: Outside = "mirror",
        prob: float = 1.0,
    ) -> None:
        super().__init__(probability(prob, "prob"))
        self.deformation = RandomVectors(grid_spacing, grid_points, std, spline, max_redraws)
        check_mode(mode)
        check_outside(outside, torch.float32)
        self.mode: Mode = mode
        self.outside: Outside = outside

    def __call__(self, image: Any) -> Any:
        return self.apply(image, self.sample(tuple(image.shape[1:])))

    def sample(self, shape: Sequence[int]) -> SplineMap:
        """Draw a deformation of an array; the identity with probability ``1 - prob``."""
        dims = len(shape)
        self.randomize(None)
        identity = np.eye(dims)
        if not self._do_transform:
            return SplineMap(identity, np.zeros(dims))
        return self.deformation.draw(self.R, shape, identity)

    def apply(self, image: Any, mapping: SplineMap) -> Any:
        """Deform an array through a map."""
        (warped,) = sample_maps([_part(image, self.mode, self.outside)], mapping)
        return like(warped, image)


class RandBSplineDeformd(RandomizableTransform, MapTransform):
    """:class:`RandBSplineDeform`, the same deformation for all keys.

    Args:
        keys: of arrays ``(C, *spatial)`` that share their spatial shape.
        mode: one for all keys or one per key.
        outside: one for all keys or one per key.
    """

    def __init__(
        self,
        keys: Sequence[str] | str,
        *,
        grid_spacing: float | Sequence[float] | None = None,
        grid_points: int | Sequence[int] | None = None,
        std: float | Sequence[float] = 4.0,
        spline: Spline = "approximating",
        max_redraws: int = 0,
        mode: Mode | Sequence[Mode] = "linear",
        outside: Outside | Sequence[Outside] = "mirror",
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.deform = RandBSplineDeform(
            grid_spacing=grid_spacing,
            grid_points=grid_points,
            std=std,
            spline=spline,
            max_redraws=max_redraws,
            prob=prob,
        )
        self.mode: tuple[Mode, ...] = ensure_tuple_rep(mode, len(self.keys))
        self.outside: tuple[Outside, ...] = ensure_tuple_rep(outside, len(self.keys))
        for name in self.mode:
            check_mode(name)
        for value in self.outside:
            check_outside(value, torch.float32)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> "RandBSplineDeformd":
        """Where draws come from, as in MONAI."""
        super().set_random_state(seed, state)
        self.deform.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        shapes = {key: tuple(data[key].shape[1:]) for key in self.key_iterator(data)}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"Arrays that are deformed together must share their spatial shape; here: {shapes}."
            )
        if not shapes:
            return dict(data)
        return self.apply(data, self.sample(next(iter(shapes.values()))))

    def sample(self, shape: Sequence[int]) -> SplineMap:
        """Draw a deformation of arrays of this shape; the identity with probability ``1 - prob``."""
        return self.deform.sample(shape)

    def apply(self, data: Mapping[Hashable, Any], mapping: SplineMap) -> dict[Hashable, Any]:
        """Deform every key through one map; they are read together, which is faster than one by one."""
        out = dict(data)
        parts: dict[Hashable, Part] = {
            key: _part(data[key], mode, outside)
            for key, mode, outside in self.key_iterator(data, self.mode, self.outside)
        }
        for key, warped in zip(parts, sample_maps(list(parts.values()), mapping), strict=True):
            out[key] = like(warped, data[key])
        return out


def _part(array: Any, mode: Mode, outside: Outside) -> Part:
    """All of an array, to be read through a map."""
    source: Tensor = plain_tensor(array)
    size = tuple(source.shape[1:])
    return Part(source, (0,) * len(size), size, mode, outside)
