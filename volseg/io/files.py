"""`read_volume` and `write_volume`: one door for every format, chosen by the file's suffix.

A new format is one more module with ``read`` and ``write``, and one more line in ``_FORMATS``.
"""

import difflib
import logging
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from volseg.errors import InputError, ResourceError
from volseg.io import nifti, tiff
from volseg.io.atomic import atomic_write
from volseg.io.volume import Volume, as_labels, replace_nonfinite, require_finite

__all__ = ["SUFFIXES", "read_volume", "write_volume"]

logger = logging.getLogger(__name__)


class _Reader(Protocol):
    def __call__(self, path: Path, *, labels: bool, axes: str | None) -> Volume: ...


class _Writer(Protocol):
    def __call__(self, path: Path, array: np.ndarray, like: Volume) -> str: ...


class _Format(NamedTuple):
    suffixes: tuple[str, ...]
    read: _Reader
    write: _Writer


_FORMATS = (
    _Format((".nii", ".nii.gz"), nifti.read, nifti.write),
    _Format((".tif", ".tiff"), tiff.read, tiff.write),
)
SUFFIXES = tuple(suffix for format_ in _FORMATS for suffix in format_.suffixes)


def read_volume(
    path: str | os.PathLike[str],
    *,
    labels: bool = False,
    axes: str | None = None,
    nonfinite: Literal["refuse", "replace"] = "refuse",
) -> Volume:
    """Read an image or a label volume as ``(C, X, Y[, Z])`` with its place in the world.

    A file that is cut, fails its checksum, or leaves open what its axes are is an `InputError` that says how
    to mend it; nothing is guessed, rounded or filled in silently.

    Args:
        labels: read class numbers: one channel, integers exactly as stored, never scaled.
        axes: what the file's axes are, one letter of X, Y, Z, C each, in the file's order (``"ZYX"`` for a
            TIFF stack, ``"XYZC"`` for NIfTI with channels last), where the file does not say or is wrong.
        nonfinite: refuse an image that holds NaN or infinity, or replace these by its smallest value.
    """
    path = Path(path)
    _check_exists(path)
    format_ = _format_of(path)
    if nonfinite not in ("refuse", "replace"):
        raise ValueError(f"nonfinite={nonfinite!r} is unknown: use 'refuse' or 'replace'.")
    volume = _read(format_, path, labels, axes.upper() if axes else None)
    if labels:
        array = as_labels(volume.array, str(path))
    elif nonfinite == "replace":
        array = replace_nonfinite(volume.array, str(path))
    else:
        require_finite(volume.array, str(path))
        array = volume.array
    return volume if array is volume.array else Volume(array, volume.affine, volume.unit, path, volume.header)


def write_volume(path: str | os.PathLike[str], array: Any, like: Volume, *, overwrite: bool = False) -> None:
    """Write an array so that it opens over ``like``: same place, same axis order, same header.

    The array, ``(*spatial)`` or ``(C, *spatial)``, keeps its data type. The suffix chooses the format; where
    it is that of ``like``'s file, the header's geometry is kept field for field (texts that may name a
    patient are not). The file appears under its name only when it is complete and has been read back.
    """
    path = Path(path)
    format_ = _format_of(path)
    array = np.asarray(array)
    if array.ndim == like.spatial_dims:
        array = array[None]
    if array.shape[1:] != like.spatial_shape or array.size == 0:
        raise ValueError(
            f"an array of shape {array.shape} does not lie on the grid of {like.name}, which is "
            f"{like.spatial_shape}: give it as (*spatial) or (C, *spatial)."
        )
    if array.dtype == bool:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    axes = ""

    def verify(temporary: Path) -> None:
        back = _read(format_, temporary, False, axes)
        if not np.array_equal(back.array, array, equal_nan=array.dtype.kind == "f"):
            raise ResourceError(f"{path} was written, but reading it back gave other voxels. Check the disk.")

    with atomic_write(path, overwrite=overwrite, verify=verify) as temporary:
        axes = format_.write(temporary, array, like)


def _read(format_: _Format, path: Path, labels: bool, axes: str | None) -> Volume:
    """Read, with what the machine says in the user's words."""
    try:
        return format_.read(path, labels=labels, axes=axes)
    except MemoryError as error:
        raise ResourceError(
            f"{path} does not fit into memory. Close other programs or cut the volume."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Check the disk and your rights."
        ) from error


def _format_of(path: Path) -> _Format:
    name = path.name.lower()
    for format_ in _FORMATS:
        if name.endswith(format_.suffixes):
            return format_
    raise InputError(
        f"{path}: the format cannot be told from the name. Known are {', '.join(SUFFIXES)}; "
        "convert or rename the file."
    )


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name a file in it; stacks of single files are not read.")
    if path.exists():
        raise InputError(f"{path} is not a regular file. Name an image file.")
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Check the spelling and the folder."
    raise InputError(f"there is no file {path}. {hint}")
