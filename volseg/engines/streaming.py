"""Segmenting a volume that does not fit into memory, from file to file, so that it can be stopped and go on.

One thread reads the next tile, one writes the last one, and the network computes in between. Finished tiles
are noted in a journal beside the unfinished output; a run that was killed goes on from there and ends with
the same bytes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from volseg.engines.journal import Journal
from volseg.errors import InputError, RefusedError
from volseg.geometry import Tile, mirror_indices, plan_tiles
from volseg.inferers import OverlapTileInferer
from volseg.inferers.overlap_tile import work_off
from volseg.inferers.planning import Plan, make_plan
from volseg.inferers.statistics import as_for_inference, freeze_volume_statistics
from volseg.inferers.work import Work
from volseg.io.mapped import MappedVolume, create_mapped, map_volume
from volseg.labels import LabelScheme
from volseg.networks import UNet

__all__ = ["can_stream", "plan_streamed", "predict_streamed"]

logger = logging.getLogger(__name__)

_AT_ONCE = 2**22  # voxels read at a time for mean and spread
_TORCH_KNOWS = ("u1", "i1", "i2", "i4", "f4")


def can_stream(image: str | os.PathLike[str]) -> bool:
    """Whether the voxels of a file lie uncompressed one after another."""
    try:
        map_volume(image)
    except InputError:
        return False
    return True


@torch.no_grad()
def predict_streamed(
    image: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    network: UNet,
    inferer: OverlapTileInferer,
    labels: LabelScheme | None = None,
    preprocessing: Callable[..., Any] | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
) -> None:
    """Segment an uncompressed ``.nii`` or ``.tif`` into another, block by block.

    If an unfinished output of the same image, network and settings is there, the run goes on with it.
    Nothing stands under the name ``output`` before it is complete.

    Args:
        labels: what class indices are called in the file; ``None`` writes the indices.
        preprocessing: ``None``, or MONAI's ``NormalizeIntensityd`` over all voxels of the image or channel.
        probabilities: write one map per class, float32, instead of class numbers.

    Raises:
        RefusedError: if ``output`` exists and is not to be overwritten, or is the image itself.
        InputError: if the file cannot be read block by block, or the preprocessing needs all of it at once.
    """
    target = Path(output)
    if target.exists() and (not overwrite or target.samefile(image)):
        raise RefusedError(f"{target} exists already and is not overwritten. Choose another name.")
    source = map_volume(image)
    work = Work(network, amp=inferer.amp)
    if source.shape[0] != network.in_channels or len(source.shape) != len(work.demand.stride) + 1:
        raise InputError(
            f"{image} has {source.shape[0]} channel(s) and {len(source.shape) - 1} spatial axes, but the "
            f"network takes {network.in_channels} and {len(work.demand.stride)}."
        )
    values = np.arange(network.out_channels, dtype=np.uint8)
    if labels is not None:
        values = labels.decode(values)
    shape = (network.out_channels if probabilities else 1, *source.shape[1:])
    dtype = np.dtype(np.float32) if probabilities else values.dtype
    volume = _Blocks(source, _normalisation(source, preprocessing))
    settings = [inferer.batch_norm, inferer.amp, inferer.tile, values.tolist(), probabilities]
    journal = Journal(target, _fingerprint(source, network, volume.normalise, settings))

    def plan() -> dict[str, Any]:
        found = plan_streamed(source, work, inferer, written=shape[0] * dtype.itemsize)
        return {"tile": list(found.tile), "by_rows": found.by_rows}

    with as_for_inference(network, inferer.batch_norm):
        if inferer.batch_norm == "volume":
            freeze_volume_statistics(volume, work)
        work.prepare()
        try:
            journal.open(plan, lambda path: create_mapped(path, shape, dtype, source.like))
            mapped = create_mapped(journal.partial, shape, dtype, source.like, anew=False)
            _fill(mapped, volume, work, journal, None if probabilities else values, inferer.progress)
        finally:
            journal.close()
    journal.complete()
    logger.info("Segmented %s.", target)


def plan_streamed(source: MappedVolume, work: Work, inferer: OverlapTileInferer, *, written: int) -> Plan:
    """The plan for a volume that stays in its file; ``written`` are the bytes per voxel of the output."""
    size = source.shape[1:]
    # The block at hand and the next one, as they are stored, and two blocks of output.
    carried = 2 * (source.shape[0] * _kept_as(source.dtype).itemsize + written)
    if inferer.tile is None:
        return make_plan(work, source.shape[0], size, inferer.memory(work), carried=carried)
    demand = work.demand
    tile = (inferer.tile,) * len(size) if isinstance(inferer.tile, int) else tuple(inferer.tile)
    tiles = plan_tiles(size, tile, demand.halo, demand.stride, demand.remainder)
    return Plan(tile, tiles, work.quick is not None, 0, 0)


def _fill(
    mapped: MappedVolume,
    volume: "_Blocks",
    work: Work,
    journal: Journal,
    values: NDArray[Any] | None,
    progress: bool,
) -> None:
    """Work off the tiles that are left: read the next, compute, write the last, all at the same time."""
    demand, size = work.demand, volume.shape[1:]
    work.by_rows = journal.plan["by_rows"]
    tiles = plan_tiles(size, journal.plan["tile"], demand.halo, demand.stride, demand.remainder)
    left = [(i, tile) for i, tile in enumerate(tiles) if i not in journal.done]
    if journal.done:
        logger.info("Going on: %d of %d tiles are there.", len(journal.done), len(tiles))

    def save(index: int, tile: Tile, block: NDArray[Any]) -> None:
        mapped[(slice(None), *tile.write)] = block
        journal.note(index)

    voxels = sum(_count(tile) for _, tile in left)
    with (
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(1, "write") as writer,
        tqdm(
            total=prod(size),
            initial=prod(size) - voxels,
            unit="voxel",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        coming: list[Future[_Blocks]] = [reader.submit(volume.part, left[0][1])] if left else []
        saving: list[Future[None]] = []
        for number, (index, tile) in enumerate(left, start=1):
            part = coming.pop().result()
            if number < len(left):
                coming.append(reader.submit(volume.part, left[number][1]))
            block = np.empty((mapped.shape[0], *(w.stop - w.start for w in tile.write)), mapped.dtype)
            for _, where, logits in work_off(part, work, [tile]):
                place = tuple(
                    slice(p.start - w.start, p.stop - w.start) for p, w in zip(where, tile.write, strict=True)
                )
                if values is None:
                    block[(slice(None), *place)] = logits.softmax(0).cpu().numpy()
                else:
                    block[0][place] = values[logits.argmax(0).to(torch.uint8).cpu().numpy()]
            del part
            for earlier in saving:
                earlier.result()
            saving = [writer.submit(save, index, tile, block)]
            bar.update(_count(tile))
        for earlier in saving:
            earlier.result()


class _Blocks:
    """A volume or a part of one, from which the network reads blocks, with its grey values normalised.

    ``origin`` is where ``voxels`` begin in the volume, whose shape this keeps.
    """

    def __init__(
        self,
        voxels: Any,
        normalise: tuple[list[float], list[float]] | None,
        *,
        shape: Sequence[int] | None = None,
        origin: Sequence[int] | None = None,
    ) -> None:
        self.voxels = voxels
        self.normalise = normalise
        self.shape = tuple(voxels.shape if shape is None else shape)
        self.origin = tuple(origin or (0,) * len(self.shape))

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        index = (slice(0, self.shape[0]), *index[1:])
        moved = tuple(slice(i.start - o, i.stop - o) for i, o in zip(index, self.origin, strict=True))
        voxels = np.ascontiguousarray(self.voxels[moved])
        block = torch.from_numpy(voxels.astype(_kept_as(voxels.dtype), copy=False))
        if self.normalise is None:
            return block
        means, deviations = (
            torch.tensor(numbers).reshape(-1, *[1] * (block.ndim - 1)) for numbers in self.normalise
        )
        return (block.float() - means) / deviations

    def part(self, tile: Tile) -> "_Blocks":
        """What a tile reads, in memory, as it is stored."""
        index = [slice(0, self.shape[0])]
        for part, size in zip(tile.read, self.shape[1:], strict=True):
            inside = mirror_indices(part.start, part.stop, size)
            index.append(slice(int(inside.min()), int(inside.max()) + 1))
        voxels = self.voxels[tuple(index)]
        voxels = voxels.astype(_kept_as(voxels.dtype), copy=False)
        return _Blocks(voxels, self.normalise, shape=self.shape, origin=[i.start for i in index])


def _kept_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a stored type is held as in memory: itself, where torch knows it."""
    return dtype if dtype.str[1:] in _TORCH_KNOWS else np.dtype(np.float32)


def _normalisation(
    source: MappedVolume, preprocessing: Callable[..., Any] | None
) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel, or of all."""
    if preprocessing is None:
        return None
    normaliser = getattr(preprocessing, "normalizer", None)
    if not isinstance(preprocessing, NormalizeIntensityd) or normaliser is None:
        raise InputError(
            f"The preprocessing is a {type(preprocessing).__name__}, which may need the whole image at once. "
            "Block by block there can be NormalizeIntensityd alone."
        )
    if normaliser.nonzero or normaliser.subtrahend is not None or normaliser.divisor is not None:
        raise InputError("Block by block, NormalizeIntensityd works without nonzero, subtrahend and divisor.")
    moments = [_moments(source, channel) for channel in range(source.shape[0])]
    if not normaliser.channel_wise:
        mean = float(np.mean([first for first, _ in moments]))
        total = float(np.mean([variance + (first - mean) ** 2 for first, variance in moments]))
        moments = [(mean, total)] * len(moments)
    return [first for first, _ in moments], [variance**0.5 or 1.0 for _, variance in moments]


def _moments(source: MappedVolume, channel: int) -> tuple[float, float]:
    """Mean and variance of one channel, gathered block by block without cancellation."""
    steps = [max(1, min(n, 256)) for n in source.shape[1:]]
    steps[-1] = max(1, min(steps[-1], _AT_ONCE // prod(steps[:-1])))
    count, mean, squares = 0, 0.0, 0.0
    grids = [range(0, n, step) for n, step in zip(source.shape[1:], steps, strict=True)]
    for corner in product(*grids):
        index = tuple(slice(start, start + step) for start, step in zip(corner, steps, strict=True))
        block = source[(slice(channel, channel + 1), *index)].astype(np.float64)
        if not np.isfinite(block).all():
            raise InputError(f"{source.path} holds NaN or infinite voxels. Repair the file.")
        change = float(block.mean()) - mean
        total = count + block.size
        squares += float(block.var()) * block.size + change**2 * count * block.size / total
        mean += change * block.size / total
        count = total
    return mean, squares / count


def _fingerprint(source: MappedVolume, network: UNet, normalise: object, settings: Sequence[object]) -> str:
    """What the bytes of the output depend on."""
    state = source.path.stat()
    facts = [str(source.path.resolve()), state.st_size, state.st_mtime_ns, normalise, *settings]
    digest = hashlib.sha256(json.dumps([*facts, torch.__version__]).encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _count(tile: Tile) -> int:
    return prod(part.stop - part.start for part in tile.write)
