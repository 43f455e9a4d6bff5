"""Voxels and headers as they are stored: plain or compressed numbers, and headers that are text.

What may be believed of a header is decided here: the sizes are compared with the file before anything is
allocated, and a header that names another file gets one that lies beside it, or none. Readers of gzip that
stop once they have their voxels never reach the checksum at the end of the stream; this one always does.

Words and numbers of a header that do not parse are an `InputError` with the file.
"""

import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io.volume import Notes

__all__ = [
    "Description",
    "Kind",
    "MAX_RATIO",
    "Stored",
    "beside",
    "chosen_axes",
    "is_gzip",
    "load",
    "needed",
    "number",
    "numbers",
    "peek",
    "read_at_most",
    "require_memory",
    "size_of_axes",
    "times",
]

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


@dataclass(frozen=True)
class Stored:
    """Where a header says its voxels are, and of what kind; ``shape`` has the fastest axis first."""

    file: Path
    start: int
    encoding: Literal["raw", "gzip", "zlib"]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Description(NamedTuple):
    """A header, read.

    Attributes:
        stored: where the voxels are.
        header: what is kept of it, with ``axes``, the letters of the file's axes.
        affine, unit: where the image lies.
        scaling: what stored numbers are multiplied by, and what is added then.
        blank: of a label, the number that means unlabelled, if the header says so.
    """

    stored: Stored
    header: Any
    affine: NDArray[np.float64]
    unit: str
    scaling: tuple[float, float] = (1.0, 0.0)
    blank: int | None = None


def load(stored: Stored, header: Path, notes: Notes) -> NDArray[Any]:
    """The array, x fastest, after everything that can be checked about it."""
    if not stored.shape or min(stored.shape) < 1:
        raise InputError(f"{header}: a size of {times(stored.shape)} holds no voxel. Export it again.")
    size = stored.file.stat().st_size
    need = math.prod(stored.shape) * stored.dtype.itemsize
    raw = stored.encoding == "raw"
    most = max(0, size - stored.start) * (1 if raw else MAX_RATIO)
    if need > most:
        raise InputError(
            f"{header}: the header needs {need} bytes for {times(stored.shape)} voxels, but "
            f"{stored.file.name} of {size} bytes holds {'' if raw else 'at most '}{most}. "
            "It was cut or is damaged; fetch it again."
        )
    require_memory(need, header)
    if stored.encoding == "raw":
        flat, extra = np.fromfile(stored.file, np.uint8, need, offset=stored.start), most - need
    else:
        data = read_at_most(stored.file, need + 1, start=stored.start, kind=stored.encoding)
        if len(data) < need:
            raise InputError(
                f"{header}: the header needs {need} bytes for {times(stored.shape)} voxels, but there are "
                f"{len(data)} after unpacking. The file was cut before it was packed; export it again."
            )
        flat, extra = np.frombuffer(data, np.uint8, need), len(data) - need
    if extra:
        notes.warning("%s: there are more voxels than the header speaks of; the rest is left out.", header)
    return flat.view(stored.dtype).reshape(stored.shape, order="F")


def beside(header: Path, name: str) -> Path:
    """The data file that a header names: a plain file in the same folder, or it is refused.

    A header is text that anyone can write; one that names ``/etc/passwd`` would show it as an image.
    """
    if not name or name in (".", "..") or any(mark in name for mark in ("/", "\\", ":", "\0")):
        raise RefusedError(
            f"{header} keeps its voxels in '{name}', which is not a name in its own folder, so it is not "
            "opened. Put both files into one folder and write the bare name into the header."
        )
    path = header.parent / name
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RefusedError(
            f"{header} keeps its voxels in '{name}', which is a link or no regular file, so it is not "
            "opened. Put the file itself beside the header."
        )
    if not path.exists():
        raise InputError(
            f"{header} keeps its voxels in '{name}', which is missing. Put it into the same folder."
        )
    return path


def require_memory(need: int, path: Path) -> None:
    """Refuse what the machine could not hold even if it had nothing else to do."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > have > 0:
        raise ResourceError(
            f"{path} asks for {need / 1e9:.3g} GB of voxels; this machine has {have / 1e9:.3g} GB of memory. "
            "Cut the volume into parts, or use a larger machine."
        )


def chosen_axes(axes: str, shape: tuple[int, ...], path: Path) -> str:
    """The user's axes, if they fit the file; an axis of size 1 behind the plane need not be named."""
    if axes not in ("XY", "XYZ", "XYC", "CXY", "XYZC", "CXYZ"):
        raise ValueError(f"axes={axes!r} are none: give X, Y, Z and C in the file's order, such as CXYZ.")
    behind = axes.index("Y") + 1
    if len(axes) == len(shape) - 1 and "Z" not in axes and shape[behind] == 1:
        return f"{axes[:behind]}1{axes[behind:]}"
    if len(axes) != len(shape):
        raise InputError(
            f"{path} has {len(shape)} axes ({times(shape)}), but axes='{axes}' does not name each: "
            "give X, Y, Z and C in the file's order, such as CXYZ."
        )
    return axes


def needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    """The value of a field without which the file means nothing."""
    if name not in fields:
        raise InputError(f"{path}: the header has no '{name}'. The file was cut or is damaged.")
    return fields[name]


def number(path: Path, name: str, text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{path}: '{text[:40]}' in {name} is not a number. It is damaged.") from error


def numbers(path: Path, name: str, texts: list[str], count: int) -> NDArray[np.float64]:
    """So many numbers."""
    if len(texts) != count:
        raise InputError(
            f"{path}: {name} has {len(texts)} numbers, but {count} are needed. The header is damaged."
        )
    return np.array([number(path, name, text) for text in texts], float)


def size_of_axes(path: Path, name: str, text: str) -> tuple[int, ...]:
    """Sizes in voxels."""
    words = text.split()
    if not words or not all(re.fullmatch(r"[0-9]{1,15}", word) for word in words):
        raise InputError(f"{path}: {name} = '{text[:60]}' are not sizes in voxels. The header is damaged.")
    return tuple(int(word) for word in words)


def times(shape: tuple[int, ...]) -> str:
    """A shape for messages."""
    return " x ".join(str(n) for n in shape)
