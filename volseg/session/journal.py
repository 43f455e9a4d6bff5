"""What was painted, as a file that only grows: one record per act, each with a checksum and a number.

A record is one line: the CRC-32 of what follows in eight hexadecimal digits, a space, and a JSON object whose
``n`` counts from 0. It is on the disk before :meth:`Journal.append` returns. A kill can cut off the last line
only; what a damaged disk does to another one is found by the checksum and the numbers, and reported.

On a full disk nothing is lost as long as the process lives: records wait in memory, in their order, and are
written with the next one that can be. The same if the file or its folder is deleted while it is open: the
system still has what was in it, and it is written again where the folder is.
"""

import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from volseg.errors import InputError, ResourceError, VolsegError
from volseg.io.text import Lines, lines_of, parse_json
from volseg.runs.claim import PAINT_LOCK, claim, release, renew, require_free

__all__ = ["Journal", "Record", "read_journal", "taken"]

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]

_DIGITS = 8
_OPEN: "WeakValueDictionary[Path, Journal]" = WeakValueDictionary()  # by this process


class Journal:
    """A journal that is written to.

    Args:
        path: made if there is none; records that are there stay, and are not read here.
        number: that the next record gets.
        on_restored: called when the file was written again because it had gone.

    Attributes:
        trouble: why records are waiting in memory; empty while all are on the disk.
        is_over: whether it was closed, or opened again in this process: nothing may be added here.
        lock: held while records are written.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path, number: int = 0, on_restored: Callable[[], object] = lambda: None) -> None:
        self.path = path
        self.number = number
        self.trouble = ""
        self.is_over = False
        self.lock = threading.RLock()
        self._lines = Lines(path)
        self._on_restored = on_restored
        self._waiting: list[str] = []
        _OPEN[path.resolve()] = self

    @property
    def waiting(self) -> int:
        """Records that are not on the disk."""
        return len(self._waiting)

    def append(self, record: Record) -> None:
        """Note a record; see ``trouble`` for whether it has reached the disk."""
        with self.lock:
            if not self.is_over:
                self._waiting.append(_line({"n": self.number, **record}))
                self.number += 1
                self.flush()

    def flush(self) -> None:
        """Write what is waiting, as far as the disk takes it."""
        with self.lock:
            if self.is_over:
                return
            try:
                if not self._lines.is_there:
                    self._restore()
                while self._waiting:
                    self._lines.append(self._waiting[0])
                    del self._waiting[0]
            except (OSError, VolsegError) as error:
                self.trouble = getattr(error, "strerror", None) or str(error)
            else:
                self.trouble = ""

    def require_written(self) -> None:
        """Write what is waiting.

        Raises:
            ResourceError: if that cannot be done.
        """
        self.flush()
        if self.trouble:
            number = self.waiting if self._lines.is_there else self.number
            room = f" Make room on the disk of {self.path.parent}." if self.path.parent.is_dir() else ""
            raise ResourceError(
                f"{number} acts of painting are only in memory: {self.trouble}.{room} Then close again: "
                "nothing is lost as long as this program runs."
            )

    def close(self) -> None:
        """Close the file; what is still waiting is lost, see :meth:`require_written`."""
        with self.lock:
            if _OPEN.get(self.path.resolve()) is self:
                del _OPEN[self.path.resolve()]
            self.is_over = True
            self._lines.close()

    def _restore(self) -> None:
        """Write the file again, with all that was in it."""
        folder = self.path.parent
        if not folder.is_dir():
            raise ResourceError(f"the folder {folder} is not there any more: move it back, or make it again")
        renew(folder, "output", lock=PAINT_LOCK)
        other = self._lines.restore()
        logger.warning("%s had gone while it was open, and was written again: it is whole.", self.path)
        if other is not None:
            logger.warning("Another file of its name that stood there is %s now.", other)
        self._on_restored()


@contextmanager
def taken(folder: Path, path: Path) -> Iterator[None]:
    """Take a folder, and open its journal within; who has it open in this process may add nothing after that.

    If what is done within fails, that one goes on; without it the folder is given back.

    Raises:
        RefusedError: if another process has the folder, or a run of densify is at work in it.
        ResourceError: if records wait in memory there that cannot be written.
    """
    is_new = claim(folder, "output", lock=PAINT_LOCK)
    before = _OPEN.get(path.resolve())
    try:
        require_free(folder, "output", lock=".lock")
        with nullcontext() if before is None else before.lock:
            if before is not None:
                before.require_written()
            yield
            if before is not None:
                before.is_over = True
    except BaseException:
        after = _OPEN.get(path.resolve())
        if after is not None and after is not before:
            after.close()
            if before is not None:
                before.number, _OPEN[path.resolve()] = after.number, before
        if is_new:
            release(folder, lock=PAINT_LOCK)
        raise


def read_journal(path: Path) -> Iterator[Record]:
    """The records of a journal, in their order; none if there is no file.

    A record that a kill cut off is left out. Of damaged ones before the last, the log names the numbers.

    Raises:
        InputError: if the file holds something, and no record of a journal.
        OSError: if it cannot be read.
    """
    if not path.exists():
        return
    lines = lines_of(path)
    expected, found = 0, 0
    for line in lines:
        record = _record(line, path)
        if record is None or record["n"] < expected:  # written again behind a line that was cut off
            continue
        if record["n"] > expected:
            logger.warning(
                "%s: %s cannot be read, so what was painted then is missing. The disk or a program has "
                "damaged the file; a copy of it may hold it.",
                path,
                f"record {expected}"
                if record["n"] == expected + 1
                else f"records {expected} to {record['n'] - 1}",
            )
        expected, found = record["n"] + 1, found + 1
        yield record
    if len(lines) > 1 and not found:
        raise InputError(
            f"{path} holds no record of painting. It is another file, or badly damaged: move it away, or "
            "choose "
            "another folder."
        )


def _line(record: Record) -> str:
    text = json.dumps(record, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):0{_DIGITS}x} {text}"


def _record(line: bytes, path: Path) -> dict[str, Any] | None:
    """What a line holds; ``None`` if it is not whole."""
    try:
        checksum = int(line[:_DIGITS], 16)
    except ValueError:
        return None
    text = line[_DIGITS + 1 :]
    if line[_DIGITS : _DIGITS + 1] != b" " or zlib.crc32(text) != checksum:
        return None
    record = parse_json(text, path)
    return record if isinstance(record, dict) and isinstance(record.get("n"), int) else None
