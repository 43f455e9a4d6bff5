"""Filter responses at many scales: what a voxel and its surroundings look like, without any training.

Per channel and scale: the smoothed image, the length of its gradient, the eigenvalues of its Hessian and
of its structure tensor, sorted. None of them changes when the image is turned, so what is learnt on slices
of one direction holds for the others. Coarse scales are computed on coarser grids.

A scale is a standard deviation in voxels along the finest axis; along coarser axes it is as long in world
units, hence fewer voxels.
"""

import functools
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "Bank",
    "Octave",
    "coarser",
    "filter_bank",
    "inner_sigmas",
    "interpolated_at",
    "interpolated_in",
    "kept_octaves",
    "left_out",
    "octaves",
    "pool",
    "radius_of",
    "responses",
    "responses_at",
    "responses_in",
    "smooth",
]

SCALES = (0.7, 1.0, 1.6, 2.5, 4.0, 6.3, 10.0)
_INNER = 0.7  # the scale over which a structure tensor is averaged, in scales
_CACHED = 2**20  # voxels
_TRUNCATE = 3.0  # standard deviations of a Gaussian that are summed
_OCTAVE = 2.0  # scales up to this one are computed on the finest grid, up to twice as much on the next
_MOST = 10**9  # numbers on the finest grid, two bytes each
_COARSE = 1.5  # an axis this much coarser than the finest is not pooled


class Octave(NamedTuple):
    """One grid and the scales that are computed on it."""

    pooling: tuple[int, ...]  # from the grid before
    stride: tuple[int, ...]  # from the finest grid
    scales: tuple[float, ...]  # in voxels of the finest axis of the finest grid


class Bank(NamedTuple):
    """Responses per octave, ``(features, *grid)``, float16; and the size that they are asked for."""

    maps: tuple[Tensor, ...]
    strides: tuple[tuple[int, ...], ...]  # of the grids, in voxels of the finest
    size: tuple[int, ...]
    channels: int
    scales: int
    seconds: float  # that it took

    @property
    def features(self) -> int:
        return sum(len(each) for each in self.maps)


def octaves(size: Sequence[int], spacing: Sequence[float], scales: Sequence[float] = SCALES) -> list[Octave]:
    """Which scales are computed on which grid."""
    spacing = [float(s) for s in spacing]
    finest = min(spacing)
    found: list[Octave] = []
    pooling = (1,) * len(size)
    stride = (1,) * len(size)
    longest = max(n * d for n, d in zip(size, spacing, strict=True))
    left = [s for s in scales if s * finest * 2 <= longest] or [min(scales)]
    limit = _OCTAVE
    while left:
        here = tuple(s for s in left if s <= limit)
        left = [s for s in left if s > limit]
        found.append(Octave(pooling, stride, here))
        limit *= 2
        now = [d * s for d, s in zip(spacing, stride, strict=True)]
        pooling = tuple(
            2 if d <= _COARSE * min(now) and n // s >= 8 else 1
            for d, s, n in zip(now, stride, size, strict=True)
        )
        stride = tuple(s * p for s, p in zip(stride, pooling, strict=True))
    return found


def kept_octaves(
    channels: int, size: Sequence[int], spacing: Sequence[float], scales: Sequence[float] = SCALES
) -> list[Octave]:
    """The octaves of an image ``(C, *size)``: of a very large one, not all scales of the finest grid."""
    per_scale = channels * (2 + 2 * len(size)) * math.prod(size)
    most = max(_MOST // per_scale, 1)
    fine = [scale for scale in scales if scale <= _OCTAVE]
    kept = fine if len(fine) <= most else fine[1 : 1 + most] or fine
    return octaves(size, spacing, [*kept, *(scale for scale in scales if scale > _OCTAVE)])


def left_out(bank: Bank, spacing: Sequence[float]) -> list[str]:
    """Which of the scales are not in a bank because the image is too large, in a sentence, if any."""
    wanted = sum(len(octave.scales) for octave in octaves(bank.size, spacing))
    if bank.scales >= wanted:
        return []
    return [
        f"{wanted - bank.scales} of {wanted} scales of the filters were left out, the finest ones: the image "
        "is too large for all of them. Details of a voxel or two can be missed."
    ]


def filter_bank(image: Tensor, spacing: Sequence[float], scales: Sequence[float] = SCALES) -> Bank:
    """The responses to an image ``(C, *spatial)``; of a very large one, not at the finest scales."""
    began = time.monotonic()
    size = tuple(image.shape[1:])
    finest = min(spacing)
    grids = kept_octaves(len(image), size, spacing, scales)
    current, blur = image, 0.0
    maps = []
    for octave in grids:
        current = pool(current, octave.pooling)
        grid = [d * s / finest for d, s in zip(spacing, octave.stride, strict=True)]  # in finest voxels
        smoothed = current
        per_scale = 2 + 2 * len(size)
        shape = (len(octave.scales), len(image), per_scale, *current.shape[1:])
        found = torch.empty(shape, dtype=torch.float16, device=image.device)
        for scale, by_channel in zip(octave.scales, found, strict=True):
            extra = math.sqrt(max(scale**2 - blur**2, 0.0))
            smoothed = smooth(smoothed, [extra / g for g in grid])
            blur = max(scale, blur)
            for channel, out in zip(smoothed, by_channel, strict=True):
                _respond(channel, scale, grid, out)
        maps.append(found.flatten(0, 2))
        current = smoothed
    strides = tuple(octave.stride for octave in grids)
    count = sum(len(octave.scales) for octave in grids)
    return Bank(tuple(maps), strides, size, len(image), count, time.monotonic() - began)


def coarser(bank: Bank, stride: Sequence[int], size: Sequence[int]) -> Bank:
    """Responses that were computed on a coarser grid, as seen from a finer one, ``stride`` times as fine.

    Args:
        size: of the finer grid.
    """
    strides = (tuple(s * t for s, t in zip(each, stride, strict=True)) for each in bank.strides)
    return bank._replace(strides=tuple(strides), size=tuple(size))


def smooth(image: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian smoothing of ``(C, *spatial)``, mirrored at the border."""
    for axis, sigma in enumerate(sigmas, start=1):
        radius = radius_of(sigma, image.shape[axis])
        if radius < 1:
            continue
        weights = [math.exp(-0.5 * (t / sigma) ** 2) for t in range(radius + 1)]
        total = weights[0] + 2 * sum(weights[1:])
        n = image.shape[axis]
        index = torch.arange(-radius, n + radius, device=image.device).abs()
        index = torch.where(index >= n, 2 * (n - 1) - index, index)
        padded = image.index_select(axis, index)
        out = padded.narrow(axis, radius, n) * (weights[0] / total)
        for t in range(1, radius + 1):
            out.add_(padded.narrow(axis, radius - t, n), alpha=weights[t] / total)
            out.add_(padded.narrow(axis, radius + t, n), alpha=weights[t] / total)
        image = out
    return image


def radius_of(sigma: float, n: int) -> int:
    """Voxels on either side that smoothing along an axis of ``n`` voxels sums."""
    return 0 if sigma < 0.25 else min(math.ceil(_TRUNCATE * sigma), n - 1)


def _respond(image: Tensor, scale: float, grid: Sequence[float], out: Tensor) -> None:
    """All responses of one channel ``(*spatial)`` at one scale, a few layers at a time: they fit into the
    processor's cache."""
    halo = math.ceil(_TRUNCATE * _INNER * scale / grid[0]) + 2
    layers = max(halo, _CACHED // math.prod(image.shape[1:]))
    for first in range(0, len(image), layers):
        last = min(first + layers, len(image))
        low, high = max(first - halo, 0), min(last + halo, len(image))
        for response, target in zip(responses(image[low:high], scale, grid), out, strict=True):
            target[first:last] = response[first - low : last - low]


def inner_sigmas(scale: float, grid: Sequence[float]) -> list[float]:
    """Over which a structure tensor is averaged, in voxels of a grid."""
    return [_INNER * scale / g for g in grid]


def responses(image: Tensor, scale: float, grid: Sequence[float]) -> Iterator[Tensor]:
    """Of one smoothed channel ``(*spatial)``; derivatives times the scale, so that scales compare."""
    first = [_derivative(image, axis, scale / g) for axis, g in enumerate(grid)]
    yield image
    yield sum(d * d for d in first).sqrt()  # type: ignore[union-attr]
    dims = image.ndim
    second = {}
    for i in range(dims):
        for j in range(i, dims):
            second[i, j] = _derivative(first[i], j, scale / grid[j])
    yield from _eigenvalues(second, dims)
    inner = inner_sigmas(scale, grid)
    products = {
        (i, j): smooth((first[i] * first[j])[None], inner)[0] for i in range(dims) for j in range(i, dims)
    }
    for value in _eigenvalues(products, dims):
        yield value.clamp(min=0).sqrt()


def _derivative(image: Tensor, axis: int, factor: float) -> Tensor:
    """Central differences; one-sided at the border."""
    n = image.shape[axis]
    if n < 2:
        return torch.zeros_like(image)
    out = torch.empty_like(image)
    inside = out.narrow(axis, 1, n - 2)
    torch.sub(image.narrow(axis, 2, n - 2), image.narrow(axis, 0, n - 2), out=inside)
    inside.mul_(factor / 2)
    for place, low, high in ((0, 0, 1), (n - 1, n - 2, n - 1)):
        out.select(axis, place).copy_((image.select(axis, high) - image.select(axis, low)) * factor)
    return out


def _eigenvalues(a: dict[tuple[int, int], Tensor], dims: int) -> list[Tensor]:
    """Of symmetric matrices, largest first, in closed form."""
    if dims == 2:
        mean = (a[0, 0] + a[1, 1]) / 2
        root = (((a[0, 0] - a[1, 1]) / 2) ** 2 + a[0, 1] ** 2).sqrt()
        return [mean + root, mean - root]
    q = (a[0, 0] + a[1, 1] + a[2, 2]) / 3
    x, y, z = a[0, 0] - q, a[1, 1] - q, a[2, 2] - q
    b, c, d = a[0, 1], a[0, 2], a[1, 2]
    p = ((x * x + y * y + z * z + 2 * (b * b + c * c + d * d)) / 6).sqrt().clamp(min=1e-9)
    det = x * (y * z - d * d) - b * (b * z - c * d) + c * (b * d - c * y)
    angle = (det / (2 * p**3)).clamp(-1, 1).acos_().div_(3)
    largest = q + 2 * p * angle.cos()
    smallest = q + 2 * p * (angle + 2 * math.pi / 3).cos()
    return [largest, 3 * q - largest - smallest, smallest]


def pool(image: Tensor, pooling: tuple[int, ...]) -> Tensor:
    """Means of ``(C, *spatial)``; a last voxel that is left over is its own mean."""
    if max(pooling) == 1:
        return image
    for axis, factor in enumerate(pooling, start=1):
        if image.shape[axis] % factor:
            image = torch.cat([image, image.narrow(axis, image.shape[axis] - 1, 1)], axis)
    mean = {2: F.avg_pool2d, 3: F.avg_pool3d}[len(pooling)]
    return mean(image[None], pooling)[0]


def responses_at(bank: Bank, voxels: Tensor) -> Tensor:
    """The responses at voxels ``(n, dims)`` of the finest grid, ``(n, features)``; coarse grids are
    interpolated."""
    return torch.cat(
        [interpolated_at(maps, stride, voxels) for maps, stride in zip(bank.maps, bank.strides, strict=True)]
    ).T


def responses_in(bank: Bank, first: int, last: int) -> Tensor:
    """The responses in some layers of the first axis, ``last`` not included: ``(features, *block)``."""
    limits = [(first, last), *((0, n) for n in bank.size[1:])]
    return torch.cat(
        [interpolated_in(maps, stride, limits) for maps, stride in zip(bank.maps, bank.strides, strict=True)]
    )


def interpolated_in(
    maps: Tensor,
    stride: Sequence[int],
    limits: Sequence[tuple[int, int]],
    first: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Responses of one grid in a block of the finest, ``(features, *block)``, float32.

    Args:
        limits: of the block, per axis.
        first, size: where on its grid the part that is given begins, and of how many voxels the grid is; by
            default it is the whole of it.
    """
    block = maps
    size = maps.shape[1:] if size is None else size
    for axis in sorted(range(1, block.ndim), key=lambda axis: limits[axis - 1][1] - limits[axis - 1][0]):
        # The axis that ends up shortest comes first: of a slice, little is left for the other two.
        factor, (low, high), n = stride[axis - 1], limits[axis - 1], size[axis - 1]
        start = 0 if first is None else first[axis - 1]
        if factor == 1:
            block = block.narrow(axis, low - start, high - low)
            continue
        below, above, weight = (each.to(maps.device) for each in _between(low, high, factor, n))
        weight = weight.view([-1 if a == axis else 1 for a in range(block.ndim)])
        lower, upper = (block.index_select(axis, side - start).float() for side in (below, above))
        block = lower.lerp_(upper, weight)
    return block.float()


def interpolated_at(
    maps: Tensor,
    stride: Sequence[int],
    voxels: Tensor,
    first: Sequence[int] | None = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    """The same at voxels ``(n, dims)``, ``(features, n)``."""
    size = maps.shape[1:] if size is None else size
    first = [0] * len(size) if first is None else first
    sides = [_neighbours(index, factor, n) for index, factor, n in zip(voxels.T, stride, size, strict=True)]
    total = torch.zeros(len(maps), len(voxels), device=maps.device)
    for corner in itertools.product((0, 1), repeat=len(stride)):
        if any(c and factor == 1 for c, factor in zip(corner, stride, strict=True)):
            continue
        weight = torch.ones(len(voxels), device=maps.device)
        flat = torch.zeros(len(voxels), dtype=torch.int64, device=maps.device)
        for c, (below, above, share), start, n in zip(corner, sides, first, maps.shape[1:], strict=True):
            weight = weight * (share if c else 1 - share)
            flat = flat * n + (above if c else below) - start
        total.addcmul_(maps.flatten(1).index_select(1, flat).float(), weight)
    return total


@functools.lru_cache(maxsize=4096)
def _between(low: int, high: int, factor: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same of neighbouring voxels: block after block asks for them again."""
    return _neighbours(torch.arange(low, high), factor, n)


def _neighbours(index: Tensor, factor: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two voxels of a coarser grid beside a voxel of the finest, and the weight of the second."""
    place = ((index + 0.5) / factor - 0.5).clamp(0, n - 1)
    below = place.floor().long()
    return below, (below + 1).clamp(max=n - 1), place - below
