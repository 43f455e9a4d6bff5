"""What was painted, as a file that only grows: one record per act, each with a checksum and a number.

A record is one line: the CRC-32 of what follows in eight hexadecimal digits, a space, and a JSON object whose
``n`` counts from 0. It is on the disk before :meth:`Journal.append` returns. A kill can cut off the last line
only; what a damaged disk does to another one is found by the checksum and the numbers, and reported.

On a full disk nothing is lost as long as the process lives: records wait in memory, in their order, and are
written with the next one that can be.
"""

import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from volseg.errors import InputError
from volseg.io.text import Lines, lines_of, parse_json

__all__ = ["Journal", "Record", "read_journal", "retire"]

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]

_DIGITS = 8
_OPEN: "WeakValueDictionary[Path, Journal]" = WeakValueDictionary()  # by this process


class Journal:
    """A journal that is written to.

    Args:
        path: made if there is none; records that are there stay, and are not read here.
        number: that the next record gets.

    Attributes:
        trouble: why records are waiting in memory; empty while all are on the disk.
        is_retired: whether the file was opened again in this process: nothing may be added here.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path, number: int = 0) -> None:
        self.path = path
        self.number = number
        self.trouble = ""
        self.is_retired = False
        self._lines = Lines(path)
        _OPEN[path.resolve()] = self
        self._waiting: list[str] = []

    @property
    def waiting(self) -> int:
        """Records that are not on the disk."""
        return len(self._waiting)

    def append(self, record: Record) -> None:
        """Note a record; see ``trouble`` for whether it has reached the disk."""
        if not self.is_retired:
            self._waiting.append(_line({"n": self.number, **record}))
            self.number += 1
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, as far as the disk takes it."""
        while self._waiting:
            try:
                self._lines.append(self._waiting[0])
            except OSError as error:
                self.trouble = error.strerror or str(error)
                return
            del self._waiting[0]
        self.trouble = ""

    def close(self) -> None:
        """Write what is waiting, and close the file."""
        self.flush()
        self._lines.close()


def retire(path: Path) -> None:
    """Before a journal is opened again in this process: whoever has it open still adds nothing more."""
    before = _OPEN.get(path.resolve())
    if before is not None:
        before.flush()
        before.is_retired = True


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
