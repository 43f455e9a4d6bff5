"""`Finding`: one thing that is wrong with data, in parts, and a table of several.

`volseg audit` and `volseg verify` report the same class, and so can every reader of files: what is wrong,
why it matters and what to do are fields, so that nothing has to take a text apart.
"""

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "Severity", "table"]

Severity = Literal["error", "warning", "note"]

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_WIDTHS = (32, 56, 46)  # of the columns, in letters


@dataclass(frozen=True)
class Finding:
    """One thing to know about a file, an annotation or a data set.

    Attributes:
        kind: which check found it, one word that stays the same.
        severity: an error makes a training wrong or impossible, a warning makes it worse, a note is for a
            person to weigh.
        what: is wrong, with the value; like the next two a sentence without its full stop.
        why: it matters; ``""`` where that is plain.
        todo: what to do about it; ``""`` where ``what`` says it.
        slices: the slices it is about, as axis and index, such as ``("z", 12)``.
        voxel: one place to look at, x, y(, z), where there is one.
        file: it is about, where ``what`` does not name it.
    """

    kind: str
    severity: Severity
    what: str
    why: str = ""
    todo: str = ""
    slices: tuple[tuple[str, int], ...] = field(default=(), kw_only=True)
    voxel: tuple[int, ...] | None = field(default=None, kw_only=True)
    file: str = field(default="", kw_only=True)

    @property
    def message(self) -> str:
        """All of it, as one text: the file, what is wrong, why it matters, what to do."""
        text = " ".join(_sentence(part) for part in (self.what, self.why, self.todo) if part)
        return f"{self.file}: {text}" if self.file else text

    @property
    def rank(self) -> tuple[int, str]:
        """To sort by: errors first, then warnings and notes, of each the files by name."""
        return _SEVERITIES.index(self.severity), self.file


def table(findings: Sequence[Finding], folder: Path) -> Iterator[str]:
    """The lines of a table, errors first; files are shown as seen from ``folder``."""
    rows = [("file", "what", "what to do")]
    for one in sorted(findings, key=lambda one: one.rank):
        what = " ".join(_sentence(part) for part in (f"{one.severity}: {one.what}", one.why) if part)
        rows.append((_seen_from(folder, one.file), _seen_from(folder, what), _seen_from(folder, one.todo)))
    for number, row in enumerate(rows):
        widths = _WIDTHS if row[2] else (_WIDTHS[0], sum(_WIDTHS[1:]) + 2, 0)
        cells = [
            textwrap.wrap(text, width, break_on_hyphens=False) if text else [""]
            for text, width in zip(row, widths, strict=True)
        ]
        for line in range(max(map(len, cells))):
            parts = [cell[line] if line < len(cell) else "" for cell in cells]
            yield "  ".join(f"{part:<{width}}" for part, width in zip(parts, widths, strict=True)).rstrip()
        if number == 0:
            yield "  ".join("-" * width for width in _WIDTHS)


def _seen_from(folder: Path, text: str) -> str:
    """With files named as from ``folder``, but for a command in it, which is typed where one is."""
    before, command, line = text.partition("'volseg ")
    return before.replace(f"{folder}{os.sep}", "") + command + line


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", ".)")) else f"{text}."
