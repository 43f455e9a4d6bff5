"""One network at work on the tiles of one input: reading a block, computing, cropping, checking.

Two ways lead to the same numbers. The network as it is given takes a whole block. Of a :class:`volseg.UNet`
a copy is made that computes faster, without batch normalisation and with channels last; it can take the
block a few rows at a time, which needs a fraction of the memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from volseg.errors import InputError
from volseg.geometry import Tile, mirror_indices
from volseg.inferers.demand import Demand, demand_of, unwrapped
from volseg.networks import UNet
from volseg.networks.folding import fold_batch_norm
from volseg.networks.measuring import first_output
from volseg.networks.rows import ROWS, forward_rows

__all__ = ["Source", "Work"]

_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Source(Protocol):
    """What tiles are read from, ``(C, *spatial)``: a tensor, or something that reads when it is asked."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: tuple[slice, ...], /) -> Tensor: ...


class Work:
    """A network, what goes to it with every block, and the copy of it that is quicker.

    With ``by_rows`` set, the copy takes blocks a few rows at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        amp: bool = False,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.network = network
        self.demand: Demand = demand_of(network)
        self.args = args
        self.kwargs = dict(kwargs or {})
        parameter = next(network.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.dtype = torch.float32 if parameter is None else parameter.dtype
        self.amp = amp
        self.by_rows = False
        self.quick: UNet | None = None

    @property
    def half(self) -> torch.dtype:
        """The 16-bit type that the device knows."""
        lacks = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        return torch.float16 if lacks else torch.bfloat16

    def prepare(self) -> None:
        """Make the quick copy, with the statistics that the network has at this moment, if there can be one.

        There cannot where norms look at the tile, for a network that somebody compiled, or where hooks wait
        to be called.
        """
        network = unwrapped(self.network)
        self.quick = None
        if type(network) is not UNet or hasattr(self.network, "_orig_mod") or self.args or self.kwargs:
            return
        for part in network.modules():
            if part._forward_hooks or part._forward_pre_hooks:
                return
            looks = part.training or part.running_mean is None if isinstance(part, _BatchNorm) else False
            if looks or isinstance(part, nn.GroupNorm | nn.modules.instancenorm._InstanceNorm):
                return
        self.quick = fold_batch_norm(network)
        if self.amp:
            self.quick.to(self.half)
        if self.dtype != torch.float64:
            self.quick.to(memory_format=self.layout)  # type: ignore[call-overload]

    @property
    def layout(self) -> torch.memory_format:
        return _CHANNELS_LAST.get(len(self.demand.stride), torch.contiguous_format)

    def forward(self, block: Tensor) -> Tensor:
        """The network as it is on one block, in 16 bits if asked for."""
        dims = len(self.demand.stride)
        if not self.amp:  # somebody around this call may have switched it on
            return first_output(self.network(block, *self.args, **self.kwargs), dims)
        with torch.autocast(block.device.type, dtype=self.half):
            return first_output(self.network(block, *self.args, **self.kwargs), dims)

    def block(self, volume: Source, read: Sequence[slice]) -> Tensor:
        """A block of input, mirrored where it reaches beyond the volume, on the network's device."""
        inside = []
        mirrored = []
        for axis, (part, size) in enumerate(zip(read, volume.shape[1:], strict=True), start=1):
            if part.start >= 0 and part.stop <= size:
                inside.append(part)
                continue
            indices = mirror_indices(part.start, part.stop, size)
            first, last = int(indices.min()), int(indices.max())
            inside.append(slice(first, last + 1))
            mirrored.append((axis, torch.from_numpy(indices - first)))
        block = volume[(slice(None), *inside)].to(self.device, self.dtype)
        for axis, positions in mirrored:
            block = block.index_select(axis, positions.to(block.device))
        return block.unsqueeze(0)

    def pieces(self, volume: Source, tile: Tile) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """The logits ``(classes, *written)`` of a tile, piece by piece, and where they belong."""
        start = tile.write[0].start - self.demand.halo[0] + self.demand.context[0]
        for result in self._results(volume, tile):
            first, last = start, start + result.shape[2]
            start = last
            rows = slice(max(first, tile.write[0].start), min(last, tile.write[0].stop))
            if rows.start >= rows.stop:
                continue
            logits = result[0].narrow(1, rows.start - first, rows.stop - rows.start)
            others = zip(tile.write[1:], self.demand.halo[1:], self.demand.context[1:], strict=True)
            for axis, (written, halo, border) in enumerate(others, start=2):
                logits = logits.narrow(axis, halo - border, written.stop - written.start)
            logits = logits.float()
            if not torch.isfinite(logits).all():
                raise self._not_finite(volume, tile, logits)
            yield (rows, *tile.write[1:]), logits

    def _results(self, volume: Source, tile: Tile) -> Iterator[Tensor]:
        """What the network returns for a tile, ``(1, classes, rows, *others)``: all or some rows."""
        if self.quick is None:
            block = self.block(volume, tile.read)
            result = self.forward(block)
            context = self.demand.context
            expected = [n - 2 * border for n, border in zip(block.shape[2:], context, strict=True)]
            if list(result.shape[2:]) != expected or len(result) != 1:
                raise ValueError(
                    f"The network returned {tuple(result.shape)} for a block of {tuple(block.shape)}, but "
                    f"its context {context} promises (1, classes, {', '.join(map(str, expected))})."
                )
            yield result
        elif self.by_rows:
            yield from forward_rows(self.quick, self._rows(volume, tile))
        else:
            yield self.quick(self._for_quick(self.block(volume, tile.read)))

    def _rows(self, volume: Source, tile: Tile) -> Iterator[Tensor]:
        along, *others = tile.read
        for start in range(along.start, along.stop, ROWS):
            rows = slice(start, min(start + ROWS, along.stop))
            yield self._for_quick(self.block(volume, (rows, *others)))

    def _for_quick(self, block: Tensor) -> Tensor:
        assert self.quick is not None
        weight = self.quick.head.weight
        layout = torch.contiguous_format if weight.dtype == torch.float64 else self.layout
        return block.to(weight.dtype).contiguous(memory_format=layout)

    def _not_finite(self, volume: Source, tile: Tile, logits: Tensor) -> InputError:
        wrong = int((~torch.isfinite(logits)).sum())
        bad = int((~torch.isfinite(self.block(volume, tile.read))).sum())
        given = [slice(max(part.start, 0), part.stop) for part in tile.read]
        where = " x ".join(f"{part.start}:{part.stop}" for part in tile.write)
        if bad and torch.isfinite(volume[(slice(None), *given)]).all():
            kind = str(self.dtype).removeprefix("torch.")
            cause = f"The input holds {bad} values there that are too large for {kind}: normalise it first."
        elif bad:
            cause = f"The input it read holds {bad} NaN or infinite values: replace them first."
        elif self.amp:
            cause = "The input is finite: try amp=False, or look for NaN in the weights."
        else:
            cause = (
                "The input is finite: look for NaN in the weights, or for values far outside the training "
                "data."
            )
        return InputError(f"{wrong} logits in the tile of voxels {where} are NaN or infinite. {cause}")
