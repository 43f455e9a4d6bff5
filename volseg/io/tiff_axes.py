"""What the axes of a TIFF file are: its own words where they leave no doubt, otherwise the user's."""

import logging
from pathlib import Path

from volseg.errors import InputError

__all__ = ["chosen_axes", "clear_axes", "times"]

logger = logging.getLogger(__name__)


def clear_axes(stored: str, shape: tuple[int, ...], kind: str, path: Path) -> str:
    """x, y, z or channel for every axis, where the file leaves no doubt."""
    extra = [(a, n) for a, n in zip(stored, shape, strict=True) if a not in "XY"]
    channels = [a for a, _ in extra if a in "CS"]
    others = [(a, n) for a, n in extra if a not in "CS"]
    planar_colours = kind not in ("ome", "imagej") and stored.startswith("S") and shape[0] in (3, 4)
    clear = (
        {"X", "Y"} <= set(stored)
        and len(set(stored)) == len(stored)
        and len(channels) <= 1
        and len(others) <= 1
    )
    if others and others[0][0] not in "ZT":
        clear &= others[0][0] in "IQ" and others[0][1] > 4
    if not clear or planar_colours:
        first, second = ("ZYX", "CYX") if len(stored) == 3 else ("ZCYX", "CZYX")
        raise InputError(
            f"{path}: the axes are unclear. The file calls them {stored} (size {times(shape)}): slices, "
            "channels, colours or time? Say which, with one letter of X, Y, Z, C per axis: "
            f"axes='{first}' or axes='{second}' in Python, or 'volseg convert {path.name} --axes {first} "
            f"-o NEW.tif'. {_moment(stored, path)}"
        )
    if others and others[0][0] == "T":
        logger.warning("%s: the axis of %d pages is marked as time; it is read as z.", path, others[0][1])
    return "".join("C" if a in "CS" else a if a in "XY" else "Z" for a in stored)


def _moment(stored: str, path: Path) -> str:
    """How one moment of a series is taken, where a file has an axis of time."""
    if "T" not in stored or len(stored) != 4:
        return ""
    letters = stored.replace("C", "Z").replace("T", "C")
    return f"Of a series in time, take one moment: --axes {letters} --channel 0."


def chosen_axes(axes: str, stored: str, shape: tuple[int, ...], path: Path) -> str:
    """The user's axes, if they fit the file."""
    letters = axes.replace("S", "C")
    if set(letters) - set("XYZC") or len(set(letters)) < len(letters) or not {"X", "Y"} <= set(letters):
        raise ValueError(
            f"axes={axes!r} must name X and Y, and may name Z and C, each once, in the file's order."
        )
    if len(letters) == len(stored):
        return letters
    if len(letters) == len(stored) + 1 and "Z" in letters:
        return letters.replace("Z", "")
    raise InputError(
        f"{path} has {len(stored)} axes ({stored}, {times(shape)}), but axes={axes!r} names "
        f"{len(axes)}. Give one letter per axis."
    )


def times(shape: tuple[int, ...]) -> str:
    """A shape for messages: ``5x48x40``."""
    return "x".join(str(n) for n in shape)
