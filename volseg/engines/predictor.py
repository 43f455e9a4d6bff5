"""Segmenting whole images with a trained network: a MONAI evaluator that writes files.

While images are being segmented a hidden journal lies beside the results: a line for each image that is
begun, and one with the state of its files when all of them are there. It goes when everything is done. The
same command, given again, passes over what is finished, and so does one for fewer or more of these images; a
file that no line speaks of belongs to another run.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from volseg.data import Case, WholeVolumes, output_of
from volseg.engines.evaluator import engine_for, segment
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import Volume, stamp, write_volume
from volseg.io.blocks import voxels_of
from volseg.io.text import Lines, lines_of
from volseg.runs import processes
from volseg.runs.checkpoint import load_weights
from volseg.runs.claim import claim, release
from volseg.runs.folder import new_file
from volseg.streaming.request import why_not_streamed
from volseg.streaming.run import predict_streamed

__all__ = ["Batch", "described", "fingerprint", "predictor", "weights_hash"]

logger = logging.getLogger(__name__)


_DEEPEST = 8  # parts of parts of a transform


class Batch:
    """The journal of some images and their results; of several processes the first opens it for all.

    Args:
        works: what the result of each image depends on, as a hash.
        outputs: the files of each result.
    """

    def __init__(self, folder: Path, works: Sequence[str], outputs: Sequence[Sequence[Path]]) -> None:
        self.folder, self.works, self.outputs = folder, works, outputs
        names = "\0".join(os.fsdecode(path) for paths in outputs for path in paths)
        self.name = f".predict-{hashlib.sha256(os.fsencode(names)).hexdigest()[:12]}"
        self.path = folder / f"{self.name}.journal"
        self.finished: set[int] = set()
        self.begun: set[int] = set()

    def take(self) -> None:
        """Take the results for this process, and read how far an earlier one has come with them.

        Raises:
            RefusedError: if another process is at them.
        """
        if not self.folder.is_dir():
            return
        self._claim()
        numbers = {work: number for number, work in enumerate(self.works)}
        for note in (note for path in self._journals() for note in _notes(path)):
            number = numbers.get(note["work"])
            if number is None:
                continue
            self.begun.add(number)
            if note["files"] is not None and note["files"] == self._state(number):
                self.finished.add(number)

    def start(self) -> None:
        """Make the folder, if it is not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim()

    def begin(self, number: int) -> None:
        """An image is being segmented: its files are this work's, even after a kill between two of them."""
        self._note(number, None)

    def finish(self, number: int) -> None:
        """All files of an image are there."""
        self._note(number, self._state(number))

    def close(self, *, complete: bool) -> None:
        """Give the results back; once all of them are complete, the journal has done its work."""
        if complete:
            self.path.unlink(missing_ok=True)
            for path in self._journals():
                self._forget(path)
        release(self.folder, lock=f"{self.name}.lock")

    def _journals(self) -> list[Path]:
        return sorted(self.folder.glob(".predict-*.journal"))

    def _forget(self, journal: Path) -> None:
        """Remove the journal of a run that was stopped, if no result of it is there but what is done now."""
        lock = f"{journal.stem}.lock"
        try:
            claim(self.folder, lock=lock)
        except RefusedError:
            return  # it is still at work
        ours = {ascii(path.name) for paths in self.outputs for path in paths}
        others = {ascii(name) for name in os.listdir(self.folder)} - ours
        if not any(others.intersection(note.get("names", note["files"] or ())) for note in _notes(journal)):
            journal.unlink(missing_ok=True)
        release(self.folder, lock=lock)

    def _claim(self) -> None:
        try:
            claim(self.folder, lock=f"{self.name}.lock")
        except RefusedError as error:
            raise RefusedError(f"{error} It segments the same images.") from None

    def _state(self, number: int) -> dict[str, str]:
        return {ascii(path.name): stamp(path) for path in self.outputs[number]}

    def _note(self, number: int, files: Mapping[str, str] | None) -> None:
        names = [ascii(path.name) for path in self.outputs[number]]
        line = json.dumps({"work": self.works[number], "names": names, "files": files})
        try:
            with Lines(self.path) as lines:
                lines.append(line)
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.path}: {error.strerror}. Free some space or choose another folder."
            ) from error


def _notes(journal: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal, but for what a kill has cut off."""
    lines: list[bytes] = []
    with suppress(OSError):  # another run has just ended, and taken its journal along
        lines = lines_of(journal)
    for line in lines:
        with suppress(ValueError):
            note = json.loads(line)
            if isinstance(note, dict) and {"work", "files"} <= note.keys():
                yield note


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of the weights of a network and their names."""
    sha = hashlib.sha256()
    for name, value in network.state_dict().items():
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def fingerprint(case: Case, settings: Sequence[object]) -> str:
    """What the files of a result depend on: the image, the settings, and torch."""
    images = [(ascii(str(path.resolve())), stamp(path)) for path in case.images]
    return hashlib.sha256(json.dumps([images, *settings, torch.__version__]).encode()).hexdigest()


def described(thing: Any, depth: int = 0) -> Any:
    """A transform, an inferer, or what is set in them, as plain values that are the same in every run."""
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, Mapping):
        return {str(key): described(value, depth + 1) for key, value in thing.items()}
    if isinstance(thing, list | tuple | set | frozenset):
        return [described(value, depth + 1) for value in thing]
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    inside = {} if depth > _DEEPEST or hasattr(thing, "__qualname__") else getattr(thing, "__dict__", {})
    return [name, {key: described(value, depth + 1) for key, value in inside.items()}]


_LARGE = 2**24  # voxels; from here on an image is not read as a whole


def predictor(
    *,
    device: torch.device | str | None = None,
    dataset: WholeVolumes,
    network: nn.Module,
    inferer: Inferer,
    checkpoint: str | Path,
    output_dir: str | Path,
    probabilities: bool = False,
    blockwise: bool | None = None,
    cluster: str | None = None,
    val_handlers: Sequence[Any] = (),
    overwrite: bool = False,
) -> SupervisedEvaluator:
    """A MONAI evaluator that writes a segmentation beside each image's name, in the image's geometry.

    What belongs to one image appears together or not at all. A run that was stopped goes on when it is
    started again with the same images, weights and settings: finished images are passed over, which is said.

    Several processes (``torchrun``) share the images, and the tiles of those that are read block by block.

    Args:
        device: ``None`` for the one that the network is on.
        output_dir: ``NAME.nii.gz`` or ``NAME.tif`` go there, as the image was; values as in the label files.
        probabilities: write ``NAME_probabilities`` too: one channel per class, float32. Likewise
            ``NAME_spread``, if the inferer gives how far turned versions disagree.
        blockwise: read, segment and write block by block, so that a run that was killed can go on; ``None``
            for images of more than 16 million voxels.
        cluster: work off the tiles of OME-Zarr images by Dask: ``"local"``, or a scheduler's address.
        val_handlers: further MONAI handlers, such as those that MONAI adds for ``tracking``.
    """
    folder = Path(output_dir)
    kinds = [True, probabilities, bool(getattr(inferer, "spread", False))]
    outputs = [
        [path if wanted else None for path, wanted in zip(output_of(case, folder), kinds, strict=True)]
        for case in dataset.data
    ]
    work = _Prediction(
        folder, dataset, network, inferer, Path(checkpoint), kinds, outputs, blockwise, cluster, overwrite
    )
    numbers = range(len(dataset))
    engine = engine_for(device, _Numbers(len(dataset)), network, inferer, work.update, "segmenting", numbers)
    engine.add_event_handler(Events.STARTED, work.start)
    engine.add_event_handler(Events.COMPLETED, work.finish)
    for handler in val_handlers:
        handler.attach(engine)
    return engine


@dataclass
class _Prediction:
    """The images, their results and the journal of both.

    Attributes:
        kinds: which of classes, probabilities and spread are wanted.
        outputs: for each case the file of each kind, ``None`` where it is not wanted.
    """

    folder: Path
    dataset: WholeVolumes
    network: nn.Module
    inferer: Inferer
    checkpoint: Path
    kinds: Sequence[bool]
    outputs: Sequence[Sequence[Path | None]]
    blockwise: bool | None
    cluster: str | None
    overwrite: bool
    book: Batch = field(init=False)

    def start(self, _: Engine) -> None:
        """The weights are loaded, and the results taken for this run, before another process writes."""
        load_weights(self.network, self.checkpoint)
        self.book = processes.from_first(self._open_book)

    def update(self, engine: Any, batch: Sequence[int]) -> dict[str, Any]:
        """Segment one image."""
        try:
            self._segment(engine, batch[0])
        except BaseException:
            self.book.close(complete=False)
            if len(self.dataset) > 1:
                logger.warning("The same command goes on with the images that are left.")
            raise
        return {}

    def finish(self, _: Engine) -> None:
        """Every image is segmented."""
        processes.wait()
        if processes.rank() == 0:
            self.book.close(complete=True)

    def _open_book(self) -> Batch:
        settings = [
            weights_hash(self.network), self.kinds, self.blockwise, self.cluster,
            *map(described, (self.inferer, self.dataset.labels, self.dataset.preprocessing)),
        ]  # fmt: skip
        works = [fingerprint(case, settings) for case in self.dataset.data]
        book = Batch(self.folder, works, [[path for path in paths if path] for paths in self.outputs])
        book.take()
        try:
            for number, (case, paths) in enumerate(zip(self.dataset.data, self.outputs, strict=True)):
                for path in paths:
                    if path is not None and number not in book.finished:
                        new_file(path, overwrite=self.overwrite or number in book.begun, source=case.image)
        except RefusedError:
            book.close(complete=False)
            raise
        book.start()
        return book

    def _segment(self, engine: Any, number: int) -> None:
        book, case, paths = self.book, self.dataset.data[number], self.outputs[number]
        may_replace = self.overwrite or number in book.begun
        if number in book.finished:
            if processes.rank() == 0:
                logger.info("%s is finished already: passed over.", paths[0])
        elif self._is_streamed(case, paths):
            if processes.rank() == 0:
                book.begin(number)
            predict_streamed(
                case.images, paths[0], network=engine.network, inferer=engine.inferer,
                labels=self.dataset.labels, preprocessing=self.dataset.preprocessing, probabilities=paths[1],
                spread=paths[2], overwrite=may_replace, cluster=self.cluster, spacing=case.spacing,
            )  # fmt: skip
            if processes.rank() == 0:
                book.finish(number)
        elif number % processes.count() == processes.rank():
            book.begin(number)
            self._in_memory(engine, number, may_replace)
            book.finish(number)

    def _is_streamed(self, case: Case, paths: Sequence[Path | None]) -> bool:
        """Whether an image is segmented block by block."""
        small = not self.blockwise and self.cluster is None
        if self.blockwise is False or (small and voxels_of(case.image) < _LARGE):
            return False
        files = [path for path in paths if path is not None]
        problem = why_not_streamed(self.network, self.inferer, self.dataset.preprocessing, files)
        if problem is not None:
            logger.info("%s is segmented as a whole, in memory: %s", case.image, problem)
        return problem is None

    def _in_memory(self, engine: Any, number: int, may_replace: bool) -> None:
        images, path = self.dataset.data[number].images, self.outputs[number][0]
        assert path is not None
        lock = f".{path.name}.lock"
        claim(self.folder, lock=lock)  # two commands may have some images in common
        try:
            before = [stamp(image) for image in images]
            item = self.dataset[number]
            found = segment(item, engine.network, engine.inferer, engine.state.device)
            files = self._files(number, *found)
            if [stamp(image) for image in images] != before:
                raise InputError(
                    f"{images[0]} was changed, replaced or removed while it was being segmented, so no "
                    "result is written. Let nothing write to it meanwhile, and repeat the command."
                )
            _write_together(files, item["volume"], overwrite=may_replace)
        finally:
            release(self.folder, lock=lock)
        logger.info("Segmented %s.", path)

    def _files(self, number: int, logits: Tensor, spread: Tensor | None) -> list[tuple[Path, NDArray[Any]]]:
        """What goes into which file, the classes first."""
        path, named, spread_path = self.outputs[number]
        assert path is not None
        classes = self.dataset.labels.decode(logits.argmax(0).to(torch.uint8).cpu().numpy())
        files: list[tuple[Path, NDArray[Any]]] = [(path, classes)]
        if spread_path is not None and spread is not None:
            files.append((spread_path, spread.cpu().numpy()))
        if named is not None:
            files.append((named, logits.softmax(0).cpu().numpy().astype(np.float32)))
        return files


def _write_together(files: Sequence[tuple[Path, Any]], like: Volume, *, overwrite: bool) -> None:
    """The files of one image: the first gets its name when all are complete, or none does."""
    (path, array), *others = files
    rest = (lambda: _write_together(others, like, overwrite=overwrite)) if others else None
    write_volume(path, array, like, overwrite=overwrite, together=rest)


class _Numbers(Dataset[int]):
    """The cases by their number: large ones are not to be read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        return number
