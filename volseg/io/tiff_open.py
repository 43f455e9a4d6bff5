"""Opening TIFF files: whether they are whole, and what their axes are.

tifffile reports damage as log lines, reads a description of planes that are not there, and takes part of a
set for the whole; here all of that is an error.

What the axes of a TIFF file are: its own words where they leave no doubt, otherwise the user's.

Whether a TIFF file is whole, judged from its bytes.

tifffile reports a broken chain of pages as a log line and returns the pages it found. This module follows
the chain itself and checks that every page, every tag and every strip lies inside the file.
"""

import contextlib
import logging
import math
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volseg.arguments import conversion
from volseg.errors import InputError, VolsegError
from volseg.io.ome_tiff import OmeSet, PlanesError, fewer_planes, set_of
from volseg.io.volume import Notes

__all__ = [
    "Opened",
    "check_complete",
    "chosen_axes",
    "chosen_series",
    "clear_axes",
    "count_pages",
    "only_series",
    "open_tiff",
    "strict",
    "times",
]

logger = logging.getLogger(__name__)


def clear_axes(stored: str, shape: tuple[int, ...], kind: str, path: Path, notes: Notes) -> str:
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
            f"axes='{first}' or axes='{second}' in Python, or "
            f"'{conversion(path, axes=first)}'. {_moment(stored, path)}"
        )
    if others and others[0][0] == "T":
        notes.warning("%s: the axis of %d pages is marked as time; it is read as z.", path, others[0][1])
    return "".join("C" if a in "CS" else a if a in "XY" else "Z" for a in stored)


def _moment(stored: str, path: Path) -> str:
    """How one moment of a series is taken, where a file has an axis of time."""
    if "T" not in stored or len(stored) != 4:
        return ""
    letters = stored.replace("C", "Z").replace("T", "C")
    line = conversion(path, axes=letters, channel=0)
    return f"Of a series in time, take one moment: '{line}'."


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


_MAX_PAGES = 1 << 20
_SIZES = np.zeros(1 << 16, np.int64)  # bytes per value of each TIFF data type; unknown types count nothing
_SIZES[1:19] = [1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8]
_DATA = {273: 279, 324: 325}  # offsets and byte counts of strips, and of tiles
_INTEGERS = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


def count_pages(path: Path, *, previews: bool = True) -> int:
    """The number of pages, after following the chain to its end; a broken one is an `InputError`.

    Args:
        previews: count those, too, that say of themselves that they are a smaller copy of another.
    """
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return sum(previews or not preview for preview in _pages(data, path))


def _pages(data: mmap.mmap, path: Path) -> Iterator[bool]:
    """Of every page, whether it is a preview (bit 0 of NewSubfileType)."""
    size = len(data)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    version = struct.unpack_from(f"{order}H", data, 2)[0] if order and size >= 8 else 0
    if order is None or version not in (42, 43):
        raise InputError(
            f"{path}: this is not a TIFF file: its first bytes are {data[:4]!r}. Export it again."
        )
    big = version == 43
    count_type, offset_type = (f"{order}Q", f"{order}Q") if big else (f"{order}H", f"{order}I")
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("n", f"{order}u{8 if big else 4}"),
                      ("at", f"{order}u{8 if big else 4}")])  # fmt: skip
    head = struct.calcsize(count_type)
    place = 8 if big else 4
    seen: set[int] = set()
    while True:
        if place + struct.calcsize(offset_type) > size:
            raise _cut(path, len(seen), "the pointer to the next page")
        offset = struct.unpack_from(offset_type, data, place)[0]
        if offset == 0:
            break
        if offset in seen or len(seen) > _MAX_PAGES:
            raise InputError(f"{path}: the chain of pages loops after page {len(seen)}. The file is damaged.")
        seen.add(offset)
        if offset + head > size:
            raise _cut(path, len(seen), "")
        count = struct.unpack_from(count_type, data, offset)[0]
        place = offset + head + count * entry.itemsize
        if place > size:
            raise _cut(path, len(seen), "the list of tags")
        tags = np.frombuffer(data, entry, count, offset + head).copy()
        _check_tags(data, tags, order, offset + head, path, len(seen))
        kind = _values(data, tags, 254, order, offset + head)
        yield kind is not None and len(kind) == 1 and bool(int(kind[0]) & 1)
    if not seen:
        raise InputError(f"{path}: the TIFF file holds no page. Writing it was probably interrupted.")


def _check_tags(data: mmap.mmap, tags: NDArray[Any], order: str, start: int, path: Path, page: int) -> None:
    """Every value lies inside the file, and so does every strip or tile of voxels."""
    size, inline = len(data), tags.dtype["at"].itemsize
    nbytes = _SIZES[tags["type"]].astype(float) * tags["n"]
    outside = (nbytes > inline) & (tags["at"].astype(float) + nbytes > size)
    if outside.any():
        raise _cut(path, page, f"the value of tag {int(tags['tag'][outside][0])}")
    for offsets_tag, counts_tag in _DATA.items():
        offsets = _values(data, tags, offsets_tag, order, start)
        counts = _values(data, tags, counts_tag, order, start)
        if offsets is None or counts is None:
            continue
        if len(offsets) != len(counts):
            raise InputError(
                f"{path}: page {page} lists {len(offsets)} blocks of voxels but {len(counts)} block sizes. "
                "The file is damaged; fetch it again."
            )
        if (counts == 0).any() or (offsets == 0).any():
            raise InputError(
                f"{path}: page {page} has blocks without voxels, which would be read as zeros. "
                "Writing the file was probably interrupted; export it again."
            )
        if (offsets.astype(float) + counts > size).any():
            raise _cut(path, page, "some of its voxels")


def _values(data: mmap.mmap, tags: NDArray[Any], tag: int, order: str, start: int) -> NDArray[Any] | None:
    """The integers stored under a tag."""
    found = np.flatnonzero(tags["tag"] == tag)
    if not len(found):
        return None
    index = int(found[0])
    kind = _INTEGERS.get(int(tags["type"][index]))
    if kind is None:
        return None
    dtype, n = np.dtype(order + kind), int(tags["n"][index])
    inline = tags.dtype["at"].itemsize
    at = int(tags["at"][index])
    if n * dtype.itemsize <= inline:
        at = start + index * tags.dtype.itemsize + tags.dtype.itemsize - inline
    return np.frombuffer(data, dtype, n, at).copy()


def _cut(path: Path, page: int, what: str) -> InputError:
    size = os.path.getsize(path)
    return InputError(
        f"{path}: {f'{what} of ' if what else ''}page {page} lies beyond the end of the file ({size} bytes). "
        "The file was cut or is damaged; fetch it again."
    )


_TIGHT = {5, 8, 32773, 32946}  # LZW, deflate, packbits: at most about 1000-fold
_MOST = {True: 1500, False: 100_000}  # of a compressed byte, by whether the codec is one of these
_PLAIN = {"is_ome": False, "is_imagej": False, "is_shaped": False}


@dataclass(frozen=True)
class Opened:
    """A file, the pages in it and in others of its set, and the bytes of all.

    Args:
        words: the file with what it says of itself, whether that is gone by or not.
    """

    tif: tifffile.TiffFile
    words: tifffile.TiffFile
    pages: int
    others: int
    size: int


class _Trap(logging.Filter):
    """Collects what tifffile logs as an error in this thread while a file is read, and keeps the rest back.

    The one place that listens to a log: tifffile says that pages are missing or torn there and nowhere else,
    and returns what it could read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.local = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        caught = getattr(self.local, "caught", None)
        if caught is None:
            return True
        if record.levelno >= logging.ERROR:
            caught.append(record.getMessage())
        else:  # what matters of it is said in volseg's words
            logger.debug("tifffile: %s", record.getMessage())
        return False


_TRAP = _Trap()
logging.getLogger("tifffile").addFilter(_TRAP)


@contextlib.contextmanager
def open_tiff(path: Path, notes: Notes, *, described: bool = True) -> Iterator[Opened]:
    """A file, after its structure and the planes that it speaks of were counted.

    Args:
        described: go by what the file says of its pages.

    Raises:
        PlanesError: if there are other planes than the file speaks of.
    """
    pages = count_pages(path)
    with strict(path), contextlib.ExitStack() as stack:
        flags: dict[str, Any] = {} if described else _PLAIN
        tif = words = stack.enter_context(tifffile.TiffFile(path, _multifile=False, **flags))
        if not described:
            words = stack.enter_context(tifffile.TiffFile(path, _multifile=False))
        found = OmeSet(path)
        if tif.is_ome and tif.ome_metadata:
            found = set_of(path, tif.ome_metadata, pages, count_pages)
        if found.xml is not None:
            tif = words = stack.enter_context(
                tifffile.TiffFile(path, _multifile=bool(found.files), omexml=found.xml)
            )
        if found.files:
            names = ", ".join(other.name for other in found.files)
            notes.info("%s is one file of a set; planes are also read from %s.", path, names)
        size = path.stat().st_size + sum(other.stat().st_size for other in found.files)
        yield Opened(tif, words, pages, sum(found.files.values()), size)


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
            f"('{conversion(path, series=0)}')."
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
        described = sum(_planes(s, "XYS") for s in tif.series)
        if own + opened.others > described:
            raise PlanesError(
                f"{path} describes {described} planes, but {own + opened.others} pages are there.",
                "The others would be left out. Export it again; or say what its pages are, with axes "
                f"('{conversion(path, axes='ZYX')}').",
            )


def _planes(series: Any, within: str = "XY") -> int:
    """How many pages a series takes."""
    return math.prod(n for n, a in zip(series.shape, series.axes, strict=True) if a not in within)
