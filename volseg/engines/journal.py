"""Which tiles of an unfinished output are on the disk.

Beside the output stand, under hidden names, the unfinished file and its journal: one line that says what the
work is, then one line per tile, written after the tile itself has reached the disk. Whoever comes back with
the same work goes on from there.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from volseg.errors import RefusedError

__all__ = ["Journal"]

logger = logging.getLogger(__name__)


class Journal:
    """The record of one output.

    Args:
        target: the name of the output when it is complete.
        work: what identifies the work; another text, and everything starts anew.
    """

    def __init__(self, target: Path, work: str) -> None:
        self.target = target
        self.work = work
        suffix = target.suffix
        self.partial = target.with_name(f".{target.name}.unfinished{suffix}")
        self.path = target.with_name(f".{target.name}.journal")
        self.done: set[int] = set()
        self.plan: dict[str, Any] = {}
        self._file: Any = None

    def open(self, plan: Callable[[], dict[str, Any]], create: Callable[[Path], object]) -> None:
        """Read what is there; or make a plan, have ``create`` make the unfinished file, and note both.

        Raises:
            RefusedError: if another process is at this output.
        """
        self._file = self.path.open("a+", encoding="utf-8")
        self._lock()
        self._file.seek(0)
        lines = self._file.read().split("\n")[:-1]  # what a kill cut off has no end of line
        try:
            head = json.loads(lines[0]) if lines else {}
        except json.JSONDecodeError:
            head = {}
        if head.get("work") == self.work and self.partial.exists():
            self.plan = head["plan"]
            self.done = {int(line) for line in lines[1:] if line.isdigit()}
            self._file.truncate(sum(len(line.encode()) + 1 for line in lines))
            return
        if head:
            logger.warning(
                "%s was begun with another image, network or setting: it starts anew.", self.target
            )
        self.plan = plan()
        self._file.truncate(0)
        create(self.partial)
        self._write(json.dumps({"work": self.work, "plan": self.plan}))

    def note(self, tile: int) -> None:
        """A tile has reached the disk."""
        self._write(str(tile))
        self.done.add(tile)

    def complete(self) -> None:
        """Give the output its name, and forget the rest."""
        os.replace(self.partial, self.target)
        self.path.unlink()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, line: str) -> None:
        self._file.write(f"{line}\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise RefusedError(
                    f"another process is writing {self.target}. Let it finish first."
                ) from error
