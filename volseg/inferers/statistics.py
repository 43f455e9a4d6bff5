"""Whose statistics batch normalisation uses while a network is applied.

``"running"``: those of the training. ``"tile"``: those of the tile at hand (Çiçek et al. 2016, Sec. 3).
``"volume"``: those of the volume at hand, gathered over a few blocks spread over it, then frozen.
``"mix"``: a share of these and the rest of the training's. Those of a volume go wrong where its content is
other than that of the training images, those of the training where its grey values are.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from volseg.geometry import Tile, choose_tile, plan_tiles
from volseg.inferers.blocks import BlockRunner, Requirements, Source, unwrapped
from volseg.inferers.planning import estimate_memory

__all__ = [
    "BatchNorm",
    "Statistics",
    "as_for_inference",
    "clean_statistics",
    "freeze_volume_statistics",
    "load_statistics",
    "needs_image",
    "statistics_of",
]

BatchNorm = Literal["running", "tile", "volume", "mix"]

Statistics = list[tuple[list[float], list[float]]]  # of every batch norm, mean and variance per channel

_log = logging.getLogger(__name__)

# Blocks for the statistics of a volume: about as large as the input tile of Çiçek et al. 2016.
_STATISTICS_VOXELS = 2**21
_STATISTICS_TILES_PER_AXIS = 2


def needs_image(batch_norm: BatchNorm) -> bool:
    """Whether it takes statistics from the whole image at hand, before the first tile."""
    return batch_norm in ("volume", "mix")


@contextmanager
def as_for_inference(network: nn.Module, batch_norm: BatchNorm) -> Iterator[None]:
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


def freeze_volume_statistics(
    volume: Source, runner: BlockRunner, memory: int | None = None, *, share: float = 1.0
) -> None:
    """Make the running statistics those of one volume: total variance, between blocks and within.

    Args:
        share: of the volume in means and variances; the rest is what they were.
        memory: bytes that a block may take. The blocks depend on the volume's size alone unless this is
            too little for them; then they are smaller, and that is said.
    """
    tiles = _fitting_tiles(volume, runner, memory)
    found = _gathered(runner.network, (runner.block(volume, tile.read) for tile in tiles), runner.forward)
    for norm, (mean, variance) in found.items():
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)  # type: ignore[union-attr]
        norm.running_var.lerp_(variance.to(norm.running_var), share)  # type: ignore[union-attr]


def clean_statistics(network: nn.Module, blocks: Iterable[Tensor]) -> Statistics:
    """Those of images as they are, for a network that learnt from deformed ones, which are smoother.

    Running statistics are those of what a network was trained on. Deformed patches are interpolated, and the
    images that are segmented later are not.

    Args:
        blocks: batches of undeformed input, on the network's device.
    """
    with torch.no_grad(), as_for_inference(network, "running"):
        for norm, (mean, variance) in _gathered(network, blocks, network).items():
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
        return statistics_of(network)


def _gathered(
    network: nn.Module, blocks: Iterable[Tensor], forward: Callable[[Tensor], object]
) -> dict[_BatchNorm, tuple[Tensor, Tensor]]:
    """Mean and total variance per channel of what reaches each batch norm, over all blocks; float64."""
    norms = [norm for norm in _batch_norms(network) if norm.running_mean is not None]
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
        for block in blocks:
            forward(block)
    finally:
        for handle in handles:
            handle.remove()
        for norm in norms:
            norm.training, norm.track_running_stats = False, True
    found = {}
    for norm, (count, first, second) in sums.items():
        mean = first / count
        found[norm] = mean, (second / count - mean**2).clamp(min=0)
    return found


def statistics_of(network: nn.Module) -> Statistics:
    """The running statistics as numbers, to be kept or sent."""
    norms = [norm for norm in _batch_norms(network) if norm.running_mean is not None]
    return [(norm.running_mean.tolist(), norm.running_var.tolist()) for norm in norms]  # type: ignore[union-attr]


@torch.no_grad()
def load_statistics(network: nn.Module, statistics: Statistics) -> None:
    """Make the running statistics these."""
    norms = [norm for norm in _batch_norms(network) if norm.running_mean is not None]
    for norm, numbers in zip(norms, statistics, strict=True):
        for buffer, values in zip((norm.running_mean, norm.running_var), numbers, strict=True):
            buffer.copy_(torch.tensor(values, dtype=buffer.dtype))  # type: ignore[union-attr]


def _fitting_tiles(volume: Source, runner: BlockRunner, memory: int | None) -> list[Tile]:
    """The blocks, as large as they should be or as memory allows."""
    voxels, size = _STATISTICS_VOXELS, tuple(volume.shape[1:])
    tiles = _statistics_tiles(size, runner.required, voxels)
    while memory is not None and any(
        part.stop - part.start > step
        for part, step in zip(tiles[0].write, runner.required.stride, strict=True)
    ):
        block = (1, volume.shape[0], *(part.stop - part.start for part in tiles[0].read))
        try:
            need = estimate_memory(
                unwrapped(runner.network), block, runner.dtype, runner.args, runner.kwargs
            ).bytes
        except ValueError:  # it cannot be estimated for this network
            break
        if need <= memory:
            break
        voxels //= 2
        tiles = _statistics_tiles(size, runner.required, voxels)
    if voxels < _STATISTICS_VOXELS:
        _log.warning(
            "Statistics of the volume are gathered over blocks of %d voxels, as %.1f MiB allow no more; with "
            "more memory they would be a little different.",
            voxels,
            (memory or 0) / 2**20,
        )
    return tiles


def _statistics_tiles(size: tuple[int, ...], required: Requirements, voxels: int) -> list[Tile]:
    """At most two blocks along each axis, at a quarter and three quarters; they depend on the size alone."""
    tile = choose_tile(size, required.halo, required.stride, voxels, required.remainder)
    tiles = plan_tiles(size, tile or required.stride, required.halo, required.stride, required.remainder)
    kept = []
    for axis in range(len(size)):
        origins = sorted({part.write[axis].start for part in tiles})
        count = min(len(origins), _STATISTICS_TILES_PER_AXIS)
        kept.append({origins[int((i + 0.5) * len(origins) / count)] for i in range(count)})
    return [t for t in tiles if all(w.start in on for w, on in zip(t.write, kept, strict=True))]
