"""Ids of entries, and the nearest name to one that does not exist.

An *id* is the path to an entry of a bundle, joined by ``::`` inside MONAI, by ``#`` where people write it.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["SEP", "did_you_mean", "nearest", "nearest_id", "shown", "walk"]

SEP = "::"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that somebody who typed ``name`` most likely meant, if any comes close."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def nearest_id(entry: str, ids: Iterable[str]) -> str | None:
    """The id most likely meant: the same name elsewhere, else a close neighbour, else any close id."""
    ids = list(ids)
    parent, _, name = entry.rpartition(SEP)
    elsewhere = [i for i in ids if i.rpartition(SEP)[2] == name and not name.isdigit()]
    if elsewhere:
        return nearest(entry, elsewhere) or min(elsewhere, key=lambda i: i.count(SEP))
    neighbours = {i.rpartition(SEP)[2]: i for i in ids if i.rpartition(SEP)[0] == parent}
    if close := nearest(name, neighbours):
        return neighbours[close]
    return nearest(entry, ids)


def did_you_mean(close: str | None) -> str:
    """The end of a sentence about a name that does not exist."""
    return f"; did you mean {shown(close)!r}?" if close else "."


def shown(entry: str) -> str:
    """An id the way people write it."""
    return entry.replace(SEP, "#")


def walk(config: Any, entry: str = "") -> Iterator[tuple[str, Any]]:
    """Every entry of a configuration with its id, parents before children, the root left out."""
    if isinstance(config, Mapping):
        items: Iterable[tuple[Any, Any]] = config.items()
    elif isinstance(config, list):
        items = enumerate(config)
    else:
        return
    for key, value in items:
        child = f"{entry}{SEP}{key}" if entry else str(key)
        yield child, value
        yield from walk(value, child)
