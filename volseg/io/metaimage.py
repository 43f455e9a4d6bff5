"""MetaImage, in one file (``.mha``) or with its voxels beside it (``.mhd``), raw or zlib.

Read and written here rather than through ITK, which returned other voxels for 586 of 600 compressed files
with one bit flipped ("Uncompress failed" on the console, no error), and opens whatever file a header
names. See docs/formats.md.

The letters of a file's axes are those of `volseg.io.nrrd`; channels are interleaved, hence the first axis.
"""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion
from volseg.errors import InputError
from volseg.io.grid import check_affine, common_unit, in_plane, plain_grid
from volseg.io.stored import (
    Description,
    Stored,
    beside,
    chosen_axes,
    load,
    needed,
    numbers,
    size_of_axes,
    times,
)
from volseg.io.volume import Notes, Volume, blank_in, blank_words, contiguous

__all__ = ["MetaImageHeader", "describe", "header_for", "read", "write"]

_MAX_HEADER = 1 << 16
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAME_OF = {code: name for name, code in _TYPES.items()}
# Under each of these names programs keep the same thing; the first is ITK's.
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Position", "Origin")
_SPACING = ("ElementSpacing", "ElementSize")
_SIZE = b"CompressedDataSize = "
_GEOMETRY = (*_MATRIX, *_ORIGIN, "CenterOfRotation", "AnatomicalOrientation", *_SPACING, "DistanceUnits")


@dataclass(frozen=True)
class MetaImageHeader:
    """The geometry of a file in its own words, and the letters of its axes."""

    fields: dict[str, str]
    axes: str


def read(path: Path, *, labels: bool, axes: str | None, notes: Notes, ignore_affine: bool = False) -> Volume:
    """Read a file; see `volseg.io.read_volume`."""
    del labels  # MetaImage stores no scaling that is ever applied
    stored, header, affine, unit, _, blank = describe(path, notes, axes, ignore_affine)
    array = load(stored, path, notes)
    kept = header.axes.replace("1", "")
    array = array.reshape([n for n, a in zip(stored.shape, header.axes, strict=True) if a != "1"], order="F")
    array = np.moveaxis(array, kept.index("C"), 0) if "C" in kept else array[None]
    return Volume(contiguous(array), affine, unit, path, None if ignore_affine else header, blank)


def describe(path: Path, notes: Notes, axes: str | None = None, ignore_affine: bool = False) -> Description:
    """All that the header says, and where the voxels are."""
    fields, start = _parse(path)
    sizes = size_of_axes(path, "DimSize", needed(path, fields, "DimSize"))
    if needed(path, fields, "NDims") != str(len(sizes)):
        raise InputError(
            f"{path}: NDims = {fields['NDims']}, but DimSize has {len(sizes)} numbers. The header is damaged."
        )
    channels = size_of_axes(path, "channels", fields.get("ElementNumberOfChannels", "1"))[0]
    shape = (channels, *sizes) if channels > 1 else sizes
    letters = _letters(shape, channels > 1, axes, path)
    affine, unit = (_plain_grid if ignore_affine else _affine)(fields, len(sizes), letters, path, notes)
    own = {name: fields[name] for name in _GEOMETRY if name in fields}
    stored, blank = _stored(path, fields, shape, start), blank_in(fields.get("Comment", ""))
    return Description(stored, MetaImageHeader(own, letters), affine, unit, blank=blank)


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the geometry of ``like``; return the axes to read it back with."""
    head, letters = header_for(array, like, packed=True)
    moved = array if array.shape[0] > 1 else array[0]
    little = moved.astype(array.dtype.newbyteorder("<"), copy=False)
    with path.open("wb") as file:
        file.write(head)
        begin = file.tell()
        packer = zlib.compressobj(4)
        for piece in np.array_split(little, 1 + little.nbytes // (16 << 20), axis=-1):
            file.write(packer.compress(piece.tobytes(order="F")))
        file.write(packer.flush())
        count = file.tell() - begin
        file.seek(head.index(_SIZE) + len(_SIZE))
        file.write(f"{count:<16d}".encode())
    return letters


def header_for(array: NDArray[Any], like: Volume, *, packed: bool) -> tuple[bytes, str]:
    """What stands before the voxels, little-endian, of such an array; and its axes, the fastest first.

    Where they are packed there is room for their number of bytes.
    """
    channels, code = array.shape[0], array.dtype.str[1:]
    if code not in _NAME_OF:
        raise ValueError(
            f"MetaImage cannot hold {array.dtype} voxels: convert them to float32 or an integer."
        )
    old = like.header if isinstance(like.header, MetaImageHeader) else _new_header(like)
    letters = old.axes.replace("C", "")
    sizes = dict(zip("XYZ", array.shape[1:], strict=False)) | {"1": 1}
    shape = [sizes[letter] for letter in letters]
    words = blank_words(like)
    lines = ["ObjectType = Image", *[f"Comment = {words}"] * bool(words), f"NDims = {len(shape)}"]
    lines += ["BinaryData = True"]
    lines += ["BinaryDataByteOrderMSB = False", f"CompressedData = {packed}"]
    lines += [f"{_SIZE.decode()}{0:<16d}"] * packed
    lines += [f"{name} = {value}" for name, value in _for_axes(old, len(shape)).items()]
    lines += [f"DimSize = {' '.join(map(str, shape))}"]
    if channels > 1:
        lines += [f"ElementNumberOfChannels = {channels}"]
        letters = "C" + letters
    lines += [f"ElementType = {_NAME_OF[code]}", "ElementDataFile = LOCAL"]
    return ("\n".join(lines) + "\n").encode(), letters.replace("1", "")


def _parse(path: Path) -> tuple[dict[str, str], int]:
    """The fields, and where the header ends, which is behind ``ElementDataFile``."""
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER)
    if not start:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    fields: dict[str, str] = {}
    place = 0
    while "ElementDataFile" not in fields:
        end = start.find(b"\n", place)
        last = end < 0
        line = start[place:] if last else start[place:end]
        found = re.fullmatch(rb"\s*([A-Za-z]\w*)\s*=\s*([\x20-\x7e\t\x80-\xff]*?)\s*", line)
        if found is None:
            what = "this is not a MetaImage file" if not fields else "the header is cut or damaged"
            raise InputError(f"{path}: {what}: {line[:30]!r} is no 'Key = Value'. Fetch or export it again.")
        key, value = found[1].decode(), found[2].decode(errors="replace")
        if key in fields:
            raise InputError(f"{path}: the header gives {key} twice. The file is damaged.")
        fields[key] = value
        place = len(start) if last else end + 1
        if last and (key != "ElementDataFile" or value in ("", "LOCAL")):
            raise InputError(f"{path}: the file ends within its header. It was cut; fetch it again.")
    if fields.get("ObjectType", "Image") != "Image":
        raise InputError(f"{path}: it holds a {fields['ObjectType']}, not an Image. Name an image file.")
    return fields, place


def _stored(path: Path, fields: dict[str, str], shape: tuple[int, ...], start: int) -> Stored:
    """Where and how the voxels are kept."""
    name = needed(path, fields, "ElementType")
    if name not in _TYPES:
        raise InputError(f"{path}: ElementType = '{name}' is not read. Save it as float or an integer.")
    if not _flag(path, fields, ("BinaryData",), default=True):
        raise InputError(f"{path}: voxels written as text are not read. Save it again in binary form.")
    big = _flag(path, fields, ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"), default=False)
    order: Literal[">", "<"] = ">" if big else "<"
    packed = _flag(path, fields, ("CompressedData",), default=False)
    where = fields["ElementDataFile"]
    if where == "LIST" or "%" in where or len(where.split()) > 1:
        raise InputError(f"{path}: voxels in several data files are not read. Save it as a single .mha.")
    local = where.upper() == "LOCAL"
    file = path if local else beside(path, where)
    dtype = np.dtype(_TYPES[name]).newbyteorder(order)
    skip = fields.get("HeaderSize", "0")
    begin = start if local else 0
    if skip == "-1" and not packed:
        need = int(np.prod(shape, dtype=object)) * dtype.itemsize
        begin = max(begin, file.stat().st_size - need)
    elif skip != "0":
        begin += size_of_axes(path, "HeaderSize", skip)[0]
    return Stored(file, begin, "zlib" if packed else "raw", dtype, shape)


def _flag(path: Path, fields: dict[str, str], names: tuple[str, ...], *, default: bool) -> bool:
    name = next((name for name in names if name in fields), None)
    if name is None:
        return default
    if fields[name].lower() not in ("true", "false", "1", "0", "t", "f"):
        raise InputError(f"{path}: {name} = '{fields[name]}' is neither True nor False. It is damaged.")
    return fields[name].lower() in ("true", "1", "t")


def _letters(shape: tuple[int, ...], interleaved: bool, axes: str | None, path: Path) -> str:
    """What each axis of the file is."""
    if axes is not None:
        letters = chosen_axes(axes, shape, path)
        if interleaved != letters.startswith("C"):
            raise InputError(
                f"{path} keeps the channels of a voxel together, so axes='{axes}' does not fit: "
                "C comes first, or not at all."
            )
        return letters
    if len(shape) == 4 and shape[3] == 1 and not interleaved:  # one moment, or one channel
        return "XY1C" if shape[2] == 1 else "XYZC"
    letters = "C" * interleaved + "XYZ"[: len(shape) - interleaved]
    if len(letters) < len(shape) or len(shape) - interleaved < 2:
        raise InputError(
            f"{path} has {len(shape)} axes ({times(shape)}), and the header does not say what they are. "
            "If the last holds channels, pass axes='XYZC' "
            f"('{conversion(path, axes='XYZC')}'); if it is time, "
            f"take one moment: '{conversion(path, axes='XYZC', channel=0)}'."
        )
    return letters[:-1] + "1" if letters.endswith("Z") and shape[-1] == 1 else letters


def _affine(
    fields: dict[str, str], dims: int, letters: str, path: Path, notes: Notes
) -> tuple[NDArray[np.float64], str]:
    """Voxel index to RAS position, and the unit; MetaImage's axes are left, posterior, superior."""
    identity = " ".join(str(float(v)) for v in np.eye(dims).ravel())
    matrix = numbers(path, _MATRIX[0], _first(fields, _MATRIX, identity).split(), dims * dims)
    origin = numbers(path, _ORIGIN[0], _first(fields, _ORIGIN, "0 " * dims).split(), dims)
    spacing = numbers(path, _SPACING[0], _first(fields, _SPACING, "1 " * dims).split(), dims)
    world = sum(letter != "C" for letter in letters)
    factor, unit = common_unit(fields.get("DistanceUnits", ""), path, notes)
    signs = np.array([-1.0, -1.0, 1.0][:world])
    columns = matrix.reshape(dims, dims).T * spacing  # one row of the text per axis
    affine = np.eye(world + 1)
    affine[:-1, :-1] = factor * signs[:, None] * columns[:world, :world]
    affine[:-1, -1] = factor * signs * origin[:world]
    if (spacing[:world] <= 0).any():
        raise InputError(f"{path}: {_SPACING[0]} is not positive in the header. Export the image again.")
    check_affine(affine, world - ("1" in letters), path)
    return (in_plane(affine) if "1" in letters else affine) + 0.0, unit


def _plain_grid(
    fields: dict[str, str], dims: int, letters: str, path: Path, notes: Notes
) -> tuple[NDArray[np.float64], str]:
    """The grid alone, of the voxel sizes that the header gives for themselves."""
    world = sum(letter in "XYZ" for letter in letters)
    factor, unit = common_unit(fields.get("DistanceUnits", ""), path, notes)
    sizes = numbers(path, _SPACING[0], _first(fields, _SPACING, "1 " * dims).split(), dims)[:world]
    return plain_grid(factor * sizes, path, notes), unit


def _for_axes(old: MetaImageHeader, dims: int) -> dict[str, str]:
    """The geometry, cut to the spatial axes where the source had channels behind them."""
    if not old.axes.endswith("C"):
        return old.fields
    out: dict[str, str] = {}
    for name, text in old.fields.items():
        words = text.split()
        if name in _MATRIX:
            words = [words[i * (dims + 1) + j] for i in range(dims) for j in range(dims)]
        elif name != "DistanceUnits":
            words = words[:dims]
        out[name] = " ".join(words)
    return out


def _new_header(like: Volume) -> MetaImageHeader:
    """For a volume that came from another format."""
    dims = like.spatial_dims
    factor, unit = common_unit(like.unit)  # MetaImage knows no metres
    signs = np.array([-1.0, -1.0, 1.0][:dims])
    columns = factor * signs[:, None] * like.affine[:-1, :-1]
    spacing = np.linalg.norm(columns, axis=0)
    texts = {
        _MATRIX[0]: (columns / spacing).T.ravel(),
        _ORIGIN[0]: factor * signs * like.affine[:-1, -1],
        _SPACING[0]: spacing,
    }
    fields = {name: " ".join(repr(float(v) + 0.0) for v in values) for name, values in texts.items()}
    if unit:
        fields["DistanceUnits"] = unit
    return MetaImageHeader(fields, "XYZ"[:dims])


def _first(fields: dict[str, str], names: tuple[str, ...], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)
