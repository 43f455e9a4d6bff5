"""How a command goes on to its end although a signal comes, or what it prints cannot be printed.

What a command prints is not its work. Where the reader goes away (``| head``), or the terminal is closed, the
rest is not printed, the work is done all the same, and the exit code is that of the work. Letters that the
output does not have (``PYTHONIOENCODING=ascii``, a batch system without a locale) are written in others.
"""

import codecs
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from volseg.errors import end_like_ctrl_c

__all__ = ["to_the_end"]


def to_the_end(work: Callable[[], int]) -> int:
    """What ``work`` gives; SIGTERM interrupts it as Ctrl-C does, and closed output does not end it."""
    end_like_ctrl_c()
    _open_closed()
    _replace_letters()
    before = sys.stdout, sys.stderr
    output, messages = _Lasting(sys.stdout), _Lasting(sys.stderr, always=True)
    sys.stdout, sys.stderr = output, messages
    try:
        return work()
    finally:
        output.flush()
        messages.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Input, output and messages that were closed (``2>&-``) lead nowhere.

    Else the next file to be opened would get their number, and be written into by whoever prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


# What volseg itself prints beyond ASCII; anything else, such as a letter of a file's name, as \\xe9.
_PLAIN = {
    "·": "-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "±": "+/-", "≤": "<=",
    "≥": ">=", "≈": "~", "°": " deg", "µ": "u", "μ": "u", "Å": "A", "²": "2", "³": "3",
    "“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ",
}  # fmt: skip


def _replace_letters() -> None:
    """What is printed from now on never fails for a letter."""
    codecs.register_error("volseg", _in_other_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="volseg")


def _in_other_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    """Other letters for the one that cannot be encoded, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter, behind = error.object[error.start], error.start + 1
    if letter in _PLAIN:
        return _PLAIN[letter], behind
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is not text
        return f"\\x{ord(letter) - 0xDC00:02x}", behind
    only = UnicodeEncodeError(error.encoding, error.object, error.start, behind, error.reason)
    return codecs.backslashreplace_errors(only)


class _Lasting:
    """A stream that loses what is written where there is no reader any more.

    Args:
        always: whatever is wrong with it, such as a full disk.
    """

    def __init__(self, stream: Any, *, always: bool = False) -> None:
        self._stream = stream
        self._lost = OSError if always else BrokenPipeError

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except self._lost:
            self._to_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._lost:
            self._to_nowhere()

    def _to_nowhere(self) -> None:
        """What is left in the stream's buffer goes nowhere: Python flushes it once more at its very end."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
