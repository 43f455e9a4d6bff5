"""Small volumes of four kinds with dense truth, made in a second: what the benchmarks of densify run on."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from volseg.phantom import xenopus_phantom
from volseg.phantom.ingredients import smooth_field

__all__ = ["BACKGROUND", "KINDS", "make"]

Image = npt.NDArray[np.float32]
Truth = npt.NDArray[np.uint8]


def kidney(seed: int, size: Sequence[int]) -> tuple[Image, Truth]:
    """Tubules in three stains; 0 lumen, 1 wall, 2 background."""
    image, truth = xenopus_phantom(100 + seed, size=size)
    return image.astype(np.float32), truth


def cells(seed: int, size: Sequence[int]) -> tuple[Image, Truth]:
    """Cells in one region, some of them faint, with rare small bright vesicles; 1 cell, 2 vesicle."""
    rng = np.random.default_rng([1, seed])
    voxels = _warped(rng, size)
    region = smooth_field(rng, size, 14)
    places = rng.uniform(0, size, (60, 3))
    places = places[region[tuple(places.astype(int).T)] > -0.2][:26]
    near, nearest = cKDTree(places).query(voxels)
    radius = rng.uniform(4, 7.5, len(places))
    truth = (near < radius[nearest]).astype(np.uint8)
    brightness = rng.lognormal(-0.4, 0.5, len(places))[nearest] * truth
    spots = rng.uniform(0, size, (70, 3))
    vesicles = cKDTree(spots).query(voxels)[0] < 2.2
    truth[vesicles & (truth == 1)] = 2
    signal = brightness * (1 + 0.9 * (truth == 2)) + 0.3 * smooth_field(rng, size, 12)
    debris = cKDTree(rng.uniform(0, size, (10, 3))).query(voxels)[0] < 2.5
    return _recorded(rng, signal + 0.7 * (debris & (truth == 0)), 0.35), truth


def brain(seed: int, size: Sequence[int]) -> tuple[Image, Truth]:
    """Structures that their place tells apart, not their brightness; 1 to 4, with a common shell."""
    rng = np.random.default_rng([2, seed])
    voxels = _warped(rng, size, 3.0) / np.array(size) - 0.5 + rng.normal(0, 0.02, 3)
    truth = np.zeros(size, np.uint8)
    inside = np.linalg.norm(voxels / [0.42, 0.46, 0.44], axis=-1) < 1
    for c, (centre, radii) in enumerate(
        (
            ((-0.2, 0.05, 0.0), (0.10, 0.16, 0.12)),
            ((0.2, 0.05, 0.0), (0.10, 0.16, 0.12)),
            ((0.0, -0.25, 0.05), (0.14, 0.08, 0.1)),
            ((0.0, 0.0, -0.27), (0.06, 0.06, 0.08)),
        ),
        start=1,
    ):
        scale = rng.uniform(0.85, 1.15, 3)
        truth[np.linalg.norm((voxels - centre) / (1.5 * np.array(radii) * scale), axis=-1) < 1] = c
    tissue = inside * (0.8 + 0.25 * smooth_field(rng, size, 4)) + 0.5 * (truth > 0)
    return _recorded(rng, tissue, 0.3), truth


def membranes(seed: int, size: Sequence[int]) -> tuple[Image, Truth]:
    """Walls between cells, two voxels thick, and organelles as dark; 1 wall."""
    rng = np.random.default_rng([3, seed])
    voxels = _warped(rng, size, 2.0)
    near, _ = cKDTree(rng.uniform(-8, np.array(size) + 8, (90, 3))).query(voxels, k=2)
    truth = (near[..., 1] - near[..., 0] < 1.0).astype(np.uint8)
    organelles = cKDTree(rng.uniform(0, size, (45, 3))).query(voxels)[0]
    dark = truth * (0.75 + 0.3 * smooth_field(rng, size, 9)) + 0.8 * (np.abs(organelles - 3) < 0.8)
    return _recorded(rng, ndimage.gaussian_filter(dark, 0.7), 0.25), truth


KINDS: dict[str, Callable[[int, Sequence[int]], tuple[Image, Truth]]] = {
    "kidney": kidney,
    "cells": cells,
    "brain": brain,
    "membranes": membranes,
}

BACKGROUND = {"kidney": 2, "cells": 0, "brain": 0, "membranes": 0}
"""The class that a headline leaves out."""


def make(kind: str, seed: int, size: Sequence[int]) -> tuple[Image, Truth]:
    """Image ``(C, X, Y, Z)`` and truth ``(X, Y, Z)`` of one volume."""
    return KINDS[kind](seed, tuple(size))


def _warped(rng: np.random.Generator, size: Sequence[int], by: float = 1.5) -> npt.NDArray[Any]:
    """Positions of the voxels, bent, ``(X, Y, Z, 3)``."""
    bend = np.stack([by * smooth_field(rng, size, 8) for _ in size], -1)
    return np.asarray(np.moveaxis(np.indices(size), 0, -1) + bend)


def _recorded(rng: np.random.Generator, signal: npt.NDArray[Any], noise: float) -> Image:
    blurred = ndimage.gaussian_filter(signal, 0.6)
    return (blurred + rng.normal(0, noise, signal.shape))[None].astype(np.float32)
