"""How the chunks of a Zarr array are packed, and that none unpacks to more than its description says.

The libraries that unpack a chunk take its own word for how much it holds: 500 kB of zeros, packed, ask for
gigabytes. Here the size that a chunk claims is read from its first bytes, or counted while it is unpacked and
thrown away, before the library gets it.
"""

import bz2
import lzma
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs

from volseg.errors import InputError
from volseg.io.gzip_stream import MAX_RATIO

__all__ = ["Packing", "packing_of"]

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
        InputError: if chunks are packed twice: what the first unpacks to cannot be told from the second.
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
        except Exception as error:  # the decoder has exceptions of its own; damage is the library's to tell
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
