"""Overlap-tile arithmetic: which block to read to write which.

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
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from volseg.geometry.sizes import per_axis

__all__ = [
    "Tile",
    "balanced_tiles",
    "choose_tile",
    "halve_tile",
    "mirror_indices",
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
