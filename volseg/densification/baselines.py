"""Methods without training, as yardsticks: shapes between slices, and the random walker.

Shapes between painted slices, from the shapes on them alone: a baseline that does not see the image.

Between two neighbouring painted slices of a direction ITK's morphological contour interpolation
(Zukić et al. 2016, Insight Journal) draws the outline of every class; where one of them shows something
that the other does not, it tapers off. Slices in several directions are interpolated one direction at a
time. At each voxel the directions then vote, the one with the nearest painted slice most.

The random walker of Grady (2006), seeded with what was painted: a baseline without training.

A voxel gets the class that a walker from it, who shuns edges of the image, is likeliest to meet first.
A painted voxel stops every walker. So painted slices cut the volume into *pieces* that know nothing of
each other, and each is solved by itself: the same result in a fraction of the memory. A piece that is
still too large is solved on a coarser grid.
"""

import ctypes
import functools
import importlib.util
import itertools
import logging
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import random_walker

from volseg.annotation import find_slices
from volseg.errors import InputError, ResourceError
from volseg.greyvalues import normalised
from volseg.installation import install_line
from volseg.labels import IGNORE_INDEX

__all__ = ["Baseline", "interpolate", "missing", "random_walk"]

logger = logging.getLogger(__name__)


class Baseline(NamedTuple):
    """A segmentation by a method that is there to compare with.

    Args:
        labels: class indices, ``(*spatial)``, as painted wherever it is painted.
        probabilities: of each class, ``(C, *spatial)``.
    """

    labels: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]


Labels = npt.NDArray[np.uint8]

_THINNEST = 3  # pixels across an image between which ITK interpolates


def interpolate(
    labels: Labels, num_classes: int, *, spacing: Sequence[float] | None = None, background: int = 0
) -> Baseline:
    """Segment what is unlabelled from the painted slices.

    Beyond the first and the last slice of a direction, the nearest one goes on.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
        spacing: voxel size along each axis, to know which slice is nearest.
        background: the class that has no shape of its own and fills what the others leave.
    """
    painted = labels != IGNORE_INDEX
    if not painted.any():
        raise InputError("Nothing is painted, so there is nothing to interpolate. Paint some slices.")
    sizes = [1.0] * labels.ndim if spacing is None else list(spacing)
    if len(sizes) != labels.ndim:
        raise ValueError(f"spacing = {tuple(sizes)}: a voxel size for each of {labels.ndim} axes is needed.")
    votes = np.zeros((num_classes, *labels.shape), np.float32)
    for axis, (indices, size) in enumerate(zip(find_slices(labels).values(), sizes, strict=True)):
        if indices:
            _vote(np.moveaxis(votes, axis + 1, 1), np.moveaxis(labels, axis, 0), indices, size, background)
    total = votes.sum(0)
    votes /= np.maximum(total, 1e-9)
    unknown = total == 0
    unknown[painted] = True
    if unknown.any():
        nearest = ndimage.distance_transform_edt(
            ~painted, sampling=sizes, return_distances=False, return_indices=True
        )
        known = labels[tuple(nearest)]
        for c in range(num_classes):
            votes[c][unknown] = known[unknown] == c
    result = votes.argmax(0).astype(np.uint8)
    result[painted] = labels[painted]
    return Baseline(result, votes)


def _vote(
    votes: npt.NDArray[np.float32], labels: Labels, indices: Sequence[int], size: float, background: int
) -> None:
    """Add what one direction says; the slices are the first spatial axis of both."""
    n = len(labels)
    for start, stop in itertools.pairwise([-1, *indices, n]):
        if start < 0 or stop == n:
            one = labels[indices[0] if start < 0 else indices[-1]]
            between = np.broadcast_to(one, (stop - start - 1, *one.shape))
            known = between != IGNORE_INDEX
        else:
            between, known = _between(labels[start], labels[stop], stop - start - 1, background)
        for offset, (drawn, asked) in enumerate(zip(between, known, strict=True)):
            index = start + 1 + offset
            gap = min(index - start if start >= 0 else n, stop - index if stop < n else n)
            for c in np.unique(drawn[asked]):
                votes[c, index] += asked * (drawn == c) / np.float32(gap * size)


def _between(
    first: Labels, last: Labels, count: int, background: int
) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """``count`` slices between two painted ones, and where one of these was painted at all."""
    known = (first != IGNORE_INDEX) | (last != IGNORE_INDEX)
    ends = [np.where(end == IGNORE_INDEX, background, end) for end in (first, last)]
    drawn = np.full((count, *first.shape), background, np.uint8)
    shapes = [c for c in np.unique(ends) if c != background]
    for c in shapes:
        drawn[_drawn([end == c for end in ends], count)] = c
    if len(shapes) > 1 and count:
        # Shapes drawn one by one leave gaps where they touch. What all of them together cover is not a gap.
        gaps = (drawn == background) & _drawn([end != background for end in ends], count)
        if gaps.any() and (drawn != background).any():
            nearest = ndimage.distance_transform_edt(
                drawn == background, return_distances=False, return_indices=True
            )
            drawn[gaps] = drawn[tuple(nearest[:, gaps])]
    return drawn, np.broadcast_to(known, drawn.shape)


def _drawn(ends: Sequence[npt.NDArray[np.bool_]], count: int) -> npt.NDArray[np.bool_]:
    """One class on the slices between its two ends."""
    first, last = ends
    if not (first.any() and last.any()):
        tapering = _tapering(first if first.any() else last, count)
        return tapering if first.any() else tapering[::-1]
    shape = [n if n >= _THINNEST else _THINNEST for n in (*first.shape, 1)[:2]]
    stack = np.zeros((count + 2, *shape), np.uint8)
    for index, end in ((0, first), (-1, last)):
        flat = end.reshape(end.shape[0], -1)
        stack[index] = np.pad(flat, [(0, n - m) for n, m in zip(shape, flat.shape, strict=True)], "edge")
    drawn = _itk()(stack)[1:-1]
    return np.asarray(drawn[:, : first.shape[0], : first[0].size] > 0).reshape(count, *first.shape)


def _tapering(end: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """A shape that shrinks to a point before a slice that does not show it."""
    depth = np.asarray(ndimage.distance_transform_edt(end))
    limits = depth.max() * np.arange(1, count + 1) / (count + 1)
    return depth > limits.reshape(-1, *[1] * end.ndim)


def missing() -> str:
    """Why there is no interpolation on this machine, in sentences; empty if there is."""
    return "" if importlib.util.find_spec("itk") is not None else _lacking()


def _lacking() -> str:
    return (
        "Interpolation between slices is done by ITK's morphological contour interpolation, which is not "
        f"installed. Install it with: {install_line('interpolate')}."
    )


@functools.cache
def _itk() -> Callable[[Labels], Labels]:
    """ITK's interpolation along the first axis.

    It is used once here, because only then are all of its parts loaded. Loading warns, and where a warning
    is an error, ITK ends the process.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import itk

            new = itk.MorphologicalContourInterpolator.New

            def fill(stack: Labels) -> Labels:
                interpolator = new(itk.image_from_array(stack))
                interpolator.SetAxis(2)  # ITK counts from the last
                interpolator.SetNumberOfWorkUnits(1)
                interpolator.Update()
                return np.asarray(itk.array_from_image(interpolator.GetOutput()))

            fill(np.ones((3, _THINNEST, _THINNEST), np.uint8))
        _keep_alive()
    except (ImportError, AttributeError) as error:
        raise ResourceError(_lacking()) from error
    return fill


def _keep_alive() -> None:
    """Keep SWIG's table of types for as long as the process lives.

    Python may take the table apart after the types in it are gone; then a process that has used ITK dies of
    a segmentation fault when everything is already written, and its exit code says that it failed.
    """
    for name in [name for name in sys.modules if name.startswith("swig_runtime_data")]:
        for value in vars(sys.modules[name]).values():
            if type(value).__name__ == "PyCapsule":
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


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
    """Segment what is unlabelled from the image and the paint around it.

    Args:
        image: ``(C, *spatial)``; every channel counts as much as any other.
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
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
