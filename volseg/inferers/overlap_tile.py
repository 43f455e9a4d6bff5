"""Whole images and volumes through a network, tile by tile, so that nobody can tell.

Overlap-tile (Ronneberger et al. 2015, Fig. 2): tiles of output stand side by side, each is
computed from a larger block of input, and the image is mirrored where a block reaches beyond it.
Tiles start on multiples of the network's stride, so every voxel comes out as if the whole volume
had gone through at once.

A ``tile`` is the step between the origins of two blocks of output, in voxels.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple, get_args

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DataParallel, DistributedDataParallel
from tqdm import tqdm

from volseg.errors import InputError, ResourceError
from volseg.geometry import Tile, choose_tile, mirror_indices, per_axis, plan_tiles
from volseg.inferers.memory import foretell_memory, free_memory

__all__ = ["OverlapTileInferer"]

_log = logging.getLogger(__name__)

BatchNorm = Literal["running", "tile", "volume"]

# Blocks for the statistics of a volume: about as large as the input tile of Çiçek et al. 2016.
_STATISTICS_VOXELS = 2**21
_STATISTICS_TILES_PER_AXIS = 2
# No tensor inside the network may reach the size that 32-bit indices cannot count.
_MOST_ELEMENTS = 2**31 - 1
_SHARE_OF_FREE_MEMORY = 0.5


class OverlapTileInferer(Inferer):
    """Logits for every voxel of an input of any size, as ``inferer(x, network)``.

    Serves unpadded networks, and padded ones as well: these get a border as wide as they look,
    so the zeros they pad with never reach the output. The result does not depend on the tiles,
    unless normalisation does: instance and group norm, and ``batch_norm="tile"``, take
    statistics from the tile.

    Args:
        tile: a multiple of the network's stride, one number or one per axis; ``None`` takes
            the tiles that need the least work within ``max_memory``, the whole volume if it fits.
        max_memory: bytes the network may use for one tile; ``None`` for half of what is free.
        batch_norm: whose statistics batch normalisation uses. ``"running"``: those of the
            training. ``"tile"``: those of the tile at hand (Çiçek et al. 2016, Sec. 3).
            ``"volume"``: those of the volume at hand, gathered over a few blocks spread over it,
            the same ones whatever the tile, then frozen.
        amp: compute in 16 bits where the network can.
        progress: show a bar.

    Shape:
        - x: ``(B, C, *spatial)``, any spatial size from 1 voxel on, any real dtype. Each item of
          the batch goes through by itself.
        - output: ``(B, classes, *spatial)``, float32, where ``x`` is; the network may be elsewhere.
    """

    def __init__(
        self,
        tile: int | Sequence[int] | None = None,
        max_memory: int | None = None,
        *,
        batch_norm: BatchNorm = "running",
        amp: bool = False,
        progress: bool = False,
    ) -> None:
        if batch_norm not in get_args(BatchNorm):
            raise ValueError(f'batch_norm = {batch_norm!r} is unknown. Use "running", "tile" or "volume".')
        if tile is not None:
            per_axis(tile, len(tile) if isinstance(tile, Sequence) else 1, "tile")
        if max_memory is not None and max_memory <= 0:
            raise ValueError(f"max_memory = {max_memory} bytes must be positive.")
        self.tile = tile
        self.max_memory = max_memory
        self.batch_norm = batch_norm
        self.amp = amp
        self.progress = progress

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """``args`` and ``kwargs`` go to the network with every block."""
        demand = _demand(network)
        x = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if x.ndim != len(demand.halo) + 2 or 0 in x.shape:
            raise ValueError(
                f"The input has the shape {tuple(x.shape)}, but (batch, channels, *spatial) with "
                f"{len(demand.halo)} spatial axes and at least one voxel is needed."
            )
        run = _Run(network, demand, x.device, self.amp, args, kwargs)
        size = tuple(x.shape[2:])
        with _as_for_inference(network, self.batch_norm):
            tile = self._tile(x, run)
            tiles = plan_tiles(size, tile, demand.halo, demand.stride, demand.remainder)
            _log.debug("%s voxels in %d tiles of %s", size, len(tiles), tile)
            output: Tensor | None = None
            with _bar(len(tiles) * len(x), self.progress) as bar:
                for item in range(len(x)):
                    if self.batch_norm == "volume":
                        _freeze_volume_statistics(x[item], run)
                    for part in tiles:
                        logits = run.logits(x[item], part)
                        if output is None:
                            output = x.new_empty((len(x), len(logits), *size), dtype=torch.float32)
                        output[item][:, *part.write] = logits.to(output.device)
                        bar.update()
        assert output is not None
        return MetaTensor(output).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else output

    def _tile(self, x: Tensor, run: "_Run") -> tuple[int, ...]:
        """The tile that was asked for, or the one that needs the least work within the memory."""
        demand = run.demand
        if self.tile is not None:
            return per_axis(self.tile, len(demand.halo), "tile")
        memory = self.max_memory
        if memory is None:
            memory = int(free_memory(run.device) * _SHARE_OF_FREE_MEMORY)
        size = tuple(x.shape[2:])
        roomy = tuple(n + -n % step for n, step in zip(size, demand.stride, strict=True))
        whole = _read_size(size, roomy, demand)
        plain = _unwrapped(run.network)
        need = foretell_memory(plain, (1, x.shape[1], *whole), run.dtype, run.args, run.kwargs)
        bytes_per_voxel = need.bytes / prod(whole)
        voxels = min(memory, need.bytes * _MOST_ELEMENTS / need.largest) / bytes_per_voxel
        tile = choose_tile(size, demand.halo, demand.stride, int(voxels), demand.remainder)
        if tile is None:
            least = prod(_read_size(size, demand.stride, demand)) * bytes_per_voxel
            raise ResourceError(
                f"The smallest possible tile needs about {least / 2**20:,.1f} MiB, but only "
                f"{memory / 2**20:,.1f} MiB may be used. Allow more (max_memory), free memory, "
                "or use a narrower network."
            )
        return tile


class _Demand(NamedTuple):
    """What tiles have to respect: border to read, multiples, and what outputs are modulo these."""

    context: tuple[int, ...]
    halo: tuple[int, ...]
    stride: tuple[int, ...]
    remainder: tuple[int, ...]


class _Run:
    """One network at work on one input."""

    def __init__(
        self,
        network: nn.Module,
        demand: _Demand,
        device: torch.device,
        amp: bool,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> None:
        self.network = network
        self.demand = demand
        self.args = args
        self.kwargs = kwargs
        parameter = next(network.parameters(), None)
        self.device = device if parameter is None else parameter.device
        self.dtype = torch.float32 if parameter is None else parameter.dtype
        self.amp = amp

    def forward(self, block: Tensor) -> Tensor:
        if not self.amp:  # somebody around this call may have switched it on
            return self.network(block, *self.args, **self.kwargs)
        kind = block.device.type
        half = torch.float16 if kind == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
        with torch.autocast(kind, dtype=half):
            return self.network(block, *self.args, **self.kwargs)

    def block(self, volume: Tensor, tile: Tile) -> Tensor:
        """The input of a tile, mirrored where it reaches beyond the volume, on the network's device."""
        block = volume
        mirrored = []
        for axis, (read, size) in enumerate(zip(tile.read, volume.shape[1:], strict=True), start=1):
            if read.start >= 0 and read.stop <= size:
                block = block.narrow(axis, read.start, read.stop - read.start)
                continue
            indices = mirror_indices(read.start, read.stop, size)
            first, last = int(indices.min()), int(indices.max())
            block = block.narrow(axis, first, last - first + 1)
            mirrored.append((axis, torch.from_numpy(indices - first)))
        block = block.to(self.device, self.dtype)
        for axis, positions in mirrored:
            block = block.index_select(axis, positions.to(block.device))
        return block.unsqueeze(0)

    def logits(self, volume: Tensor, tile: Tile) -> Tensor:
        """The logits of a tile, ``(classes, *written)``, on the network's device."""
        block = self.block(volume, tile)
        result = self.forward(block)
        expected = [n - 2 * border for n, border in zip(block.shape[2:], self.demand.context, strict=True)]
        if not isinstance(result, Tensor) or list(result.shape[2:]) != expected or len(result) != 1:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(
                f"The network returned {found} for a block of {tuple(block.shape)}, but its context "
                f"{self.demand.context} promises (1, classes, {', '.join(map(str, expected))})."
            )
        logits = result[0]
        for axis, (written, halo, border) in enumerate(
            zip(tile.write, self.demand.halo, self.demand.context, strict=True), start=1
        ):
            logits = logits.narrow(axis, halo - border, written.stop - written.start)
        logits = logits.float()
        if not torch.isfinite(logits).all():
            raise _not_finite(block, logits, tile, self.amp)
        return logits


def _demand(network: nn.Module) -> _Demand:
    """What the network says about its sizes, by the attributes of :class:`volseg.UNet`."""
    described: Any = _unwrapped(network)
    missing = [name for name in ("context", "stride", "input_size") if not hasattr(described, name)]
    if not missing and not hasattr(described, "receptive_radius") and not any(described.context):
        missing = ["receptive_radius"]
    if missing:
        raise ValueError(
            f"{type(described).__name__} does not tell {' and '.join(missing)}, so tiles cannot be planned "
            "for it. Use volseg.UNet, or monai.inferers.SlidingWindowInferer for a network that returns the "
            "size it is given."
        )
    context, stride = tuple(described.context), tuple(described.stride)
    radius = tuple(getattr(described, "receptive_radius", context))
    halo = tuple(c + -(-(r - c) // s) * s for c, r, s in zip(context, radius, stride, strict=True))
    return _Demand(context, halo, stride, _remainder(described, stride))


def _unwrapped(network: nn.Module) -> nn.Module:
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


def _read_size(size: tuple[int, ...], tile: tuple[int, ...], demand: _Demand) -> tuple[int, ...]:
    """What the first tile, which is the largest, reads."""
    first = plan_tiles(size, tile, demand.halo, demand.stride, demand.remainder)[0]
    return tuple(block.stop - block.start for block in first.read)


@contextmanager
def _as_for_inference(network: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
    """Evaluation mode, with batch normalisation as asked; on leaving, everything is as it was."""
    modes = [(part, part.training) for part in network.modules()]
    norms = _batch_norms(network)
    tracking = [norm.track_running_stats for norm in norms]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        network.eval()
        if batch_norm == "tile":
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
        yield
    finally:
        for part, training in modes:
            part.training = training
        for norm, tracked in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracked
        for buffer, before in buffers:
            buffer.copy_(before)


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [part for part in network.modules() if isinstance(part, _BatchNorm)]


def _freeze_volume_statistics(volume: Tensor, run: _Run) -> None:
    """Make the running statistics those of one volume: total variance, between blocks and within."""
    norms = [norm for norm in _batch_norms(run.network) if norm.running_mean is not None]
    sums: dict[_BatchNorm, Tensor] = {}

    def note(norm: _BatchNorm, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        values = inputs[0].detach().transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(values.float(), dim=1, correction=0)
        mean, variance = mean.double(), variance.double()
        count = torch.full_like(mean, values.shape[1])
        moments = torch.stack([count, count * mean, count * (variance + mean**2)])
        sums[norm] = sums[norm] + moments if norm in sums else moments

    handles = [norm.register_forward_hook(note) for norm in norms]
    try:
        for norm in norms:
            norm.training, norm.track_running_stats = True, False
        for tile in _statistics_tiles(tuple(volume.shape[1:]), run.demand):
            run.forward(run.block(volume, tile))
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.training, norm.track_running_stats = False, True
    for norm in sums:
        count, first, second = sums[norm]
        mean = first / count
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_((second / count - mean**2).clamp(min=0))  # type: ignore[union-attr]


def _statistics_tiles(size: tuple[int, ...], demand: _Demand) -> list[Tile]:
    """At most two blocks along each axis, at a quarter and three quarters; they depend on the size alone."""
    tile = choose_tile(size, demand.halo, demand.stride, _STATISTICS_VOXELS, demand.remainder)
    tiles = plan_tiles(size, tile or demand.stride, demand.halo, demand.stride, demand.remainder)
    kept = []
    for axis in range(len(size)):
        origins = sorted({part.write[axis].start for part in tiles})
        count = min(len(origins), _STATISTICS_TILES_PER_AXIS)
        kept.append({origins[int((i + 0.5) * len(origins) / count)] for i in range(count)})
    return [t for t in tiles if all(w.start in on for w, on in zip(t.write, kept, strict=True))]


def _not_finite(block: Tensor, logits: Tensor, tile: Tile, amp: bool) -> InputError:
    wrong = int((~torch.isfinite(logits)).sum())
    bad = int((~torch.isfinite(block)).sum())
    where = " x ".join(f"{part.start}:{part.stop}" for part in tile.write)
    if bad:
        cause = f"The input it read holds {bad} NaN or infinite values: replace them first."
    elif amp:
        cause = "The input is finite: try amp=False, or look for NaN in the weights."
    else:
        cause = (
            "The input is finite: look for NaN in the weights, or for values far outside the training data."
        )
    return InputError(f"{wrong} of {logits.numel()} logits at voxels {where} are NaN or infinite. {cause}")


def _bar(total: int, shown: bool) -> Any:
    return tqdm(total=total, unit="tile", disable=not shown)
