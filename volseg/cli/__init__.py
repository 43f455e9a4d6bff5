"""The command ``volseg``, for people who know neither MONAI nor Python.

One module per command, which says what the command is for, what it can be told, and what it does.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from volseg import __version__
from volseg.arguments import come_through
from volseg.cli import (
    audit,
    check,
    convert,
    densify,
    ending,
    evaluate,
    experiment,
    export,
    info,
    init,
    naming,
    phantom,
    plan,
    predict,
    running,
    sparsify,
    train,
    verify,
)
from volseg.errors import in_words
from volseg.installation import folder

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[ModuleType, ...] = (
    densify,
    init,
    train,
    evaluate,
    predict,
    plan,
    audit,
    verify,
    check,
    info,
    convert,
    export,
    phantom,
    sparsify,
    experiment,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give the exit code, which `volseg.errors` lists. A traceback only with ``--debug``."""
    words = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> int:
        try:
            return _run(words)
        except (OSError, KeyboardInterrupt) as error:  # before it is at work: a signal, nowhere to print to
            if "--debug" in words:
                raise
            told, code = in_words(error, "what --debug shows")
            print(f"volseg: {told}", file=sys.stderr)
            return code

    return ending.to_the_end(work)


def _run(arguments: list[str]) -> int:
    words, rest = _set_apart(arguments)
    parser = _parser()
    if not [word for word in words if word != "--debug"]:
        parser.print_help()
        return 2
    given = parser.parse_args(words)
    before = come_through(naming.door(given.parser, takes_entries=given.command in _OF_BUNDLES))
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("volseg").setLevel(logging.INFO)
    try:
        return int(given.function(given, rest) or 0)
    except (Exception, KeyboardInterrupt) as error:
        if given.debug:
            raise
        told, code = in_words(error, "what --debug shows")
        print(f"volseg {given.command}: {told}", file=sys.stderr)
        return code
    finally:
        come_through(before)


_OF_BUNDLES = (*running.RUN_IDS, "experiment", "check")  # entries of the bundle can be set

_PURPOSE = """\
Segment a whole image or volume from a few painted slices, with a figure of how good the result is.
For many volumes, train a network once and segment all of them."""
_START = """\
start here:
  one volume     volseg densify image.tif painted.tif -o result
  many volumes   volseg init
  each command   volseg COMMAND --help
  documentation  {docs}"""


class _Version(argparse.Action):
    """Prints the version, and that of what it runs on, as a report of a fault needs it; then ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import torch

        build = "CPU build"
        if on := torch.version.cuda or torch.version.hip:
            found = "GPU found" if torch.cuda.is_available() else "no GPU found: the CPU build would do"
            build = f"build for {'CUDA' if torch.version.cuda else 'ROCm'} {on}, {found}"
        python = sys.version.partition(" ")[0]
        print(f"volseg {__version__} (Python {python}, torch {torch.__version__}: {build})")
        parser.exit()


def _name(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="volseg",
        description=_PURPOSE,
        epilog=_START.format(docs=folder("docs")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    none = argparse.SUPPRESS  # what is parsed holds no entry for it
    parser.add_argument(
        "--version", action=_Version, nargs=0, dest=none, default=none,
        help="show the version, and what it runs on",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        sub = commands.add_parser(
            _name(command),
            help=command.SUMMARY,
            description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub._negative_number_matcher = re.compile(r"-\d+(\.\d*)?(=.*)?$")  # --names -1=rest is no option
        sub.set_defaults(function=command.run, parser=sub)
    return parser


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings of a bundle, which only the bundle knows."""
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in _OF_BUNDLES:
        return arguments, []
    flags = [word for word in arguments if word in ("--debug", "--help", "-h", "--trust-bundle")]
    others = [word for word in arguments if word not in flags]
    if command == "experiment":
        words, settings = experiment.set_apart(others)
    else:
        overlays = _taken_out("--config", others)
        first = next((i for i, word in enumerate(others) if word.startswith("--")), len(others))
        words, settings = others[:first] + overlays, others[first:]
    flags.sort(key=lambda word: word != "--debug")  # it belongs before the command, the others behind it
    before = flags.count("--debug")
    return [*flags[:before], *words, *flags[before:]], settings


def _taken_out(option: str, words: list[str]) -> list[str]:
    """An option of the command with its value, wherever it stands."""
    found: list[str] = []
    names = [word.partition("=")[0] for word in words]
    while option in names:
        place = names.index(option)
        until = place + (1 if "=" in words[place] else 2)
        found += words[place:until]
        del words[place:until], names[place:until]
    return found
