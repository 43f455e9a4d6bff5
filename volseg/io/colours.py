"""Labels whose numbers are spread over channels: pictures in colours, one-hot masks, layers.

GIMP, Photoshop, CVAT and labelme export a label as a picture, red for one class and black for another. Which
number a colour stands for only the user knows; a colour is written as its samples in hexadecimal, ``ff0000``
for pure red, with two digits each (four where a sample is above 255): ``"000000=0,ff0000=1"``. Layers are
the same: ``0100=2`` is a voxel of the second of two masks. ``other=255`` stands for all colours that are not
named.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion, option
from volseg.errors import InputError

__all__ = ["as_colours", "numbers_of", "several_channels"]

_FEW = 50  # colours; more are blended edges or a photograph
_SHOWN = 8
_RARE = 200  # a colour of less than one voxel in so many is not a class, or a small one
_OTHER = "other"


def as_colours(given: str | Mapping[str, int]) -> dict[str, int]:
    """The number of each colour, as people write it.

    Raises:
        ValueError: if it is none.
    """
    pairs = (
        given.items() if isinstance(given, Mapping) else [word.partition("=")[::2] for word in _words(given)]
    )
    found: dict[str, int] = {}
    for colour, number in pairs:
        name = colour.strip().lower().removeprefix("#").removeprefix("0x")
        text = str(number).strip()
        if not (name == _OTHER or re.fullmatch(r"(?:[0-9a-f]{2})+", name)) or not re.fullmatch(
            r"-?[0-9]{1,9}", text
        ):
            raise ValueError(
                f"{option('colours')}: '{colour}={number}' does not say which number a colour stands for. "
                "Write its samples in hexadecimal and a whole number, such as 000000=0,ff0000=1; names of "
                f"classes are given by {option('names')}."
            )
        if found.setdefault(name, int(text)) != int(text):
            raise ValueError(f"{option('colours')}: {name} has two numbers, {found[name]} and {text}.")
    if not found:
        raise ValueError(f"{option('colours')} names none. Write, for example, 000000=0,ff0000=1.")
    return found


def numbers_of(array: NDArray[Any], colours: Mapping[str, int], path: Path) -> NDArray[Any]:
    """The label ``(1, *spatial)`` that colours ``(C, *spatial)`` stand for.

    Raises:
        InputError: if the picture holds colours without a number, and no ``other`` has one.
    """
    if array.shape[0] == 1:
        raise InputError(
            f"{path} has one channel: its numbers are classes already, and colours do not apply. Leave them "
            "out."
        )
    names, which, counts = _found(array, path)
    unknown = [i for i, name in enumerate(names) if name not in colours]
    if unknown and _OTHER not in colours:
        most = sorted(unknown, key=lambda i: -counts[i])
        few = ", ".join(f"{names[i]} ({counts[i]})" for i in most[:_SHOWN])
        voxels = int(counts[unknown].sum())
        raise InputError(
            f"{path}: {voxels} voxel(s) in {len(unknown)} colour(s) have no number in colours, such as "
            f"{few}. Add them, or give all others one: other=255 where 255 is unlabelled."
        )
    numbers = [colours.get(name, colours.get(_OTHER, 0)) for name in names]
    kind = np.result_type(np.min_scalar_type(min(numbers)), np.min_scalar_type(max(numbers)))
    return np.array(numbers, kind)[which][None]


def several_channels(array: NDArray[Any], path: object) -> InputError:
    """What to say of a label that has more than one channel: its colours, and the value of the option."""
    start = f"{path} has {array.shape[0]} channels, but a label holds one number per voxel."
    names, _, counts = _found(array, path)
    order = sorted(range(len(names)), key=lambda i: -counts[i])
    black = "0" * len(names[0])
    rare = int((counts * _RARE < counts.sum()).sum())
    if len(names) > _FEW or rare > max(4, len(names) - rare):
        shown = ", ".join(f"{names[i]} ({counts[i] / counts.sum():.1%})" for i in order[:_SHOWN])
        few = [i for i in order if counts[i] * _RARE >= counts.sum()][:_SHOWN]
        blended = int(counts.sum() - counts[few].sum())
        value = f"{_value([names[i] for i in few], black)},{_OTHER}=255" if few else ""
        way = f" If they are edges, have them unlabelled: {option('colours', value)}." if value else ""
        return InputError(
            f"{start} It holds {len(names)} colours; the commonest are {shown}, and {blended} voxel(s) have "
            "others: that is a photograph, or a label whose edges were blended (smoothing) or packed with "
            f"JPEG. Save it without smoothing, as PNG or TIFF.{way}"
        )
    value = _value([names[i] for i in order], black)
    shown = ", ".join(f"{names[i]} ({counts[i]} voxels)" for i in order[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return InputError(
        f"{start} It holds {len(names)} colour(s): {shown}{more}. Say which number each stands for: "
        f"{option('colours', value)}, or write the numbers once: "
        f"'{conversion(path, labels=True, colours=value)}'."
    )


def _value(names: list[str], black: str) -> str:
    """A proposal: black is 0, the others are numbered in their order."""
    rest = [name for name in names if name != black]
    return ",".join([f"{black}=0"] * (black in names) + [f"{name}={i}" for i, name in enumerate(rest, 1)])


def _found(array: NDArray[Any], path: object) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """The names of all colours, the index of each voxel's, and how many voxels have it."""
    whole = np.rint(array)
    if not np.isfinite(whole).all() or not np.array_equal(array, whole) or (whole < 0).any():
        raise InputError(
            f"{path} has {len(array)} channels, but a label holds one number per voxel. They hold fractions "
            "or negative numbers, as probabilities do: save the class numbers instead."
        )
    samples: list[tuple[int, ...]] = [()]
    which = np.zeros(array.shape[1:], np.int64)
    for channel in whole:
        values, at = np.unique(channel, return_inverse=True)
        pairs, which = np.unique(which * len(values) + at.reshape(which.shape), return_inverse=True)
        which = which.reshape(channel.shape)
        samples = [
            (*samples[pair // len(values)], int(values[pair % len(values)])) for pair in pairs.tolist()
        ]
    digits = 2
    while int(whole.max(initial=0)) >= 16**digits:
        digits *= 2
    names = ["".join(f"{sample:0{digits}x}" for sample in colour) for colour in samples]
    return names, which, np.bincount(which.ravel(), minlength=len(names))


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,;]+", text) if word]
