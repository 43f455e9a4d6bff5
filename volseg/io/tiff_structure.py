"""Whether a TIFF file is whole, judged from its bytes.

tifffile reports a broken chain of pages as a log line and returns the pages it found. This module follows
the chain itself and checks that every page, every tag and every strip lies inside the file.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError

__all__ = ["count_pages"]

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
            raise _cut(path, len(seen), "the page")
        count = struct.unpack_from(count_type, data, offset)[0]
        place = offset + head + count * entry.itemsize
        if place > size:
            raise _cut(path, len(seen), "the page's list of tags")
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
        f"{path}: {what} of page {page} lies beyond the end of the file ({size} bytes). "
        "The file was cut or is damaged; fetch it again."
    )
