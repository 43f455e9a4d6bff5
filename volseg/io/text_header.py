"""Words and numbers of a header that is text; whatever does not parse is an `InputError` with the file."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError

__all__ = ["chosen_axes", "needed", "number", "numbers", "size_of_axes", "times"]


def chosen_axes(axes: str, shape: tuple[int, ...], path: Path) -> str:
    """The user's axes, if they fit the file; an axis of size 1 behind the plane need not be named."""
    if axes not in ("XY", "XYZ", "XYC", "CXY", "XYZC", "CXYZ"):
        raise ValueError(f"axes={axes!r} are none: give X, Y, Z and C in the file's order, such as CXYZ.")
    behind = axes.index("Y") + 1
    if len(axes) == len(shape) - 1 and "Z" not in axes and shape[behind] == 1:
        return f"{axes[:behind]}1{axes[behind:]}"
    if len(axes) != len(shape):
        raise InputError(
            f"{path} has {len(shape)} axes ({times(shape)}), but axes='{axes}' does not name each: "
            "give X, Y, Z and C in the file's order, such as CXYZ."
        )
    return axes


def needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    """The value of a field without which the file means nothing."""
    if name not in fields:
        raise InputError(f"{path}: the header has no '{name}'. The file was cut or is damaged.")
    return fields[name]


def number(path: Path, name: str, text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: '{text[:40]}' in {name} is no number. The header is damaged.") from error


def numbers(path: Path, name: str, texts: list[str], count: int) -> NDArray[np.float64]:
    """So many numbers."""
    if len(texts) != count:
        raise InputError(
            f"{path}: {name} has {len(texts)} numbers, but {count} are needed. The header is damaged."
        )
    return np.array([number(path, name, text) for text in texts], float)


def size_of_axes(path: Path, name: str, text: str) -> tuple[int, ...]:
    """Sizes in voxels."""
    words = text.split()
    if not words or not all(re.fullmatch(r"[0-9]{1,15}", word) for word in words):
        raise InputError(f"{path}: {name} = '{text[:60]}' are not sizes in voxels. The header is damaged.")
    return tuple(int(word) for word in words)


def times(shape: tuple[int, ...]) -> str:
    """A shape for messages."""
    return " x ".join(str(n) for n in shape)
