"""Opening TIFF files: one file or the set it belongs to, whole, and described as it is.

tifffile reports damage as log lines, reads a description of planes that are not there, and takes part of a
set for the whole; here all of that is an error.
"""

import contextlib
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

from volseg.errors import InputError, VolsegError
from volseg.io.ome_xml import OmeSet, PlanesError, fewer_planes, set_of
from volseg.io.tiff_axes import times
from volseg.io.tiff_structure import count_pages

__all__ = ["Opened", "check_complete", "chosen_series", "only_series", "open_tiff", "strict"]

logger = logging.getLogger(__name__)

_TIGHT = {5, 8, 32773, 32946}  # LZW, deflate, packbits: at most about 1000-fold
_MOST = {True: 1500, False: 100_000}  # of a compressed byte, by whether the codec is one of these
_PLAIN = {"is_ome": False, "is_imagej": False, "is_shaped": False}


@dataclass(frozen=True)
class Opened:
    """A file, the pages in it and in others of its set, and the bytes of all."""

    tif: tifffile.TiffFile
    pages: int
    others: int
    size: int


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


@contextlib.contextmanager
def open_tiff(path: Path, *, described: bool = True) -> Iterator[Opened]:
    """A file, after its structure and the planes that it speaks of were counted.

    Args:
        described: go by what the file says of its pages.

    Raises:
        PlanesError: if there are other planes than the file speaks of.
    """
    pages = count_pages(path)
    with strict(path), contextlib.ExitStack() as stack:
        flags: dict[str, Any] = {} if described else _PLAIN
        tif = stack.enter_context(tifffile.TiffFile(path, _multifile=False, **flags))
        found = OmeSet(path)
        if tif.is_ome and tif.ome_metadata:
            found = set_of(path, tif.ome_metadata, pages, count_pages)
        if found.xml is not None:
            tif = stack.enter_context(tifffile.TiffFile(path, _multifile=bool(found.files), omexml=found.xml))
        if found.files:
            names = ", ".join(other.name for other in found.files)
            logger.info("%s is one file of a set; planes are also read from %s.", path, names)
        size = path.stat().st_size + sum(other.stat().st_size for other in found.files)
        yield Opened(tif, pages, sum(found.files.values()), size)


@contextlib.contextmanager
def strict(path: Path) -> Iterator[None]:
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


def only_series(tif: tifffile.TiffFile, path: Path) -> Any:
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


def chosen_series(tif: tifffile.TiffFile, series: int, path: Path) -> Any:
    """The image that the user named."""
    if not 0 <= series < len(tif.series):
        sizes = ", ".join("x".join(str(n) for n in s.shape) for s in tif.series[:5])
        raise ValueError(
            f"{path} has no image {series}: it holds {len(tif.series)} ({sizes}), counted from 0."
        )
    return tif.series[series]


def check_complete(opened: Opened, series: Any, path: Path, *, alone: bool) -> None:
    """As many pages as the metadata promise, no more, and no more voxels than the file can hold."""
    tif, pages = opened.tif, opened.pages
    seen = len(tif.pages)
    if seen < pages:
        raise InputError(
            f"{path}: {pages} pages are in the file, but only {seen} can be read. It is damaged."
        )
    size = opened.size
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
    planes = _planes(series)
    meta = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    numbers = [int(meta.get(k, 1) or 1) for k in ("channels", "slices", "frames")]
    promised = max(math.prod(numbers), int(meta.get("images", 1) or 1))
    missing = sum(page is None for page in series)
    if (alone and promised > planes) or missing:
        raise fewer_planes(path, max(promised, planes), planes - missing)
    if alone and pages + opened.others > sum(_planes(s, "XYS") for s in tif.series):
        own = count_pages(path, previews=False)
        told = sum(_planes(s, "XYS") for s in tif.series)
        if own + opened.others > told:
            raise PlanesError(
                f"{path} describes {told} planes, but {own + opened.others} pages are there: the others "
                "would be left out. Export it again; or say what its pages are, with axes "
                f"('volseg convert {path.name} --axes ZYX -o NEW.tif')."
            )


def _planes(series: Any, within: str = "XY") -> int:
    """How many pages a series takes."""
    return math.prod(n for n, a in zip(series.shape, series.axes, strict=True) if a not in within)
