"""Bundles and ``--ENTRY VALUE`` on the command line."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import InputError

__all__ = ["DEFAULT_BUNDLE", "bundle_paths", "entries", "typed"]

DEFAULT_BUNDLE = "bundles/xenopus.json"


def bundle_paths(paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        if path.suffix.lower() != ".json":
            raise InputError(
                f"'{path}' is not a bundle: bundles end in .json, and settings are --ENTRY VALUE."
            )
    return list(paths) or [Path(DEFAULT_BUNDLE)]


def entries(rest: Sequence[str], bundle: Mapping[str, Any]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as a dictionary; a ``--switch`` of the bundle alone is true."""
    found: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands alone: settings are given as --ENTRY VALUE.")
        key, equals, text = word[2:].partition("=")
        if not equals:
            is_alone = not words or words[0].startswith("--")
            if is_alone and not isinstance(bundle.get(key), bool):
                raise ValueError(f"--{key} has no value: settings are given as --ENTRY VALUE.")
            text = "true" if is_alone else words.pop(0)
        found[key] = text
    return found


def typed(bundle: Mapping[str, Any], key: str, text: str) -> Any:
    """What the text of a setting stands for, given the entry it is for."""
    return text if _is_text(bundle, key) else _value(text)


def _is_text(bundle: Mapping[str, Any], key: str) -> bool:
    """Whether an entry holds a text, such as a path, directly or by reference: then ``2016`` is one, too."""
    value = bundle.get(key)
    for _ in bundle:
        if not (isinstance(value, str) and value.startswith("@")):
            break
        value = bundle.get(value[1:])
    return isinstance(value, str) and not value.startswith(("$", "@"))


def _value(text: str) -> Any:
    """What the text of a setting stands for, as Python or JSON."""
    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
