"""TIFF files: their voxels, and the meaning of their pages.

TIFF says little about what its pages are. The axes come from the file's own words where it has any; where
they could be slices as well as channels or colours the reader asks instead of guessing. tifffile reports
damage as log lines; here it is an error.
"""

import logging
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.grid import OME_UNITS, common_unit, is_size
from volseg.io.ome_tiff import PlanesError, affine_of, images_of
from volseg.io.pictures import as_shown, swaps_axes
from volseg.io.tiff_open import (
    check_complete,
    chosen_axes,
    chosen_series,
    clear_axes,
    only_series,
    open_tiff,
    strict,
)
from volseg.io.volume import Notes, Volume, blank_in, blank_words, contiguous

__all__ = [
    "TiffHeader",
    "as_stored",
    "header_of",
    "note_how_shown",
    "orientation_of",
    "read",
    "require_exact",
    "write",
]

logger = logging.getLogger(__name__)

_JPEG = (6, 7, 34892)
_JPEG2000 = (33003, 33004, 33005, 34712)
_WEBP = (34927, 50001)
_PERHAPS = {22610: "JPEG XR", 34934: "JPEG XR", 50002: "JPEG XL", 52546: "JPEG XL", 34887: "LERC"}
_MINISWHITE, _TABLE = 0, 3
_SHOWN = 12  # entries of a colour table


def require_exact(page: Any, path: Path) -> None:
    """Refuse labels packed in a way that changes numbers: class 2 would come back as 1, 2 and 3."""
    code = int(page.compression)
    name = ""
    if code in _JPEG:
        name = "JPEG" if not _has_mark(page, b"\xff\xc3") else ""  # 0xC3 begins lossless JPEG
    elif code in _JPEG2000:
        name = "JPEG 2000 with its irreversible transform" if _is_irreversible(page) else ""
    elif code in _WEBP:
        name = "WebP" if b"VP8L" not in _first_bytes(page)[:64] else ""
    elif code in _PERHAPS:
        name = f"{_PERHAPS[code]}, which may change numbers"
    if name:
        raise InputError(
            f"{path} is packed with {name}, which does not keep the numbers it stores, so it cannot hold "
            "labels. Save them again from the original with LZW, deflate, zstd or no compression."
        )


def note_how_shown(page: Any, path: Path, notes: Notes, array: NDArray[Any]) -> None:
    """Numbers are taken as stored, whatever colour a viewer gives them; it is noted where it may surprise."""
    if int(page.photometric) == _MINISWHITE:
        notes.warning("%s is stored with 0 as white (MINISWHITE): its numbers are taken as stored.", path)
    elif int(page.photometric) == _TABLE and page.colormap is not None:
        table = np.asarray(page.colormap) >> 8
        used = [int(n) for n in np.unique(array) if n < table.shape[1]]
        shown = ", ".join("{} as {:02x}{:02x}{:02x}".format(n, *table[:, n]) for n in used[:_SHOWN])
        more = ", ..." if len(used) > _SHOWN else ""
        notes.info(
            "%s has a colour table; its numbers are used, which viewers show: %s%s.", path, shown, more
        )


def orientation_of(page: Any) -> int:
    """The page's orientation tag."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def _first_bytes(page: Any) -> bytes:
    """The first block of packed voxels, as far as a codec's header reaches."""
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[0])
    found: bytes = handle.read(min(page.databytecounts[0], 4096))
    return found


def _has_mark(page: Any, mark: bytes) -> bool:
    return mark in _first_bytes(page)


def _is_irreversible(page: Any) -> bool:
    """Whether the first code block of JPEG 2000 names the 9-7 wavelet."""
    data = _first_bytes(page)
    at = data.find(
        b"\xff\x52"
    )  # COD: length, style, 4 bytes of order and layers, 5 of code blocks, transform
    return at < 0 or len(data) < at + 14 or data[at + 13] == 0


_BIG = 3_500_000_000  # bytes; above this offsets no longer fit a classic TIFF
_IMAGEJ = "BHf"  # the voxel types that ImageJ stacks know
_OME = "bBhHiIfd"


@dataclass(frozen=True)
class TiffHeader:
    """What a file like this one needs: its flavour, its axes in their order, its sizes as stored."""

    kind: str  # "imagej", "ome" or "plain"
    axes: str  # letters as in the file, without axes of size 1: "TYX"
    meaning: str  # the same axes as volseg reads them: "ZYX"
    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None
    resolution_unit: int = 1
    imagej: dict[str, Any] = field(default_factory=dict)  # unit, spacing, origin
    channels: tuple[str, ...] = ()  # names, of an OME-TIFF


def read(
    path: Path,
    *,
    labels: bool,
    axes: str | None,
    notes: Notes,
    series: int | None = None,
    sized: bool = False,
) -> Volume:
    """Read a file; see `volseg.io.read_volume`. ``sized``: the voxel size is given elsewhere."""
    try:
        return _read(path, labels, axes, notes, series, sized, described=True)
    except PlanesError as error:
        if axes is None:
            raise
        notes.warning(
            "%s As its axes were given, the pages that are there are read; of its description only the voxel "
            "size counts.", error.what,
        )  # fmt: skip
        return _read(path, labels, axes, notes, series, sized, described=False)


def _read(
    path: Path,
    labels: bool,
    axes: str | None,
    notes: Notes,
    series: int | None,
    sized: bool,
    *,
    described: bool,
) -> Volume:
    with open_tiff(path, notes, described=described) as opened:
        tif = opened.tif
        found = only_series(tif, path) if series is None else chosen_series(tif, series, path)
        if labels:
            require_exact(found.keyframe, path)
        check_complete(opened, found, path, alone=series is None)
        kept = [i for i, (a, n) in enumerate(zip(found.axes, found.shape, strict=True)) if n > 1 or a in "XY"]
        stored = "".join(found.axes[i] for i in kept)
        shape = tuple(found.shape[i] for i in kept)
        meaning = (
            chosen_axes(axes, stored, shape, path)
            if axes
            else clear_axes(stored, shape, found.kind, path, notes)
        )
        array = found.asarray().reshape(shape)
        note_how_shown(found.keyframe, path, notes, array)
        letters = meaning
        if (
            axes and "Z" in axes and "Z" not in meaning
        ):  # a stack of one slice that the user wants as a volume
            array, letters = array[None], "Z" + meaning
        dims, number = 3 if "Z" in letters else 2, tif.series.index(found) if described else 0
        affine, unit = affine_of(opened.words, found.keyframe, dims, path, number, notes, sized)
        header = header_of(tif, stored, meaning) if series is None else None
        turned = orientation_of(found.keyframe)
        blank = blank_in(tif.pages.first.description)
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: {array.dtype} voxels are not supported. Save the magnitude as float32 instead."
        )
    order = [letters.index(a) for a in "CXYZ" if a in letters]
    array = array.transpose(order)
    array = as_shown(array if "C" in letters else array[None], turned, path, notes)
    if swaps_axes(turned):
        affine = affine[[1, 0, *range(2, dims + 1)]][:, [1, 0, *range(2, dims + 1)]]
        header = header and replace(header, resolution=header.resolution and header.resolution[::-1])
    return Volume(contiguous(array), affine, unit, path, header, blank)


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the axes and voxel size of ``like``; return the axes to read it with."""
    data, meaning, options = as_stored(path, array, like)
    compression = "zlib" if data.dtype.kind in "biu" else None
    with strict(path):
        tifffile.imwrite(path, np.ascontiguousarray(data), compression=compression, **options)
    return meaning


def as_stored(path: Path, array: NDArray[Any], like: Volume) -> tuple[NDArray[Any], str, dict[str, Any]]:
    """The array in the file's order, what its axes mean, and what tifffile has to know about it."""
    channels, dims = array.shape[0], array.ndim - 1
    header = like.header if isinstance(like.header, TiffHeader) else _new_header(like)
    meaning = header.meaning.replace("C", "")
    if dims == 3 and "Z" not in meaning:
        meaning = "Z" + meaning
    if channels > 1:
        at = len(meaning) - 2 if meaning.endswith("YX") else 0
        meaning = meaning[:at] + "C" + meaning[at:]
    stored = meaning.replace("Z", "T") if "T" in header.axes else meaning  # opens over the source in Fiji
    source = array if channels > 1 else array[0]
    names = "CXYZ" if channels > 1 else "XYZ"
    data = source.transpose([names.index(a) for a in meaning])
    if data.dtype.kind not in "biuf":
        raise ValueError(f"TIFF cannot hold {data.dtype} voxels: convert them to float32 or an integer.")
    kind = _kind(path, data, stored, header)
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": stored}}
    if words := blank_words(like):
        options["metadata"]["Description"] = words
    if kind == "ome":
        if like.unit or any(size != 1 for size in like.spacing):
            for axis, size in zip("XYZ"[:dims], like.spacing, strict=True):
                unit = OME_UNITS[like.unit]
                options["metadata"] |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
        if len(header.channels) == channels and all(header.channels):
            options["metadata"]["Channel"] = {"Name": list(header.channels)}
    else:
        sizes = header if header.imagej or not like.unit else _new_header(like)
        options["metadata"] |= sizes.imagej
        if sizes.resolution is not None:
            options |= {"resolution": sizes.resolution, "resolutionunit": sizes.resolution_unit}
        per_length = sizes.resolution is not None and sizes.resolution_unit in (2, 3)
        if dims == 3 and (like.unit or (kind == "imagej" and not per_length)):
            # Where the header gives none, the distance between slices is that of these voxels, in x's unit.
            below, above = (1, 1) if sizes.resolution is None else sizes.resolution[0]
            options["metadata"].setdefault("spacing", above / below * like.spacing[2] / like.spacing[0])
    options |= {"imagej": kind == "imagej", "ome": kind == "ome", "bigtiff": data.nbytes > _BIG}
    return data, meaning, options


def header_of(tif: tifffile.TiffFile, stored: str, meaning: str) -> TiffHeader:
    kind = "ome" if tif.is_ome else "imagej" if tif.is_imagej else "plain"
    own = (tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or ({},))[0]) or {}
    tags = tif.pages.first.tags
    found = [tags.get(name) for name in ("XResolution", "YResolution")]
    values = [f.value for f in found if f is not None and isinstance(f.value, tuple) and all(f.value)]
    unit = tags.get("ResolutionUnit")
    images = images_of(tif.ome_metadata or "")
    sizes = [above / below for below, above in values]
    sizes += [abs(own["spacing"])] if isinstance(own.get("spacing"), int | float) else []
    if not all(map(is_size, sizes)):  # a size was given instead, and a copy with these could not be read
        values, own = [], {}
    return TiffHeader(
        kind,
        stored,
        meaning,
        (values[0], values[1]) if len(values) == 2 else None,
        int(unit.value) if unit is not None else 1,
        {k: own[k] for k in ("unit", "spacing", "xorigin", "yorigin", "zorigin") if k in own},
        images[0].channels if len(images) == 1 else (),
    )


def _new_header(like: Volume) -> TiffHeader:
    """For a volume that came from another format, or from none: ImageJ with its voxel size."""
    factor, unit = common_unit(like.unit)
    sizes = [factor * s for s in like.spacing]
    letters = "ZYX"[3 - like.spatial_dims :]
    linear = like.affine[:-1, :-1]
    if not np.allclose(linear, np.diag(like.spacing)):
        logger.info("TIFF cannot store the orientation of %s; only its voxel size is written.", like.name)
    own: dict[str, Any] = {"unit": unit} if unit else {}
    if like.spatial_dims == 3:
        own["spacing"] = sizes[2]
    return TiffHeader("imagej", letters, letters, (_rational(1 / sizes[0]), _rational(1 / sizes[1])), 1, own)


def _rational(value: float) -> tuple[int, int]:
    """The fraction of two 32-bit integers nearest to a positive number."""
    limit = 2**32 - 1
    fraction = Fraction(value).limit_denominator(int(min(limit, max(1, limit / max(value, 1)))))
    return (
        (fraction.numerator, fraction.denominator)
        if fraction.numerator
        else (1, min(limit, round(1 / value)))
    )


def _kind(path: Path, data: NDArray[Any], stored: str, header: TiffHeader) -> str:
    """The flavour of the source where it can hold these voxels; otherwise a plain file that says its axes."""
    if (header.kind == "ome" or ".ome." in path.name.lower()) and data.dtype.char in _OME:
        return "ome"
    in_order = list(stored) == sorted(stored, key="TZCYX".index)
    wide = data.shape[stored.index("X")] > 1  # tifffile takes a row of one pixel for a sample
    fits = data.dtype.char in _IMAGEJ and in_order and wide and data.nbytes <= _BIG
    return "imagej" if fits else "plain"
