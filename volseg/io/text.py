"""Text, JSON and plain arrays in files: read, written whole, or grown line by line.

Settings, scores, tables and the journals of what is finished all go through here. A file that is written has
its old content or its new one at every moment. A journal only grows: each line is on the disk before the call
returns, and a kill costs at most the line that was being written.

JSON that strangers wrote is read in one guarded way. Python's reader takes what JSON does not have (``NaN``),
stops with its own errors at numbers of 5,000 digits and at brackets 100,000 deep, and does not know the byte
order mark that editors on Windows put first. Here all of that is an `InputError` with the file's name, or
read as it is meant. A text without such a trick means what ``json.loads`` says.
"""

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.io.atomic import atomic_write

__all__ = [
    "Lines",
    "append_text",
    "lines_of",
    "open_shared",
    "parse_json",
    "read_arrays",
    "read_json",
    "read_text",
    "write_arrays",
    "write_json",
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

    @property
    def is_there(self) -> bool:
        """Whether the file that is open still has its name: it was neither deleted, moved nor replaced."""
        try:
            return os.path.samestat(os.fstat(self.handle), self.path.stat())
        except FileNotFoundError:
            return False

    def restore(self) -> Path | None:
        """Write the file again under its name, with all that was in it: the system has that as long as it is
        open.

        Returns:
            the new name of another file that stands there by now; ``None`` if there was none, or it held no
            more than a beginning of this one.

        Raises:
            OSError, ResourceError: if it cannot be written.
        """
        with open(self.handle, "rb", closefd=False) as file:
            file.seek(0)
            content = file.read()
        other = None
        if self.path.exists() and not content.startswith(self.path.read_bytes()):
            other = self.path.with_name(f"{self.path.name}.{self.path.stat().st_mtime_ns}")
            os.replace(self.path, other)
        with atomic_write(self.path, overwrite=True) as temporary:
            temporary.write_bytes(content)
        before, self.handle = self.handle, open_shared(self.path, append=True)
        os.close(before)
        return other

    def append(self, line: str) -> None:
        """Add a line, in one call of the system; it has reached the disk afterwards."""
        content = f"\n{line}\n".encode()
        if os.write(self.handle, content) < len(content):  # what the disk still had room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
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


MOST = 64 << 20  # bytes of a file
_DEEPEST = 100  # brackets within brackets
_DIGITS = 300  # of a number: no more fit a double


def read_json(
    path: Path,
    *,
    most: int = MOST,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """What a JSON file holds; see :func:`parse_json`.

    Args:
        most: bytes that it may have.

    Raises:
        InputError: if it is too large, or no JSON.
        OSError: if it cannot be read.
    """
    if path.stat().st_size > most:
        raise InputError(f"{path} is too large for a description in JSON. It is damaged, or another file.")
    return parse_json(path.read_bytes(), path, pairs=pairs, constant=constant)


def write_json(
    path: Path,
    content: Any,
    *,
    indent: int | None = 2,
    overwrite: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> None:
    """Write a JSON file whole or not at all, in ASCII, with a line end.

    Args:
        default: makes something that JSON has of what it has not.

    Raises:
        RefusedError: if the file exists and is not to be overwritten.
        ResourceError: if the disk is full, or the file may not be written.
    """
    write_text(path, json.dumps(content, indent=indent, default=default) + "\n", overwrite=overwrite)


def parse_json(
    text: str | bytes,
    source: object,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """What a JSON text says; a byte order mark is passed over, and UTF-16 is known by it.

    Args:
        source: what the text is, for messages.
        pairs: makes an object from its keys and values in their order (default: a dictionary).
        constant: makes a value from ``NaN``, ``Infinity`` and ``-Infinity`` (default: they are refused).

    Raises:
        InputError: if it is not JSON, holds a number of more than 300 digits, or is nested deeper than 100.
            Its ``__cause__`` is Python's error, with line and column where there is one.
    """

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS:
            raise InputError(
                f"{source} holds a number of {len(digits)} digits, more than any value or size has. "
                "It is damaged; fetch or write it again."
            )
        return int(digits)

    def fraction(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise InputError(
                f"{source} holds the number {digits[:40]}, which is too large. Write a smaller one."
            )
        return value

    def refuse(name: str) -> Any:
        raise InputError(f"{source} holds {name}, which JSON does not have. Write a number, or null.")

    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        content = json.loads(
            text.removeprefix("\ufeff"), object_pairs_hook=pairs, parse_int=whole, parse_float=fraction,
            parse_constant=constant or refuse,
        )  # fmt: skip
    except UnicodeDecodeError as error:
        raise InputError(f"{source} cannot be read as UTF-8 text ({error}). Save it in UTF-8.") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is not valid JSON ({error}). Repair or remove it.") from error
    except RecursionError as error:
        raise _too_deep(source) from error
    if _depth(content) > _DEEPEST:
        raise _too_deep(source)
    return content


def _depth(content: Any) -> int:
    """How many objects and lists lie within each other, as far as it matters."""
    depth, level = 0, [content]
    while level and depth <= _DEEPEST:
        inside = [one for one in level if isinstance(one, dict | list)]
        level = [value for one in inside for value in (one.values() if isinstance(one, dict) else one)]
        depth += bool(inside)
    return depth


def _too_deep(source: object) -> InputError:
    return InputError(
        f"{source} is nested deeper than {_DEEPEST} brackets, which nothing needs. "
        "It is damaged; fetch or write it again."
    )
