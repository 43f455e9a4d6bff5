"""A head with a tumour in MRI, 2D: stands in for T1-weighted slices after contrast agent.

Brightness does not give the tumour away: fat under the skin and vessels are as bright, some tumours
are hardly brighter than the tissue around them, and the coil lights the head unevenly.

Geometry is computed in the frame of the head: its middle is the origin, the first axis points to
one side, the second to the front, and about 1 is the skin. ``pixels`` is the length of 1 there.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from volseg.phantom.ingredients import Floats, checked_seed, checked_size, smooth_field, to_uint8

__all__ = ["brain_phantom"]

CSF, GREY, WHITE = 0.2, 0.47, 0.65  # brightness of the tissues, that of fat being about 1


def brain_phantom(seed: int, size: Sequence[int] = (256, 256)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An axial slice of a head, and its tumour: 1 to 5 % of the pixels, in one piece.

    Returns:
        The image, uint8 ``(1, X, Y)``, and the mask, uint8 ``(X, Y)``: 0 background, 1 tumour with
        its rim and its dead core, if it has one; the swelling around it does not belong to it.
    """
    rng = np.random.default_rng([2018, checked_seed(seed)])
    shape = checked_size(size, 2)
    pixels = 0.46 * min(shape)
    u, v = _frame(rng, shape, pixels)
    outline = 1 + 0.025 * smooth_field(rng, shape, 0.7 * pixels)
    depth = 1 - np.hypot(u / 0.86, v / 1.0) / outline  # below the skin
    skull = 0.15 + 0.012 * smooth_field(rng, shape, 0.4 * pixels)
    tissue = _brain(rng, u, v, depth - skull, pixels)
    mask = _tumour_mask(rng, u, v, depth - skull)
    tissue = _with_tumour(rng, tissue, mask, pixels)
    signal = _wrap(rng, tissue, u, v, depth, skull, pixels)
    return _record(rng, signal, pixels)[None], mask.astype(np.uint8)


def _frame(rng: np.random.Generator, shape: tuple[int, ...], pixels: float) -> tuple[Floats, Floats]:
    """Coordinates of the pixels in the frame of a head that is a little turned, moved and scaled."""
    turn = rng.normal(0, 0.08)
    middle = np.array(shape) / 2 + rng.normal(0, 0.02, 2) * pixels
    a, b = (np.indices(shape, np.float32) - middle[:, None, None]) / (pixels * rng.uniform(0.9, 1.02))
    return np.cos(turn) * a + np.sin(turn) * b, np.cos(turn) * b - np.sin(turn) * a


def _soft(level: Floats, pixels: float) -> Floats:
    """1 where ``level`` is positive, 0 where negative, with an edge about a pixel wide."""
    return expit(level * 2.5 * pixels)


def _brain(rng: np.random.Generator, u: Floats, v: Floats, depth: Floats, pixels: float) -> Floats:
    """Grey and white matter, furrows and ventricles; ``depth`` is below the surface of the brain."""
    shape = u.shape
    bend = [0.02 * smooth_field(rng, shape, 0.25 * pixels) for _ in shape]
    u, v = u + bend[0], v + bend[1]

    # Furrows run where a random field is zero, near the surface; grey matter lines them.
    furrow = np.abs(smooth_field(rng, shape, 0.06 * pixels))
    shallow = expit((rng.uniform(0.22, 0.3) + 0.05 * smooth_field(rng, shape, 0.2 * pixels) - depth) / 0.03)
    midline = np.abs(u) + 0.2 * np.maximum(0.45 - np.abs(v - 0.05), 0)
    grey = np.maximum(expit((0.05 - depth) / 0.012), shallow * expit((0.95 - furrow) / 0.15))
    grey = np.maximum(grey, expit((0.035 - midline) / 0.01))
    fluid = np.maximum(shallow * expit((0.16 - furrow) / 0.05), expit((0.006 - midline) / 0.004))
    fluid = np.maximum(0.85 * fluid, expit((0.012 - depth) / 0.006))

    # Both sides alike but for the bend: basal nuclei, and ventricles with a front and a back horn.
    side, wide, level = np.abs(u), rng.uniform(0.6, 1.5), rng.uniform(-0.06, 0.06)
    nuclei = _oval(side, v, (0.24, 0.04 + level), (0.1, 0.17), -0.3)
    nuclei = np.maximum(nuclei, _oval(side, v, (0.11, -0.07 + level), (0.075, 0.1), 0.2))
    ventricles = _oval(side, v, (0.085, 0.2 + level), (0.045 * wide, 0.14), -0.35)
    ventricles = np.maximum(
        ventricles, _oval(side, v, (0.15, -0.27 + level), (0.05 * wide, 0.17 * wide**0.5), 0.45)
    )
    ventricles = np.maximum(ventricles, _oval(side, v, (0, -0.03 + level), (0.016 * wide, 0.1), 0))
    grey = np.maximum(grey, 0.8 * _soft(nuclei, pixels))
    fluid = np.maximum(fluid, _soft(ventricles, pixels))
    plexus = np.exp(-(((side - 0.15) ** 2 + (v + 0.25 - level) ** 2) / 0.03**2)) * _soft(ventricles, pixels)

    tissue = WHITE + (GREY - WHITE) * grey
    tissue += (CSF - tissue) * fluid
    return tissue * (1 + 0.03 * smooth_field(rng, shape, 0.03 * pixels)) + 0.6 * plexus


def _oval(side: Floats, v: Floats, middle: Sequence[float], radii: Sequence[float], lean: float) -> Floats:
    """Positive inside an ellipse, about the distance to its outline, turned by ``lean`` radians."""
    a, b = side - middle[0], v - middle[1]
    a, b = np.cos(lean) * a + np.sin(lean) * b, np.cos(lean) * b - np.sin(lean) * a
    return min(radii) * (1 - np.hypot(a / radii[0], b / radii[1]))


def _tumour_mask(rng: np.random.Generator, u: Floats, v: Floats, depth: Floats) -> NDArray[np.bool_]:
    """A bent oval anywhere in the brain, in one piece; it stops at the skull."""
    room = np.argwhere(depth > 0.06)
    x, y = room[rng.integers(len(room))]
    wanted = np.exp(rng.uniform(np.log(0.012), np.log(0.047))) * u.size  # pixels
    lean, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.35)
    a, b = u - u[x, y], v - v[x, y]
    a, b = np.cos(lean) * a + np.sin(lean) * b, np.cos(lean) * b - np.sin(lean) * a
    away = np.hypot(a * stretch, b / stretch) * np.exp(0.13 * smooth_field(rng, u.shape, 0.45 * wanted**0.5))
    away[depth < 0.0] = np.inf
    mask = away <= np.partition(away, int(wanted), axis=None)[int(wanted)]
    pieces, _ = ndimage.label(mask)
    largest: NDArray[np.bool_] = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return largest


def _with_tumour(rng: np.random.Generator, tissue: Floats, mask: NDArray[np.bool_], pixels: float) -> Floats:
    """The tissue with a tumour in it: solid or a ring around a dead core, bright or hardly so."""
    shape = tissue.shape
    inside = ndimage.distance_transform_edt(mask) / pixels
    outside = ndimage.distance_transform_edt(~mask) / pixels
    lift = np.exp(rng.uniform(np.log(0.02), np.log(0.22)))  # over white matter
    bright = WHITE + lift * (1 + 0.25 * smooth_field(rng, shape, 0.08 * pixels))
    bright += 0.05 * smooth_field(rng, shape, 0.03 * pixels)
    if rng.random() < 0.4:
        core = inside - rng.uniform(0.3, 0.6) * inside.max() + 0.02 * smooth_field(rng, shape, 0.1 * pixels)
        bright += (rng.uniform(0.25, 0.5) - bright) * _soft(0.4 * core, pixels)
    rim = max(0.0, rng.uniform(-0.15, 0.25)) * np.exp(-(((inside - 0.02) / 0.02) ** 2))
    swollen = rng.uniform(0, 0.35) * np.exp(-((outside / rng.uniform(0.05, 0.2)) ** 2))
    swollen *= (1 + 0.5 * smooth_field(rng, shape, 0.15 * pixels)).clip(0, 1.5)
    share = ndimage.gaussian_filter(mask.astype(np.float32), 0.012 * pixels)
    mixed: Floats = (1 - share) * tissue * (1 - swollen) + share * (bright + rim)
    return mixed


def _wrap(
    rng: np.random.Generator,
    tissue: Floats,
    u: Floats,
    v: Floats,
    depth: Floats,
    skull: Floats,
    pixels: float,
) -> Floats:
    """The tissue within meninges, bone and skin; contrast agent lights up the vessels."""
    shape = tissue.shape
    fat = (1.1 + 0.13 * smooth_field(rng, shape, 0.25 * pixels)) * _soft(depth, pixels)
    bone_begins = 0.076 + 0.01 * smooth_field(rng, shape, 0.3 * pixels)
    marrow = 0.45 * np.exp(-(((depth - (bone_begins + skull) / 2) / 0.014) ** 2))
    bone = 0.1 + marrow * expit(2 * smooth_field(rng, shape, 0.3 * pixels))
    signal = 0.02 + fat + (bone - fat) * _soft(depth - bone_begins, pixels)
    signal += (tissue - signal) * _soft(depth - skull, pixels)

    meninges = np.exp(-(((depth - skull - 0.004) / 0.008) ** 2)) * expit(
        4 * smooth_field(rng, shape, 0.2 * pixels)
    )
    vessels = 0.5 * meninges
    reach = 0.83
    for x, y in ((0.0, reach), (0.0, -reach), *rng.uniform(-0.6, 0.6, (rng.poisson(5), 2))):
        width = 0.03 if x == 0 else rng.uniform(0.008, 0.016)
        vessels = np.maximum(vessels, np.exp(-((u - x) ** 2 + (v - y) ** 2) / width**2))
    return np.maximum(signal, vessels * rng.uniform(0.9, 1.15))


def _record(rng: np.random.Generator, signal: Floats, pixels: float) -> NDArray[np.uint8]:
    """The magnitude image: the coil lights it unevenly, and noise is Rician, never below zero."""
    shape = signal.shape
    lit = signal * np.exp(0.18 * smooth_field(rng, shape, 0.8 * pixels))
    lit = ndimage.gaussian_filter(lit, 0.6)
    noise = rng.normal(0, rng.uniform(0.015, 0.035), (2, *shape))
    return to_uint8(205 * np.hypot(lit + noise[0], noise[1]))
