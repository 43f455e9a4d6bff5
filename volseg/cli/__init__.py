"""The command ``volseg``: what the bundles do, for people who do not know MONAI.

One module per command, which says what the command is for, what it can be told, and what it does.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

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
    phantom,
    plan,
    predict,
    running,
    sparsify,
    train,
    verify,
)
from volseg.errors import in_words
from volseg.experiments import options

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[ModuleType, ...] = (
    densify,
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
    return ending.to_the_end(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    words, rest = _set_apart(list(sys.argv[1:] if arguments is None else arguments))
    given = _parser().parse_args(words)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("volseg").setLevel(logging.INFO)
    try:
        return int(given.function(given, rest) or 0)
    except (Exception, KeyboardInterrupt) as error:
        if given.debug:
            raise
        told, code = in_words(error)
        print(f"volseg {given.command}: {told}", file=sys.stderr)
        return code


def _name(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="volseg", description=__doc__.partition("\n")[0])
    parser.add_argument("--debug", action="store_true", help="show where in the code an error arose")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            _name(command),
            help=command.SUMMARY,
            description=f"{command.SUMMARY[0].upper()}{command.SUMMARY[1:]}.",
            epilog=f"example:\n  {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(function=command.run)
    return parser


def _set_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings of a bundle, which only the bundle knows."""
    command = next((word for word in arguments if not word.startswith("-")), None)
    if command not in (*running.RUN_IDS, "experiment"):
        return arguments, []
    flags = [word for word in arguments if word in ("--debug", "--help", "-h", "--trust-bundle")]
    others = [word for word in arguments if word not in flags]
    if command == "experiment":
        words, settings = options.set_apart(others)
    else:
        first = next((i for i, word in enumerate(others) if word.startswith("--")), len(others))
        words, settings = others[:first], others[first:]
    flags.sort(key=lambda word: word != "--debug")  # it belongs before the command, the others behind it
    before = flags.count("--debug")
    return [*flags[:before], *words, *flags[before:]], settings
