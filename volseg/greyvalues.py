"""Grey values of any size brought to zero mean and unit spread, as the bulk of the voxels has them.

Mean and standard deviation over everything are those of the worst voxels: one hot voxel of 1e6, or a fill
value of -3.4e38 outside of the field of view, and the picture has no contrast. Here the bulk decides:

* A value at the end of the range that many voxels have exactly, and that lies far from all others, marks
  what is *outside* of the picture. It counts for nothing, and is put at the limit next to it.
* The *limits* lie as far beyond the bulk as the bulk is wide. The bulk is what the medians over 3 voxels
  along each axis span, from the 0.5th to the 99.5th percentile (structures as rare as that still belong to
  it, hot voxels, lines and planes do not), and at least the 10th to the 90th percentile of the voxels.
* A value beyond 1e302 counts as 1e302: sums and differences of larger ones are no numbers.
* Between the limits values are scaled linearly: for an image without such voxels this is the usual
  normalisation. Beyond, they count logarithmically: a rare bright spot stays the brightest and keeps its
  shape, and a hot voxel is no more than some standard deviations.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["GreyScale", "known_to_torch", "measure_grey_values", "normalised"]

Read = Callable[[tuple[slice, ...]], npt.NDArray[Any]]

_SAMPLED = 2**18  # voxels that are looked at, spread evenly; of a smaller image all
_AT_ONCE = 2**22  # voxels
_MANY = 0.005  # share of the voxels from which on a value may mark what is outside
_FAR = 10.0  # widths of the bulk that such a value lies away from it
_FEWEST = 32  # voxels that are a bulk
_RARE = (0.5, 99.5)  # percentiles of the medians
_USUAL = (10.0, 90.0)  # percentiles of the voxels
_LARGEST = 1e302
_FARTHEST = 1e4  # widths of the bulk beyond a limit from which on values are no longer distinguished


class GreyScale(NamedTuple):
    """How the grey values of one channel are normalised.

    Attributes:
        centre: mean of the values within the limits.
        spread: their standard deviation; 1 if they are all the same.
        low, high: the limits.
        width: of the bulk.
        outside: values that mark what is outside of the picture.
    """

    centre: float
    spread: float
    low: float
    high: float
    width: float
    outside: tuple[float, ...] = ()

    @classmethod
    def of(cls, numbers: Sequence[Any]) -> "GreyScale":
        """What went through JSON, where a tuple is a list."""
        centre, spread, low, high, width, outside = numbers
        return cls(centre, spread, low, high, width, tuple(outside))

    def __call__(self, values: Tensor) -> Tensor:
        """Values of any type and shape as float32; what is not a number is put at the lower limit."""
        out = torch.empty(values.shape, dtype=torch.float32, device=values.device)
        for part, target in zip(
            values.reshape(-1).split(_AT_ONCE), out.view(-1).split(_AT_ONCE), strict=True
        ):
            x = part.to(torch.float64, copy=True)
            for fill in self.outside:
                x.masked_fill_(part == fill, self.low if fill < self.centre else self.high)
            within = x.nan_to_num_(self.low, math.inf, -math.inf).clamp(self.low, self.high)
            if not torch.equal(within, x):
                beyond = x.sub_(within).div_(self.width).clamp_(-_FARTHEST, _FARTHEST)
                within.add_(beyond.abs().log1p_().mul_(beyond.sign()), alpha=self.width)
            target.copy_(within.sub_(self.centre).div_(self.spread))
        return out


def normalised(image: Tensor | npt.NDArray[Any]) -> Tensor:
    """An image ``(C, *spatial)`` of any real type, normalised channel by channel, as float32."""
    channels = []
    for channel in image:
        array = channel.cpu().numpy() if isinstance(channel, Tensor) else known_to_torch(channel)
        scale = measure_grey_values(lambda spans, array=array: array[spans], array.shape)  # type: ignore[misc]
        channels.append(scale(channel if isinstance(channel, Tensor) else _tensor(array)))
    return torch.stack(channels)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """The same memory, if torch can read it as it lies."""
    if not array.dtype.isnative or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        # A memory map opened for reading is welcome: nothing here writes into a source.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def known_to_torch(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Unsigned numbers of two bytes and more as floating point: torch computes with them hardly at all."""
    is_known = array.dtype.kind != "u" or array.dtype.itemsize == 1
    return array if is_known else array.astype(np.float32 if array.dtype.itemsize == 2 else np.float64)


def measure_grey_values(read: Read, size: Sequence[int]) -> GreyScale:
    """The scale of one channel.

    Args:
        read: the voxels in some spans, ``(*spatial)``.
        size: of the channel.
    """
    parts = list(_samples(read, size))
    values, medians = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    values, medians = (part[np.isfinite(part)].clip(-_LARGEST, _LARGEST) for part in (values, medians))
    outside: list[float] = []
    while (fill := _fill_value(values, medians)) is not None:
        outside.append(fill)
        values, medians = values[values != fill], medians[medians != fill]
    if not values.size:
        return GreyScale(0.0, 1.0, 0.0, 0.0, 1.0, tuple(outside))
    first, last = _bulk(values, medians)
    if first == last:  # more than 99 % have the same value: the others decide
        first, last = float(values.min()), float(values.max())
    width = last - first or 1.0
    within = values[(values >= first - width) & (values <= last + width)]
    centre = float(within.mean())
    spread = float(((within - centre) / width).std()) * width  # squares of tiny numbers are nothing
    return GreyScale(centre, spread or 1.0, first - width, last + width, width, tuple(outside))


def _bulk(values: npt.NDArray[np.float64], medians: npt.NDArray[np.float64]) -> tuple[float, float]:
    """From where to where most values lie."""
    usual = np.percentile(values, _USUAL)
    rare = np.percentile(medians, _RARE) if medians.size else usual
    return float(min(usual[0], rare[0])), float(max(usual[1], rare[1]))


def _fill_value(values: npt.NDArray[np.float64], medians: npt.NDArray[np.float64]) -> float | None:
    """A value that marks what is outside of the picture, if there is one."""
    if not values.size:
        return None
    ends = [float(end) for end in (values.min(), values.max()) if np.mean(values == end) >= _MANY]
    rest = values[~np.isin(values, ends)]
    if rest.size < _FEWEST:
        return None
    first, last = _bulk(rest, medians[~np.isin(medians, ends)])
    for end in ends:
        if first < last and (first - end > _FAR * (last - first) or end - last > _FAR * (last - first)):
            return end
    return None


def _samples(read: Read, size: Sequence[int]) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Voxels spread evenly over an image, and the medians around each, block by block."""
    step = 1
    while math.prod(math.ceil(n / step) for n in size) > _SAMPLED:
        step += 1
    lengths = [max(1, min(n, 256 // step * step or step)) for n in size]
    lengths[-1] = max(1, min(lengths[-1], max(step, _AT_ONCE // math.prod(lengths[:-1]) // step * step)))
    for corner in product(*(range(0, n, length) for n, length in zip(size, lengths, strict=True))):
        spans, indices = [], []
        for start, length, n in zip(corner, lengths, size, strict=True):
            low, high = max(start - 1, 0), min(start + length + 1, n)
            centres = np.arange(start + min(step, n) // 2, min(start + length, n), step)
            spans.append(slice(low, high))
            indices.append([np.clip(centres + shift, 0, n - 1) - low for shift in (-1, 0, 1)])
        block = np.asarray(read(tuple(spans)))
        around = np.stack([block[np.ix_(*each)] for each in product(*indices)]).reshape(3 ** len(size), -1)
        middle = len(around) // 2
        yield around[middle], np.partition(around, middle, axis=0)[middle]
