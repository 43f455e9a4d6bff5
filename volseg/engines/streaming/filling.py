"""The tiles of a job, one after another, while the next is read and the last is written."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any

from tqdm import tqdm

from volseg.engines import processes
from volseg.engines.streaming.job import Hand
from volseg.engines.streaming.journal import Journal
from volseg.engines.streaming.source import Blocks
from volseg.geometry import Tile

__all__ = ["fill"]

logger = logging.getLogger(__name__)


def fill(hand: Hand, journal: Journal, progress: bool) -> None:
    """Work off the tiles that are left: read the next, compute, write the last, all at the same time."""
    tiles = hand.tiles
    left = [number for number in range(len(tiles)) if number not in journal.done]
    if journal.done and processes.rank() == 0:
        logger.info("Going on: %d of %d tiles are there.", len(journal.done), len(tiles))
    left = left[processes.rank() :: processes.count()]
    total = prod(hand.blocks.shape[1:]) if processes.count() == 1 else sum(_count(tiles[n]) for n in left)

    def save(number: int, blocks: list[Any]) -> None:
        hand.write(number, blocks)
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
        coming: list[Future[Blocks]] = [reader.submit(hand.read, left[0])] if left else []
        saving: list[Future[None]] = []
        for place, number in enumerate(left, start=1):
            part = coming.pop().result()
            if place < len(left):
                coming.append(reader.submit(hand.read, left[place]))
            blocks = hand.compute(number, part)
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
