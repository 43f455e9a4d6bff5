"""The same numbers for less: a few rows at a time, batch normalisation folded into convolutions.

A *row* is a slice of a map across its first spatial axis. A convolution over three rows needs to keep the
last two that it was given; pooling needs two at a time; a skip waits until the way up has come as far. So
rows can go in at one end while rows come out at the other, and no level ever holds a whole map: memory
grows with the area of a row, not with the number of rows.

Each level is a generator that draws rows from the level above it and feeds them to the one below.

A copy of a network in which batch normalisation has gone into the convolutions before it.

Once its statistics are fixed, batch normalisation multiplies each channel by one number and adds another;
so does a convolution, which can take both over. What is left are fewer passes over the maps.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from volseg.networks.layers import Block, convolve, crop
from volseg.networks.unet import Padding, UNet

__all__ = ["ROWS", "fold_batch_norm", "forward_rows", "rows_per_step"]

ROWS = 16  # rows of the finest level in one step: large enough for convolutions to run at full speed
_LEAST = 4  # rows of the coarser levels in one step


@torch.no_grad()
def forward_rows(network: UNet, rows: Iterable[Tensor], *, step: int = ROWS) -> Iterator[Tensor]:
    """Rows of logits, in order, from the rows of an input of legal size, ``(B, C, rows, *others)``.

    What has come out may be dropped at once; what goes in is taken when it is needed. The network must not
    take statistics across rows: no instance or group norm, no batch norm in training.

    Args:
        step: rows of the finest level that go through together; the pieces that come in may be of any size.
    """
    for part in _level(network, 0, rows, rows_per_step(network, step)):
        yield network.head(part)


def rows_per_step(network: UNet, step: int = ROWS) -> list[int]:
    """How many rows of each level go through together: fewer on coarser levels, whose rows hold more."""
    pools = [pooling[0] for pooling in network.pooling]
    return [max(step // prod(pools[:level]), min(step, _LEAST)) for level in range(len(pools) + 1)]


# A suspended generator keeps its local variables alive. Hence rows are passed on from lists, by ``pop``.


def _level(network: UNet, level: int, rows: Iterable[Tensor], steps: list[int]) -> Iterator[Tensor]:
    """The rows that a level hands up, from those that enter it on the way down."""
    depth = len(network.pools)
    block = network.bottom if level == depth else cast(Block, network.analysis[level])
    stages = _stages(block, network.padding)
    # The first rows are as many more as the convolutions take off, so that all that follow come out even.
    grouped = _grouped(rows, steps[level] + sum(s.reach - s.border for s in stages), steps[level])
    convolved = _convolved(stages, grouped)
    if level == depth:
        yield from convolved
        return
    pool, up = network.pools[level], network.ups[depth - 1 - level]
    pooling = network.pooling[level][0]
    skips = _Skips(network.margins[level])

    def descend() -> Iterator[Tensor]:
        for part in _in_multiples(convolved, pooling):
            skips.append(part)
            held = [pool(part)]
            del part
            yield held.pop()

    def ascend() -> Iterator[Tensor]:
        at_once = max(1, steps[level] // pooling)
        for part in _level(network, level + 1, descend(), steps):
            for some in part.split(at_once, dim=2):
                yield _joined(up(some), skips)

    yield from _convolved(
        _stages(cast(Block, network.synthesis[depth - 1 - level]), network.padding), ascend()
    )


def _joined(wide: Tensor, skips: "_Skips") -> Tensor:
    return torch.cat([wide, *_as_one(skips.take(wide.shape[2]))], dim=1)


def _convolved(stages: Sequence["_Stage"], rows: Iterable[Tensor]) -> Iterator[Tensor]:
    """The rows that come out of the convolutions of a level."""
    for part in rows:
        held = [part]
        del part
        for stage in stages:
            stage.advance(held)
        if held:
            yield held.pop()
    held = []
    for stage in stages:
        stage.advance(held, last=True)
    if held:
        yield held.pop()


def _stages(block: Block, padding: Padding) -> list["_Stage"]:
    stages: list[_Stage] = []
    for layer in block.layers:
        if isinstance(layer, nn.modules.conv._ConvNd):
            stages.append(_Stage(layer, padding))
        else:
            stages[-1].after.append(layer)
    return stages


class _Stage:
    """A convolution that remembers the rows it will need again, and what follows it."""

    def __init__(self, convolution: nn.modules.conv._ConvNd, padding: Padding) -> None:
        self.convolution = convolution
        self.reach = convolution.kernel_size[0] - 1
        self.border = self.reach // 2 if padding == "same" else 0
        self.after: list[nn.Module] = []
        self.kept: list[Tensor] = []
        self.begun = False

    def advance(self, held: list[Tensor], *, last: bool = False) -> None:
        """Replace the rows held by those that can be computed now; there may be none yet."""
        if held and not self.begun:
            self.begun = True
            if self.border:
                held.insert(0, _zeros(held[0], self.border))
        if last:
            if not self.border:
                return
            held.append(_zeros((held or self.kept)[0], self.border))
        held[:0] = self.kept
        self.kept.clear()
        if sum(part.shape[2] for part in held) <= self.reach:
            self.kept, held[:] = held[:], []
            return
        (rows,) = _as_one(held)
        held.clear()
        if self.reach and not last:
            self.kept = [rows.narrow(2, rows.shape[2] - self.reach, self.reach).clone()]
        convolution = self.convolution
        out = convolve(rows, convolution, (0, *cast(Sequence[int], convolution.padding)[1:]))
        del rows
        for layer in self.after:
            out = layer(out)
        held.append(out)


class _Skips:
    """Rows of a level, cropped, until the way up has come as far."""

    def __init__(self, margin: Sequence[int]) -> None:
        self.surplus, *self.margin = margin  # rows to drop at the start, and what to crop of each row
        self.parts: deque[Tensor] = deque()

    def append(self, rows: Tensor) -> None:
        dropped = min(self.surplus, rows.shape[2])
        self.surplus -= dropped
        rows = rows.narrow(2, dropped, rows.shape[2] - dropped)
        if rows.shape[2]:
            self.parts.append(crop(rows, [0, *self.margin]))

    def take(self, count: int) -> list[Tensor]:
        taken = []
        while count:
            rows = self.parts.popleft()
            some = min(count, rows.shape[2])
            if some < rows.shape[2]:
                self.parts.appendleft(rows.narrow(2, some, rows.shape[2] - some))
            taken.append(rows.narrow(2, 0, some))
            count -= some
        return taken


def _grouped(rows: Iterable[Tensor], first: int, size: int) -> Iterator[Tensor]:
    """The same rows, ``first`` and then always ``size`` at a time, and what is left at the end."""
    kept: list[Tensor] = []
    wanted = first
    for part in rows:
        kept.append(part)
        del part
        while sum(some.shape[2] for some in kept) >= wanted:
            held = _cut(kept, wanted)
            wanted = size
            yield held.pop()
    if kept:
        held = _as_one(kept)
        kept = []
        yield held.pop()


def _in_multiples(rows: Iterable[Tensor], multiple: int) -> Iterator[Tensor]:
    """The same rows, at once, but for a few that wait until they are a ``multiple``."""
    kept: list[Tensor] = []
    for part in rows:
        kept.append(part)
        del part
        count = sum(some.shape[2] for some in kept)
        if count >= multiple:
            held = _cut(kept, count - count % multiple)
            yield held.pop()


def _cut(kept: list[Tensor], count: int) -> list[Tensor]:
    """Take the first ``count`` rows away; the rest is copied, so that no one holds on to those."""
    (rows,) = _as_one(kept)
    rest = rows.shape[2] - count
    kept[:] = [rows.narrow(2, count, rest).clone()] if rest else []
    return [rows.narrow(2, 0, count)]


def _as_one(parts: list[Tensor]) -> list[Tensor]:
    return [torch.cat(parts, dim=2)] if len(parts) > 1 else parts


def _zeros(like: Tensor, rows: int) -> Tensor:
    return like.new_zeros((*like.shape[:2], rows, *like.shape[3:]))


@torch.no_grad()
def fold_batch_norm(network: UNet) -> UNet:
    """A copy for inference without batch normalisation, which computes the same up to rounding.

    Other normalisation stays as it is. The copy is in evaluation mode and needs no gradient.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for block in [*folded.analysis, folded.bottom, *folded.synthesis]:
        layers = cast(Block, block).layers
        for place, layer in enumerate(layers):
            if isinstance(layer, _BatchNorm):
                _fold(cast(_ConvNd, layers[place - 1]), layer)
                layers[place] = nn.Identity()
            elif isinstance(layer, _ConvNd):
                layers[place] = _quick(layer)
    folded.head = _quick(folded.head)
    return folded


def _quick(convolution: _ConvNd) -> _ConvNd:
    """The same convolution, quicker without gradient."""
    kind = _QuickConv2d if convolution.weight.ndim == 4 else _QuickConv3d
    inputs, outputs, size = convolution.in_channels, convolution.out_channels, convolution.kernel_size
    quick = kind(inputs, outputs, size, padding=convolution.padding, device="meta")  # type: ignore[arg-type]
    quick.weight, quick.bias = convolution.weight, convolution.bias
    return quick.train(convolution.training)


class _QuickConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self, cast(Sequence[int], self.padding))


class _QuickConv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self, cast(Sequence[int], self.padding))


def _fold(convolution: _ConvNd, norm: _BatchNorm) -> None:
    """Let the convolution do what the normalisation after it would do."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = -norm.running_mean.double() * factor
    if norm.bias is not None:
        offset = offset + norm.bias.double()
    weight = convolution.weight
    if convolution.bias is not None:
        offset = offset + convolution.bias.double() * factor
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.ndim - 1))
    convolution.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)
