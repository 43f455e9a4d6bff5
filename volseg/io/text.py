"""Text and plain arrays in files: read, written whole, or grown line by line.

Settings, scores, tables and the journals of what is finished all go through here. A file that is written has
its old content or its new one at every moment. A journal only grows: each line is on the disk before the call
returns, and a kill costs at most the line that was being written.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.io.atomic import atomic_write

__all__ = [
    "Lines",
    "append_text",
    "lines_of",
    "open_shared",
    "read_arrays",
    "read_text",
    "write_arrays",
    "write_text",
]


def read_text(path: Path) -> str:
    """What a text file in UTF-8 holds, its line ends as they are.

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not in UTF-8.
    """
    return path.read_bytes().decode()


def write_text(path: Path, text: str, *, overwrite: bool = True, errors: str = "strict") -> None:
    """Write a text file in UTF-8 whole or not at all.

    Args:
        errors: what becomes of letters that UTF-8 has not, as in names of files; see ``str.encode``.

    Raises:
        RefusedError: if the file exists and is not to be overwritten.
        ResourceError: if the disk is full, or the file may not be written.
    """
    with atomic_write(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(text.encode(errors=errors))


def append_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Add to a text file in UTF-8, which is made if there is none; not flushed to the disk."""
    with path.open("ab") as file:
        file.write(text.encode(errors=errors))


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays by their names into one ``.npz`` file, whole or not at all."""
    with atomic_write(path, overwrite=True) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What :func:`write_arrays` wrote; nothing in the file is run."""
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def open_shared(path: Path, *, append: bool = False) -> int:
    """A file that several processes may have open, made if there is none: the system's number for it.

    Args:
        append: whether what is written goes behind what others have written meanwhile.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | (os.O_APPEND if append else 0), 0o666)


class Lines:
    """An open file of lines that only grows; several processes may add to it.

    A line that a kill cut off is followed by the next one on a line of its own: what is read may be half a
    line, so each has to show by itself that it is whole.

    Raises:
        OSError: if it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.handle = open_shared(path, append=True)
        self.path = path

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> list[bytes]:
        """The lines that are there, whole or not, without empty ones."""
        return lines_of(self.path)

    def append(self, line: str) -> None:
        """Add a line, in one call of the system; it has reached the disk afterwards."""
        os.write(self.handle, f"\n{line}\n".encode())
        os.fsync(self.handle)

    def clear(self) -> None:
        """Begin again, without a line."""
        os.ftruncate(self.handle, 0)

    def close(self) -> None:
        """Others may go on with it; a lock on it is given back."""
        os.close(self.handle)


def lines_of(path: Path) -> list[bytes]:
    """What :meth:`Lines.read` gives, of a file that is not open."""
    return [line for line in path.read_bytes().split(b"\n") if line]
