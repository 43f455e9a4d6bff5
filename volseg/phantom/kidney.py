"""A kidney of *Xenopus* in confocal microscopy, 3D: stands in for the volumes of Çiçek et al. 2016.

Those are not public. The kidney has their sizes, voxel, channels and classes, and the same
difficulty in kind (a lumen is as dark as the gaps outside, nuclei and membranes are everywhere,
staining and depth change the brightness), so that no threshold finds the tubules and 3D context
does.

Two frames. Arrays are in voxels, x, y, z. Geometry is computed in *steps*, in-plane voxels along
every axis (1.76 µm), in which a voxel measures ``VOXEL``; all radii below are in steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import expit

from volseg.phantom.ingredients import Floats, checked_seed, checked_size, smooth_field, thin_out, to_uint8

__all__ = ["XENOPUS_SIZES", "XENOPUS_SPACING", "xenopus_phantom"]

XENOPUS_SIZES = ((248, 244, 64), (245, 244, 56), (246, 244, 59))
"""Voxels along x, y, z of the three samples (Çiçek et al. 2016, Sec. 4)."""

XENOPUS_SPACING = (1.76, 1.76, 2.04)
"""Voxel size along x, y, z in µm."""

LUMEN, WALL, BACKGROUND = 0, 1, 2

VOXEL = (1.0, 1.0, XENOPUS_SPACING[2] / XENOPUS_SPACING[0])  # in steps


def xenopus_phantom(
    index_or_seed: int, *, size: Sequence[int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A confocal volume of convoluted kidney tubules, and the class of every voxel.

    0, 1 and 2 give the three samples; any other number gives another kidney. The same
    arguments give the same arrays. Without ``size`` the sizes of ``XENOPUS_SIZES`` are used in
    turn.

    The channels follow the paper: lectin (488 nm; lines the lumina, also glycans outside), DAPI
    (405 nm; nuclei in the walls and outside), beta-catenin (564 nm; cell membranes). Blur, worse
    along z; attenuation with depth; uneven staining per channel, region and tubule; debris that
    is not part of the truth; shot noise.

    Returns:
        The image, uint8 ``(3, X, Y, Z)``, and the truth, uint8 ``(X, Y, Z)``: 0 inside the
        tubule, 1 tubule, 2 background. Nothing is unlabelled.
    """
    rng = np.random.default_rng([2016, checked_seed(index_or_seed)])
    shape = checked_size(XENOPUS_SIZES[index_or_seed % 3] if size is None else size, 3)
    tubules = _grow_tubules(rng, np.array(shape) * VOXEL)
    anatomy = _shape_tubules(rng, tubules, shape)
    return _stain_and_record(rng, anatomy), anatomy.truth


class _Tubules(NamedTuple):
    """Centre lines, one entry per point; neighbouring points are one step apart."""

    points: Floats  # (n, 3), steps
    tangents: Floats  # (n, 3)
    owner: NDArray[np.intp]  # which tubule
    lumen: Floats  # radius of the lumen
    wall: Floats  # thickness of the wall


class _Anatomy(NamedTuple):
    """What is where, before any microscope has looked at it. Arrays are ``(X, Y, Z)``."""

    truth: NDArray[np.uint8]
    height: Floats  # steps from the apical surface, negative in the lumen
    wall: Floats  # thickness of the wall of the nearest tubule
    owner: NDArray[np.intp]  # the nearest tubule
    tubules: int


def _grow_tubules(rng: np.random.Generator, extent: NDArray[np.float64]) -> _Tubules:
    """Smooth random curves that avoid each other, until their walls fill a quarter of the volume."""
    keep_apart = 25.0
    wanted = 0.285 * np.prod(extent) / 225  # a wall 5 thick around a lumen of radius 4.6
    lines: list[NDArray[np.float64]] = []
    grown = 0.0
    for _ in range(200):
        others = np.concatenate(lines)[::2] if lines else np.empty((0, 3))
        starts = rng.uniform(0.1, 0.9, (40, 3)) * extent
        start = starts[cKDTree(others).query(starts)[0].argmax()] if lines else extent / 2
        line = _grow_line(rng, start, extent, others, keep_apart, int(rng.uniform(350, 800)))
        if len(line) < 30 and lines:
            continue
        lines.append(line)
        grown += ((line > 0) & (line < extent)).all(1).sum()
        if grown >= wanted:
            break

    points = np.concatenate(lines)
    owner = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    tangents = np.concatenate([np.gradient(line, axis=0) for line in lines])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    lumen = 5.0 + rng.normal(0, 0.5, len(lines))[owner] + 0.8 * smooth_field(rng, (len(points),), 25)
    wall = 5.2 + 0.5 * smooth_field(rng, (len(points),), 30)

    # Where two stretches touch, both lumina give way and keep a wall between them, unless they
    # are so close that they are one: a branch.
    gap = _gap_to_other_stretches(points, owner) / 2 - 4.0
    give_way = ndimage.minimum_filter1d(np.where(gap < 2, np.inf, gap), 9)
    lumen = ndimage.uniform_filter1d(np.minimum(lumen, give_way).clip(3, 7), 7)
    return _Tubules(
        points.astype(np.float32),
        tangents.astype(np.float32),
        owner,
        lumen.astype(np.float32),
        wall.clip(4.2, 6.5).astype(np.float32),
    )


def _grow_line(
    rng: np.random.Generator,
    start: NDArray[np.float64],
    extent: NDArray[np.float64],
    others: NDArray[np.float64],
    keep_apart: float,
    length: int,
) -> NDArray[np.float64]:
    """One curve by unit steps; its direction drifts, and turns away from others, itself and faces."""
    sharpest_turn = 1 / 11
    position, bend = start, np.zeros(3)
    direction = rng.normal(size=3) * (1, 1, 0.5)
    direction /= np.linalg.norm(direction)
    drift = rng.normal(0, 0.04, (length, 3))
    line = np.empty((length, 3))
    for i in range(length):
        line[i] = position
        bend = 0.92 * bend + drift[i]
        turn = bend + 0.02 * (np.maximum(6 - position, 0) - np.maximum(position - extent + 6, 0))
        obstacles = np.concatenate([others, line[: max(0, i - 35) : 2]])
        away = position - obstacles
        distance = np.sqrt((away * away).sum(1))
        close = distance < keep_apart
        if close.any():
            if distance.min() < 8 and i > 20:
                return line[: i + 1]
            strength = 0.06 * (1 - distance[close] / keep_apart) / distance[close].clip(1)
            turn = turn + (away[close] * strength[:, None]).sum(0)
        turn = turn - direction * (turn @ direction)
        turn *= min(1, sharpest_turn / (np.linalg.norm(turn) + 1e-9))
        direction = direction + turn
        direction /= np.linalg.norm(direction)
        position = position + direction
    return line


def _gap_to_other_stretches(points: NDArray[np.float64], owner: NDArray[np.intp]) -> NDArray[np.float64]:
    """Distance of each point to the nearest point that is not its neighbour along the same curve."""
    gap = np.full(len(points), np.inf)
    pairs = cKDTree(points).query_pairs(24, output_type="ndarray")
    a, b = pairs[(owner[pairs[:, 0]] != owner[pairs[:, 1]]) | (np.abs(pairs[:, 0] - pairs[:, 1]) > 35)].T
    distance = np.linalg.norm(points[a] - points[b], axis=1)
    np.minimum.at(gap, a, distance)
    np.minimum.at(gap, b, distance)
    return gap


def _shape_tubules(rng: np.random.Generator, tubules: _Tubules, shape: tuple[int, ...]) -> _Anatomy:
    """Lumina and walls around the centre lines.

    The nearest point of a centre line comes from one distance transform on a grid half as fine,
    wider than the volume; the distance to it is then computed exactly.
    """
    margin, coarse = 14, 2
    extent = np.array(shape) * VOXEL
    grid = np.full(((extent + 2 * margin) // coarse + 1).astype(int), -1)
    cells = np.floor((tubules.points + margin) / coarse).astype(int)
    inside = ((cells >= 0) & (cells < grid.shape)).all(1)
    grid[tuple(cells[inside].T)] = np.flatnonzero(inside)
    nearest = ndimage.distance_transform_edt(grid < 0, return_distances=False, return_indices=True)
    axes = _axes_in_steps(shape)
    point = grid[tuple(nearest)][tuple(((axis + margin) // coarse).astype(int) for axis in axes)]

    away = [axis - tubules.points[point, i] for i, axis in enumerate(axes)]
    along = sum(a * tubules.tangents[point, i] for i, a in enumerate(away))
    slide = np.clip(along, -3, 3)
    squared = sum(a * a for a in away) - 2 * slide * along + slide * slide
    radius = np.sqrt(np.maximum(squared, 0)) + 0.6 * smooth_field(rng, shape, 8)

    wall = tubules.wall[point]
    height = ndimage.gaussian_filter(
        radius - tubules.lumen[point], 1.2
    )  # rounds the seams of touching tubules
    truth = np.full(shape, BACKGROUND, np.uint8)
    truth[height < wall] = WALL
    truth[height < 0] = LUMEN
    return _Anatomy(
        truth, height.astype(np.float32), wall, tubules.owner[point], int(tubules.owner.max()) + 1
    )


def _stain_and_record(rng: np.random.Generator, anatomy: _Anatomy) -> NDArray[np.uint8]:
    """What a confocal microscope makes of the anatomy: the three channels as uint8."""
    shape, height = anatomy.truth.shape, anatomy.height
    lumen, in_wall = anatomy.truth == LUMEN, anatomy.truth == WALL
    stroma = expit(4 * smooth_field(rng, shape, 9) + 1.5) * ~(lumen | in_wall)
    stroma *= 1 - 0.8 * np.exp(-(((height - anatomy.wall - 1) / 1.5) ** 2))  # a cleft around each tubule
    nuclei, membranes = _cells(rng, anatomy, stroma)
    apical = np.exp(-(((height - 0.3) / 1.0) ** 2))
    basal = np.exp(-(((height - anatomy.wall) / 0.9) ** 2))
    glycans = expit(3 * smooth_field(rng, shape, 3) - 3) * stroma

    def per_tubule(spread: float) -> Floats:
        return rng.lognormal(0, spread, anatomy.tubules).astype(np.float32)[anatomy.owner]

    patchy = (1 + 0.4 * smooth_field(rng, shape, 12)).clip(0.25)
    lectin = 0.06 + 0.10 * in_wall + 0.07 * stroma + 0.5 * glycans
    lectin += per_tubule(0.4) * patchy * (0.6 * apical + 0.25 * basal) + 0.05 * per_tubule(0.7) * lumen
    dapi = 0.05 + 0.05 * in_wall + 0.05 * stroma + 0.75 * nuclei
    beta = 0.05 + (0.2 * in_wall + 0.25 * basal + 0.3 * membranes * in_wall) * per_tubule(0.3)
    beta += stroma * (0.10 + 0.35 * membranes * (1 + 0.5 * smooth_field(rng, shape, 10)).clip(0.1))

    image = np.empty((3, *shape), np.uint8)
    z = np.arange(shape[2])
    fadings = (110, 80, 130)  # slices until 1/e is left: violet light fades first
    for c, (stain, fading) in enumerate(zip((lectin, dapi, beta), fadings, strict=True)):
        stain = stain * np.exp(0.22 * smooth_field(rng, shape, 45))
        _add_debris(rng, stain)
        seen = ndimage.gaussian_filter(stain, (0.75, 0.75, 1.15)) * np.exp(-z / fading)
        photons = rng.poisson(70 * seen) + rng.normal(0, 1.2, shape)
        image[c] = to_uint8(photons * (235 / 70) * rng.uniform(0.9, 1.1) + 6)
    return image


def _cells(rng: np.random.Generator, anatomy: _Anatomy, stroma: Floats) -> tuple[Floats, Floats]:
    """Nuclei and membranes: Voronoi cells around one nucleus each, in the walls and outside."""
    shape = anatomy.truth.shape
    middle = (anatomy.truth == WALL) & (np.abs(anatomy.height - 0.55 * anatomy.wall) < 0.8)
    places = []
    for where, density, apart in ((middle, 0.05, 5.0), (stroma > 0.5, 0.008, 6.0)):
        voxels = np.flatnonzero(where)
        drawn = rng.choice(voxels, int(np.ceil(density * len(voxels))), replace=False)
        steps = np.stack(np.unravel_index(drawn, shape), -1) * VOXEL
        places.append(thin_out(steps, apart))
    centres = np.concatenate(places).astype(np.float32)

    grid = np.full(shape, -1)
    grid[tuple(np.rint(centres / VOXEL).astype(int).T)] = np.arange(len(centres))
    nearest = ndimage.distance_transform_edt(grid < 0, VOXEL, return_distances=False, return_indices=True)
    cell = grid[tuple(nearest)]

    membranes = np.zeros(shape, np.float32)
    for axis in range(3):
        here = np.moveaxis(cell, axis, 0)
        np.moveaxis(membranes, axis, 0)[:-1][here[:-1] != here[1:]] = 1

    # Ellipsoids: round in the walls, longer outside.
    outside = np.arange(len(centres)) >= len(places[0])
    size = rng.uniform(2.0, 2.8, len(centres)).astype(np.float32)
    flat = np.where(outside, rng.uniform(0.2, 0.7, len(centres)), 0.2).astype(np.float32)
    bright = rng.lognormal(-0.1, 0.25, len(centres)).astype(np.float32)
    axis_of = rng.normal(size=(len(centres), 3)).astype(np.float32)
    axis_of /= np.linalg.norm(axis_of, axis=1, keepdims=True)
    away = [axis - centres[cell, i] for i, axis in enumerate(_axes_in_steps(shape))]
    along = sum(a * axis_of[cell, k] for k, a in enumerate(away))
    distance = np.sqrt(np.maximum(sum(a * a for a in away) - flat[cell] * along**2, 0))
    nuclei = bright[cell] * expit(3 * (size[cell] - distance)) * (anatomy.truth != LUMEN)
    return nuclei, membranes


def _add_debris(rng: np.random.Generator, stain: Floats) -> None:
    """Bright blobs anywhere, also in lumina, in place. About one per 40 x 40 x 40 voxels."""
    reach = 5
    window = np.indices((2 * reach + 1,) * 3) - reach
    for _ in range(rng.poisson(stain.size / 40**3)):
        centre = [int(rng.integers(n)) for n in stain.shape]
        squared = sum((w / s) ** 2 for w, s in zip(window, rng.uniform(0.7, 2.2, 3), strict=True))
        blob = rng.uniform(0.5, 1.5) * np.exp(-squared / 2)
        low = [max(0, c - reach) for c in centre]
        high = [min(n, c + reach + 1) for n, c in zip(stain.shape, centre, strict=True)]
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        first = [a - c + reach for a, c in zip(low, centre, strict=True)]
        part = tuple(slice(f, f + b - a) for f, a, b in zip(first, low, high, strict=True))
        stain[here] += blob[part]


def _axes_in_steps(shape: Sequence[int]) -> list[Floats]:
    """Coordinates of the voxels along x, y, z, each array shaped so that they broadcast."""
    steps = zip(np.indices(shape, np.float32, sparse=True), VOXEL, strict=True)
    return [index * np.float32(step) for index, step in steps]
