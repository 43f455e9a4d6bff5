"""Two phantoms of cells, 2D: in light and in electron microscopy.

Touching cells in light microscopy: for the border weights of Ronneberger et al. 2015.

Nerve cord in electron microscopy, 2D: stands in for the sections of the ISBI 2012 challenge.

Staining shows every membrane alike, but only those between cells are to be found: mitochondria,
vesicles and the reticulum inside cells are as dark. Some of the membranes that count are cut at a
slant, hence wide and faint. Lengths are in pixels (about 4 nm in the challenge).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import expit

from volseg.phantom.ingredients import (
    Floats,
    checked_seed,
    checked_size,
    from_centre,
    smooth_field,
    thin_out,
    to_uint8,
)

__all__ = ["cells_phantom", "membranes_phantom"]


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


def membranes_phantom(
    seed: int, size: Sequence[int] = (512, 512)
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A section through densely packed neurites, and where the membranes between them are.

    Returns:
        The image, uint8 ``(1, X, Y)``, and the truth, uint8 ``(X, Y)``: 0 membrane, 1 inside a
        cell. Membranes are 2 to 5 pixels wide, wider where they meet, and have no gaps: any two
        cells are apart.
    """
    rng = np.random.default_rng([2012, checked_seed(seed)])
    shape = checked_size(size, 2)
    cells = _cells(rng, shape)
    between = ndimage.minimum_filter(cells, (2, 2)) != ndimage.maximum_filter(cells, (2, 2))
    from_border = ndimage.distance_transform_edt(~between) + 0.3 * smooth_field(rng, shape, 3)
    half_width = (1.9 + 0.4 * smooth_field(rng, shape, 18)).clip(1.1, 2.5)
    membrane = ndimage.binary_dilation(between, np.ones((2, 2))) | (from_border < half_width)
    density = _stain(rng, cells, from_border.astype(np.float32), membrane)
    return _record(rng, density)[None], (~membrane).astype(np.uint8)


def _cells(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """The cell of every pixel: discs of very different sizes grown until they meet, then bent.

    That is a power diagram, which is the nearest-neighbour diagram of the centres lifted by
    ``sqrt(largest² - radius²)`` out of the plane.
    """
    margin = 40.0
    wanted = int(np.prod(np.array(shape) + 2 * margin) / 300)
    radii = np.sort((6 / np.sqrt(rng.uniform(0.01, 1, wanted))).clip(max=52))[::-1]
    places = rng.uniform(-margin, np.array(shape) + margin, (wanted, 2))
    kept: list[int] = []
    for i in range(wanted):
        away = places[kept] - places[i]
        if ((away * away).sum(1) > (0.85 * (radii[kept] + radii[i])) ** 2).all():
            kept.append(i)
    places, radii = places[kept], radii[kept]

    # Some small ones join their neighbour, which makes its outline concave.
    cell = np.arange(len(kept))
    if len(kept) > 1:
        neighbour = cKDTree(places).query(places, k=2)[1][:, 1]
        joins = (rng.random(len(kept)) < 0.2) & (radii < 14)
        cell[joins] = neighbour[joins]

    middle, turn = np.array(shape) / 2, rng.uniform(0, np.pi)
    along = np.array([np.cos(turn), np.sin(turn)])
    squeeze = np.eye(2) - np.outer(along, along) * rng.uniform(0.0, 0.4)  # fibres cut at a slant
    bend = np.stack(
        [9 * smooth_field(rng, shape, 45) + 2.2 * smooth_field(rng, shape, 11) for _ in shape], -1
    )
    pixels = (np.moveaxis(np.indices(shape), 0, -1) - middle) @ squeeze + middle + bend
    lifted = np.concatenate([places, np.sqrt(radii[0] ** 2 - radii**2)[:, None]], 1)
    nearest = cKDTree(lifted).query(np.concatenate([pixels, np.zeros((*shape, 1))], -1))[1]
    return cell[nearest]


def _stain(
    rng: np.random.Generator, cells: NDArray[np.intp], from_border: Floats, membrane: NDArray[np.bool_]
) -> Floats:
    """How dense the tissue is to electrons: about 0.3 in cytoplasm, 0.8 in a membrane cut straight."""
    shape = cells.shape
    cytoplasm = rng.normal(0.32, 0.065, cells.max() + 1).astype(np.float32)[cells]
    density = cytoplasm + 0.09 * smooth_field(rng, shape, 1.6) + 0.04 * smooth_field(rng, shape, 4)
    grains = np.zeros(shape, np.float32)
    drawn = rng.integers(0, shape, (cells.size // 160, 2))
    grains[tuple(drawn.T)] = rng.uniform(0.8, 2.8, len(drawn))
    density += ndimage.gaussian_filter(grains, 1.0)

    # Endoplasmic reticulum: lines along which a random field is zero, here and there.
    lines = np.exp(-((smooth_field(rng, shape, 13) / 0.16) ** 2))
    density += 0.4 * lines * expit(8 * (smooth_field(rng, shape, 30) - 0.8)) * expit(2 * (from_border - 6))
    _add_vesicles(rng, density, from_border)
    _add_mitochondria(rng, density, from_border)

    strength = (1.02 + 0.3 * smooth_field(rng, shape, 12)).clip(0.35, 1.6)
    straight = 0.42 * strength * ndimage.gaussian_filter(membrane.astype(np.float32), 0.7)
    slant = expit(6 * (smooth_field(rng, shape, 22) - 1.2))
    density += (1 - slant) * straight + slant * 1.1 * ndimage.gaussian_filter(straight, 2.6)
    clouds = expit(7 * (smooth_field(rng, shape, 16) - 2.1)) * np.exp(-from_border / 8)  # synapses
    return density + 0.45 * clouds


def _add_vesicles(rng: np.random.Generator, density: Floats, from_border: Floats) -> None:
    """Small dark rings, some of them filled, mostly in swarms, in place."""
    shape = density.shape
    candidates = rng.integers(0, shape, (density.size // 200, 2))
    crowding = smooth_field(rng, shape, 25)[tuple(candidates.T)] + rng.normal(0, 0.5, len(candidates))
    for x, y in candidates[crowding > 0.5]:
        radius = rng.uniform(2.0, 4.5)
        if from_border[x, y] < radius + 2.5:
            continue
        here, away = from_centre((x, y), 8, shape)
        distance = np.hypot(*away)
        ring = np.exp(-(((distance - radius) / 0.9) ** 2))
        filled = expit(2 * (radius - distance)) * (rng.random() < 0.2)
        density[here] += rng.uniform(0.25, 0.5) * np.maximum(ring, filled)


def _add_mitochondria(rng: np.random.Generator, density: Floats, from_border: Floats) -> None:
    """Dark ovals with a dark outline and folds across, each with room inside one cell, in place."""
    shape = density.shape
    roomy = np.argwhere(from_border > 11)
    taken: list[NDArray[np.intp]] = []
    for x, y in roomy[rng.permutation(len(roomy))[: max(4, density.size // 12000)]]:
        if any(np.hypot(*(centre - (x, y))) < 60 for centre in taken):
            continue
        taken.append(np.array([x, y]))
        long = min(0.85 * float(from_border[x, y]), rng.uniform(12, 26))
        short = long * rng.uniform(0.55, 1.0)
        here, (a, b) = from_centre((x, y), 34, shape)
        turn = rng.uniform(0, np.pi)
        u, v = np.cos(turn) * a + np.sin(turn) * b, np.cos(turn) * b - np.sin(turn) * a
        inside = short * (1 - np.hypot(u / long, v / short)) + 0.7 * smooth_field(rng, a.shape, 6)
        outline = np.exp(-((inside / 1.4) ** 2))
        period = rng.uniform(4.0, 6.0)
        folds = expit(3 * np.sin(2 * np.pi / period * u + 1.2 * smooth_field(rng, a.shape, 9)))
        body = expit(2 * inside) * (0.18 + rng.uniform(0.15, 0.35) * folds)
        density[here] += np.maximum(rng.uniform(0.35, 0.5) * outline, body)


def _record(rng: np.random.Generator, density: Floats) -> NDArray[np.uint8]:
    """The micrograph: bright where electrons pass; uneven in brightness and contrast; noise."""
    shape = density.shape
    seen = ndimage.gaussian_filter(density, 0.6)
    contrast = 195 * rng.uniform(0.9, 1.1) * np.exp(0.15 * smooth_field(rng, shape, 110))
    brightness = 215 + 16 * smooth_field(rng, shape, 90)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.5) / 0.59
    return to_uint8(brightness - contrast * seen + rng.uniform(13, 17) * noise)
