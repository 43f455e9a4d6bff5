"""One volume to be segmented in tiles, and the process that works on it.

A :class:`Job` says everything that is needed to compute any tile anywhere: it can be sent to other processes.
A :class:`TileWorker` has the files open and the network ready.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from volseg.geometry import Symmetry, Tile, plan_tiles
from volseg.inferers.averaging import average_tile, reads_of
from volseg.inferers.blocks import BlockRunner, Requirements
from volseg.inferers.overlap_tile import process_tiles
from volseg.inferers.statistics import Statistics, load_statistics
from volseg.io.blocks import BlockVolume, create_blocks, open_blocks
from volseg.machine import release_freed_memory
from volseg.networks import UNet
from volseg.runs import processes
from volseg.streaming.journal import Journal
from volseg.streaming.source import Blocks, Normalisation, require_unchanged

__all__ = ["Job", "Output", "TileWorker", "fill"]

logger = logging.getLogger(__name__)

_FEW = 32  # classes


@dataclass(frozen=True)
class Output:
    """One file to be written: what of, under which name when it is complete, where until then."""

    kind: Literal["classes", "probabilities", "spread"]
    target: Path
    made: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Job:
    """What to do.

    Args:
        images: the file of the image, or one for each channel.
        network: in the mode in which it is to be applied.
        versions: turned versions to average over; none for the image as it is.
        values: what class indices are called in the file.
        statistics: of batch normalisation, one for each version; ``None`` for the network's own.
        stamp: of the image, when the work was begun.
        spacing: the voxel size, where the image names none or a wrong one.
    """

    images: tuple[Path, ...]
    network: UNet
    amp: bool
    versions: tuple[Symmetry, ...]
    values: NDArray[Any]
    outputs: tuple[Output, ...]
    tile: tuple[int, ...]
    by_rows: bool
    normalise: Normalisation | None
    statistics: Sequence[Statistics] | None
    stamp: str
    spacing: str | None = None

    def tiles(self, required: Requirements, size: Sequence[int]) -> list[Tile]:
        """All tiles; what is known of them is their number."""
        return plan_tiles(size, self.tile, required.halo, required.stride, required.remainder)

    def runners(self) -> list[BlockRunner]:
        """The network at work, once for each version with statistics of its own."""
        found = []
        each: Sequence[Statistics | None] = self.statistics or [None]
        for statistics in each:
            if statistics is not None:
                load_statistics(self.network, statistics)
            work = BlockRunner(self.network, amp=self.amp)
            work.prepare()
            work.by_rows = self.by_rows and work.quick is not None
            found.append(work)
        return found


class TileWorker:
    """A process at work on a job: reads, computes and writes tiles by their number."""

    def __init__(self, job: Job, source: BlockVolume | None = None) -> None:
        release_freed_memory()
        self.job = job
        self.source = source or open_blocks(*job.images, spacing=job.spacing)
        require_unchanged(self.source, job.stamp)
        self.in_files = not any(path.is_dir() for path in job.images)
        self.blocks = Blocks(self.source, job.normalise)
        self.runners = job.runners()
        self.files = [
            create_blocks(each.made, each.shape, each.dtype, self.source.like, tile=job.tile, fresh=False)
            for each in job.outputs
        ]

    @cached_property
    def tiles(self) -> list[Tile]:
        return self.job.tiles(self.runners[0].required, self.blocks.shape[1:])

    def read(self, number: int) -> Blocks:
        """What a tile needs of the image, in memory."""
        tile = self.tiles[number]
        spans: Sequence[slice] = tile.read
        if self.job.versions:
            spans = reads_of(tile, self.job.versions, self.runners[0].required, self.blocks.shape[1:])
        part = self.blocks.part(spans)
        if self.in_files:  # a folder of many chunks is looked at once, when the work is done
            require_unchanged(self.source, self.job.stamp)
        return part

    def compute(self, number: int, part: Blocks) -> list[NDArray[Any]]:
        """What to write of a tile, for each output."""
        tile = self.tiles[number]
        size = [w.stop - w.start for w in tile.write]
        blocks = [np.empty((each.shape[0], *size), each.dtype) for each in self.job.outputs]
        if self.job.versions:
            wants_spread = any(each.kind == "spread" for each in self.job.outputs)
            mean, spread = average_tile(part, self.runners, self.job.versions, tile, spread=wants_spread)
            self._put(blocks, (slice(None),) * len(size), mean, mean, spread)
            return blocks
        for _, where, logits in process_tiles(part, self.runners[0], [tile]):
            place = tuple(
                slice(p.start - w.start, p.stop - w.start) for p, w in zip(where, tile.write, strict=True)
            )
            self._put(blocks, place, logits, None, None)
        return blocks

    def _put(
        self,
        blocks: Sequence[NDArray[Any]],
        place: tuple[slice, ...],
        scores: Tensor,
        probabilities: Tensor | None,
        spread: Tensor | None,
    ) -> None:
        """Lay a piece of the result into the blocks; argmax and softmax are taken where the network is."""
        for each, block in zip(self.job.outputs, blocks, strict=True):
            inside = block[(slice(None), *place)]
            if each.kind == "classes":
                inside[0] = self.job.values[_highest(scores).cpu().numpy()]
            elif each.kind == "probabilities":
                inside[...] = (scores.softmax(0) if probabilities is None else probabilities).cpu().numpy()
            else:
                assert spread is not None
                inside[...] = spread.cpu().numpy()

    def write(self, number: int, blocks: Sequence[NDArray[Any]]) -> None:
        """Put a tile on the disk."""
        index = (slice(None), *self.tiles[number].write)
        for file, block in zip(self.files, blocks, strict=True):
            file[index] = block


def _highest(scores: Tensor) -> Tensor:
    """The class with the highest score, the first of several; on a CPU torch's own argmax is slow."""
    if scores.device.type != "cpu" or len(scores) > _FEW:
        return scores.argmax(0).to(torch.uint8)
    best, found = scores[0], torch.zeros(scores.shape[1:], dtype=torch.uint8)
    for number, other in enumerate(scores[1:], start=1):
        found.masked_fill_(other > best, number)
        best = torch.maximum(best, other)
    return found


def fill(worker: TileWorker, journal: Journal, progress: bool) -> None:
    """Process the tiles that are left: read the next, compute, write the last, all at the same time."""
    tiles = worker.tiles
    left = [number for number in range(len(tiles)) if number not in journal.done]
    if journal.done and processes.rank() == 0:
        logger.info("Going on: %d of %d tiles are there.", len(journal.done), len(tiles))
    left = left[processes.rank() :: processes.count()]
    total = prod(worker.blocks.shape[1:]) if processes.count() == 1 else sum(_count(tiles[n]) for n in left)

    def save(number: int, blocks: list[Any]) -> None:
        worker.write(number, blocks)
        journal.note(number)

    with (
        ThreadPoolExecutor(1, "read") as reader,
        ThreadPoolExecutor(1, "write") as writer,
        tqdm(
            total=total,
            initial=total - sum(_count(tiles[number]) for number in left),
            unit="voxel",
            unit_scale=True,
            disable=not progress or processes.rank() > 0,
        ) as bar,
    ):
        coming: list[Future[Blocks]] = [reader.submit(worker.read, left[0])] if left else []
        saving: list[Future[None]] = []
        for place, number in enumerate(left, start=1):
            part = coming.pop().result()
            if place < len(left):
                coming.append(reader.submit(worker.read, left[place]))
            blocks = worker.compute(number, part)
            del part
            for earlier in saving:
                earlier.result()
            saving = [writer.submit(save, number, blocks)]
            del blocks
            bar.update(_count(tiles[number]))
        for earlier in saving:
            earlier.result()


def _count(tile: Tile) -> int:
    return prod(part.stop - part.start for part in tile.write)
