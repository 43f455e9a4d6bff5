"""Classes as they are given: values, names and colours, checked in one place.

Names are compared once all changes are made, so two classes can swap theirs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from volseg.labels import IGNORE_INDEX
from volseg.report import class_colours
from volseg.session.painting import BACKGROUND, ClassInfo, whole

__all__ = ["changed", "named", "with_background"]

_GREY = (150, 150, 150)  # background
_MOST = IGNORE_INDEX - 1


def named(classes: Mapping[Any, Any]) -> dict[int, str]:
    """Names by value, as a caller gives them; a value may be any whole number, or its digits, as in JSON.

    Raises:
        ValueError: if a value is something else, or given twice.
    """
    found: dict[int, str] = {}
    for key, name in classes.items():
        value = _value(int(key) if isinstance(key, str) and key.isdecimal() else key)
        if value in found:
            raise ValueError(f"classes names the value {value} twice. Give every class a value of its own.")
        found[value] = str(name)
    return found


def with_background(names: Mapping[int, str]) -> dict[int, str]:
    """The classes of a new session: with background, and at least one other."""
    found = dict(names) or {1: "class 1"}
    taken = {name for value, name in found.items() if value != BACKGROUND}
    free = (name for name in ("background", "rest", "class 0", *map("rest {}".format, range(_MOST))))
    return {BACKGROUND: next(name for name in free if name not in taken)} | found


def changed(known: Mapping[int, ClassInfo], changes: Mapping[int, Mapping[str, Any]]) -> dict[int, ClassInfo]:
    """What classes are after changes, those that are not as before.

    Args:
        changes: ``name``, ``colour``, ``locked`` by value; what is ``None`` stays.

    Raises:
        ValueError: if a value, a name or a colour cannot be one, or two classes would have one name.
    """
    after = dict(known)
    for key, change in changes.items():
        value = _value(key)
        colour = class_colours(value)[-1] if value else _GREY
        info = known.get(value) or ClassInfo(f"class {value}", _colour(colour))
        given = {what: one for what, one in change.items() if one is not None}
        if "colour" in given:
            given["colour"] = _colour(given["colour"])
        after[value] = replace(info, **given)
    counts = Counter(info.name for info in after.values())
    found = {value: info for value, info in after.items() if info != known.get(value)}
    for info in found.values():
        if not isinstance(info.name, str) or not info.name.strip() or counts[info.name] > 1:
            raise ValueError(
                f"the name {info.name!r} is empty or that of another class. Every class needs a name of its "
                "own."
            )
        if not info.name.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in info.name):
            raise ValueError(
                f"the name {info.name!r} holds a line break, a tab or another character that cannot be seen, "
                "which files and tables cannot keep. Leave it out."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in info.name):
            raise ValueError(
                f"the name {info.name!r} holds half a character, which no file can. Choose another name."
            )
    return found


def _value(value: Any) -> int:
    if isinstance(value, int | np.integer) and 0 <= value <= _MOST:
        return whole("value", value)
    raise ValueError(f"value = {value!r} must be a whole number from 0 to {_MOST}.")


def _colour(parts: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (int(part) for part in parts)
    return red, green, blue
