"""A network applied to blocks: what it requires of their sizes, and the work on them.

Two ways lead to the same numbers. The network as it is given takes a whole block. Of a :class:`volseg.UNet`
a copy is made that computes faster, without batch normalisation and with channels last; it can take the
block a few rows at a time, which needs a fraction of the memory.
"""

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel

from volseg.errors import InputError
from volseg.geometry import Tile, mirror_indices
from volseg.networks import UNet
from volseg.networks.measuring import first_output, looks_how_far, sizes_of
from volseg.networks.rows import ROWS, fold_batch_norm, forward_rows

__all__ = [
    "BlockRunner",
    "Requirements",
    "Source",
    "requirements_of",
    "says_its_sizes",
    "unwrapped",
    "window_of",
]

_log = logging.getLogger(__name__)

_MOST_BORDER = 8  # times the image, with the borders that tiles of a network of others read
_SAID: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()  # networks whose sizes were logged


class Requirements(NamedTuple):
    """What tiles have to respect: border to read, multiples, and what outputs are modulo these."""

    context: tuple[int, ...]
    halo: tuple[int, ...]
    stride: tuple[int, ...]
    remainder: tuple[int, ...]


def requirements_of(network: nn.Module) -> Requirements:
    """What the network says of its sizes, by the attributes of :class:`volseg.UNet`, or what is measured."""
    described: Any = unwrapped(network)
    if not says_its_sizes(described):
        required = _measured(described)
        _say(described, required)
        return required
    missing = [name for name in ("context", "stride", "input_size") if not hasattr(described, name)]
    if not missing and not hasattr(described, "receptive_radius") and not any(described.context):
        missing = ["receptive_radius"]
    if missing:
        raise ValueError(
            f"{type(described).__name__} does not say {' and '.join(missing)}, so tiles cannot be planned "
            "for it. Use volseg.UNet, or monai.inferers.SlidingWindowInferer for a network that returns the "
            "size it is given."
        )
    context, stride = tuple(described.context), tuple(described.stride)
    radius = tuple(getattr(described, "receptive_radius", context))
    halo = tuple(c + -(-(r - c) // s) * s for c, r, s in zip(context, radius, stride, strict=True))
    return Requirements(context, halo, stride, _remainder(described, stride))


def says_its_sizes(network: nn.Module) -> bool:
    """Whether a network has any of the attributes of :class:`volseg.UNet`."""
    return any(hasattr(unwrapped(network), name) for name in ("context", "input_size", "receptive_radius"))


def window_of(network: nn.Module, size: Sequence[int]) -> tuple[int, ...] | None:
    """The window for MONAI's sliding window over an image of ``size``, where seamless tiles cannot be.

    That is so for a network of others of which a voxel depends on the whole input, or on so much of it that
    the borders of tiles would be several times the image. ``None`` for all others.
    """
    described = unwrapped(network)
    if says_its_sizes(described):
        return None
    sizes, radius = sizes_of(described), looks_how_far(described)
    if len(size) != len(sizes.size):
        return None if radius is not None else sizes.size
    if radius is not None:
        halo = _measured(described).halo
        if prod(n + 2 * h for n, h in zip(size, halo, strict=True)) <= _MOST_BORDER * prod(size):
            return None
    if described not in _SAID:
        _SAID.add(described)
        far = "its whole input" if radius is None else f"{radius} voxels around it"
        _log.info(
            "Each voxel that %s returns depends on %s, too much for seamless tiles: MONAI's sliding window "
            "of %s voxels, half overlapping, is taken. Set the inferer's tile to the patch size for windows "
            "as in training.",
            *(type(described).__name__, far, " x ".join(map(str, sizes.size))),
        )
    return sizes.size


def _measured(network: nn.Module) -> Requirements:
    sizes, radius = sizes_of(network), looks_how_far(network)
    if radius is None:
        raise ValueError(
            f"Each voxel that {type(network).__name__} returns depends on its whole input, so tiles cannot "
            "be planned for it. Take monai.inferers.SlidingWindowInferer."
        )
    context, stride = sizes.context, sizes.stride
    halo = tuple(c + -(-(r - c) // s) * s for c, r, s in zip(context, radius, stride, strict=True))
    remainder = tuple((n - 2 * c) % s for n, c, s in zip(sizes.size, context, stride, strict=True))
    return Requirements(context, halo, stride, remainder)


def _say(network: nn.Module, required: Requirements) -> None:
    if network in _SAID:
        return
    _SAID.add(network)
    _log.info(
        "%s does not say its sizes; measured: context %s, stride %s; tiles overlap by the %s voxels that it "
        "looks beyond them.%s",
        *(type(network).__name__, required.context, required.stride, required.halo, _of_norms(network)),
    )


def _of_norms(network: nn.Module) -> str:
    """What to say of norms that look at the tile."""
    kinds = _InstanceNorm | nn.GroupNorm
    names = {type(part).__name__ for part in network.modules() if isinstance(part, kinds)}
    if not names:
        return ""
    return (
        f" Its {' and '.join(sorted(names))} takes statistics from the tile at hand: with the inferer's tile "
        "set to about the patch size these are as in training."
    )


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside what ``torch.compile`` or parallel training put around it."""
    while isinstance(network, DataParallel | DistributedDataParallel) or hasattr(network, "_orig_mod"):
        network = network.module if hasattr(network, "module") else network._orig_mod  # type: ignore[assignment]
    return network


def _remainder(network: Any, stride: tuple[int, ...]) -> tuple[int, ...]:
    """What the network's output sizes are modulo the stride, found by asking for some."""
    isotropic = ((n,) * len(stride) for n in range(1, max(stride) + 1))
    anything = product(*(range(1, step + 1) for step in stride))
    for candidates in (isotropic, anything):
        for size in candidates:
            try:
                network.input_size(size)
            except ValueError:
                continue
            return tuple(n % step for n, step in zip(size, stride, strict=True))
    raise ValueError(
        f"{type(network).__name__}.input_size accepts no output size up to the stride {stride}, "
        "so tiles cannot be planned."
    )


_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class Source(Protocol):
    """What tiles are read from, ``(C, *spatial)``: a tensor, or something that reads when it is asked."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, index: tuple[slice, ...], /) -> Tensor: ...


class BlockRunner:
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
        self.required: Requirements = requirements_of(network)
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

        There cannot where norms look at the tile, for a compiled network, or where hooks wait
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
        return _CHANNELS_LAST.get(len(self.required.stride), torch.contiguous_format)

    def forward(self, block: Tensor) -> Tensor:
        """The network as it is on one block, in 16 bits if asked for."""
        dims = len(self.required.stride)
        if not self.amp:  # code around this call may have switched it on
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
        start = tile.write[0].start - self.required.halo[0] + self.required.context[0]
        for result in self._results(volume, tile):
            first, last = start, start + result.shape[2]
            start = last
            rows = slice(max(first, tile.write[0].start), min(last, tile.write[0].stop))
            if rows.start >= rows.stop:
                continue
            logits = result[0].narrow(1, rows.start - first, rows.stop - rows.start)
            others = zip(tile.write[1:], self.required.halo[1:], self.required.context[1:], strict=True)
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
            context = self.required.context
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
