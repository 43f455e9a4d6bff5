"""A volume whose slices are files of their own: a folder of numbered pictures, or files in a row.

Micro-CT, FIB-SEM and Amira write a volume so. The slices are put together in the order of the numbers in
their names, ``s_2.tif`` before ``s_10.tif``; a number that is missing is said, because a slice may be.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from volseg.errors import InputError
from volseg.io.files import suffix_of
from volseg.io.volume import Notes, Volume, noticing

__all__ = ["slices_in", "stack_slices"]


def slices_in(folder: Path) -> list[Path]:
    """The images in a folder, in the order of the numbers in their names.

    Raises:
        InputError: if there are none, or of several formats.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.is_file() and suffix_of(path) and not path.name.startswith(".")
    ]
    kinds = sorted({path.suffix.lower() for path in found})
    if len(kinds) != 1:
        what = "no image" if not kinds else f"images of several formats ({', '.join(kinds)})"
        raise InputError(
            f"{folder} holds {what}, so it is not a stack of slices. Put the slices of one volume, and "
            "nothing else, into a folder."
        )
    return sorted(found, key=_by_number)


def stack_slices(paths: Sequence[Path], read: Callable[[Path], Volume], notes: Notes | None = None) -> Volume:
    """One volume of 2D files, in the order given, the first at z = 0.

    The distance between slices is taken as large as a pixel, which is said.

    Args:
        notes: collects what is noticed, which is logged else.

    Raises:
        InputError: if a file is not one slice, or differs from the first in size, channels or pixel size.
    """
    volumes: list[Volume] = []
    for path in paths:
        volume = read(path)
        first = volumes[0] if volumes else volume
        if volume.spatial_dims != 2:
            raise InputError(
                f"{path} is a volume itself, {_size(volume)}, and no slice of a stack. Name it alone."
            )
        same = volume.array.shape == first.array.shape and volume.unit == first.unit
        if not same or not np.allclose(volume.spacing, first.spacing):
            raise InputError(
                f"{path} has {_size(volume)}, but {first.name} has {_size(first)}: they are not slices of "
                "one volume. Take the odd one out of the folder."
            )
        volumes.append(volume)
    missing = _missing(paths)
    first = volumes[0]
    size = first.spacing[0]
    with noticing(notes, *paths) as noted:
        if missing:
            few = ", ".join(map(str, missing[:5]))
            noted.warning(
                "%s: the numbers of the slices leave out %s%s (%d in all): is a slice missing? Those that "
                "are there are put together without a gap.",
                paths[0].parent, few, ", ..." if len(missing) > 5 else "", len(missing),
            )  # fmt: skip
        noted.info(
            "%d slices become one volume, %s first; their distance is taken as that of pixels, "
            "%.6g %s (1 : 1).", len(volumes), paths[0].name, size, first.unit or "(no unit)",
        )  # fmt: skip
    known = tuple(dict.fromkeys([*(note for volume in volumes for note in volume.notes), *noted]))
    dtype = np.result_type(*(volume.array for volume in volumes))
    array = np.stack([volume.array for volume in volumes], axis=-1).astype(dtype, copy=False)
    return replace(first, array=array, affine=np.diag([*first.spacing, size, 1.0]), header=None, notes=known)


def _by_number(path: Path) -> list[tuple[int, str]]:
    """A key that counts 2 before 10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def _missing(paths: Sequence[Path]) -> list[int]:
    """Numbers left out, where the names differ in one number only."""
    split = [re.split(r"([0-9]+)", path.stem) for path in paths]
    if len({len(parts) for parts in split}) != 1:
        return []
    differ = [i for i, words in enumerate(zip(*split, strict=True)) if len(set(words)) > 1]
    if len(differ) != 1 or not differ[0] % 2:
        return []
    numbers = {int(parts[differ[0]]) for parts in split}
    between = range(min(numbers), min(max(numbers), min(numbers) + 100_000))
    return [n for n in between if n not in numbers]


def _size(volume: Volume) -> str:
    size = " x ".join(map(str, volume.spatial_shape))
    spacing = " x ".join(f"{s:.6g}" for s in volume.spacing)
    return f"{volume.channels} channel(s) of {size} voxels of {spacing} {volume.unit or '(no unit)'}"
