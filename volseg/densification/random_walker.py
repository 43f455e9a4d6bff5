"""The random walker of Grady (2006), seeded with what was painted: a baseline without training.

A voxel gets the class that a walker from it, who shuns edges of the image, is likeliest to meet first.
A painted voxel stops every walker. So painted slices cut the volume into *pieces* that know nothing of
each other, and each is solved by itself: the same result in a fraction of the memory. A piece that is
still too large is solved on a coarser grid.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import random_walker

from volseg.densification.baseline import Baseline
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.transforms.scaling import normalised

__all__ = ["random_walk"]

logger = logging.getLogger(__name__)

Box = tuple[slice, ...]

_BETA = 100.0  # differences being in standard deviations of the image
_LARGEST = 1_500_000  # voxels of a piece that is solved as it is; about 0.6 kB of memory each
_TOLERANCE = 1e-3


def random_walk(
    image: npt.NDArray[Any],
    labels: npt.NDArray[np.uint8],
    num_classes: int,
    *,
    spacing: Sequence[float] | None = None,
    beta: float = _BETA,
    largest: int = _LARGEST,
) -> Baseline:
    """Segment what nobody painted from the image and the paint around it.

    Args:
        image: ``(C, *spatial)``; every channel counts as much as any other.
        labels: class indices, ``(*spatial)``, 255 where nobody painted.
        spacing: voxel size along each axis. A step along a longer one is that much harder.
        beta: how much edges are shunned.
        largest: voxels of a piece; a larger one is solved on a coarser grid.
    """
    if image.shape[1:] != labels.shape:
        raise ValueError(
            f"image has the shape {image.shape}, labels {labels.shape}: (C, *spatial) and (*spatial) are "
            "needed."
        )
    painted = labels != IGNORE_INDEX
    if not painted.any():
        raise InputError("Nothing is painted, so no random walker can start. Paint some slices.")
    sizes = _checked_spacing(spacing, labels.ndim)
    channels = normalised(image).numpy()
    probabilities = np.zeros((num_classes, *labels.shape), np.float32)
    for c in range(num_classes):
        probabilities[c][labels == c] = 1
    pieces, _ = ndimage.label(~painted)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        inside = pieces[box] == number
        seeds = np.where(inside, 0, -1)
        seeds[painted[box]] = labels[box][painted[box]].astype(int) + 1
        found = _solve(channels[(slice(None), *box)], seeds, num_classes, sizes, beta, largest)
        probabilities[(slice(None), *box)][:, inside] = found[:, inside]
    result = probabilities.argmax(0).astype(np.uint8)
    result[painted] = labels[painted]
    return Baseline(result, probabilities)


def _solve(
    channels: npt.NDArray[np.float32],
    seeds: npt.NDArray[np.intp],
    num_classes: int,
    sizes: Sequence[float],
    beta: float,
    largest: int,
) -> npt.NDArray[np.float32]:
    """Probabilities of one piece; ``seeds`` are class + 1, 0 where it is asked for and -1 elsewhere."""
    classes = np.unique(seeds[seeds > 0]) - 1
    result = np.zeros((num_classes, *seeds.shape), np.float32)
    if len(classes) == 1:
        result[classes[0]] = 1
        return result
    if not np.any(seeds == 0):  # a coarser grid may have nothing left to ask for
        for c in classes:
            result[c][seeds == c + 1] = 1
        return result
    if seeds.size > largest:
        return _solve_coarse(channels, seeds, num_classes, sizes, beta, largest)
    data = np.concatenate([channels, _ramps(seeds.shape, sizes, beta)])
    spread = float(data.std())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The probability range is outside")
        warnings.filterwarnings("ignore", message="Conjugate gradient convergence")
        found = random_walker(
            data if spread else np.indices(seeds.shape)[:1].astype(np.float32),
            seeds,
            # scikit-image divides by the standard deviation of what it is given, here a part of the image,
            # and by the root of the number of channels.
            beta=beta * spread * math.sqrt(len(data)),
            mode="cg_j",
            tol=_TOLERANCE,
            return_full_prob=True,
            channel_axis=0,
        )
    result[classes] = np.clip(found, 0, 1)
    return result


def _solve_coarse(
    channels: npt.NDArray[np.float32],
    seeds: npt.NDArray[np.intp],
    num_classes: int,
    sizes: Sequence[float],
    beta: float,
    largest: int,
) -> npt.NDArray[np.float32]:
    """The same with voxels twice as long along the axes on which they are shortest."""
    factors = [1 if n < 2 or s > 1.5 * min(sizes) else 2 for n, s in zip(seeds.shape, sizes, strict=True)]
    if max(factors) == 1:
        factors = [2 if n > 1 else 1 for n in seeds.shape]
    logger.warning(
        "A random walker over %s voxels without paint between them needs much memory: it is solved with "
        "voxels %s times as long.",
        " x ".join(map(str, seeds.shape)),
        " x ".join(map(str, factors)),
    )
    padding = [(0, -n % f) for n, f in zip(seeds.shape, factors, strict=True)]
    blocks = [
        part for n, (_, p), f in zip(seeds.shape, padding, factors, strict=True) for part in ((n + p) // f, f)
    ]
    within = tuple(range(1, 2 * seeds.ndim, 2))
    smaller = np.stack(
        [np.pad(channel, padding, "edge").reshape(blocks).mean(within) for channel in channels]
    ).astype(np.float32)
    # A coarse voxel is a seed if one of its voxels is; of several classes, the last counts.
    coarse = np.pad(seeds, padding, constant_values=-1).reshape(blocks).max(within)
    found = _solve(
        smaller, coarse, num_classes, [s * f for s, f in zip(sizes, factors, strict=True)], beta, largest
    )
    zoomed = [
        ndimage.zoom(found[c], factors, order=1, grid_mode=True, mode="nearest")[
            tuple(slice(n) for n in seeds.shape)
        ]
        for c in range(num_classes)
    ]
    return np.stack(zoomed)


def _ramps(shape: Sequence[int], sizes: Sequence[float], beta: float) -> npt.NDArray[np.float32]:
    """Channels that make a step along a longer voxel harder: its weight is divided by the length squared.

    That is the Laplacian of a grid with such voxels, and what scikit-image leaves out: its ``spacing``
    makes a step along a longer voxel easier. A step's weight is ``exp(-beta / 10 * difference²)``.
    """
    lengths = [size / min(sizes) for size in sizes]
    ramps = [
        np.broadcast_to(
            np.float32(math.sqrt(20 * math.log(length) / beta)) * np.indices(shape, sparse=True)[axis], shape
        )
        for axis, length in enumerate(lengths)
        if length > 1
    ]
    return np.array(ramps, np.float32).reshape(-1, *shape)


def _checked_spacing(spacing: Sequence[float] | None, dims: int) -> list[float]:
    if spacing is None:
        return [1.0] * dims
    if len(spacing) != dims or not all(0 < s < math.inf for s in spacing):
        raise ValueError(
            f"spacing = {tuple(spacing)}: a positive voxel size for each of {dims} axes is needed."
        )
    return [float(s) for s in spacing]
