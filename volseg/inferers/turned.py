"""Tiles of a turned volume, one at a time, as the averaging over turned versions needs them.

What a network says about a turned volume, turned back, can be had tile by tile as well: the voxels of the
tile are looked up in the turned volume, and the tile is widened there until it starts on a multiple of the
stride. So nothing but the tile is ever in memory, and the numbers are those of the whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from volseg.geometry import Tile, tile_writing
from volseg.inferers.averaging import Symmetry, fold_in
from volseg.inferers.demand import Demand
from volseg.inferers.overlap_tile import work_off
from volseg.inferers.work import Source, Work

__all__ = ["Turned", "average_tile", "reads_of"]


@dataclass(frozen=True)
class Turned:
    """A volume ``(C, *spatial)`` as one symmetry shows it; blocks are turned when they are read."""

    volume: Source
    version: Symmetry

    @property
    def shape(self) -> Sequence[int]:
        channels, *size = self.volume.shape
        return (channels, *(size[axis] for axis in self.version.axes))

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        channels, *places = index
        block = self.volume[(channels, *_back(places, self.version, self.shape[1:]))]
        return self.version.turn(block[None])[0]


def average_tile(
    volume: Source, works: Sequence[Work], versions: Sequence[Symmetry], tile: Tile, *, spread: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Mean and standard deviation of the probabilities of a tile, ``(classes, *written)``.

    Args:
        works: one per version, or one for all.
    """
    size = [part.stop - part.start for part in tile.write]
    mean: Tensor | None = None
    squares: Tensor | None = None
    for count, version in enumerate(versions, start=1):
        work = works[(count - 1) % len(works)]
        turned, inner = _turned(tile, version, work.demand, volume.shape[1:])
        logits: Tensor | None = None
        for _, where, piece in work_off(Turned(volume, version), work, [turned]):
            if logits is None:
                logits = piece.new_empty((len(piece), *(p.stop - p.start for p in turned.write)))
            place = (
                slice(p.start - w.start, p.stop - w.start) for p, w in zip(where, turned.write, strict=True)
            )
            logits[(slice(None), *place)] = piece
        assert logits is not None
        upright = version.turn_back(logits[(slice(None), *inner)][None])[0]
        if mean is None:
            mean = torch.zeros((len(upright), *size), device=upright.device)
            squares = torch.zeros_like(mean) if spread else None
        fold_in(upright, count, mean, squares)
    assert mean is not None
    return mean, None if squares is None else squares.div_(len(versions)).clamp_(min=0).sqrt_()


def reads_of(tile: Tile, versions: Sequence[Symmetry], demand: Demand, size: Sequence[int]) -> list[slice]:
    """What of the volume all versions of a tile read, beyond its border too."""
    spans: list[list[slice]] = [[] for _ in size]
    for version in versions:
        turned, _ = _turned(tile, version, demand, size)
        shape = [size[axis] for axis in version.axes]
        for span, part in zip(spans, _back(turned.read, version, shape), strict=True):
            span.append(part)
    return [slice(min(part.start for part in span), max(part.stop for part in span)) for span in spans]


def _turned(
    tile: Tile, version: Symmetry, demand: Demand, size: Sequence[int]
) -> tuple[Tile, tuple[slice, ...]]:
    """The tile of the turned volume that holds this one, and where inside it."""
    write, inner = [], []
    for axis, flipped, step in zip(version.axes, version.flipped, demand.stride, strict=True):
        part = tile.write[axis]
        if flipped:
            part = slice(size[axis] - part.stop, size[axis] - part.start)
        before = part.start % step
        write.append(slice(part.start - before, part.stop))
        inner.append(slice(before, before + part.stop - part.start))
    return tile_writing(tuple(write), demand.halo, demand.stride, demand.remainder), tuple(inner)


def _back(places: Sequence[slice], version: Symmetry, shape: Sequence[int]) -> list[slice]:
    """Places in the turned volume, of this shape, as places in the volume itself."""
    found = list(places)
    for part, axis, flipped, n in zip(places, version.axes, version.flipped, shape, strict=True):
        found[axis] = slice(n - part.stop, n - part.start) if flipped else part
    return found
