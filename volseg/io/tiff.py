"""TIFF stacks and images: ImageJ, OME and plain, through tifffile.

TIFF says little about what its pages are. The axes come from the file's own words where it has any; where
they could be slices as well as channels or colours the reader asks instead of guessing. tifffile reports
damage as log lines; here it is an error.
"""

import contextlib
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volseg.errors import InputError, VolsegError
from volseg.io.tiff_axes import chosen_axes, clear_axes, times
from volseg.io.tiff_geometry import affine_of
from volseg.io.tiff_structure import count_pages
from volseg.io.units import common_unit
from volseg.io.volume import Volume, contiguous

__all__ = ["TiffHeader", "as_stored", "read", "write"]

logger = logging.getLogger(__name__)

_BIG = 3_500_000_000  # bytes; above this offsets no longer fit a classic TIFF
_TIGHT = {5, 8, 32773, 32946}  # LZW, deflate, packbits: at most about 1000-fold
_MOST = {True: 1500, False: 100_000}  # of a compressed byte, by whether the codec is one of these
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


class _Trap(logging.Filter):
    """Collects what tifffile logs as an error in this thread while a file is read."""

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        caught = getattr(self.local, "caught", None)
        if caught is None or record.levelno < logging.ERROR:
            return True
        caught.append(record.getMessage())
        return False


_TRAP = _Trap()
logging.getLogger("tifffile").addFilter(_TRAP)


def read(path: Path, *, labels: bool, axes: str | None, series: int | None = None) -> Volume:
    """Read a file; see `volseg.io.read_volume`."""
    del labels  # TIFF stores no scaling
    pages = count_pages(path)
    with _strict(path), tifffile.TiffFile(path, _multifile=False) as tif:
        found = _only_series(tif, path) if series is None else _chosen_series(tif, series, path)
        _check_complete(tif, found, pages, path, alone=series is None)
        kept = [i for i, (a, n) in enumerate(zip(found.axes, found.shape, strict=True)) if n > 1 or a in "XY"]
        stored = "".join(found.axes[i] for i in kept)
        shape = tuple(found.shape[i] for i in kept)
        meaning = (
            chosen_axes(axes, stored, shape, path) if axes else clear_axes(stored, shape, found.kind, path)
        )
        array = found.asarray().reshape(shape)
        letters = meaning
        if (
            axes and "Z" in axes and "Z" not in meaning
        ):  # a stack of one slice that the user wants as a volume
            array, letters = array[None], "Z" + meaning
        dims = 3 if "Z" in letters else 2
        affine, unit = affine_of(tif, dims, path, tif.series.index(found))
        header = _header(tif, stored, meaning) if series is None else None
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"{path}: {array.dtype} voxels are not supported. Save the magnitude as float32 instead."
        )
    order = [letters.index(a) for a in "CXYZ" if a in letters]
    array = array.transpose(order)
    return Volume(contiguous(array if "C" in letters else array[None]), affine, unit, path, header)


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the axes and voxel size of ``like``; return the axes to read it with."""
    data, meaning, options = as_stored(path, array, like)
    compression = "zlib" if data.dtype.kind in "biu" else None
    with _strict(path):
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
    if kind == "ome":
        if like.unit:
            for axis, size in zip("XYZ"[:dims], like.spacing, strict=True):
                options["metadata"] |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": like.unit}
    else:
        sizes = header if header.imagej or not like.unit else _new_header(like)
        options["metadata"] |= sizes.imagej
        if sizes.resolution is not None:
            options |= {"resolution": sizes.resolution, "resolutionunit": sizes.resolution_unit}
    options |= {"imagej": kind == "imagej", "ome": kind == "ome", "bigtiff": data.nbytes > _BIG}
    return data, meaning, options


@contextlib.contextmanager
def _strict(path: Path) -> Iterator[None]:
    """Turn whatever tifffile raises or logs as an error into an `InputError` that names the file."""
    caught: list[str] = []
    _TRAP.local.caught = caught
    try:
        yield
    except (VolsegError, OSError, MemoryError):
        raise
    except Exception as error:
        said = "; ".join([*caught, str(error) or type(error).__name__])
        raise InputError(
            f"{path}: the TIFF data are damaged or of an unknown kind ({said}). Export it again."
        ) from error
    finally:
        _TRAP.local.caught = None
    if caught:
        raise InputError(
            f"{path}: the TIFF file is damaged ({'; '.join(caught)[:300]}). Fetch or export it again."
        )


def _only_series(tif: tifffile.TiffFile, path: Path) -> Any:
    """The file's one image; previews of it do not count."""
    found = [s for s in tif.series if not getattr(s.keyframe, "is_reduced", False)] or list(tif.series)
    if len(found) > 1:
        sizes = ", ".join("x".join(str(n) for n in s.shape) for s in found[:5])
        raise InputError(
            f"{path}: the pages differ in size or type: there are {len(found)} images ({sizes}) in one file, "
            "and reading the first would drop the others. Save the wanted one on its own "
            f"('volseg convert {path.name} --series 0 -o NEW.tif')."
        )
    return found[0]


def _chosen_series(tif: tifffile.TiffFile, series: int, path: Path) -> Any:
    """The image that the user named."""
    if not 0 <= series < len(tif.series):
        sizes = ", ".join("x".join(str(n) for n in s.shape) for s in tif.series[:5])
        raise ValueError(
            f"{path} has no image {series}: it holds {len(tif.series)} ({sizes}), counted from 0."
        )
    return tif.series[series]


def _check_complete(tif: tifffile.TiffFile, series: Any, pages: int, path: Path, *, alone: bool) -> None:
    """As many pages as the metadata promise, and no more voxels than the file can hold."""
    seen = len(tif.pages)
    if seen < pages:
        raise InputError(
            f"{path}: {pages} pages are in the file, but only {seen} can be read. It is damaged."
        )
    planes = math.prod(n for n, a in zip(series.shape, series.axes, strict=True) if a not in "XY")
    meta = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    numbers = [int(meta.get(k, 1) or 1) for k in ("channels", "slices", "frames")]
    promised = max(math.prod(numbers), int(meta.get("images", 1) or 1))
    missing = sum(page is None for page in series)
    if (alone and promised > planes) or missing:
        raise InputError(
            f"{path}: the TIFF promises {max(promised, planes)} slices, {planes - missing} found. "
            "Writing or copying it was interrupted, or other files belong to it. Export it again as one file."
        )
    size = path.stat().st_size
    page = series.keyframe
    start = series.dataoffset
    ratio = 1 if page.compression == 1 else _MOST[int(page.compression) in _TIGHT]
    bits = (page.bitspersample or 8) / (8 * series.dtype.itemsize)
    need = int(series.nbytes * min(bits, 1))
    if (start is not None and start + series.nbytes > size) or need > size * ratio:
        raise InputError(
            f"{path}: the TIFF asks for {series.nbytes} bytes of voxels ({times(series.shape)}), "
            f"more than its {size} bytes can hold. It was cut or is damaged; fetch it again."
        )


def _header(tif: tifffile.TiffFile, stored: str, meaning: str) -> TiffHeader:
    kind = "ome" if tif.is_ome else "imagej" if tif.is_imagej else "plain"
    own = (tif.imagej_metadata if tif.is_imagej else (tif.shaped_metadata or ({},))[0]) or {}
    tags = tif.pages.first.tags
    found = [tags.get(name) for name in ("XResolution", "YResolution")]
    values = [f.value for f in found if f is not None and isinstance(f.value, tuple) and all(f.value)]
    unit = tags.get("ResolutionUnit")
    return TiffHeader(
        kind,
        stored,
        meaning,
        (values[0], values[1]) if len(values) == 2 else None,
        int(unit.value) if unit is not None else 1,
        {k: own[k] for k in ("unit", "spacing", "xorigin", "yorigin", "zorigin") if k in own},
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
