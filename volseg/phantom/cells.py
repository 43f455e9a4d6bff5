"""Touching cells in light microscopy, 2D: for the border weights of Ronneberger et al. 2015."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from volseg.phantom.ingredients import checked_seed, checked_size, smooth_field, thin_out, to_uint8

__all__ = ["cells_phantom"]


def cells_phantom(seed: int, size: Sequence[int] = (256, 256)) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A micrograph of touching cells of varying contrast, and the id of the cell of every pixel.

    Cells come in clusters and share borders that are only slightly darker than their inside;
    some cells are hardly brighter than the uneven background.

    Returns:
        The image, uint8 ``(1, X, Y)``, and the instances, int32 ``(X, Y)``: 1..n, each one
        connected, 0 for background. Neighbours touch: no background is kept between them.
    """
    rng = np.random.default_rng([2015, checked_seed(seed)])
    shape = checked_size(size, 2)

    # Power diagram of discs: cells are convex and meet along straight borders, which a smooth
    # warp then bends. Most seeds fall where a random field is high, hence the clusters.
    wanted = max(4, int(np.prod(shape) / 220))
    candidates = rng.uniform(0, shape, size=(4 * wanted, 2))
    crowding = smooth_field(rng, shape, 28)[tuple(candidates.astype(int).T)]
    centres = thin_out(candidates[np.argsort(-crowding, kind="stable")][:wanted], 11)
    radii = rng.uniform(8, 13, len(centres))
    warp = np.stack([1.8 * smooth_field(rng, shape, 9) for _ in shape], -1)
    pixels = np.moveaxis(np.indices(shape), 0, -1) + warp
    near, ids = cKDTree(centres).query(pixels, k=min(12, len(centres)))
    near, ids = near.reshape(*shape, -1), ids.reshape(*shape, -1)
    power = near**2 - radii[ids] ** 2
    best = power.argmin(-1)[..., None]
    nearest = np.take_along_axis(ids, best, -1)[..., 0]
    instances = _connected(np.where(np.take_along_axis(power, best, -1)[..., 0] < 0, nearest + 1, 0))

    number = int(instances.max()) + 1
    brightness = rng.lognormal(-1.1, 0.45, number).clip(0.12, 0.9)
    brightness[0] = 0
    same = ndimage.minimum_filter(instances, 3) == ndimage.maximum_filter(instances, 3)
    depth = ndimage.distance_transform_edt(same & (instances > 0))
    body = brightness[instances] * (0.72 + 0.28 * (1 - np.exp(-depth / 2)))
    body *= 1 + 0.12 * smooth_field(rng, shape, 2)
    halo = 0.05 * np.exp(-ndimage.distance_transform_edt(instances == 0) / 4)
    signal = (0.12 + body + halo) * (1 + 0.2 * smooth_field(rng, shape, 70)).clip(0.4)
    photons = rng.poisson(90 * ndimage.gaussian_filter(signal, 0.9)) + rng.normal(0, 2, shape)
    return to_uint8(photons * (200 / 90))[None], instances


def _connected(instances: NDArray[np.intp]) -> NDArray[np.int32]:
    """The largest piece of each instance that has 12 pixels or more, renumbered 1..n."""
    result = np.zeros(instances.shape, np.int32)
    number = 0
    for label, where in enumerate(ndimage.find_objects(instances), 1):
        if where is None:
            continue
        pieces, _ = ndimage.label(instances[where] == label)
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.max() >= 12:
            number += 1
            result[where][pieces == sizes.argmax() + 1] = number
    return result
