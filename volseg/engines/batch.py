"""Which images of a `predict` are finished, so that one that was stopped goes on with the others.

While images are being segmented a hidden journal lies beside the results: a line for each image that is
begun, and one with the state of its files when all of them are there. It goes when everything is done. The
same command, given again, passes over what is finished, and so does one for fewer or more of these images; a
file that no line speaks of belongs to another run.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from volseg.data import Case
from volseg.errors import RefusedError, ResourceError
from volseg.io import stamp
from volseg.io.text import Lines, lines_of
from volseg.runs.claim import claim, release

__all__ = ["Batch", "described", "fingerprint", "weights_hash"]

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
