"""Files of any format, chosen by suffix: one volume a file, or one channel a file.

A new format is one more module with ``read`` and ``write``, and one more line in ``_FORMATS``. An image may
have its channels in files of their own: ``a_0000.tif``, ``a_0001.tif``, ...
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from volseg.arguments import command
from volseg.errors import InputError, ResourceError
from volseg.io import metaimage, nifti, nrrd, ome_zarr, pictures, tiff
from volseg.io.alignment import check_alignment
from volseg.io.atomic import atomic_write
from volseg.io.colours import as_colours, numbers_of
from volseg.io.grid import Spacing, note_if_long, with_spacing
from volseg.io.volume import (
    Notes,
    Volume,
    as_labels,
    noticing,
    number_for_nan,
    replace_nonfinite,
    require_finite,
)

__all__ = [
    "as_volume",
    "SUFFIXES",
    "channel_of",
    "check_writable",
    "is_volume",
    "join_volumes",
    "output_suffix",
    "read_channels",
    "read_volume",
    "suffix_of",
    "write_volume",
]


class _Writer(Protocol):
    def __call__(self, path: Path, array: np.ndarray, like: Volume) -> str: ...


class _Format(NamedTuple):
    suffixes: tuple[str, ...]
    read: Callable[..., Volume]  # of path, labels, axes, notes, and whatever of `options` was given
    write: _Writer | None
    results: str = ""  # suffix of a segmentation of such a file, where it cannot be the file's own
    fractions: str = ""  # suffix of its probabilities, where that cannot be the segmentation's
    folder: bool = False
    options: tuple[str, ...] = ()  # what of `read_volume` such a file can need


_FORMATS = (
    _Format((".nii", ".nii.gz"), nifti.read, nifti.write, options=("ignore_affine",)),
    _Format((".tif", ".tiff"), tiff.read, tiff.write, options=("series",)),
    _Format((".nrrd", ".seg.nrrd"), nrrd.read, nrrd.write, options=("ignore_affine",)),
    _Format((".nhdr",), nrrd.read, None, ".nrrd", options=("ignore_affine",)),
    _Format((".mha",), metaimage.read, metaimage.write, options=("ignore_affine",)),
    _Format((".mhd",), metaimage.read, None, ".mha", options=("ignore_affine",)),
    _Format((".png",), pictures.read_png, pictures.write_png, fractions=".tif"),
    _Format((".jpg", ".jpeg"), pictures.read_jpeg, None, ".png", ".tif"),
    _Format((".zarr", ".ome.zarr"), ome_zarr.read, ome_zarr.write, folder=True),
)
SUFFIXES = tuple(suffix for format_ in _FORMATS for suffix in format_.suffixes)
_FOLDERS = tuple(suffix for format_ in _FORMATS if format_.folder for suffix in format_.suffixes)


def read_volume(
    path: str | os.PathLike[str],
    *,
    labels: bool = False,
    axes: str | None = None,
    nonfinite: Literal["refuse", "replace"] = "refuse",
    series: int | None = None,
    ignore_affine: bool = False,
    spacing: str | Sequence[float] | Spacing | None = None,
    colours: str | Mapping[str, int] | None = None,
    notes: Notes | None = None,
) -> Volume:
    """Read an image or a label volume as ``(C, X, Y[, Z])`` with its place in the world.

    A file that is cut, fails its checksum, or leaves open what its axes are is an `InputError` that says how
    to fix it; nothing is guessed, rounded or filled in silently.

    Args:
        labels: read class numbers: one channel, integers exactly as stored, never scaled.
        axes: what the file's axes are, one letter of X, Y, Z, C each, in the file's order (``"ZYX"`` for a
            TIFF stack, ``"XYZC"`` for NIfTI with channels last), where the file does not say or is wrong.
        nonfinite: refuse an image that holds NaN or infinity, or replace these by its smallest value.
        series: which image of a TIFF file that holds several, counted from 0.
        ignore_affine: take a NIfTI, NRRD or MetaImage file as a plain voxel grid, with the voxel size of its
            header where there is one, because its position cannot be used.
        spacing: the voxel size, where the file names none or a wrong one: ``"0.004,0.004,0.05um"``, or
            numbers in the file's unit.
        colours: for a label in colours or layers, the number of each: ``"000000=0,ff0000=1"``.
        notes: collects what is noticed, which is logged else; it is in the volume's ``notes`` in any case.
    """
    path = Path(path)
    format_ = _check_exists(path, labels)
    if nonfinite not in ("refuse", "replace"):
        raise ValueError(f"nonfinite={nonfinite!r} is unknown: use 'refuse' or 'replace'.")
    all_given = {"series": series, "ignore_affine": ignore_affine or None}
    given: dict[str, Any] = {name: value for name, value in all_given.items() if value is not None}
    for name in given:
        if name not in format_.options:
            known = ", ".join(s for f in _FORMATS if name in f.options for s in f.suffixes)
            raise ValueError(f"{name}={given[name]} says nothing about {path.name}: it is for {known}.")
    if colours is not None and not labels:
        raise ValueError(
            f"colours say what a label means, but {path.name} is read as an image. Add labels=True."
        )
    numbers = None if colours is None else as_colours(colours)
    if spacing is not None and format_.read is tiff.read:
        given["sized"] = True
    with noticing(notes, path) as noted:
        volume = _read(format_, path, labels, axes.upper() if axes else None, noted, **given)
        if spacing is not None:
            volume = with_spacing(volume, spacing, noted)
        elif not labels:
            note_if_long(volume, noted)
        blank = None
        if labels:
            plain = volume.array if numbers is None else numbers_of(volume.array, numbers, path)
            array = as_labels(plain, str(path), noted)
            blank = number_for_nan(plain)
            if blank is None and (array == volume.blank).any():  # else the words are those of another array
                blank = volume.blank
        elif nonfinite == "replace":
            array = replace_nonfinite(volume.array, str(path), noted)
        else:
            require_finite(volume.array, str(path))
            array = volume.array
        return replace(volume, array=array, blank=blank, path=path, notes=tuple(noted))


def write_volume(
    path: str | os.PathLike[str],
    array: Any,
    like: Volume,
    *,
    overwrite: bool = False,
    together: Callable[[], object] | None = None,
) -> None:
    """Write an array so that it opens over ``like``: same place, same axis order, same header.

    The array, ``(*spatial)`` or ``(C, *spatial)``, keeps its data type. The suffix chooses the format; where
    it is that of ``like``'s file, the header's geometry is kept field for field (texts that may name a
    patient are not). The file appears under its name only when it is complete and has been read back.

    Args:
        together: called just before, to write what belongs to it; if that fails, this is not written either.
    """
    path = Path(path)
    format_, to_file = _to_write(path)
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
        back = _read(format_, temporary, False, axes, Notes())  # its source has the same, and it was logged
        if not np.array_equal(back.array, array, equal_nan=array.dtype.kind == "f"):
            raise ResourceError(f"{path} was written, but reading it back gave other voxels. Check the disk.")
        if together is not None:
            try:
                together()
            except ResourceError as error:
                raise ResourceError(str(error)) from None  # it names its own file

    with atomic_write(path, overwrite=overwrite, verify=verify, folder=format_.folder) as temporary:
        axes = to_file(temporary, array, like)


def _to_write(path: Path) -> tuple[_Format, _Writer]:
    """The format of an output, by its name, and what writes it."""
    format_ = _format_of(path, "name the output with one of them")
    if format_.write is None:
        raise ValueError(
            f"{path} cannot be written: {path.suffix} is read only, as it takes two files or changes the "
            f"numbers. Write {path.with_suffix(format_.results).name} instead."
        )
    return format_, format_.write


def check_writable(path: str | os.PathLike[str]) -> None:
    """Whether a volume can be written under this name, before work is done for it.

    Raises:
        InputError: if its suffix is not that of a format.
        ValueError: if that is read only.
    """
    _to_write(Path(path))


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix of a file's format, ``".nii.gz"`` for ``A.NII.GZ``; ``""`` where the format is not known."""
    name = Path(path).name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def output_suffix(path: str | os.PathLike[str], *, fractions: bool = False) -> str:
    """The suffix of a result that belongs to an image: the image's own where such a file can hold it.

    Args:
        fractions: the result are probabilities, not classes.
    """
    format_ = _format_of(Path(path))
    return (format_.fractions if fractions else "") or format_.results or suffix_of(path)


def _read(format_: _Format, path: Path, labels: bool, axes: str | None, notes: Notes, **given: Any) -> Volume:
    """Read, with what the machine says in the user's words."""
    try:
        return format_.read(path, labels=labels, axes=axes, notes=notes, **given)
    except MemoryError as error:
        raise ResourceError(
            f"{path} does not fit into memory. Close other programs or cut the volume."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror or error}. Check the disk and your rights."
        ) from error


def _format_of(path: Path, remedy: str = "convert or rename the file") -> _Format:
    suffix = suffix_of(path)
    for format_ in _FORMATS:
        if suffix in format_.suffixes:
            return format_
    raise InputError(
        f"{path}: the format cannot be known from the name. Known are {', '.join(SUFFIXES)}; {remedy}."
    )


def is_volume(path: str | os.PathLike[str]) -> bool:
    """Whether this is a file, or a folder that is an image."""
    path = Path(path)
    return path.is_file() or (path.is_dir() and path.name.lower().endswith(_FOLDERS))


def _check_exists(path: Path, labels: bool) -> _Format:
    """The format of a path that can be opened."""
    if path.is_dir() and not path.name.lower().endswith(_FOLDERS):
        line = command("convert", path, output=f"{path.resolve().name or 'stack'}.tif", labels=labels)
        raise InputError(
            f"{path} is a folder. Name a file in it; if it holds the slices of one volume, make that first: "
            f"{line}"
        )
    if path.exists() and not path.is_dir() and not path.is_file():
        raise InputError(f"{path} is not a regular file. Name an image file.")
    if path.exists():
        format_ = _format_of(path)
        if path.is_dir() == format_.folder:
            return format_
        raise InputError(f"{path} is a file, but an image in Zarr is a folder. Fetch or export it again.")
    if path.is_symlink():
        raise InputError(
            f"{path} is a link to {path.readlink()}, which is not there. Mount the disk that it lies on, "
            "or make the link again."
        )
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Check the spelling and the folder."
    raise InputError(f"there is no file {path}. {hint}")


_NUMBERED = re.compile(r"(.+)_(\d{4})")


def channel_of(stem: str) -> tuple[str, int | None]:
    """The case and the channel that a stem names: ``a_0001`` is ``("a", 1)``, ``a`` is ``("a", None)``."""
    found = _NUMBERED.fullmatch(stem)
    return (found[1], int(found[2])) if found else (stem, None)


def read_channels(
    paths: Sequence[str | os.PathLike[str]],
    *,
    spacing: str | Sequence[float] | Spacing | None = None,
    notes: Notes | None = None,
) -> Volume:
    """One volume of several files, a channel each, in the order given.

    They must lie on one grid. Place and header are those of the first; the voxel type is the smallest that
    holds them all.

    Args:
        spacing: the voxel size, where the files name none or a wrong one; see `volseg.io.read_volume`.
        notes: collects what is noticed, which is logged else.

    Raises:
        InputError: if a file has several channels itself, or lies elsewhere.
    """
    if not paths:
        raise ValueError("No file given: an image has at least one channel.")
    return join_volumes([read_volume(path, spacing=spacing, notes=notes) for path in paths], notes)


def as_volume(image: Any, spacing: str | Sequence[float] | Spacing | None = None) -> Volume:
    """An image as it is given: a file, files with a channel each, a `Volume`, an array ``(C, *spatial)``.

    Args:
        spacing: the voxel size, where it has none or a wrong one; see `volseg.io.read_volume`.

    Raises:
        InputError: if a file cannot be read, or an array has no axis of channels.
    """
    if isinstance(image, list | tuple):
        return read_channels(image, spacing=spacing)
    if isinstance(image, str | os.PathLike):
        return read_volume(image, spacing=spacing)
    if not isinstance(image, Volume):
        if image.ndim not in (3, 4):
            raise InputError(
                f"an image as an array is (channels, *spatial), not {image.shape}: add the axis of channels "
                "with image[None]."
            )
        image = Volume(image, np.eye(image.ndim))
    return image if spacing is None else with_spacing(image, spacing)


def join_volumes(volumes: Sequence[Volume], notes: Notes | None = None) -> Volume:
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
    parts = [
        first.array,
        *(check_alignment(first, v, what="channel", notes=notes).array for v in volumes[1:]),
    ]
    dtype = np.result_type(*parts)
    noted = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    array = np.concatenate([part.astype(dtype, copy=False) for part in parts])
    return replace(first, array=array, notes=noted)
