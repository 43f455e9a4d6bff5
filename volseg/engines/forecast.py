"""What segmenting a volume will take, before it starts: tiles, operations, memory, time."""

import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from monai.inferers.inferer import Inferer
from torch import nn

from volseg.errors import InputError
from volseg.geometry import Symmetry, Tile
from volseg.inferers import OverlapTileInferer, RotationAveragingInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.planning import make_plan, operations
from volseg.inferers.statistics import as_for_inference
from volseg.io.blocks import WholeVolume, open_blocks
from volseg.networks import UNet
from volseg.streaming.request import plan_streamed

__all__ = ["forecast"]

_PROBE_VOXELS = 2**20  # large enough for the speed to be that of a real tile


@torch.no_grad()
def forecast(image: Path, network: nn.Module, inferer: Inferer) -> list[str]:
    """Lines for people; a short run of the network shows the speed, whatever its weights."""
    inner = inferer.inferer if isinstance(inferer, RotationAveragingInferer) else inferer
    if not isinstance(network, UNet) or not isinstance(inner, OverlapTileInferer):
        raise InputError(
            f"The bundle has a {type(network).__name__} and a {type(inner).__name__}; a forecast is "
            "possible for volseg.UNet with volseg.OverlapTileInferer."
        )
    source = open_blocks(image)
    shape, size = source.shape, source.shape[1:]
    if shape[0] != network.in_channels or len(size) != network.spatial_dims:
        raise InputError(
            f"{image} has {shape[0]} channel(s) of {_times(size)} voxels, but the network takes "
            f"{network.in_channels} and {network.spatial_dims} spatial axes."
        )
    versions: tuple[Symmetry, ...] = ()
    if isinstance(inferer, RotationAveragingInferer):
        versions = inferer.versions_for(len(size), source.like.spacing)
    runner = BlockRunner(network, amp=inner.amp)
    with as_for_inference(network, inner.batch_norm):
        runner.prepare()
        memory = inner.memory(runner)
        plan = make_plan(runner, shape[0], size, memory)
        streamed = plan_streamed(source, runner, inner, versions=versions)
        seconds = plan.operations / _speed(runner)
    times, count = max(1, len(versions)), prod(size)
    lines = [
        f"{image}: {_times(size)} voxels, {shape[0]} channel(s)",
        f"  tiles       {len(plan.tiles)} of {_times(plan.tile)}{', by rows' if plan.by_rows else ''}",
        f"  operations  {_short(times * plan.operations)} multiplications, "
        f"{times * plan.operations / count / 1e6:.2f} million per voxel",
        f"  memory      {plan.bytes / 1e9:.2f} GB of {memory / 1e9:.2f} GB for a tile, and "
        f"{4 * count * (shape[0] + network.out_channels) / 1e9:.2f} GB for input and output",
        f"  time        about {_duration(times * seconds)} on {runner.device.type}",
    ]
    if versions:
        lines.insert(2, f"  versions    {times}, turned and mirrored, are averaged")
    if not isinstance(source, WholeVolume):
        lines.append(
            f"  streamed    {len(streamed.tiles)} tiles of {_times(streamed.tile)}, "
            f"{streamed.bytes / 1e9:.2f} GB in all"
        )
    return lines


def _speed(runner: BlockRunner) -> float:
    """Multiplications per second."""
    network = runner.network
    assert isinstance(network, UNet)
    length = max(1, round(_PROBE_VOXELS ** (1 / network.spatial_dims)))
    halo, stride, remainder = runner.required.halo, runner.required.stride, runner.required.remainder
    read = []
    for border, step, rest in zip(halo, stride, remainder, strict=True):
        wanted = max(step, length - 2 * border)
        read.append(2 * border + wanted + (rest - wanted) % step)
    block = torch.randn(network.in_channels, *read)
    tile = Tile(
        tuple(slice(0, n) for n in read),
        tuple(slice(border, n - border) for n, border in zip(read, halo, strict=True)),
    )
    times = []
    for _ in range(2):  # the first time, libraries get ready
        start = time.perf_counter()
        for _ in runner.pieces(block, tile):
            pass
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
        times.append(time.perf_counter() - start)
    return operations(network, read) / min(times)


def _short(number: float) -> str:
    for unit in ("", "thousand", "million", "billion"):
        if number < 1000:
            return f"{number:.3g} {unit}".strip()
        number /= 1000
    return f"{number:,.1f} trillion"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _times(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
