"""Reading gzip and zlib data so that a cut or altered file is never taken for a good one.

Readers that stop once they have their voxels never reach the checksum at the end of the stream. This one
always does, and it never allocates more than the file can hold.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import imagecodecs

from volseg.errors import InputError

__all__ = ["MAX_RATIO", "Kind", "is_gzip", "peek", "read_at_most"]

MAX_RATIO = 1032  # deflate cannot compress better than this
_SMALL = 256 << 20
_SURPLUS = 1 << 20  # so much more than is wanted may be unpacked at once
Kind = Literal["gzip", "zlib"]
_WINDOW: dict[Kind, int] = {"gzip": 31, "zlib": 15}
_HOW: dict[Kind, str] = {"gzip": "; check with 'gzip -t'", "zlib": ""}


def is_gzip(start: bytes) -> bool:
    """Whether these first bytes of a file are those of a gzip stream."""
    return start[:2] == b"\x1f\x8b"


def read_at_most(path: Path, limit: int, *, start: int = 0, kind: Kind = "gzip") -> memoryview | bytes:
    """The first ``limit`` bytes of the decompressed stream, the whole of which has been checked.

    Fewer are returned where the stream is complete but shorter. Content beyond ``limit`` is
    decompressed and checked, but not kept.

    Args:
        start: where in the file the stream begins.
    """
    quick = _in_one_go(path, limit) if start == 0 and kind == "gzip" else None
    if quick is not None:
        return quick
    out, filled = memoryview(bytearray(limit)), 0
    for piece in _stream(path, start=start, kind=kind):
        take = min(len(piece), limit - filled)
        out[filled : filled + take] = piece[:take]
        filled += take
    return out[:filled]


def peek(path: Path, count: int) -> bytes:
    """The first bytes of the decompressed data, unchecked: damage shows once everything is read."""
    out = b""
    for piece in _stream(path, chunk=4096):
        out += piece
        if len(out) >= count:
            break
    return out[:count]


def _in_one_go(path: Path, limit: int) -> bytes | None:
    """libdeflate, twice as fast as zlib, on a plain single stream; None sends the rest to the careful way."""
    if min(limit, path.stat().st_size) > _SMALL:
        return None
    data = path.read_bytes()
    size = int.from_bytes(data[-4:], "little")
    if len(data) < 18 or size > min(_SMALL, MAX_RATIO * len(data), limit + _SURPLUS):
        return None
    try:
        out = imagecodecs.gzip_decode(data, out=size)
    except Exception:  # whatever is wrong, zlib will say it better
        return None
    return bytes(out[:limit]) if len(out) == size and size >= limit else None


def _stream(path: Path, *, start: int = 0, kind: Kind = "gzip", chunk: int = 1 << 20) -> Iterator[bytes]:
    """Decompress in pieces to the end of the file; several gzip members in a row are one stream."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(chunk)
        decoder = zlib.decompressobj(_WINDOW[kind])
        while data:
            try:
                piece = decoder.decompress(data, chunk)
            except zlib.error as error:
                raise _damaged(path, error, kind) from error
            if piece:
                yield piece
            data = decoder.unconsumed_tail or b""
            if decoder.eof and kind == "zlib":
                break
            if decoder.eof:
                data = (decoder.unused_data or file.read(chunk)).lstrip(b"\0")
                while not data and (more := file.read(chunk)):  # zeros may pad a gzip file
                    data = more.lstrip(b"\0")
                if data:
                    decoder = zlib.decompressobj(_WINDOW[kind])
            elif not data:
                data = file.read(chunk)
    if not decoder.eof:
        raise InputError(
            f"{path}: the {kind} stream ends early ({path.stat().st_size} bytes on disk). "
            f"The download or copy was probably cut. Fetch it again{_HOW[kind]}."
        )


def _damaged(path: Path, error: zlib.error, kind: Kind) -> InputError:
    if "incorrect data check" in str(error) or "incorrect length" in str(error):
        return InputError(
            f"{path}: the checksum of the {kind} data is wrong, so some voxels are too. "
            f"The file was altered on its way. Fetch it again{_HOW[kind]}."
        )
    return InputError(f"{path}: the {kind} data are damaged ({error}). Fetch the file again{_HOW[kind]}.")
