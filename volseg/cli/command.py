"""What a command of ``volseg`` is, how its options are spelled, and what commands that read files share."""

import argparse
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from volseg.arguments import Door, as_entry, in_python, values_of
from volseg.errors import RefusedError

__all__ = ["Command", "add_paint", "add_reading", "door", "refuse_inputs", "with_dashes"]


class Command(NamedTuple):
    """One command, as its help shows it and as it is run.

    Args:
        name: what is typed.
        summary: what it is for, in half a sentence.
        example: a whole line.
        add_arguments: adds them to a parser; an option's ``dest`` is the name of the argument in Python.
        run: does it, given what was parsed and the words that set entries of a bundle; gives the exit code,
            0 for ``None``.
        takes_entries: entries of a bundle can be set, by ``--ENTRY VALUE``.
    """

    name: str
    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Sequence[str]], int | None]
    takes_entries: bool = False


def with_dashes(word: str) -> str:
    """``--max_memory=2`` as ``--max-memory=2``: either spelling of an option is understood."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def door(parser: argparse.ArgumentParser, *, takes_entries: bool) -> Door:
    """How arguments are named while the command of this parser runs."""
    options = {}
    for action in parser._actions:
        if action.option_strings:
            is_optional = isinstance(action, argparse.BooleanOptionalAction)
            switched = (action.const,) if action.nargs == 0 and not is_optional else None
            first, last = action.option_strings[0], action.option_strings[-1 if is_optional else 0]
            options[action.dest] = (first, last, switched)
    return _Words(options, takes_entries)


class _Words:
    """A door that can be sent to another process.

    Attributes:
        options: by argument the option, how it is switched off, and of a switch what it stands for.
    """

    def __init__(
        self, options: Mapping[str, tuple[str, str, tuple[Any] | None]], takes_entries: bool
    ) -> None:
        self.options, self.takes_entries = options, takes_entries

    def __call__(self, name: str, value: Any = ...) -> str:
        if name in self.options:
            on, off, switched = self.options[name]
            word = off if value is False else on
            if value is None or value == {} or (switched is not None and value not in (..., *switched)):
                return f"without {word}"
            rest = [] if value is ... or isinstance(value, bool) else values_of(value)
            return " ".join([word, *map(shlex.quote, rest)])
        if self.takes_entries:
            return as_entry(name, ... if value is True else value)
        return in_python(name, value)  # this command has no such option


def add_paint(parser: argparse.ArgumentParser) -> None:
    """The options that say what paint means."""
    parser.add_argument(
        "--unlabelled", type=int, metavar="VALUE", help="the value of what is unlabelled (default: found)"
    )
    parser.add_argument("--painted-only", action="store_true", help="0 is unlabelled, on painted slices, too")
    parser.add_argument(
        "--finished", action="store_true", help="painted slices are finished: 0 on them is background"
    )
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="VALUE=NAME", help="the classes (default: all)"
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
