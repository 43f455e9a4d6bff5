"""The tiles of a job processed by Dask: by processes of this machine, or of many.

Every worker opens the image and the unfinished outputs itself, on a file system that all of them share, and
computes on its own device. Chunks of the output never cross tiles, so no two workers touch one file. The
process that asked notes what is finished; the tiles of a worker that dies are given to another.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from volseg.errors import InputError, ResourceError
from volseg.geometry import Tile
from volseg.installation import install_line
from volseg.machine import allowed_processors
from volseg.networks import UNet
from volseg.streaming.job import Job, TileWorker
from volseg.streaming.journal import Journal

__all__ = ["fill_by_cluster", "local_workers", "workers_of"]

logger = logging.getLogger(__name__)

_WORKERS: dict[str, TileWorker] = {}  # of a worker: made with its first tile


def local_workers() -> int:
    """Workers of a cluster on this machine: one per GPU, or where there is none one per four processors."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(2, allowed_processors() // 4)


def workers_of(address: str) -> int:
    """How many workers there are."""
    if address == "local":
        return local_workers()
    with _client(address) as client:
        return max(1, len(client.scheduler_info(n_workers=-1)["workers"]))


def fill_by_cluster(
    job: Job, journal: Journal, address: str, tiles: Sequence[Tile], *, progress: bool = False
) -> None:
    """Have the tiles that are left processed.

    Args:
        address: of a Dask scheduler; ``"local"`` starts workers on this machine.

    Raises:
        ResourceError: if a tile took several workers down with it.
    """
    distributed = _library()
    left = [number for number in range(len(tiles)) if number not in journal.done]
    if journal.done:
        logger.info("Going on: %d of %d tiles are there.", len(journal.done), len(tiles))
    with _client(address) as client, tqdm(total=len(left), unit="tile", disable=not progress) as bar:
        # Whatever device the network is on here, a worker takes it to its own.
        (sent,) = client.scatter([replace(job, network=_on_cpu(job.network))], broadcast=True, hash=False)
        of_gpu = address == "local"
        numbers = {
            client.submit(_work_on, sent, journal.work, number, of_gpu, pure=False): number for number in left
        }
        for finished in distributed.as_completed(list(numbers)):
            try:
                finished.result()
            except distributed.scheduler.KilledWorker as error:
                raise ResourceError(
                    f"Tile {numbers[finished]} ended one worker after another; most often memory runs out. "
                    "Give each more, or less to do at a time (max_memory); what is finished is kept."
                ) from error
            journal.note(numbers.pop(finished))
            bar.update()


def _work_on(job: Job, key: str, number: int, of_gpu: bool) -> None:
    """In a worker: one tile, from file to file."""
    if key not in _WORKERS:
        _WORKERS.clear()
        _WORKERS[key] = TileWorker(replace(job, network=job.network.to(_device(of_gpu))))
    worker = _WORKERS[key]
    with torch.no_grad():
        worker.write(number, worker.compute(number, worker.read(number)))


def _device(by_name: bool) -> torch.device:
    """The GPU of this worker; who starts a cluster elsewhere lets each worker see its own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    from distributed import get_worker

    name = get_worker().name
    return torch.device("cuda", int(name) % torch.cuda.device_count() if by_name else 0)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    distributed = _library()
    if address != "local":
        try:
            client = distributed.Client(address, timeout=20)
        except OSError as error:
            raise InputError(
                f"No Dask scheduler answers at {address}. Start it with 'dask scheduler', or use 'local'."
            ) from error
        with client:
            yield client
        return
    count = local_workers()
    threads = max(1, torch.get_num_threads() // count)
    # No limit of memory: tiles are planned for what there is, and Dask would end workers that are well.
    with (
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, memory_limit=None, dashboard_address=None,
            env={"OMP_NUM_THREADS": str(threads)},
        ) as cluster,
        distributed.Client(cluster) as client,
    ):  # fmt: skip
        yield client


def _on_cpu(network: UNet) -> UNet:
    return copy.deepcopy(network).cpu()


def _library() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            f"A cluster needs Dask, which is not installed. Install it with: {install_line('cluster')}."
        ) from error
    return distributed
