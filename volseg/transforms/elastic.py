"""Smooth elastic deformation alone, for any MONAI pipeline: of one array, or of several alike.

``sample`` draws a map, ``apply`` reads through it; what lies on the same voxels shares one.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from volseg.bspline import Part, SplineMap, sample_maps
from volseg.bspline.sampling import Mode, Outside, check_mode, check_outside
from volseg.transforms.arrays import like, plain_tensor, probability
from volseg.transforms.vectors import RandomVectors, Spline

__all__ = ["RandBSplineDeform", "RandBSplineDeformd"]


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
