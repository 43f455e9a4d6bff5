"""JSON: one guarded way to read what strangers wrote, and one way to write it whole.

Python's reader takes what JSON does not have (``NaN``), stops with its own errors at numbers of 5,000
digits and at brackets 100,000 deep, and does not know the byte order mark that editors on Windows put first.
Here all of that is an `InputError` with the file's name, or read as it is meant. A text without such a
trick means what ``json.loads`` says.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from volseg.errors import InputError
from volseg.io.text import write_text

__all__ = ["parse_json", "read_json", "write_json"]

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
        InputError: if it is no JSON, or holds a number of more than 300 digits, or is nested deeper than 100.
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
        raise InputError(f"{source} is not valid JSON ({error}). Mend or remove it.") from error
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
