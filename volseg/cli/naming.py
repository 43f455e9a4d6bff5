"""How arguments are named on the command line: by the options of the command that is running."""

import argparse
import shlex
from typing import Any

from volseg.arguments import Door, as_entry, in_python, values_of

__all__ = ["door"]


def door(parser: argparse.ArgumentParser, *, takes_entries: bool) -> Door:
    """The door of one command; an option's ``dest`` is the name of the argument.

    Args:
        takes_entries: entries of a bundle can be set, a switch without a value.
    """
    options = {action.dest: action for action in parser._actions if action.option_strings}

    def name_it(name: str, value: Any = ...) -> str:
        if name in options:
            strings = options[name].option_strings
            is_negative = value is False and isinstance(options[name], argparse.BooleanOptionalAction)
            word = strings[-1 if is_negative else 0]
            rest = [] if value is ... or isinstance(value, bool) else values_of(value)
            return " ".join([word, *map(shlex.quote, rest)])
        if takes_entries:
            return as_entry(name, ... if value is True else value)
        return in_python(name, value)  # this command has no such option

    return name_it
