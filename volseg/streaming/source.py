"""What the network reads of a volume that stays in its file: blocks, their grey values normalised."""

import sys
from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from torch import Tensor

from volseg.errors import InputError
from volseg.geometry import mirror_indices
from volseg.greyvalues import GreyScale, measure_grey_values
from volseg.io.blocks import BlockVolume
from volseg.transforms import NormalizeGreyValuesd

__all__ = ["Blocks", "Normalisation", "kept_as", "normalisation", "require_unchanged", "why_not_blockwise"]

Normalisation = list[GreyScale]  # one for each channel

_AT_ONCE = 2**22  # voxels read at a time for mean and spread
_TORCH_KNOWS = ("u1", "i1", "i2", "i4", "i8", "f4", "f8")
_NO_LIMIT = sys.float_info.max


class Blocks:
    """A volume or a part of one, from which the network reads blocks, with its grey values normalised.

    ``origin`` is where ``voxels`` begin in the volume, whose shape this keeps.
    """

    def __init__(
        self,
        voxels: Any,
        normalise: Normalisation | None,
        *,
        shape: Sequence[int] | None = None,
        origin: Sequence[int] | None = None,
    ) -> None:
        self.voxels = voxels
        self.normalise = normalise
        self.shape = tuple(voxels.shape if shape is None else shape)
        self.origin = tuple(origin or (0,) * len(self.shape))

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        index = (slice(0, self.shape[0]), *index[1:])
        moved = tuple(slice(i.start - o, i.stop - o) for i, o in zip(index, self.origin, strict=True))
        voxels = np.ascontiguousarray(self.voxels[moved])
        block = torch.from_numpy(voxels.astype(kept_as(voxels.dtype), copy=False))
        if self.normalise is None:
            return block
        return torch.stack([scale(channel) for scale, channel in zip(self.normalise, block, strict=True)])

    def part(self, spans: Sequence[slice]) -> "Blocks":
        """What lies in these spans, mirrored beyond the border: in memory, as it is stored."""
        index = [slice(0, self.shape[0])]
        for part, size in zip(spans, self.shape[1:], strict=True):
            inside = mirror_indices(part.start, part.stop, size)
            index.append(slice(int(inside.min()), int(inside.max()) + 1))
        voxels = self.voxels[tuple(index)]
        voxels = voxels.astype(kept_as(voxels.dtype), copy=False)
        return Blocks(voxels, self.normalise, shape=self.shape, origin=[i.start for i in index])


def require_unchanged(source: BlockVolume, stamp: str) -> None:
    """Refuse to continue with an image that was written to meanwhile: the result would be a mixture.

    Raises:
        InputError: if its stamp is another.
    """
    if source.stamp != stamp:
        raise InputError(
            f"{source.path} was changed, replaced or removed while it was being segmented, so no result is "
            "written. Let nothing write to it meanwhile, and give the command again."
        )


def kept_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a stored type is held as in memory: itself, where torch knows it."""
    if dtype.str[1:] in _TORCH_KNOWS:
        return dtype
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def why_not_blockwise(preprocessing: Callable[..., Any] | None) -> str | None:
    """Why a preprocessing needs the whole image at once; ``None`` if it does not."""
    if preprocessing is None:
        return None
    if isinstance(preprocessing, NormalizeGreyValuesd):
        return None
    normaliser = getattr(preprocessing, "normalizer", None)
    if not isinstance(preprocessing, NormalizeIntensityd) or normaliser is None:
        return (
            f"The preprocessing is a {type(preprocessing).__name__}, which may need the whole image at once. "
            "Block by block there can be NormalizeGreyValuesd or NormalizeIntensityd alone."
        )
    if normaliser.nonzero or normaliser.subtrahend is not None or normaliser.divisor is not None:
        return "Block by block, NormalizeIntensityd works without nonzero, subtrahend and divisor."
    return None


def normalisation(source: BlockVolume, preprocessing: Callable[..., Any] | None) -> Normalisation | None:
    """How each channel is normalised; measured in a pass of its own."""
    problem = why_not_blockwise(preprocessing)
    if problem is not None:
        raise InputError(problem)
    if isinstance(preprocessing, NormalizeGreyValuesd):
        channels = range(source.shape[0])
        return [measure_grey_values(_reader(source, channel), source.shape[1:]) for channel in channels]
    if not isinstance(preprocessing, NormalizeIntensityd):
        return None
    moments = [_moments(source, channel) for channel in range(source.shape[0])]
    if not preprocessing.normalizer.channel_wise:
        mean = float(np.mean([first for first, _ in moments]))
        total = float(np.mean([variance + (first - mean) ** 2 for first, variance in moments]))
        moments = [(mean, total)] * len(moments)
    return [GreyScale(mean, variance**0.5 or 1.0, -_NO_LIMIT, _NO_LIMIT, 1.0) for mean, variance in moments]


def _reader(source: BlockVolume, channel: int) -> Callable[[tuple[slice, ...]], Any]:
    """What reads one channel, all of whose voxels have to be numbers."""

    def read(spans: tuple[slice, ...]) -> Any:
        block = source[(slice(channel, channel + 1), *spans)][0]
        if not np.isfinite(block).all():
            raise InputError(f"{source.path} holds NaN or infinite voxels. Repair the file.")
        return block

    return read


def _moments(source: BlockVolume, channel: int) -> tuple[float, float]:
    """Mean and variance of one channel, gathered block by block without cancellation."""
    steps = [max(1, min(n, 256)) for n in source.shape[1:]]
    steps[-1] = max(1, min(steps[-1], _AT_ONCE // prod(steps[:-1])))
    count, mean, squares = 0, 0.0, 0.0
    read = _reader(source, channel)
    grids = [range(0, n, step) for n, step in zip(source.shape[1:], steps, strict=True)]
    for corner in product(*grids):
        block = read(tuple(slice(start, start + step) for start, step in zip(corner, steps, strict=True)))
        block = block.astype(np.float64)
        change = float(block.mean()) - mean
        total = count + block.size
        squares += float(block.var()) * block.size + change**2 * count * block.size / total
        mean += change * block.size / total
        count = total
    return mean, squares / count
