"""Blocks of one Zarr array, and how its chunks are packed.

A chunk that is absent holds the fill value, as the format has it; programs leave out what is empty.
zarr-python says nothing of that. Here it is counted and said, and refused where every chunk was written
(volseg notes that with its own arrays) or none is there: then files were lost.

How the chunks of a Zarr array are packed, and that none unpacks to more than its description says.

The libraries that unpack a chunk take its own word for how much it holds: 500 kB of zeros, packed, ask for
gigabytes. Here the size that a chunk claims is read from its first bytes, or counted while it is unpacked and
thrown away, before the library gets it.
"""

import bz2
import lzma
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, RefusedError, ResourceError, VolsegError
from volseg.installation import install_line
from volseg.io.stored import MAX_RATIO
from volseg.io.volume import Notes

__all__ = ["Packing", "ZarrArray", "in_short", "packing_of", "zarr_library"]

_COMPRESSORS = {"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma"}
_CHECKSUMS = {"crc32c"}
_SLACK = 1 << 20  # bytes that a chunk may hold beyond its voxels
_HEAD = 32  # bytes of a chunk in which blosc, zstd and lz4 say how much it holds


@dataclass(frozen=True)
class Packing:
    """What a chunk is packed with, ``""`` for nothing, and how many bytes of checksums stand behind it."""

    compressor: str = ""
    tail: int = 0

    def require_small(self, file: Path, limit: int, start: int = 0, length: int | None = None) -> None:
        """Refuse a chunk, a part of a file, that unpacks to more than ``limit`` bytes and a megabyte."""
        with file.open("rb") as opened:
            opened.seek(start)
            size = file.stat().st_size - start if length is None else length
            if not self.compressor:
                unpacked = size
            elif self.compressor in ("blosc", "lz4", "zstd") and (
                said := _said(self.compressor, opened.read(min(size, _HEAD)))
            ):
                unpacked = said
            elif self.compressor in ("gzip", "zlib") and size * MAX_RATIO <= limit + _SLACK:
                return
            else:
                opened.seek(start)
                data = opened.read(max(0, size - self.tail))
                unpacked = _counted(self.compressor, data, limit + _SLACK)
        if unpacked > limit + _SLACK:
            raise InputError(
                f"{file}: a chunk of {size} bytes unpacks to more than the {limit} that its voxels take. It "
                "is damaged, or was made to exhaust memory; fetch the image again."
            )


def packing_of(codecs: Iterable[Mapping[str, Any]], key: str, folder: Path) -> Packing:
    """What the codecs of a description do to a chunk, in the order of packing; ``key`` holds a codec's name.

    Raises:
        InputError: if chunks are packed twice: what the first unpacks to cannot be known from the second.
    """
    names: Sequence[str] = [str(codec[key]) for codec in codecs]
    packed = [i for i, name in enumerate(names) if name in _COMPRESSORS]
    if len(packed) > 1:
        raise InputError(
            f"{folder}: its chunks are packed twice ({', '.join(names[i] for i in packed)}), which is not "
            "read. Save it with one of them."
        )
    after = names[packed[0] + 1 :] if packed else names
    tail = 4 * sum(name in _CHECKSUMS for name in after)
    return Packing(names[packed[0]] if packed else "", tail)


def _said(compressor: str, head: bytes) -> int:
    """How many bytes a chunk says it holds; 0 where it does not say."""
    if compressor == "lz4":
        return int(struct.unpack_from("<I", head)[0]) if len(head) >= 4 else 0
    if compressor == "blosc":
        return int(struct.unpack_from("<I", head, 4)[0]) if len(head) >= 16 else 0
    if len(head) < 14 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    flags = head[4]
    single, kind = flags >> 5 & 1, flags >> 6
    place = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if kind == 0:
        return head[place] if single else 0
    size = int.from_bytes(head[place : place + (1, 2, 4, 8)[kind]], "little")
    return size + 256 if kind == 1 else size


def _counted(compressor: str, data: bytes, most: int) -> int:
    """How many bytes a chunk unpacks to, counted up to a little more than ``most``."""
    if compressor == "zstd":  # it does not say: one that fits is unpacked into a buffer of that size
        try:
            return len(imagecodecs.zstd_decode(data, out=bytearray(most)))
        except Exception as error:  # the decoder has exceptions of its own; damage is the library's to report
            return most + 1 if "too small" in str(error) else 0
    if compressor not in ("gzip", "zlib", "bz2", "lzma"):
        return 0  # a blosc or lz4 chunk too short to say anything is the library's to refuse
    total = 0
    while data and total <= most:
        decoder: Any = {
            "gzip": lambda: zlib.decompressobj(31),
            "zlib": zlib.decompressobj,
            "bz2": bz2.BZ2Decompressor,
            "lzma": lzma.LZMADecompressor,
        }[compressor]()
        try:
            while not decoder.eof and total <= most:
                piece = decoder.decompress(data, 1 << 20)
                data = getattr(decoder, "unconsumed_tail", b"")
                total += len(piece)
                if not piece and not data and getattr(decoder, "needs_input", True):
                    return total  # cut: the library says so
        except (zlib.error, OSError, lzma.LZMAError, EOFError):
            return total
        data = decoder.unused_data
    return total


_MOST = 1 << 22  # chunks of an array
_ABSENT = np.uint64(2**64 - 1)  # where the index of a shard has no chunk


@dataclass(frozen=True)
class ZarrArray:
    """An array in a folder, its description checked; blocks are indexed in the file's order of axes.

    ``chunks`` are the pieces that are files of their own: chunks, or the shards that hold them.
    """

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    prefix: str
    separator: str
    shard: tuple[int, ...] | None = None
    packing: Packing = field(default_factory=Packing)
    fill: Any = 0
    complete: bool = False
    _open: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    _judged: set[Path] = field(default_factory=set, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_judged": set()}

    def read(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """A block; damage is an `InputError`."""
        for path in self.files(index):
            self._require_small(path)
        try:
            block = np.asarray(self._array("r")[index])
        except (VolsegError, MemoryError):
            raise
        except Exception as error:
            raise InputError(
                f"{self.folder}: some of its chunks cannot be read ({in_short(error)}). They were cut or are "
                "damaged; fetch it again."
            ) from error
        return block

    def write(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write a block; it is on the disk when this returns."""
        try:
            self._array("r+")[index] = block
            for path in self.files(index):
                _flush(path)
        except OSError as error:
            raise ResourceError(
                f"cannot write {self.folder}: {error.strerror or error}. Free some space or choose another "
                "folder."
            ) from error

    def files(self, index: Sequence[slice] | None = None) -> Iterator[Path]:
        """The files that hold a block, or all."""
        return map(self._file, self._corners(index))

    def check_chunks(self, notes: Notes) -> None:
        """Chunks are plain files in plain folders, and those that are absent may be, which is noted."""
        count = prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        if count > _MOST:
            raise InputError(f"{self.folder} has {count} chunks, more than are read. Use larger ones.")
        missing, first, any_there = 0, None, False
        plain = {self.folder}
        for corner in self._corners():
            path = self._file(corner)
            for place in (path, *path.parents):
                if place in plain:
                    break
                if place.is_symlink():
                    raise RefusedError(f"{place} is a link, so it is not opened. Put the file itself there.")
                if place != path:
                    plain.add(place)
            any_there = any_there or path.is_file()
            if not path.is_file() or self._lacks(path, corner):
                missing, first = missing + 1, first or path
        if first is None:
            return
        name = first.relative_to(self.folder)
        if self.complete or not any_there:
            why = "volseg wrote all of them" if self.complete else "nothing of the image is there"
            raise InputError(
                f"{self.folder}: {missing} of {count} chunks are missing, such as {name}, but {why}: the "
                "copy is not whole. Copy it again. If they were left out as empty on purpose, fill them with "
                "zarr: write_empty_chunks=True."
            )
        what = "chunks" if self.shard is None else "shards, or chunks in them,"
        notes.warning(
            "%s: %d of %d %s are absent, such as %s; as the format has it, they are read as the fill "
            "value %s.",
            self.folder, missing, count, what, name, self.fill,
        )  # fmt: skip

    def _corners(self, index: Sequence[slice] | None = None) -> Iterator[tuple[int, ...]]:
        """The first voxels of the chunks of a block, or of all."""
        wanted = index or [slice(0, n) for n in self.shape]
        return product(
            *(
                range(part.start - part.start % c, part.stop, c)
                for c, part in zip(self.chunks, wanted, strict=True)
            )
        )

    def _file(self, corner: Sequence[int]) -> Path:
        place = [str(start // c) for start, c in zip(corner, self.chunks, strict=True)]
        return self.folder / self.separator.join([self.prefix, *place] if self.prefix else place)

    def _lacks(self, path: Path, corner: Sequence[int]) -> bool:
        """Whether the index of a shard says that some of its chunks are not there."""
        if self.shard is None:
            return False
        count = prod(c // s for c, s in zip(self.chunks, self.shard, strict=True))
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16 * count - 4))
            index = np.frombuffer(file.read(16 * count)[: 16 * count], np.uint8)
        if len(index) < 16 * count:
            return True
        inside = np.array(True)  # chunks beyond the end of the array need not be there
        for n, c, s, start in zip(self.shape, self.chunks, self.shard, corner, strict=True):
            inside = np.logical_and.outer(inside, start + np.arange(0, c, s) < n)
        return bool((index.view("<u8")[::2][inside.ravel()] == _ABSENT).any())

    def _require_small(self, path: Path) -> None:
        """No chunk of a file unpacks to more than its voxels take."""
        if path in self._judged or not path.is_file():
            return
        voxels = prod(self.shard or self.chunks) * self.dtype.itemsize
        if self.shard is None:
            self.packing.require_small(path, voxels)
        else:
            for start, length in self._index_of(path):
                self.packing.require_small(path, voxels, start, length)
        self._judged.add(path)

    def _index_of(self, path: Path) -> list[tuple[int, int]]:
        """Where in a shard its chunks lie; empty where the shard is too short for an index."""
        assert self.shard is not None
        count = prod(c // s for c, s in zip(self.chunks, self.shard, strict=True))
        size = path.stat().st_size
        if size < 16 * count + 4:
            return []
        index = np.fromfile(path, "<u8", 2 * count, offset=size - 16 * count - 4).reshape(count, 2)
        return [(int(at), int(n)) for at, n in index[index[:, 0] != _ABSENT] if at + n <= size]

    def _array(self, mode: Any) -> Any:
        if mode not in self._open:
            array = zarr_library().open_array(str(self.folder), mode=mode)
            self._open[mode] = array.with_config({"write_empty_chunks": True})
        return self._open[mode]


def zarr_library() -> Any:
    """The package ``zarr``, which is asked for where it is needed."""
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"Zarr needs a package that is not installed. Install it with: {install_line('zarr')}."
        ) from error
    return zarr


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def in_short(error: BaseException) -> str:
    """What a library says, in a few words."""
    return (str(error) or type(error).__name__).splitlines()[0].split(". ")[0][:120].rstrip(".")
