"""The network that fits a volume, a machine and the minutes: nobody chooses it.

Depth, kernels and pooling follow from the size and the spacing of the volume: an axis with longer voxels is
not pooled until the others have caught up, and kernels are flat along it until then (as in nnU-Net, Isensee
et al. 2021). Width and patch follow from the machine and the minutes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from volseg.learners.sections import largest

__all__ = ["Architecture", "choose_architecture"]

_WIDTH = {"cpu": 16, "cuda": 32}  # channels of the finest level
_LEVELS = {("cpu", 2): 4, ("cpu", 3): 3, ("cuda", 2): 5, ("cuda", 3): 4}
_VOXELS = {("cpu", 2): 2**15, ("cpu", 3): 2**16, ("cuda", 2): 2**17, ("cuda", 3): 2**20}  # of a patch
_LONG = 3600.0  # seconds of learning from which on the network is twice as wide
_COARSE = 1.5  # an axis this much coarser than the finest is not pooled, and kernels are flat along it


class Architecture(NamedTuple):
    """A network and its patches, as plain lists for a checkpoint; one entry per level, then per axis."""

    channels: list[list[int]]
    kernels: list[list[int]]
    pooling: list[list[int]]
    patch: list[int]
    axes: Sequence[int] = ()  # to look along, section by section; none where blocks are looked at


def choose_architecture(
    size: Sequence[int],
    spacing: Sequence[float],
    *,
    seconds: float,
    device: torch.device | str,
    axes: Sequence[int] = (),
) -> Architecture:
    """The network for volumes of this size and spacing on a device, and the patch to train it on.

    Args:
        axes: to look along, section by section.
    """
    if axes:
        size, across = largest(size, axes)
        spacing = [d for axis, d in enumerate(spacing) if axis != across]
    kind, dims = torch.device(device).type, len(size)
    kind = kind if kind in _WIDTH else "cuda"
    width = _WIDTH[kind] * (2 if seconds >= _LONG else 1)
    stride, now, kernels, pooling = [1] * dims, list(spacing), [], []
    for _ in range(_LEVELS[kind, dims]):
        is_fine = [d <= _COARSE * min(now) for d in now]
        now = [2 * d if fine else d for d, fine in zip(now, is_fine, strict=True)]
        kernels.append([3 if fine else 1 for fine in is_fine])
        pool = [2 if fine and n // s >= 8 else 1 for fine, n, s in zip(is_fine, size, stride, strict=True)]
        pooling.append(pool)
        if max(pool) == 1:
            break
        stride = [s * p for s, p in zip(stride, pool, strict=True)]
    pooling.pop()
    strides = [math.prod(steps) for steps in zip(*pooling, strict=True)] if pooling else [1] * dims
    patch = [-(-n // s) * s for n, s in zip(size, strides, strict=True)]
    while math.prod(patch) > _VOXELS[kind, dims]:
        lengths = [n * d if n > s else 0.0 for n, d, s in zip(patch, spacing, strides, strict=True)]
        longest = lengths.index(max(lengths))
        patch[longest] -= strides[longest]
    channels = [[width << level] * 2 for level in range(len(kernels))]
    return Architecture(channels, kernels, pooling, patch, list(axes))
