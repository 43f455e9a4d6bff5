"""Sizes a U-shaped network accepts, and overlap-tile arithmetic: which block to read to write which.

A network of unpadded convolutions returns less than it is given: every tile of output
needs a border of context around it in the input (Ronneberger et al. 2015, Fig. 2).
This module works out those blocks and touches no image, so one implementation serves
images and volumes, and its tests need neither torch nor a GPU.

Three words, in voxels, one number per spatial axis:

* ``tile``    the step between the origins of neighbouring blocks of output
* ``context`` the border the network consumes on each side of a tile
* ``stride``  the network's total downsampling (8 after three poolings by 2)

Tiles start on multiples of the stride. Then every tile sees the pooling grid that the
whole volume would see, and the seams vanish.

Symmetries of the voxel grid are here, too: what can be turned and mirrored without interpolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import prod
from operator import index
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "LegalSizes",
    "Symmetry",
    "Tile",
    "balanced_tiles",
    "check_planes",
    "choose_tile",
    "grid_symmetries",
    "halve_tile",
    "legal_sizes",
    "mirror_indices",
    "per_axis",
    "plan_tiles",
    "tile_writing",
    "tiles_needed",
]


class Tile(NamedTuple):
    """One pass: read this block, write that one. Both index the spatial axes.

    ``read`` may start below 0 or stop beyond the volume: there the image is mirrored
    (see :func:`mirror_indices`). ``write`` always lies inside the volume.
    """

    read: tuple[slice, ...]
    write: tuple[slice, ...]


@dataclass(frozen=True)
class LegalSizes:
    """What goes in and what comes out of a U-shaped network. One number per spatial axis.

    ``receptive_radius`` is how far beyond a block of output, its origin on a multiple of the
    stride, the input matters; ``margins`` what the map of each level loses per side before it
    meets the upsampled one; ``remainder`` what legal outputs are modulo the stride.
    """

    context: tuple[int, ...]
    receptive_radius: tuple[int, ...]
    stride: tuple[int, ...]
    margins: tuple[tuple[int, ...], ...]
    remainder: tuple[int, ...]

    def output_size(self, input_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that comes out when ``input_size`` goes in."""
        lost = tuple(2 * border for border in self.context)
        sizes = per_axis(input_size, len(lost), "input_size", minimum=0)
        self._check(sizes, lost, "input")
        return tuple(n - less for n, less in zip(sizes, lost, strict=True))

    def input_size(self, output_size: int | Sequence[int]) -> tuple[int, ...]:
        """The size that must go in for ``output_size`` to come out."""
        sizes = per_axis(output_size, len(self.context), "output_size", minimum=0)
        self._check(sizes, (0,) * len(sizes), "output")
        return tuple(n + 2 * border for n, border in zip(sizes, self.context, strict=True))

    def _check(self, sizes: tuple[int, ...], lost: tuple[int, ...], word: str) -> None:
        for axis, (n, less, step, rest) in enumerate(
            zip(sizes, lost, self.stride, self.remainder, strict=True)
        ):
            least = less + (rest or step)
            if n >= least and (n - least) % step == 0:
                continue
            below = n - (n - least) % step
            nearest = f"{least}" if n < least else f"{below} and {below + step}"
            raise ValueError(
                f"{word}_size[{axis}] = {n} is not a legal {word} size: legal are {least}, {least + step}, "
                f"{least + 2 * step} and so on in steps of {step}, so that every pooling divides evenly "
                f"and at least one voxel is left. Nearest: {nearest}."
            )


def legal_sizes(
    kernels: Sequence[Sequence[int]], pools: Sequence[Sequence[int]], *, padded: bool = False
) -> LegalSizes:
    """The sizes of a U-shaped network with two convolutions per level and direction.

    Args:
        kernels: per level one odd number per axis, finest level first.
        pools: per step down one number per axis.
        padded: whether convolutions pad their input and so keep its size.
    """
    # Per axis: what two convolutions of each level take off one side, and the poolings.
    borders = [[size - 1 for size in axis] for axis in zip(*kernels, strict=True)]
    steps = list(zip(*pools, strict=True)) if pools else [()] * len(borders)
    axes = list(zip(borders, steps, strict=True))
    stride = tuple(prod(step) for step in steps)
    reach = tuple(_aligned_reach(border, step) for border, step in axes)
    if padded:
        none = (0,) * len(axes)
        return LegalSizes(none, reach, stride, (none,) * len(pools), none)
    context = tuple(_context(border, step, 0) for border, step in axes)
    margins = tuple(
        tuple(step[level] * _context(border, step, level + 1) for border, step in axes)
        for level in range(len(pools))
    )
    # An input of this size would arrive at the bottom as zero voxels.
    start = [_input_for_nothing(border, step) for border, step in axes]
    remainder = tuple((n - 2 * c) % s for n, c, s in zip(start, context, stride, strict=True))
    return LegalSizes(context, context, stride, margins, remainder)


def _context(borders: Sequence[int], steps: Sequence[int], level: int) -> int:
    """Voxels lost per side from entering ``level`` on the way down to leaving it on the way up."""
    if level == len(steps):
        return borders[level]
    return 2 * borders[level] + steps[level] * _context(borders, steps, level + 1)


def _input_for_nothing(borders: Sequence[int], steps: Sequence[int]) -> int:
    size = 0
    for border, step in zip(reversed(borders[:-1]), reversed(steps), strict=True):
        size = step * size + 2 * border
    return size


def _aligned_reach(borders: Sequence[int], steps: Sequence[int]) -> int:
    """How far a padded network looks beyond a block that starts on a multiple of the stride."""
    reach = 0
    for border, step in zip(borders[:-1], steps, strict=True):
        reach = -(-(reach + border) // step)
    reach += borders[-1]
    for border, step in zip(reversed(borders[:-1]), reversed(steps), strict=True):
        reach = reach * step + border
    return reach


def per_axis(
    value: int | Sequence[int], spatial_dims: int, name: str, *, minimum: int = 1
) -> tuple[int, ...]:
    """One whole number per spatial axis; a single number stands for all axes.

    ``name`` is how the caller calls the argument, for the message.
    """
    try:
        numbers = (_whole(value),) * spatial_dims
    except TypeError:
        try:
            numbers = tuple(_whole(item) for item in value)  # type: ignore[union-attr]
        except TypeError:
            raise ValueError(
                f"{name} = {value!r} is neither a whole number nor a sequence of whole numbers. "
                f"Give one number, or {spatial_dims}, one per axis."
            ) from None
    if len(numbers) != spatial_dims:
        raise ValueError(
            f"{name} = {value!r} holds {len(numbers)} numbers, but there are {spatial_dims} spatial axes. "
            f"Give one number, or {spatial_dims}, one per axis."
        )
    for axis, number in enumerate(numbers):
        if number < minimum:
            raise ValueError(f"{name}[{axis}] = {number} is too small: at least {minimum} is needed.")
    return numbers


def mirror_indices(start: int, stop: int, size: int) -> npt.NDArray[np.int64]:
    """Where ``start ... stop - 1`` fall in an axis of ``size`` voxels that is mirrored without end.

    The border voxel is not repeated (numpy's ``reflect``); an axis of one voxel repeats that one.
    """
    if size < 1:
        raise ValueError(f"An axis of {size} voxels cannot be mirrored: at least 1 is needed.")
    if size == 1:
        return np.zeros(max(0, stop - start), dtype=np.int64)
    period = 2 * (size - 1)
    position = np.arange(start, stop, dtype=np.int64) % period
    return np.minimum(position, period - position)


def plan_tiles(
    size: Sequence[int],
    tile: int | Sequence[int],
    context: int | Sequence[int],
    stride: int | Sequence[int],
    remainder: int | Sequence[int] = 0,
) -> list[Tile]:
    """Cover a volume with tiles so that every voxel is written exactly once.

    The last tile of an axis is as short as the volume demands. What a network returns has a
    size of ``remainder`` modulo ``stride`` (4 modulo 8 in Çiçek et al. 2016), so ``read`` is
    rounded up to the next size that it accepts; what comes out beyond ``write`` is dropped.
    """
    sizes, tiles, contexts, strides, remainders = _axes(size, tile, context, stride, remainder)
    for axis, (t, s) in enumerate(zip(tiles, strides, strict=True)):
        if t % s:
            nearest = " or ".join(str(legal) for legal in (t - t % s, t - t % s + s) if legal > 0)
            raise ValueError(
                f"tile[{axis}] = {t} is not a multiple of the network stride {s}: "
                f"tiles would not line up. Nearest that do: {nearest}."
            )
    origins = [
        [slice(origin, min(origin + t, n)) for origin in range(0, n, t)]
        for n, t in zip(sizes, tiles, strict=True)
    ]
    return [tile_writing(write, contexts, strides, remainders) for write in product(*origins)]


def tile_writing(
    write: tuple[slice, ...], context: Sequence[int], stride: Sequence[int], remainder: Sequence[int]
) -> Tile:
    """The tile that writes a block whose origin lies on multiples of the stride."""
    read = tuple(
        slice(w.start - c, w.start - c + _extent(w.stop - w.start, c, s, r))
        for w, c, s, r in zip(write, context, stride, remainder, strict=True)
    )
    return Tile(read, write)


def tiles_needed(
    tiles: Sequence[Tile],
    where: npt.NDArray[np.bool_],
    context: Sequence[int],
    stride: Sequence[int],
    remainder: Sequence[int],
) -> list[Tile]:
    """What of the tiles has to be read for the voxels where a mask is true: of each tile, slabs along the
    axis along which they need the least."""
    found = []
    for tile in tiles:
        inside = where[tile.write]
        if not inside.any():
            continue
        best, least = [tile.write], float("inf")
        for axis, (span, c, s) in enumerate(zip(tile.write, context, stride, strict=True)):
            others = tuple(a for a in range(inside.ndim) if a != axis)
            steps = np.unique(np.flatnonzero(inside.any(others)) // s)
            runs = np.split(steps, np.flatnonzero(np.diff(steps) * s > 2 * c + s) + 1)
            ends = [(int(run[0]) * s, (int(run[-1]) + 1) * s) for run in runs]
            share = sum(b - a + 2 * c for a, b in ends) / (span.stop - span.start + 2 * c)
            if share < least:
                slabs = [slice(span.start + a, min(span.start + b, span.stop)) for a, b in ends]
                best = [(*tile.write[:axis], slab, *tile.write[axis + 1 :]) for slab in slabs]
                least = share
        found += [tile_writing(write, context, stride, remainder) for write in best]
    return found


def halve_tile(
    tile: Tile,
    context: int | Sequence[int],
    stride: int | Sequence[int],
    remainder: int | Sequence[int] = 0,
    *,
    axes: Sequence[int] | None = None,
) -> list[Tile]:
    """Two tiles that together write what this one does, cut across the longest of ``axes``.

    The cut lies on a multiple of the stride. A tile of one stride along all of them comes back alone.
    """
    _, _, contexts, strides, remainders = _axes([1] * len(tile.write), 1, context, stride, remainder)
    allowed = range(len(tile.write)) if axes is None else axes
    steps = {a: -(-(tile.write[a].stop - tile.write[a].start) // strides[a]) for a in allowed}
    axis = max(steps, key=lambda a: (steps[a] > 1, tile.read[a].stop - tile.read[a].start))
    if steps[axis] < 2:
        return [tile]
    whole = tile.write[axis]
    middle = whole.start + -(-steps[axis] // 2) * strides[axis]
    halves = [slice(whole.start, middle), slice(middle, whole.stop)]
    return [
        tile_writing((*tile.write[:axis], half, *tile.write[axis + 1 :]), contexts, strides, remainders)
        for half in halves
    ]


def choose_tile(
    size: Sequence[int],
    context: int | Sequence[int],
    stride: int | Sequence[int],
    max_voxels: int,
    remainder: int | Sequence[int] = 0,
) -> tuple[int, ...] | None:
    """The tile that reads the fewest voxels in total, with no block above ``max_voxels``.

    ``None`` if even the smallest block is too large.
    """
    options = balanced_tiles(size, context, stride, remainder)
    best: tuple[int, tuple[int, ...]] | None = None
    for choice in product(*options):
        total = prod(sum(reads) for _, reads in choice)
        if prod(max(reads) for _, reads in choice) <= max_voxels and (best is None or total < best[0]):
            best = total, tuple(tile for tile, _ in choice)
    return None if best is None else best[1]


def balanced_tiles(
    size: Sequence[int],
    context: int | Sequence[int],
    stride: int | Sequence[int],
    remainder: int | Sequence[int] = 0,
) -> list[list[tuple[int, list[int]]]]:
    """Per axis the tiles worth considering, largest first, each with what its blocks read.

    What is read twice grows with the number of tiles, and equal tiles need the smallest block for
    their number, so only these are listed.
    """
    sizes, _, contexts, strides, remainders = _axes(size, stride, context, stride, remainder)
    options = []
    for n, c, s, r in zip(sizes, contexts, strides, remainders, strict=True):
        steps = -(-n // s)
        tiles = sorted({-(-steps // count) * s for count in range(1, steps + 1)}, reverse=True)
        options.append([(t, [_extent(min(t, n - o), c, s, r) for o in range(0, n, t)]) for t in tiles])
    return options


class Symmetry(NamedTuple):
    """Take the axes in the order ``axes``, then mirror those that are ``flipped``. One entry per axis."""

    axes: tuple[int, ...]
    flipped: tuple[bool, ...]

    @property
    def is_rotation(self) -> bool:
        """Whether it keeps left and right apart, as mirror images do not."""
        swaps = sum(a > b for i, a in enumerate(self.axes) for b in self.axes[i + 1 :])
        return (swaps + sum(self.flipped)) % 2 == 0

    def describe(self) -> str:
        """``with its axes in the order y, x, z, then mirrored along x``; empty for the identity."""
        parts = []
        if self.axes != tuple(sorted(self.axes)):
            parts.append(f"with its axes in the order {', '.join('xyz'[axis] for axis in self.axes)}")
        if any(self.flipped):
            parts.append(
                f"mirrored along {' and '.join('xyz'[k] for k, flag in enumerate(self.flipped) if flag)}"
            )
        return ", then ".join(parts)


def grid_symmetries(spatial_dims: int, planes: Sequence[Sequence[int]]) -> tuple[Symmetry, ...]:
    """All maps of a grid onto itself, given the planes in which it may make a quarter turn.

    The identity comes first. An image has 8 with ``planes=[(0, 1)]``; a volume has 8 without planes, 16
    with one and 48 with two or three.
    """
    alike = list(range(spatial_dims))
    for first, second in check_planes(planes, spatial_dims):
        alike = [alike[first] if group == alike[second] else group for group in alike]
    return tuple(
        Symmetry(axes, flipped)
        for axes in permutations(range(spatial_dims))
        if all(alike[axis] == alike[place] for place, axis in enumerate(axes))
        for flipped in product((False, True), repeat=spatial_dims)
    )


def check_planes(planes: Sequence[Sequence[int]], dims: int) -> tuple[tuple[int, int], ...]:
    """Planes as pairs of axes in order.

    Raises:
        ValueError: if one of them is not two different axes.
    """
    for plane in planes:
        if len(plane) != 2 or len(set(plane)) != 2 or not all(axis in range(dims) for axis in plane):
            raise ValueError(
                f"planes holds {tuple(plane)}: a plane is two different axes out of 0 to {dims - 1}."
            )
    return tuple((min(plane), max(plane)) for plane in planes)


def _extent(written: int, context: int, stride: int, remainder: int) -> int:
    """The block to read for ``written`` voxels of output."""
    return written + (remainder - written) % stride + 2 * context


def _axes(
    size: Sequence[int],
    tile: int | Sequence[int],
    context: int | Sequence[int],
    stride: int | Sequence[int],
    remainder: int | Sequence[int],
) -> tuple[tuple[int, ...], ...]:
    count = len(size)
    return (
        per_axis(size, count, "size"),
        per_axis(tile, count, "tile"),
        per_axis(context, count, "context", minimum=0),
        per_axis(stride, count, "stride"),
        per_axis(remainder, count, "remainder", minimum=0),
    )


def _whole(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is not a size")
    return index(value)  # type: ignore[arg-type]
