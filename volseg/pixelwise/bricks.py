"""Filter responses brick by brick, where they are needed: those of :mod:`volseg.pixelwise.features`.

The bank of a volume takes a microsecond and 50 bytes per voxel, too much to wait for, and of a very large
volume too much to keep. Here each octave has *bricks* of its own grid, computed when they are asked for and
kept as long as memory allows. A brick is computed from the smoothed and pooled voxels of the octave before,
read with as many more around it as its filters reach; these are kept in bricks, too. So a coarse brick, which
serves many fine ones, needs no wide surroundings of the finest voxels each time, and what comes out is
what the whole volume gives, up to rounding.
"""

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.greyvalues import GreyScale, known_to_torch, measure_grey_values
from volseg.machine import free_memory
from volseg.pixelwise.features import (
    inner_sigmas,
    interpolated_at,
    interpolated_in,
    kept_octaves,
    pool,
    radius_of,
    responses,
    smooth,
)

__all__ = ["Bricks", "Span"]

Span = tuple[slice, ...]

_EDGES = {2: (192, 96, 64), 3: (48, 24, 16)}  # voxels of a brick's grid along the finest axis, by octave
_MOST_BYTES = 2 * 2**30
_SHARE = 4  # of the free memory
_NEAREST = 0.6  # of what may be kept, for bricks around where a person looks
_MEASURED = 2**27  # voxels of a channel, of which all are looked at to normalise them
_PLACES, _PLACE = 6, 16  # of a larger one: places per axis, and voxels of each per axis


class Bricks:
    """Responses to an image ``(C, *spatial)``, which is only ever read in blocks.

    Args:
        image: whatever gives a block for a tuple of slices.
        spacing: voxel size per axis.
        most_bytes: that the kept bricks may take; by default a quarter of the free memory, 2 GB at most.
    """

    def __init__(
        self,
        image: Any,
        spacing: Sequence[float],
        *,
        most_bytes: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.image = image
        self.channels, *size = (int(n) for n in image.shape)
        self.size = tuple(size)
        self.device = torch.device(device)
        self.octaves = kept_octaves(self.channels, self.size, spacing)
        finest = min(spacing)
        self._grids = [[d * s / finest for d, s in zip(spacing, o.stride, strict=True)] for o in self.octaves]
        self._sizes = [self.size]
        for octave in self.octaves[1:]:
            pairs = zip(self._sizes[-1], octave.pooling, strict=True)
            self._sizes.append(tuple(-(-n // p) for n, p in pairs))
        self._edges = [self._edges_of(number) for number in range(len(self.octaves))]
        self._scales: list[GreyScale] | None = None
        self._tables: dict[int, Tensor] = {}
        free = free_memory(torch.device("cpu"))
        self.most_bytes = min(_MOST_BYTES, free // _SHARE) if most_bytes is None else most_bytes
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()

    @property
    def features(self) -> int:
        """Responses per voxel."""
        return sum(len(o.scales) for o in self.octaves) * self.channels * self._per_scale

    @property
    def bytes(self) -> int:
        """That the kept bricks take."""
        return self._bytes

    @property
    def filled(self) -> float:
        """The share of the volume's bricks of the finest grid that are kept."""
        there = sum(key[:2] == ("maps", 0) for key in list(self._kept))
        return there / math.prod(-(-n // e) for n, e in zip(self.size, self._edges[0], strict=True))

    @property
    def _per_scale(self) -> int:
        return 2 + 2 * len(self.size)

    def responses_in(self, block: Span) -> Tensor:
        """Of a block of voxels, ``(features, *block)``, float32; what is lacking is computed."""
        limits = [part.indices(n)[:2] for part, n in zip(block, self.size, strict=True)]
        found = []
        for number, octave in enumerate(self.octaves):
            first, last = self._reach(number, limits)
            maps = self._assembled("maps", number, first, last)
            found.append(interpolated_in(maps, octave.stride, limits, first, self._sizes[number]))
        return torch.cat(found)

    def responses_at(self, voxels: Tensor) -> Tensor:
        """Of voxels ``(n, dims)``, ``(n, features)``, float32; what is lacking is computed."""
        out = torch.empty(len(voxels), self.features)
        edges = torch.tensor(self._edges[0])
        bricks, which = torch.unique(voxels // edges, dim=0, return_inverse=True)
        for number in range(len(bricks)):
            rows = torch.nonzero(which == number)[:, 0]
            out[rows] = self._at(voxels[rows])
        return out

    def _at(self, voxels: Tensor) -> Tensor:
        """Of voxels that are close together."""
        low, high = voxels.min(0).values.tolist(), (voxels.max(0).values + 1).tolist()
        found = []
        for number, octave in enumerate(self.octaves):
            first, last = self._reach(number, list(zip(low, high, strict=True)))
            maps = self._assembled("maps", number, first, last)
            found.append(interpolated_at(maps, octave.stride, voxels, first, self._sizes[number]))
        return torch.cat(found).T

    def brick_of(self, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Indices of the bricks of the finest grid that voxels ``(n, dims)`` lie in."""
        return voxels // np.array(self._edges[0])

    def span_of(self, index: Sequence[int]) -> Span:
        """The voxels of a brick of the finest grid."""
        edges = zip(index, self._edges[0], self.size, strict=True)
        return tuple(slice(i * e, min((i + 1) * e, n)) for i, e, n in edges)

    def blocks(self, block: Span) -> Iterator[Span]:
        """The parts of a block of voxels that lie in one brick of the finest grid each."""
        limits = [part.indices(n)[:2] for part, n in zip(block, self.size, strict=True)]
        for index in self._indices(0, *zip(*limits, strict=True)):
            yield tuple(
                slice(max(low, i * e), min(high, (i + 1) * e))
                for (low, high), i, e in zip(limits, index, self._edges[0], strict=True)
            )

    def lacking(self, block: Span) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Octave and index of each brick that a block of voxels needs and that is not there."""
        limits = [part.indices(n)[:2] for part, n in zip(block, self.size, strict=True)]
        for number in range(len(self.octaves)):
            for index in self._indices(number, *self._reach(number, limits)):
                if ("maps", number, index) not in self._kept:
                    yield number, index

    def has(self, block: Span) -> bool:
        """Whether nothing of a block of voxels need be computed."""
        return next(self.lacking(block), None) is None

    def ready(self, block: Span) -> float:
        """The share of the bricks of the finest grid in a block of voxels that need not be computed."""
        parts = [self.has(part) for part in self.blocks(block)]
        return sum(parts) / len(parts) if parts else 1.0

    def build(self, block: Span, should_stop: Callable[[], bool] | None = None) -> bool:
        """Compute what a block of voxels lacks; whether it is all there."""
        for number, index in list(self.lacking(block)):
            if should_stop is not None and should_stop():
                return False
            self._brick("maps", number, index)
        return True

    def nearest(self, place: Sequence[float]) -> Iterator[Span]:
        """The bricks of the finest grid as blocks of voxels, those nearest to a voxel first, as many as can
        be kept at the same time."""
        counts = [-(-n // e) for n, e in zip(self.size, self._edges[0], strict=True)]
        most = max(1, int(_NEAREST * self.most_bytes / self._bytes_of_one()))
        at = [int(p) // e for p, e in zip(place, self._edges[0], strict=True)]
        spans = [np.arange(max(i - most, 0), min(i + most + 1, n)) for i, n in zip(at, counts, strict=True)]
        grid = np.stack([each.reshape(-1) for each in np.meshgrid(*spans, indexing="ij")])
        edges, here = (np.array(each)[:, None] for each in (self._edges[0], place))
        beyond = np.maximum(grid * edges - here, here - (grid + 1) * edges + 1)
        away = np.maximum(0, beyond) * np.array(self._grids[0])[:, None]
        for which in np.argsort((away**2).sum(0), kind="stable")[:most]:
            yield self.span_of([int(i) for i in grid[:, which]])

    def _bytes_of_one(self) -> int:
        """That a brick of the finest grid takes."""
        values = self.channels * len(self.octaves[0].scales) * self._per_scale * math.prod(self._edges[0])
        return int(1.2 * 2 * values)  # two bytes each, and bricks of the other grids

    def _edges_of(self, number: int) -> tuple[int, ...]:
        choices = _EDGES[len(self.size)]
        edge = choices[min(number, len(choices) - 1)]
        grid = self._grids[number]
        return tuple(max(4, round(edge * min(grid) / g)) for g in grid)

    def _reach(
        self, number: int, limits: Sequence[tuple[int, ...]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From where to where the grid of an octave is needed to interpolate it in a block of voxels."""
        first, last = [], []
        for (low, high), factor, n in zip(
            limits, self.octaves[number].stride, self._sizes[number], strict=True
        ):
            if factor == 1:
                first.append(low)
                last.append(high)
                continue
            first.append(math.floor(max(0.0, (low + 0.5) / factor - 0.5)))
            last.append(min(math.floor(max(0.0, (high - 0.5) / factor - 0.5)) + 2, n))
        return tuple(min(f, n - 1) for f, n in zip(first, self._sizes[number], strict=True)), tuple(last)

    def _indices(self, number: int, first: Sequence[int], last: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """The bricks of an octave that meet a block of its grid."""
        spans = zip(first, last, self._edges[number], strict=True)
        return itertools.product(*(range(low // e, -(-high // e)) for low, high, e in spans))

    def _assembled(self, kind: str, number: int, first: Sequence[int], last: Sequence[int]) -> Tensor:
        """A block of an octave's grid: its ``maps``, or the ``base`` that they are computed from."""
        if kind == "base" and number == 0:
            return self._read(first, last)
        parts = list(self._indices(number, first, last))
        edges = self._edges[number]
        if len(parts) == 1:
            brick = self._brick(kind, number, parts[0])
            return brick[self._within(parts[0], edges, first, last)]
        out: Tensor | None = None
        for index in parts:
            brick = self._brick(kind, number, index)
            if out is None:
                shape = [high - low for low, high in zip(first, last, strict=True)]
                out = torch.empty((len(brick), *shape), dtype=brick.dtype, device=brick.device)
            where = [slice(None)]
            for i, e, low, high in zip(index, edges, first, last, strict=True):
                where.append(slice(max(i * e, low) - low, min((i + 1) * e, high) - low))
            out[tuple(where)] = brick[self._within(index, edges, first, last)]
        assert out is not None  # a block meets at least one brick
        return out

    @staticmethod
    def _within(
        index: Sequence[int], edges: Sequence[int], first: Sequence[int], last: Sequence[int]
    ) -> Span:
        """Which part of a brick lies in a block."""
        return (
            slice(None),
            *(
                slice(max(low - i * e, 0), min(high - i * e, e))
                for i, e, low, high in zip(index, edges, first, last, strict=True)
            ),
        )

    def _brick(self, kind: str, number: int, index: tuple[int, ...]) -> Tensor:
        """A brick from those that are kept, or computed."""
        key = (kind, number, index)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        size = zip(index, self._edges[number], self._sizes[number], strict=True)
        first, last = zip(*((i * e, min((i + 1) * e, n)) for i, e, n in size), strict=True)
        brick = (self._maps if kind == "maps" else self._pooled)(number, first, last)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = brick
                self._bytes += brick.nbytes
                while self._bytes > self.most_bytes and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return brick

    def _read(self, first: Sequence[int], last: Sequence[int]) -> Tensor:
        """Normalised voxels of the image."""
        with self._lock:
            if self._scales is None:
                self._scales = [self._measured(channel) for channel in range(self.channels)]
        block = np.asarray(self.image[(slice(None), *map(slice, first, last))])
        if block.dtype.kind in "ui" and block.dtype.itemsize <= 2:  # each of few values is normalised once
            kind = np.dtype(f"u{block.dtype.itemsize}")
            index = torch.from_numpy(np.ascontiguousarray(block).view(kind).astype(np.int32))
            tables = [self._table(channel, block.dtype) for channel in range(self.channels)]
            channels = [table[values] for table, values in zip(tables, index, strict=True)]
        else:
            block = self._known(block)
            channels = [scale(torch.from_numpy(c)) for scale, c in zip(self._scales, block, strict=True)]
        return torch.stack(channels).to(self.device)

    def _table(self, channel: int, dtype: np.dtype[Any]) -> Tensor:
        """What each value of a channel is normalised to, by its bits as an unsigned number."""
        if channel not in self._tables:
            assert self._scales is not None  # the caller measured them
            bits = np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}")
            self._tables[channel] = self._scales[channel](torch.from_numpy(self._known(bits.view(dtype))))
        return self._tables[channel]

    def _block(self, channels: slice, spans: Span) -> npt.NDArray[Any]:
        return self._known(np.asarray(self.image[(channels, *spans)]))

    @staticmethod
    def _known(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        block = known_to_torch(block)
        return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))

    def _measured(self, channel: int) -> GreyScale:
        """How a channel is normalised: as :func:`volseg.greyvalues.normalised` does, or, where reading all of
        it would take too long, by places spread evenly over it."""
        one = slice(channel, channel + 1)
        if math.prod(self.size) <= _MEASURED:
            return measure_grey_values(lambda spans: self._block(one, spans)[0], self.size)
        starts = [
            sorted({round(k * (n - min(_PLACE, n)) / (_PLACES - 1)) for k in range(_PLACES)})
            for n in self.size
        ]
        shape = [min(_PLACE, n) for n in self.size]
        sample = np.concatenate(
            [
                self._block(one, tuple(slice(s, s + d) for s, d in zip(corner, shape, strict=True)))[0]
                for corner in itertools.product(*starts)
            ]
        )
        return measure_grey_values(lambda spans: sample[spans], sample.shape)

    def _maps(self, number: int, first: Sequence[int], last: Sequence[int]) -> Tensor:
        """Responses in a block of an octave's grid, ``(features, *block)``, float16."""
        octave, grid = self.octaves[number], self._grids[number]
        shape = [high - low for low, high in zip(first, last, strict=True)]
        found = torch.empty(
            (len(octave.scales), self.channels, self._per_scale, *shape),
            dtype=torch.float16,
            device=self.device,
        )
        for scale, smoothed, start in self._smoothed(number, first, last, with_maps=True):
            halo = self._halo(number, scale)
            low, high = self._widened(number, first, last, halo)
            where = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, low, strict=True))
            by_channel = found[octave.scales.index(scale)]
            for channel, out in zip(smoothed, by_channel, strict=True):
                for response, target in zip(responses(channel[where], scale, grid), out, strict=True):
                    target.copy_(response[inside])
        return found.flatten(0, 2)

    def _pooled(self, number: int, first: Sequence[int], last: Sequence[int]) -> Tensor:
        """What the octave before leaves for this one, ``(C, *block)``, float32."""
        pooling = self.octaves[number].pooling
        low = [f * p for f, p in zip(first, pooling, strict=True)]
        ends = zip(last, pooling, self._sizes[number - 1], strict=True)
        high = [min(b * p, n) for b, p, n in ends]
        *_, (_, smoothed, start) = self._smoothed(number - 1, low, high, with_maps=False)
        where = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
        return pool(smoothed[(slice(None), *where)], pooling)

    def _smoothed(
        self, number: int, first: Sequence[int], last: Sequence[int], *, with_maps: bool
    ) -> Iterator[tuple[float, Tensor, tuple[int, ...]]]:
        """Scale by scale: the smoothed voxels of a block of an octave's grid and around it, and where they
        begin."""
        octave, grid = self.octaves[number], self._grids[number]
        blur = max((s for o in self.octaves[:number] for s in o.scales), default=0.0)
        sigmas = []
        for scale in octave.scales:
            extra = math.sqrt(max(scale**2 - blur**2, 0.0))
            sigmas.append([extra / g for g in grid])
            blur = max(scale, blur)
        radii = [[radius_of(s, n) for s, n in zip(each, self._sizes[number], strict=True)] for each in sigmas]
        still = [[0] * len(grid)]  # what is needed around the block after each step, the last one first
        for scale, radius in zip(reversed(octave.scales), reversed(radii), strict=True):
            halo = self._halo(number, scale) if with_maps else [0] * len(grid)
            still[-1] = [max(a, b) for a, b in zip(still[-1], halo, strict=True)]
            still.append([a + b for a, b in zip(still[-1], radius, strict=True)])
        still.reverse()
        start, stop = self._widened(number, first, last, still[0])
        current = self._assembled("base", number, start, stop)
        for scale, sigma, around in zip(octave.scales, sigmas, still[1:], strict=True):
            current = smooth(current, sigma)
            low, high = self._widened(number, first, last, around)
            where = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
            current, start = current[(slice(None), *where)], low
            yield scale, current, start

    def _halo(self, number: int, scale: float) -> list[int]:
        """How far the responses at a scale look beyond a voxel: derivatives, and what is averaged of them."""
        inner = inner_sigmas(scale, self._grids[number])
        return [max(2, 1 + radius_of(s, n)) for s, n in zip(inner, self._sizes[number], strict=True)]

    def _widened(
        self, number: int, first: Sequence[int], last: Sequence[int], by: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        low = tuple(max(f - b, 0) for f, b in zip(first, by, strict=True))
        high = tuple(min(f + b, n) for f, b, n in zip(last, by, self._sizes[number], strict=True))
        return low, high
