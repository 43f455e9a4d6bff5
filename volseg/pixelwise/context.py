"""Auto-context: what the first stage found, as the second one sees it (Tu and Bai 2010).

The second stage looks at filter responses to the probabilities of the first. Where these do not fit into
memory, or take too much of the time, they are computed on a coarser grid: there, the first stage is asked
about some voxels only. What is coarse of a probability is worth nearly as much, what is missing is not.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.learning import Task
from volseg.pixelwise.features import Bank, coarser, filter_bank, octaves

__all__ = ["MOST_VALUES", "Context", "context_of", "finest_stride", "values_of"]

_SCALES = (1.0, 1.6, 2.5, 4.0, 6.3, 10.0)
MOST_VALUES = 8e8  # most numbers that the second stage looks at; two bytes each
_SMALLEST = 0.7  # scale, in voxels of the grid
_COARSEST = 4  # grids, each half as fine as the one before


class Context(NamedTuple):
    """What the first stage found in an image: filter responses to its probabilities.

    Attributes:
        found: log probabilities of every voxel ``(C, *spatial)``; ``None`` where the grid is coarser.
        stride: voxels from one that was looked at to the next, per axis.
    """

    task: Task
    bank: Bank
    found: npt.NDArray[np.float32] | None
    stride: tuple[int, ...]


def finest_stride(
    task: Task, bank: Bank, looking: float, most: float
) -> tuple[tuple[int, ...], float] | None:
    """The finest grid on which the context fits into memory and time, and the seconds that takes, if any.

    Args:
        bank: of the image.
        looking: seconds that looking at all voxels takes.
        most: seconds that it may take.
    """
    channels = task.classes - 1
    for stride in _strides(task.size, task.spacing):
        share = 1 / math.prod(stride)
        seconds = share * (looking * len(_middle(stride)) + bank.seconds * channels / bank.channels)
        if values_of(task, stride) <= MOST_VALUES and seconds <= most:
            return stride, seconds
    return None


def context_of(
    task: Task,
    stride: Sequence[int],
    everywhere: Callable[[], npt.NDArray[np.float32]],
    at: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Context:
    """The context on a grid.

    Args:
        everywhere: log probabilities of all voxels ``(C, *spatial)``, asked on the finest grid.
        at: those of some voxels ``(n, dims)``, ``(n, C)``, asked on a coarser one.
    """
    stride, scales = tuple(stride), _scales(stride)
    if max(stride) == 1:
        found = everywhere()
        probabilities = torch.from_numpy(found).to(device).softmax(0)[1:]
        return Context(task, filter_bank(_standardised(probabilities), task.spacing, scales), found, stride)
    size = _coarse(task.size, stride)
    probabilities = torch.zeros(task.classes, *size, device=device)
    corners = _middle(stride)
    for first, voxels in _layers(size, stride):
        for corner in corners:
            places = torch.minimum(voxels + torch.tensor(corner), torch.tensor(task.size) - 1)
            block = at(places.to(device)).softmax(1).T.reshape(task.classes, -1, *size[1:])
            probabilities[:, first : first + block.shape[1]] += block / len(corners)
    spacing = [d * s for d, s in zip(task.spacing, stride, strict=True)]
    bank = filter_bank(_standardised(probabilities[1:]), spacing, scales)
    return Context(task, coarser(bank, stride, task.size), None, stride)


def _middle(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """The voxels that stand for one of the grid: that in its middle, or the two whose mean lies there."""
    return sorted({tuple((s - 1) // 2 for s in stride), tuple(s // 2 for s in stride)})


def _strides(size: Sequence[int], spacing: Sequence[float]) -> Iterator[tuple[int, ...]]:
    """Grids, the finest first: each has the fine axes of the one before halved."""
    stride, now = (1,) * len(size), [float(d) for d in spacing]
    for _ in range(_COARSEST):
        yield stride
        fine = [d <= 1.5 * min(now) and n // s >= 8 for d, n, s in zip(now, size, stride, strict=True)]
        stride = tuple(s * (2 if f else 1) for s, f in zip(stride, fine, strict=True))
        now = [d * (2 if f else 1) for d, f in zip(now, fine, strict=True)]


def _scales(stride: Sequence[int]) -> tuple[float, ...]:
    """In voxels of the grid along its finest axis."""
    return tuple(s / max(stride) for s in _SCALES if s / max(stride) >= _SMALLEST)


def _coarse(size: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // s) for n, s in zip(size, stride, strict=True))


def values_of(task: Task, stride: Sequence[int]) -> float:
    """Numbers that the responses are."""
    size = _coarse(task.size, stride)
    spacing = [d * s for d, s in zip(task.spacing, stride, strict=True)]
    per_scale = (task.classes - 1) * (2 + 2 * len(size))
    grids = octaves(size, spacing, _scales(stride))
    return sum(len(g.scales) * per_scale * math.prod(size) / math.prod(g.stride) for g in grids)


def _layers(size: Sequence[int], stride: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """The first corner of every voxel of a grid, a few layers at a time, and which is the first layer."""
    thick = max(1, 2**15 // math.prod(size[1:]))
    for first in range(0, size[0], thick):
        limits = [(first, min(first + thick, size[0])), *((0, n) for n in size[1:])]
        axes = (torch.arange(low, high) * s for (low, high), s in zip(limits, stride, strict=True))
        yield first, torch.cartesian_prod(*axes)


def _standardised(probabilities: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 per class, where probabilities differ by more than rounding."""
    axes = tuple(range(1, probabilities.ndim))
    std = probabilities.std(axes, keepdim=True)
    return (probabilities - probabilities.mean(axes, keepdim=True)) / torch.where(std > 1e-6, std, 1)
