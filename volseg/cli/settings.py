"""Bundles and ``--ENTRY VALUE`` on the command line."""

import argparse
import ast
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import InputError, RefusedError
from volseg.installation import OVERLAYS, find, shipped

__all__ = [
    "DEFAULT_BUNDLE",
    "add_bundle",
    "add_reading",
    "as_typed",
    "bundle_paths",
    "entries",
    "refuse_inputs",
    "typed",
]

DEFAULT_BUNDLE = "xenopus"
BUNDLE_HELP = (
    "bundle, then overlays: files, or names of what came with volseg, such as xenopus and smoke "
    "(volseg init lists them)"
)


def add_reading(parser: argparse.ArgumentParser, *, labels: bool) -> None:
    """The options that say of files what they do not say themselves."""
    parser.add_argument(
        "--spacing",
        metavar="X,Y,Z[UNIT]",
        help="voxel size, where a file names none or a wrong one: 0.004,0.004,0.05um",
    )
    if labels:
        parser.add_argument(
            "--colours",
            "--colors",
            metavar="COLOUR=VALUE,...",
            help="the number of each colour of a label picture, in hexadecimal: 000000=0,ff0000=1,other=255",
        )


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """An output never takes the place of what it is made from, with ``--overwrite``, either.

    Raises:
        RefusedError: if it would.
    """
    if any(output.exists() and one.exists() and output.samefile(one) for one in inputs):
        raise RefusedError(
            f"-o {output} is a file that is read here, and would be lost: name another output, and rename "
            "that afterwards if it is the one to keep."
        )


def add_bundle(parser: argparse.ArgumentParser, *, nargs: str = "*") -> None:
    """The argument that names a bundle and overlays, and the option that names further overlays."""
    default = "" if nargs == "+" else f"; default {DEFAULT_BUNDLE}"
    parser.add_argument("bundle", nargs=nargs, type=Path, help=f"{BUNDLE_HELP}{default}")
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="OVERLAY", help="one more overlay"
    )


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
    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
