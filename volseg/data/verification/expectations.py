"""What a data set is measured against, and how what was found is shown."""

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from volseg.errors import InputError
from volseg.instances import InstanceScheme
from volseg.labels import LabelScheme

__all__ = ["Expectations", "Finding", "expectations", "finding", "table"]


@dataclass(frozen=True)
class Expectations:
    """``None`` where nothing in particular is expected."""

    labels: LabelScheme | None = None
    in_channels: int | None = None
    spatial_dims: int | None = None


def expectations(config: Mapping[str, Any]) -> Expectations:
    """What the entries ``labels``, ``in_channels`` and ``network_def`` of a merged bundle say.

    Raises:
        InputError: if ``labels`` cannot be read without evaluating something.
    """
    scheme = _plain(config, config.get("labels"))
    labels: LabelScheme | None = None
    if isinstance(scheme, Mapping):
        arguments = {k: _plain(config, v) for k, v in scheme.items() if not k.startswith("_")}
        kind = InstanceScheme if scheme.get("_target_") == "volseg.InstanceScheme" else LabelScheme
        try:
            labels = kind(**arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"The bundle's entry 'labels' cannot be read ({error}). Give names, values and unlabelled as "
                "plain text and numbers."
            ) from error
    network = config.get("network_def")
    dims = _plain(config, network.get("spatial_dims")) if isinstance(network, Mapping) else None
    channels = _plain(config, config.get("in_channels"))
    return Expectations(
        labels,
        channels if isinstance(channels, int) else None,
        dims if isinstance(dims, int) else None,
    )


def _plain(config: Mapping[str, Any], value: Any) -> Any:
    """The value that a chain of references leads to."""
    for _ in config:
        if not (isinstance(value, str) and value.startswith("@")):
            break
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found.get(part) if isinstance(found, Mapping) else None
        value = found
    return value


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
