"""Shapes between painted slices, from the shapes on them alone: a baseline that does not see the image.

Between two neighbouring painted slices of a direction ITK's morphological contour interpolation
(Zukić et al. 2016, Insight Journal) draws the outline of every class; where one of them shows something
that the other does not, it tapers off. Slices in several directions are interpolated one direction at a
time. At each voxel the directions then vote, the one with the nearest painted slice most.
"""

import functools
import importlib.util
import itertools
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation import find_slices
from volseg.densification.baseline import Baseline
from volseg.errors import InputError, ResourceError
from volseg.installation import install_line
from volseg.labels import IGNORE_INDEX

__all__ = ["interpolate", "missing"]

Labels = npt.NDArray[np.uint8]

_THINNEST = 3  # pixels across an image between which ITK interpolates


def interpolate(
    labels: Labels, num_classes: int, *, spacing: Sequence[float] | None = None, background: int = 0
) -> Baseline:
    """Segment what nobody painted from the painted slices.

    Beyond the first and the last slice of a direction, the nearest one goes on.

    Args:
        labels: class indices, ``(*spatial)``, 255 where nobody painted.
        spacing: voxel size along each axis, to tell which slice is nearest.
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
        # Shapes drawn one by one leave gaps where they touch. What all of them together cover is no gap.
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
    except (ImportError, AttributeError) as error:
        raise ResourceError(_lacking()) from error
    return fill
