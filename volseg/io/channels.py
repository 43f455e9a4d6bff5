"""One image whose channels lie in files of their own: ``a_0000.tif``, ``a_0001.tif``, ..."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from volseg.errors import InputError
from volseg.io.alignment import check_alignment
from volseg.io.files import read_volume
from volseg.io.spacing import Spacing
from volseg.io.volume import Volume

__all__ = ["channel_of", "join_volumes", "read_channels"]

_NUMBERED = re.compile(r"(.+)_(\d{4})")


def channel_of(stem: str) -> tuple[str, int | None]:
    """The case and the channel that a stem names: ``a_0001`` is ``("a", 1)``, ``a`` is ``("a", None)``."""
    found = _NUMBERED.fullmatch(stem)
    return (found[1], int(found[2])) if found else (stem, None)


def read_channels(
    paths: Sequence[str | os.PathLike[str]], *, spacing: str | Sequence[float] | Spacing | None = None
) -> Volume:
    """One volume of several files, a channel each, in the order given.

    They must lie on one grid. Place and header are those of the first; the voxel type is the smallest that
    holds them all.

    Args:
        spacing: the voxel size, where the files name none or a wrong one; see `volseg.io.read_volume`.

    Raises:
        InputError: if a file has several channels itself, or lies elsewhere.
    """
    if not paths:
        raise ValueError("No file given: an image has at least one channel.")
    return join_volumes([read_volume(path, spacing=spacing) for path in paths])


def join_volumes(volumes: Sequence[Volume]) -> Volume:
    """One volume of several, a channel each; see :func:`read_channels`. One alone stays as it is."""
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for volume in volumes:
        if volume.channels != 1:
            raise InputError(
                f"{volume.name} has {volume.channels} channels, but one was expected: it was given, or is "
                "named, as one channel of several. Save its channels apart, or rename it."
            )
    parts = [first.array, *(check_alignment(first, v, what="channel").array for v in volumes[1:])]
    dtype = np.result_type(*parts)
    return replace(first, array=np.concatenate([part.astype(dtype, copy=False) for part in parts]))
