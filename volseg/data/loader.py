"""Patches drawn by worker processes, any of which may die: of memory, of shared memory, of a fault in C.

torch's ``DataLoader`` ends a training then, with "worker exited unexpectedly". As patch ``i`` is a function
of the seed and ``i``, a training can continue with fewer workers and the very same patches. Each worker has a
pipe of its own, so that one that dies holds up no one, and its end is noticed where its patch is waited for.
"""

import logging
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing  # registers how tensors travel: in shared memory
from torch.utils.data import default_collate

from volseg.arguments import Door, come_through, current_door, option
from volseg.data.datasets import TrainingPatches
from volseg.errors import InputError, ResourceError, VolsegError, cause, theirs
from volseg.machine import free_memory

__all__ = ["PatchLoader"]

logger = logging.getLogger(__name__)

_AHEAD = 2  # batches that each worker may be ahead
_LOOK = 5.0  # seconds after which an idle worker looks whether its parent is still there
# What the kernel sends where memory or shared memory is used up.
_OUT_OF_MEMORY = [-getattr(signal, name) for name in ("SIGKILL", "SIGBUS") if hasattr(signal, name)]


class PatchLoader:
    """The batches of a training, in their order.

    Where a worker ends for lack of memory, half as many go on, in the end none; where one crashes or hangs
    twice at the same patch, the training ends with the name of the image.

    Args:
        batches: the patches of each batch, by their number.
        num_workers: processes that draw them; 0 for this one.
        prepare: called in each worker when it starts, with its number.
        timeout: seconds after which a worker that has brought nothing counts as hung.
    """

    def __init__(
        self,
        dataset: TrainingPatches,
        batches: Sequence[Sequence[int]],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        prepare: Callable[[int], None] | None = None,
        timeout: float = 600.0,
    ) -> None:
        self.dataset = dataset
        self.batches = batches
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.prepare = prepare
        self.timeout = timeout

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        done, workers = 0, self.num_workers
        crashed: set[int] = set()
        while done < len(self.batches):
            left = self.batches[done:]
            try:
                for batch in self._drawn_by(workers, left) if workers else map(self._draw, left):
                    done += 1
                    yield _pinned(batch) if self.pin_memory else batch
            except _Lost as lost:
                source = self.dataset.source_of(lost.patch).image
                if not lost.is_memory and lost.patch in crashed:
                    raise ResourceError(
                        f"{source}: a worker process {lost.what} while it drew a patch of this image, twice. "
                        f"Draw it in the main process to see more: {option('num_workers', 0)}."
                    ) from None
                crashed.add(lost.patch)
                workers = workers // 2 if lost.is_memory else max(1, workers // 2)
                logger.warning(
                    "A worker process %s while it drew a patch of %s; %s. Going on with %d worker(s).",
                    *(lost.what, source, _free(), workers),
                )

    def _draw(self, batch: Sequence[int]) -> dict[str, Any]:
        return _together(self.dataset, [self.dataset[index] for index in batch])

    def _drawn_by(self, workers: int, batches: Sequence[Sequence[int]]) -> Iterator[dict[str, Any]]:
        """Batch ``i`` by worker ``i`` modulo their number; raises :class:`_Lost`."""
        crew = [_Worker(self, number) for number in range(workers)]
        given = 0
        try:
            for wanted in range(len(batches)):
                while given < min(len(batches), wanted + _AHEAD * workers):
                    crew[given % workers].give(batches[given])
                    given += 1
                yield crew[wanted % workers].take(self.timeout)
        finally:
            for worker in crew:
                worker.end()


class _Lost(Exception):  # noqa: N818 - no one sees it
    """A worker that will bring nothing more."""

    def __init__(self, what: str, patch: int, *, is_memory: bool) -> None:
        super().__init__(what)
        self.what, self.patch, self.is_memory = what, patch, is_memory


@dataclass(frozen=True)
class _Failure:
    """An exception in a worker, as it travels; without a kind: there was no room for the result."""

    kind: type[Exception] | None
    message: str


class _Worker:
    """The main process's end of a worker."""

    def __init__(self, loader: PatchLoader, number: int) -> None:
        self.patch = multiprocessing.RawValue("q", -1)  # what it is at
        self.pipe, end = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=_work, args=(loader, number, end, self.patch, os.getpid(), current_door()), daemon=True
        )
        self.process.start()
        end.close()

    def give(self, batch: Sequence[int]) -> None:
        if self.patch.value < 0:
            self.patch.value = batch[0]
        try:
            self.pipe.send(list(batch))
        except OSError:
            raise self._lost() from None

    def take(self, timeout: float) -> dict[str, Any]:
        try:
            if not self.pipe.poll(timeout):
                raise _Lost("brought nothing for too long", self.patch.value, is_memory=False)
            found = self.pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if not isinstance(found, _Failure):
            drawn: dict[str, Any] = found
            return drawn
        if found.kind is None:
            raise _Lost(found.message, self.patch.value, is_memory=True)
        raise found.kind(found.message)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _lost(self) -> _Lost:
        self.process.join(_LOOK)
        code = self.process.exitcode or 0
        what = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if code in _OUT_OF_MEMORY:
            what += ", probably for lack of memory,"
        return _Lost(what, self.patch.value, is_memory=code in _OUT_OF_MEMORY)


def _work(loader: PatchLoader, number: int, pipe: Any, patch: Any, parent: int, words: Door) -> None:
    """What a worker does until no one wants anything more."""
    torch.set_num_threads(1)
    come_through(words)
    if loader.prepare is not None:
        loader.prepare(number)
    while True:
        while not pipe.poll(_LOOK):
            if os.getppid() != parent:
                return
        try:
            batch = pipe.recv()
            drawn = _drawn_or_failed(loader, batch, patch)
            try:
                pipe.send(drawn)
            except RuntimeError as error:  # torch's word for shared memory that is used up
                pipe.send(_Failure(None, f"had no room for its result ({str(error)[:80]})"))
        except (EOFError, BrokenPipeError):
            return


def _drawn_or_failed(loader: PatchLoader, batch: Sequence[int], patch: Any) -> dict[str, Any] | _Failure:
    items = []
    for index in batch:
        patch.value = index
        try:
            items.append(loader.dataset[index])
        except Exception as error:  # sent to the process that waits: a transform may raise anything
            fixable = cause(error)
            if fixable is None:
                return _Failure(RuntimeError, f"{type(error).__name__} in a worker process: {error}")
            kind = type(fixable) if isinstance(fixable, VolsegError) else VolsegError
            return _Failure(kind, str(fixable))
    try:
        return _together(loader.dataset, items)
    except InputError as error:
        return _Failure(InputError, str(error))


def _together(dataset: TrainingPatches, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    with theirs("train#preprocessing", dataset.transform, "gives patches that do not make one batch"):
        drawn: dict[str, Any] = default_collate(list(items))
    return drawn


def _pinned(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: part.pin_memory() for key, part in batch.items()}


def _free() -> str:
    """How much memory there is, of both kinds."""
    text = f"{free_memory(torch.device('cpu')) / 1e9:.1f} GB of memory"
    shared = Path("/dev/shm")
    if shared.is_dir():
        text += f" and {shutil.disk_usage(shared).free / 1e9:.2g} GB of shared memory"
    return f"{text} are free"
