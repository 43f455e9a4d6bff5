"""What a U-Net looks at: the whole volume, or its sections, each with its neighbours as further channels.

A patch of a volume with a few painted slices is nearly all unlabelled, so a 3D network computes much and
learns little in the minutes of a CPU. All of a painted section is labelled: a 2D network that sees the
neighbours as channels ("2.5D", Roth et al., MICCAI 2014) takes several times as many steps, and each shows
it more. What it cannot do is to learn a class from a handful of pixels, which it knows by heart too soon:
there, blocks of the volume, turned in three dimensions, show more.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.learning import Labels

__all__ = ["ENOUGH", "NEIGHBOURS", "across", "largest", "painted_sections", "section", "sections_in"]

NEIGHBOURS = 1  # sections on each side
ENOUGH = 2000  # painted voxels of each class: from so many on they were better than blocks
_COARSE = 1.5  # sections with pixels more oblong than this are not looked at


def across(labels: Labels, slices: Mapping[str, Sequence[int]], spacing: Sequence[float]) -> list[int]:
    """The axes to look along, section by section; none where blocks of the volume are the better choice."""
    painted = np.bincount(labels[labels != IGNORE_INDEX], minlength=1)
    if labels.ndim != 3 or painted[painted > 0].min(initial=ENOUGH) < ENOUGH:
        return []
    axes = sorted(AXES.index(name) for name, indices in slices.items() if len(indices))
    return [axis for axis in axes if _oblong(spacing, axis) <= _COARSE]


def _oblong(spacing: Sequence[float], axis: int) -> float:
    plane = [d for a, d in enumerate(spacing) if a != axis]
    return max(plane) / min(plane)


def section(image: Tensor, axis: int, index: int) -> Tensor:
    """One section ``(C, *spatial)`` with its neighbours, at the ends itself: ``(3 C, *plane)``."""
    last = image.shape[1 + axis] - 1
    near = (min(max(index + step, 0), last) for step in range(-NEIGHBOURS, NEIGHBOURS + 1))
    return torch.cat([image.select(1 + axis, each) for each in near])


def sections_in(
    where: npt.NDArray[np.bool_], axes: Sequence[int]
) -> Iterator[tuple[int, int, tuple[int | slice, ...]]]:
    """Axis, index and place of every section in which a mask is true somewhere."""
    for axis in axes:
        others = tuple(a for a in range(where.ndim) if a != axis)
        for index in np.flatnonzero(where.any(others)):
            yield axis, int(index), (*[slice(None)] * axis, int(index))


def painted_sections(labels: Labels, axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Axis, index and number of voxels of the sections that show all paint.

    Each painted voxel is counted in the one, of those through it, that shows most paint; so where a slice is
    painted, the sections across it, of which it is a line, are not among them.
    """
    painted = labels != IGNORE_INDEX
    places = np.argwhere(painted)
    counts = [painted.sum(tuple(a for a in range(labels.ndim) if a != axis)) for axis in axes]
    shown = np.stack([count[places[:, axis]] for axis, count in zip(axes, counts, strict=True)])
    best = shown.argmax(0)
    found = []
    for number, axis in enumerate(axes):
        indices, sizes = np.unique(places[best == number, axis], return_counts=True)
        found += [(axis, int(index), int(size)) for index, size in zip(indices, sizes, strict=True)]
    return found


def largest(size: Sequence[int], axes: Sequence[int]) -> tuple[list[int], int]:
    """Pixels of the longest section along each of its two axes, and which axis it lies across."""
    planes = {axis: [n for a, n in enumerate(size) if a != axis] for axis in axes}
    widest = max(planes, key=lambda axis: math.prod(planes[axis]))
    return [max(lengths) for lengths in zip(*planes.values(), strict=True)], widest
