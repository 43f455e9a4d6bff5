"""What the phantoms are made of: checked arguments, random fields and places, grey values."""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = [
    "MIN_SIZE",
    "Floats",
    "checked_seed",
    "checked_size",
    "from_centre",
    "smooth_field",
    "thin_out",
    "to_uint8",
]

MIN_SIZE = 16  # below that not even one tubule or cell fits

Floats = NDArray[np.float32]


def checked_seed(seed: int) -> int:
    if operator.index(seed) < 0:
        raise ValueError(f"The seed is {seed}. A random generator needs 0 or more.")
    return int(seed)


def checked_size(size: Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    if len(size) != spatial_dims or any(n < MIN_SIZE for n in size):
        raise ValueError(
            f"size is {tuple(size)}. This phantom needs {spatial_dims} sizes, each {MIN_SIZE} or more."
        )
    return tuple(int(n) for n in size)


def smooth_field(rng: np.random.Generator, shape: Sequence[int], scale: float) -> Floats:
    """A Gaussian random field of mean 0 and variance 1 everywhere, smooth over ``scale`` voxels."""
    knots = [int(np.ceil(n / scale)) + 5 for n in shape]
    field: Floats = rng.standard_normal(knots, np.float32)
    for n, k in zip(shape, knots, strict=True):
        distance = np.arange(n)[:, None] / scale + 2 - np.arange(k)
        weights = np.exp(-(distance**2)).astype(np.float32)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.tensordot(field, weights, (0, 1))  # the axis done goes last: all done, all in order
    return field


def thin_out(places: NDArray[np.floating], apart: float) -> NDArray[np.floating]:
    """Those places, first come first served, that keep ``apart`` from all places before them."""
    keep = np.ones(len(places), bool)
    pairs = (
        cKDTree(places).query_pairs(apart, output_type="ndarray") if len(places) else np.empty((0, 2), int)
    )
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if keep[first]:
            keep[second] = False
    return places[keep]


def from_centre(
    centre: Sequence[int], reach: int, shape: Sequence[int]
) -> tuple[tuple[slice, ...], list[Floats]]:
    """The pixels within ``reach`` along each axis, as slices, and how far they are off, axis by axis."""
    low = [max(0, int(c) - reach) for c in centre]
    high = [min(n, int(c) + reach + 1) for n, c in zip(shape, centre, strict=True)]
    here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    indices = np.indices([b - a for a, b in zip(low, high, strict=True)], np.float32)
    return here, [index + (a - int(c)) for index, a, c in zip(indices, low, centre, strict=True)]


def to_uint8(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(values).clip(0, 255).astype(np.uint8)
