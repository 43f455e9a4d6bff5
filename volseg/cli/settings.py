"""Bundles and ``--ENTRY VALUE`` on the command line."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from volseg.cli.command import with_dashes
from volseg.errors import InputError
from volseg.installation import OVERLAYS, find, named, shipped

__all__ = [
    "DEFAULT_BUNDLE",
    "add_bundle",
    "add_trust",
    "as_typed",
    "bundle_paths",
    "entries",
    "set_apart",
    "typed",
]

DEFAULT_BUNDLE = "xenopus"
BUNDLE_HELP = (
    "bundle, then overlays: files, or names of what came with volseg, such as xenopus and smoke "
    "(volseg init lists them)"
)


def add_bundle(parser: argparse.ArgumentParser, *, nargs: str = "*") -> None:
    """The argument that names a bundle and overlays, and the option that names further overlays."""
    default = "" if nargs == "+" else f"; default {DEFAULT_BUNDLE}"
    parser.add_argument("bundle", nargs=nargs, type=Path, help=f"{BUNDLE_HELP}{default}")
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="OVERLAY", help="one more overlay"
    )


_TRUST = "run whatever the bundle says; read it before"


def add_trust(
    parser: argparse.ArgumentParser, text: str = "run whatever the bundle says; read it before"
) -> None:
    """The option that lets a bundle do what is not on the list of `volseg.bundle.trust`."""
    parser.add_argument("--trust-bundle", dest="trust", action="store_true", help=text)


def bundle_paths(paths: Sequence[Path], overlays: Sequence[Path] = ()) -> list[Path]:
    """The files that a bundle and its overlays stand for; what is found elsewhere than here is said.

    Raises:
        InputError: if one is no such file and no such name, or the first is an overlay.
    """
    first, *rest = [*(paths or [Path(DEFAULT_BUNDLE)]), *overlays]
    found = find(first)
    if found == shipped(first) and found.stem in OVERLAYS:
        raise InputError(
            f"'{first}' is an overlay and stands behind the bundle it is laid over: {DEFAULT_BUNDLE} {first}."
        )
    return [found, *map(find, rest)]


def set_apart(words: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """The words for argparse, positional ones first, and those that set entries of a bundle.

    A word behind an entry is its value, unless the entry is a switch, true or false in the bundle, and the
    word is neither.
    """
    options = {string: action for action in parser._actions for string in action.option_strings}
    kinds = [kind for action in parser._actions if not action.option_strings for kind in action.choices or ()]
    switches: set[str] | None = None
    positional: list[str] = []
    own: list[str] = []
    settings: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, _ = word.partition("=")
        action = options.get(with_dashes(name))
        if action is not None:
            own.append(with_dashes(word))
            if action.nargs != 0 and not equals and left:
                own.append(left.pop(0))
        elif word.startswith("--"):
            settings.append(word)
            if not equals and left and not left[0].startswith("--"):
                switches = _switches(words) if switches is None else switches
                is_switch = name[2:].replace("-", "_") in switches and _is_word(left[0])
                settings += [] if is_switch else [left.pop(0)]
        elif settings and word not in kinds and named(word) is None and not word.endswith(".json"):
            settings.append(word)  # where it is said that it stands alone
        else:
            positional.append(word)
    return [*positional, *own], settings


def _switches(words: Sequence[str]) -> set[str]:
    """The entries that are true or false in one of the bundles that are named."""
    from volseg.io import read_json

    found: set[str] = set()
    for path in list(filter(None, map(named, words))) or filter(None, [named(DEFAULT_BUNDLE)]):
        with suppress(OSError, InputError):  # said when the bundle is read
            content = read_json(path)
            pairs = content.items() if isinstance(content, dict) else ()
            found |= {key for key, value in pairs if isinstance(value, bool)}
    return found


def _is_word(text: str) -> bool:
    """Whether a text cannot stand for true or false."""
    return isinstance(_value(text), str) and not text.startswith(("$", "@", "%"))


def entries(rest: Sequence[str], bundle: Mapping[str, Any]) -> dict[str, str]:
    """``--key value`` and ``--key=value`` as a dictionary; a ``--switch`` of the bundle alone is true.

    Dashes in a key stand for underscores.
    """
    found: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} stands alone: settings are given as --ENTRY VALUE.")
        key, equals, text = word[2:].partition("=")
        key = key if key in bundle else key.replace("-", "_")
        if not equals:
            is_switch = isinstance(bundle.get(key), bool)
            is_alone = not words or words[0].startswith("--") or (is_switch and _is_word(words[0]))
            if is_alone and not is_switch:
                raise ValueError(f"--{key} has no value: settings are given as --ENTRY VALUE.")
            text = "true" if is_alone else words.pop(0)
        found[key] = text
    return found


def typed(bundle: Mapping[str, Any], key: str, text: str) -> Any:
    """What the text of a setting stands for, given the entry it is for."""
    return text if _is_text(bundle, key) else _value(text)


def as_typed(value: Any) -> Any:
    """A value for MONAI, which would turn each ``#`` of a path into ``::``: an expression that has none."""
    if not isinstance(value, str) or "#" not in value or value.startswith(("$", "@", "%")):
        return value
    code = repr(value)
    for text in ("#", "@", "import"):  # these, too, mean something to it inside of an expression
        code = code.replace(text, f"\\x{ord(text[0]):02x}{text[1:]}")
    return f"${code}"


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
    import ast

    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
