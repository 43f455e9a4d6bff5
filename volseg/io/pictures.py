"""Pictures: PNG and JPEG, and which way up they are shown.

Of a PNG every checksum is checked here, and only what defines its numbers goes to imagecodecs, which fills
what is missing with black. Pillow does not read PNG for us: of 600 streams with a flipped bit inside and the
outer checksum right it opened 24 to 28 with other pixels (here 0 or 1; benchmarks/readers.py); it cuts 16-bit
colours to 8 and takes the first moment of an animation. JPEG is read by Pillow, which opened none of 98 cut
files; a bit that flipped in its pixels is seen by no reader.

Neither format says how large a pixel is in a way that programs keep to, so there is no voxel size. Where EXIF
says which way up a picture is shown, it is read as shown.

Numbers come back as stored: a PNG with a colour table gives, as a label, the numbers of its colours, and
one of 1, 2 or 4 bits those bits. JPEG is read only, because it changes numbers, and never as a label.

Which way up a picture is shown: the orientation tag of EXIF and TIFF (number 274), heeded.

Cameras and microscopes store rows as the sensor gives them and note in a tag how to turn the picture. Every
viewer turns it; so does volseg, for images and labels alike, and what it writes lies as it was shown and
carries no tag. Programs that ignore the tag (Fiji, for one) show such a file otherwise, so it is said.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from volseg.errors import InputError, VolsegError
from volseg.io.stored import MAX_RATIO, require_memory
from volseg.io.volume import Notes, Volume, contiguous

__all__ = ["PngHeader", "as_shown", "exif_orientation", "read_jpeg", "read_png", "swaps_axes", "write_png"]

_WORDS = {
    2: "mirrored left to right", 3: "turned by 180 degrees", 4: "mirrored top to bottom",
    5: "mirrored at its diagonal", 6: "turned clockwise by 90 degrees", 7: "mirrored at its other diagonal",
    8: "turned counterclockwise by 90 degrees",
}  # fmt: skip
_TAG = 274


def as_shown(array: NDArray[Any], orientation: int, path: Path, notes: Notes) -> NDArray[Any]:
    """A stored picture or stack ``(C, X, Y[, Z])`` as viewers show it; 2 to 8 change it."""
    if orientation not in _WORDS:
        return array
    notes.warning(
        "%s is %s, as its orientation tag (%d) asks and viewers show it. A program that ignores the tag, "
        "such as Fiji, shows it otherwise: paint made there does not fit. 'volseg convert' writes it as "
        "shown, without a tag.",
        path, _WORDS[orientation], orientation,
    )  # fmt: skip
    if swaps_axes(orientation):
        array = array.swapaxes(1, 2)
    backward = (1,) * (orientation in (2, 3, 6, 7)) + (2,) * (orientation in (3, 4, 7, 8))
    return np.flip(array, backward)


def swaps_axes(orientation: int) -> bool:
    """Whether what is stored as x is shown as y."""
    return 5 <= orientation <= 8


def exif_orientation(exif: bytes, path: Path, notes: Notes) -> int:
    """The orientation that a block of EXIF asks for; 1, as stored, where it asks for none or is damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, start)
            for i in range(count):
                tag, kind, number, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * i)
                if (tag, kind, number) == (_TAG, 3, 1):
                    return int(value)
    except struct.error:
        notes.warning("%s: a block of EXIF is cut: its orientation is taken as 1, as stored.", path)
    return 1


_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _TABLE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_SAMPLES = {_GREY: 1, _RGB: 3, _TABLE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _TABLE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
_JPEG_RATIO = 2000
_EXIF = b"Exif\0\0"
_SHOWN = 12  # colours


@dataclass(frozen=True)
class PngHeader:
    """The pixel size a PNG names (its ``pHYs`` chunk), to be written back as it is."""

    resolution: bytes = b""


def read_png(path: Path, *, labels: bool, axes: str | None, notes: Notes) -> Volume:
    """Read a PNG; see `volseg.io.read_volume`."""
    _only_2d(path, axes)
    data = path.read_bytes()
    chunks = _chunks(data, path)
    width, height, depth, colour, _, _, _ = struct.unpack(">IIBBBBB", chunks[0][1])
    if (
        colour not in _SAMPLES
        or depth not in _DEPTHS[colour]
        or not (0 < width < 2**31 and 0 < height < 2**31)
    ):
        raise InputError(
            f"{path}: {width} x {height} pixels of {depth} bits in colour type {colour} are not a PNG image. "
            "The file is damaged; export it again."
        )
    pixels = b"".join(content for name, content in chunks if name == b"IDAT")
    need = height * ((width * _SAMPLES[colour] * depth + 7) // 8)
    if need > len(pixels) * MAX_RATIO:
        raise _too_small(path, (width, height), need, len(data))
    require_memory(need * max(1, 8 // depth), path)
    table = next((content for name, content in chunks if name == b"PLTE"), b"")
    _check_stream(pixels, path)
    # Only what defines the numbers is handed on; with its table taken away, the table's entries are grey.
    plain = struct.pack(
        ">IIBBBBB", width, height, depth, _GREY if colour == _TABLE else colour, *chunks[0][1][10:]
    )
    try:
        array = imagecodecs.png_decode(
            _SIGNATURE + b"".join(_chunk(*c) for c in ((b"IHDR", plain), (b"IDAT", pixels), (b"IEND", b"")))
        )
    except Exception as error:  # the decoder has exceptions of its own
        raise InputError(f"{path}: the PNG data are damaged ({error}). Export the image again.") from error
    if depth < 8:  # the decoder spreads few bits over 0..255
        array = array // (255 // (2**depth - 1))
    array = _channels_first(array)
    if colour == _TABLE and not labels:
        array = _coloured(array[0], table, path)
    if colour in (_GREY_ALPHA, _RGB_ALPHA) and (array[-1] == np.iinfo(array.dtype).max).all():
        notes.info("%s is opaque everywhere; its transparency is left out.", path)
        array = array[:-1]
    if colour == _TABLE and labels:
        _note_colours(array, table, path, notes)
    resolution = next((content for name, content in chunks if name == b"pHYs"), b"")
    turned = exif_orientation(
        next((content for name, content in chunks if name == b"eXIf"), b""), path, notes
    )
    if swaps_axes(turned) and len(resolution) == 9:
        resolution = resolution[4:8] + resolution[:4] + resolution[8:]
    return Volume(
        contiguous(as_shown(array, turned, path, notes)), np.eye(3), "", path, PngHeader(resolution)
    )


def write_png(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, X, Y)``; return the axes to read it back with."""
    if array.ndim != 3 or array.dtype not in (np.uint8, np.uint16) or array.shape[0] not in (1, 3):
        raise ValueError(
            f"PNG holds 2D images of one or three channels in 8 or 16 bits, not {array.dtype} of shape "
            f"{array.shape}: write a .tif instead."
        )
    stored = np.ascontiguousarray(array[0].T if array.shape[0] == 1 else array.transpose(2, 1, 0))
    data = imagecodecs.png_encode(stored, level=6)
    resolution = like.header.resolution if isinstance(like.header, PngHeader) else b""
    after = 8 + 25  # the signature and the chunk that gives the size
    path.write_bytes(data[:after] + (_chunk(b"pHYs", resolution) if resolution else b"") + data[after:])
    return "XY"


def read_jpeg(path: Path, *, labels: bool, axes: str | None, notes: Notes) -> Volume:
    """Read a JPEG; see `volseg.io.read_volume`."""
    if labels:
        raise InputError(
            f"{path}: JPEG changes the numbers it stores, so it cannot hold labels. Save them as PNG or TIFF."
        )
    _only_2d(path, axes)
    data = path.read_bytes()
    if not data:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    if not data.startswith(b"\xff\xd8\xff"):
        raise InputError(
            f"{path}: this is not a JPEG file: its first bytes are {data[:4]!r}. Export it again."
        )
    try:
        with JpegImageFile(BytesIO(data)) as picture:  # Image.open has a limit of 179 million pixels
            need = picture.width * picture.height * len(picture.getbands())
            if need > len(data) * _JPEG_RATIO:
                raise _too_small(path, picture.size, need, len(data))
            if picture.mode not in ("L", "RGB"):
                raise InputError(f"{path}: a JPEG in {picture.mode} is not read. Save it as PNG or TIFF.")
            require_memory(need, path)
            exif = picture.info.get("exif", b"")
            array = np.asarray(picture)
    except VolsegError:
        raise
    except Exception as error:  # of a damaged file Pillow raises errors of many kinds
        raise InputError(
            f"{path}: the JPEG was cut, is damaged or of an unknown kind ({error}). Export the image again."
        ) from error
    turned = exif_orientation(exif.removeprefix(_EXIF), path, notes)
    return Volume(contiguous(as_shown(_channels_first(array), turned, path, notes)), np.eye(3), "", path)


def _chunks(data: bytes, path: Path) -> list[tuple[bytes, bytes]]:
    """The parts of a PNG, with their checksums checked; the first gives the size."""
    if not data:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    if not data.startswith(_SIGNATURE):
        raise InputError(
            f"{path}: this is not a PNG file: its first bytes are {data[:8]!r}. Export it again."
        )
    found: list[tuple[bytes, bytes]] = []
    place = len(_SIGNATURE)
    while not found or found[-1][0] != b"IEND":
        if place + 12 > len(data):
            raise _cut(path)
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise _cut(path)
        content = data[place + 8 : end - 4]
        if zlib.crc32(name + content) != struct.unpack_from(">I", data, end - 4)[0]:
            raise InputError(
                f"{path}: the checksum of the PNG's part {name!r} is wrong. The file was altered on its way; "
                "fetch it again."
            )
        found.append((name, content))
        place = end
    if found[0][0] != b"IHDR" or len(found[0][1]) != 13:
        raise InputError(f"{path}: the PNG does not begin with its size. The file is damaged.")
    if any(name == b"acTL" for name, _ in found):
        raise InputError(f"{path} is an animation. Save the wanted moment as an image of its own.")
    return found


def _check_stream(pixels: bytes, path: Path) -> None:
    """The compressed pixels are one whole stream whose checksum is right."""
    decoder = zlib.decompressobj()
    data = pixels
    try:
        while data and not decoder.eof:
            decoder.decompress(data, 1 << 20)
            data = decoder.unconsumed_tail
    except zlib.error as error:
        raise InputError(f"{path}: the PNG data are damaged ({error}). Export the image again.") from error
    if not decoder.eof:
        raise _cut(path)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _coloured(indices: NDArray[Any], table: bytes, path: Path) -> NDArray[Any]:
    """The colours that a table gives to its numbers."""
    colours = np.frombuffer(table[: len(table) // 3 * 3], np.uint8).reshape(-1, 3)
    if indices.max() >= len(colours):
        raise InputError(
            f"{path}: the colour table has {len(colours)} entries, but a pixel has number {indices.max()}. "
            "The file is damaged; export it again."
        )
    return colours[indices].transpose(2, 0, 1)


def _note_colours(indices: NDArray[Any], table: bytes, path: Path, notes: Notes) -> None:
    """Which numbers a label with a colour table has, and in which colours viewers show them."""
    shown = [f"{n} is {table[3 * n : 3 * n + 3].hex()}" for n in np.unique(indices)[:_SHOWN].tolist()]
    notes.info("%s has a colour table; its numbers are the labels: %s.", path, ", ".join(shown))


def _channels_first(array: NDArray[Any]) -> NDArray[Any]:
    """From rows of pixels to ``(C, X, Y)``."""
    return array.T[None] if array.ndim == 2 else array.transpose(2, 1, 0)


def _only_2d(path: Path, axes: str | None) -> None:
    if axes not in (None, "XY", "YX", "XYC", "YXC", "YXS"):
        raise ValueError(f"axes={axes!r} cannot be those of {path}: a picture is 2D, with channels at most.")


def _cut(path: Path) -> InputError:
    return InputError(f"{path}: the PNG file ends early. It was cut or is damaged; fetch it again.")


def _too_small(path: Path, size: tuple[int, int], need: int, have: int) -> InputError:
    return InputError(
        f"{path}: {size[0]} x {size[1]} pixels need {need} bytes, more than its {have} bytes can hold. "
        "It was cut or is damaged; fetch it again."
    )
