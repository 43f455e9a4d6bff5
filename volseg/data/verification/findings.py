"""What was found, and how it is shown."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["Finding", "finding", "table"]

_WIDTHS = (32, 56, 46)  # of the columns, in letters


class Finding(NamedTuple):
    """One thing to know about a data set: an error stops a training, a warning is for a person to judge."""

    level: Literal["error", "warning"]
    file: str
    what: str
    todo: str

    @property
    def message(self) -> str:
        """All of it, as one text."""
        return f"{self.file}: {self.what}. {self.todo}".rstrip()


def finding(level: Literal["error", "warning"], file: Path, message: str) -> Finding:
    """A message of the readers, which says what is wrong and then what to do, in its parts."""
    text = message.removeprefix(str(file))
    if message.startswith(f"{file} "):
        text = f"it{text}"
    what, _, todo = text.lstrip(": ").partition(". ")
    return Finding(level, str(file), what.rstrip("."), todo)


def table(findings: Sequence[Finding], folder: Path) -> Iterator[str]:
    """The lines of a table, errors first; files are shown as seen from ``folder``."""
    rows = [("file", "what", "what to do")]
    for one in sorted(findings):
        texts = (one.file, f"{one.level}: {one.what}", one.todo)
        file, what, todo = (text.replace(f"{folder}{os.sep}", "") for text in texts)
        rows.append((file, what, todo))
    for number, row in enumerate(rows):
        cells = [textwrap.wrap(text, width) or [""] for text, width in zip(row, _WIDTHS, strict=True)]
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            yield "  ".join(f"{part:<{width}}" for part, width in zip(parts, _WIDTHS, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in _WIDTHS)
