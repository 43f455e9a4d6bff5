"""Which tiles of an unfinished output are on the disk.

Beside the output stand, under hidden names, the unfinished files and their journal: one line that says what
the work is and how it was planned, then one line per tile, written after the tile itself has reached the
disk. The same work, started again, resumes from there.
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import RefusedError, ResourceError
from volseg.io.text import Lines
from volseg.runs.claim import take_lock

__all__ = ["Journal"]

logger = logging.getLogger(__name__)

_LINE = re.compile(rb"(\d+);")  # what a kill cut off has no semicolon


class Journal:
    """The record of one output.

    Several processes may note tiles: each line is written at once, behind what is there.

    Args:
        target: the name of the output when it is complete.
        work: what identifies the work; another text, and everything starts again.
    """

    def __init__(self, target: Path, work: str) -> None:
        self.target = target
        self.work = work
        self.path = target.with_name(f".{target.name}.journal")
        self.done: set[int] = set()
        self.plan: dict[str, Any] = {}
        self._lines: Lines | None = None

    def open(
        self, plan: Callable[[], dict[str, Any]], create: Callable[[], object], there: Callable[[], bool]
    ) -> None:
        """Read what is there; or make a plan, have ``create`` make the unfinished files, and note both.

        Args:
            there: whether the unfinished files of an earlier run are still there.

        Raises:
            RefusedError: if another process is at this output.
        """
        self._open()
        self._lock()
        first, *lines = self._open_lines.read() or [b"{}"]
        try:
            head = json.loads(first)
        except json.JSONDecodeError:
            head = {}
        if head.get("work") == self.work and there():
            self.plan = head["plan"]
            self.done = {int(found[1]) for line in lines if (found := _LINE.fullmatch(line))}
            return
        if head:
            logger.warning(
                "%s was begun with another image, network or setting: it starts again.", self.target
            )
        self.plan = plan()
        self._open_lines.clear()
        create()
        self._open_lines.append(json.dumps({"work": self.work, "plan": self.plan}))

    def join(self, plan: dict[str, Any], done: set[int]) -> None:
        """Note tiles in the journal that another process has opened."""
        self.plan, self.done = plan, set(done)
        self._open()

    def note(self, tile: int) -> None:
        """A tile has reached the disk."""
        self._open_lines.append(f"{tile};")
        self.done.add(tile)

    def finish(self) -> None:
        """Everything has its final name: forget the rest."""
        self.close()
        self.path.unlink()

    def drop(self, made: Sequence[Path]) -> None:
        """Nothing can be resumed: the unfinished files go, too."""
        for path in made:
            shutil.rmtree(path, ignore_errors=True)  # if it is a folder
        for path in (*made, self.path):
            with contextlib.suppress(OSError):
                path.unlink()
        self.close()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    @property
    def _open_lines(self) -> Lines:
        assert self._lines is not None
        return self._lines

    def _open(self) -> None:
        try:
            self._lines = Lines(self.path)
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.path}: {error.strerror or error}. Choose a folder you may write to."
            ) from error

    def _lock(self) -> None:
        if not take_lock(self._open_lines.handle):
            self.close()
            raise RefusedError(f"another process is writing {self.target}. Let it finish first.")
