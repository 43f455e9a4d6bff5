"""How an argument is named to a user: in the words of the door that the user came through.

``overwrite=True`` is what to write in Python; on the command line it is an option, in a bundle that MONAI's
own command runs an entry that is set. A message says what to do, so it has to say it in the right one of
these, and the code that raises it does not know which: :func:`option` does. The door is one for the whole
process, threads included: Python, until the command ``volseg`` or a bundle that MONAI's command begins says
otherwise.
"""

import os
import shlex
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "Door",
    "as_entry",
    "by_door",
    "come_through",
    "command",
    "conversion",
    "current_door",
    "in_python",
    "option",
    "values_of",
]

Door = Callable[[str, Any], str]
"""Names an argument with a value, or without if that is ``...``."""

# Arguments that stand in a bundle under another name.
_ENTRIES = {
    "lr": "learning_rate",
    "max_epochs": "epochs",
    "num_workers": "train#trainer#num_workers",
    "source": "images",
}
# Arguments whose option has another name.
_OPTIONS = {"continue_from": "continue", "output": "o"}


def in_python(name: str, value: Any = ...) -> str:
    """``overwrite=True``, or ``overwrite`` without a value."""
    return name if value is ... else f"{name}={value!r}"


def as_entry(name: str, value: Any = ...) -> str:
    """An entry of a bundle as MONAI's command sets it, a switch with its value."""
    word = f"--{_ENTRIES.get(name, name)}"
    return word if value is ... else f"{word} {shlex.quote(str(value))}"


_door: Door = in_python


def option(name: str, value: Any = ...) -> str:
    """An argument, in the words of the door that the user came through.

    Args:
        name: of the argument in Python.
        value: to be given; ``...`` names the argument alone.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 0, as it was typed, and not 0.0
    return _door(name, os.fspath(value) if isinstance(value, os.PathLike) else value)


def by_door(python: str, elsewhere: str) -> str:
    """What is said in Python only, or elsewhere only, where one has a way that the other has not."""
    return python if _door is in_python else elsewhere


def current_door() -> Door:
    """The door that the user came through, for a process that does not inherit it."""
    return _door


def come_through(door: Door) -> Door:
    """From now on arguments are named as this door does it; the door before is returned."""
    global _door
    before, _door = _door, door
    return before


def command(verb: str, *words: Any, **options: Any) -> str:
    """A command line of volseg to copy, whatever the door.

    Args:
        verb: such as ``"convert"``.
        words: what stands there without an option.
        options: by argument. A list, or a mapping of values to names, takes a word each; ``True`` none;
            ``False``, ``None`` and what is empty are left out.
    """
    line = ["volseg", verb, *map(str, words)]
    for name, value in options.items():
        if value is None or value is False or value == [] or value == {}:
            continue
        word = _OPTIONS.get(name, name).replace("_", "-")
        line.append(f"-{word}" if len(word) == 1 else f"--{word}")
        line += values_of(value)
    return shlex.join(line)


_DOUBLE = (".nii.gz", ".seg.nrrd", ".ome.zarr")
_WRITTEN_AS = {".nhdr": ".nrrd", ".mhd": ".mha", ".jpg": ".png", ".jpeg": ".png", "": ".nii.gz"}


def conversion(source: object, **options: Any) -> str:
    """A command line to copy that writes a file again, as ``NEW.tif`` or ``NEW.nii.gz``: in its own format,
    or the nearest that can be written.

    Args:
        source: the file, as the user named it.
        options: as for :func:`command`.
    """
    name = str(source).lower()
    suffix = next((each for each in _DOUBLE if name.endswith(each)), os.path.splitext(name)[1])
    return command("convert", source, **options, output=f"NEW{_WRITTEN_AS.get(suffix, suffix)}")


def values_of(value: Any) -> list[str]:
    """The words behind an option."""
    if value is True:
        return []
    if isinstance(value, Mapping):
        return [f"{key}={_joined(name)}" for key, name in value.items()]
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
