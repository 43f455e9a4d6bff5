"""The command ``volseg``, for people who know neither MONAI nor Python.

A `Command` says what it is for, which arguments it takes, and what it does; those that belong together share
a module.
What only one command needs is imported when that command runs, standard library included: the help and a
mistyped option answer at once.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from volseg import __version__
from volseg.arguments import come_through
from volseg.cli import ending
from volseg.cli.bundles import CHECK, EXPORT, INIT
from volseg.cli.command import Command, door, with_dashes
from volseg.cli.datasets import AUDIT, PHANTOM, SPARSIFY, VERIFY
from volseg.cli.densify import DENSIFY
from volseg.cli.experiment import EXPERIMENT
from volseg.cli.page import PAINT
from volseg.cli.running import EVALUATE, PLAN, PREDICT, TRAIN
from volseg.cli.settings import set_apart
from volseg.cli.volumes import CONVERT, INFO
from volseg.errors import in_words
from volseg.installation import folder

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[Command, ...] = (
    PAINT,
    DENSIFY,
    INIT,
    TRAIN,
    EVALUATE,
    PREDICT,
    PLAN,
    AUDIT,
    VERIFY,
    CHECK,
    INFO,
    CONVERT,
    EXPORT,
    PHANTOM,
    SPARSIFY,
    EXPERIMENT,
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
            text, code = in_words(error, "what --debug shows")
            print(f"volseg: {text}", file=sys.stderr)
            return code

    return ending.to_the_end(work)


def _run(arguments: list[str]) -> int:
    parser, parsers = _parser()
    words, rest = _set_apart(arguments, parsers)
    if not [word for word in words if word != "--debug"]:
        parser.print_help()
        return 2
    given = parser.parse_args(words)
    command: Command = given.run
    before = come_through(door(parsers[command.name], takes_entries=command.takes_entries))
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    logging.getLogger("volseg").setLevel(logging.INFO)
    try:
        return int(command.run(given, rest) or 0)
    except (Exception, KeyboardInterrupt) as error:
        if given.debug:
            raise
        text, code = in_words(error, "what --debug shows")
        print(f"volseg {given.command}: {text}", file=sys.stderr)
        return code
    finally:
        come_through(before)


_PURPOSE = """\
Segment a whole image or volume from a few painted slices, with a figure of how good the result is.
For many volumes, train a network once and segment all of them."""
_START = """\
start here:
  paint          volseg paint image.tif
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


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and by name that of each command."""
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
            command.name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub._negative_number_matcher = re.compile(r"-\d+(\.\d*)?(=.*)?$")  # --names -1=rest is no option
        sub.set_defaults(run=command)
    return parser, commands.choices


def _set_apart(
    arguments: list[str], parsers: dict[str, argparse.ArgumentParser]
) -> tuple[list[str], list[str]]:
    """The words for argparse, and the settings of a bundle, which only the bundle knows."""
    name = next((word for word in arguments if not word.startswith("-")), None)
    command = next((one for one in COMMANDS if one.name == name), None)
    if command is None:
        return arguments, []
    first = [word for word in arguments if word in ("--debug", "--version")]  # they belong before the command
    others = [word for word in arguments if word not in first]
    others.remove(command.name)
    if not command.takes_entries:
        return [*first, command.name, *map(with_dashes, others)], []
    own, settings = set_apart(others, parsers[command.name])
    return [*first, command.name, *own], settings
