"""Whose statistics batch normalisation uses while a network is applied.

``"running"``: those of the training. ``"tile"``: those of the tile at hand (Çiçek et al. 2016, Sec. 3).
``"volume"``: those of the volume at hand, gathered over a few blocks spread over it, then frozen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from volseg.geometry import Tile, choose_tile, plan_tiles
from volseg.inferers.demand import Demand
from volseg.inferers.work import Source, Work

__all__ = ["BatchNorm", "as_for_inference", "freeze_volume_statistics"]

BatchNorm = Literal["running", "tile", "volume"]

# Blocks for the statistics of a volume: about as large as the input tile of Çiçek et al. 2016.
_STATISTICS_VOXELS = 2**21
_STATISTICS_TILES_PER_AXIS = 2


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


def freeze_volume_statistics(volume: Source, work: Work) -> None:
    """Make the running statistics those of one volume: total variance, between blocks and within."""
    norms = [norm for norm in _batch_norms(work.network) if norm.running_mean is not None]
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
        for tile in _statistics_tiles(tuple(volume.shape[1:]), work.demand):
            work.forward(work.block(volume, tile.read))
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


def _statistics_tiles(size: tuple[int, ...], demand: Demand) -> list[Tile]:
    """At most two blocks along each axis, at a quarter and three quarters; they depend on the size alone."""
    tile = choose_tile(size, demand.halo, demand.stride, _STATISTICS_VOXELS, demand.remainder)
    tiles = plan_tiles(size, tile or demand.stride, demand.halo, demand.stride, demand.remainder)
    kept = []
    for axis in range(len(size)):
        origins = sorted({part.write[axis].start for part in tiles})
        count = min(len(origins), _STATISTICS_TILES_PER_AXIS)
        kept.append({origins[int((i + 0.5) * len(origins) / count)] for i in range(count)})
    return [t for t in tiles if all(w.start in on for w, on in zip(t.write, kept, strict=True))]
