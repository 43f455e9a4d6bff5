"""NRRD, attached (``.nrrd``, ``.seg.nrrd``) and detached (``.nhdr``), raw or gzip.

Read and written here rather than through ITK or pynrrd 1.1.3. ITK returned other voxels for 44 of 600 gzip
files with one bit flipped, because it does not look at the checksum; both open whatever file a header names.
pynrrd checks the voxels as well as this module does, but drops every byte of a header that is not ASCII: of
253 such headers it opened 153 (here none), 120 of them with another position or voxel size
(benchmarks/readers.py), and segments named in UTF-8 lose letters. It gives numbers where this module keeps a
header's words to write them back. See docs/formats.md.

The letters of a file's axes, the fastest first, are ``X Y Z``, ``C`` for channels and ``1`` for an axis of
size 1 that makes a plane of a volume.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion
from volseg.errors import InputError
from volseg.io import nrrd_grid
from volseg.io.nrrd_grid import NrrdHeader, Segment, affine_of, grid_of, new_header
from volseg.io.stored import Description, Stored, beside, chosen_axes, load, needed, size_of_axes, times
from volseg.io.volume import Notes, Volume, blank_in, blank_words, contiguous

__all__ = [
    "NrrdHeader",
    "as_stack",
    "describe",
    "extent_offset",
    "header_for",
    "on_grid",
    "read",
    "segments_of",
    "with_segments",
    "write",
]

_MAX_HEADER = 1 << 20
_SEGMENTATION = ".seg.nrrd"
_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_CODE_OF = {name: code for code, names in _TYPES.items() for name in names.split(", ")}
_NAME_OF = {code: names.split(", ")[-1] if code[0] != "f" else names for code, names in _TYPES.items()}
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_WHOLE = ("space", "space dimension", "space origin", "space units", "measurement frame")
# Fields with one entry per axis, and what stands there for a channel axis.
_PER_AXIS = {
    "space directions": "none", "spacings": "nan", "thicknesses": "nan", "axis mins": "nan",
    "axis maxs": "nan", "centers": "none", "centerings": "none", "kinds": "vector", "labels": '""',
    "units": '""',
}  # fmt: skip
_WORLD = ("domain", "space")
_TOKEN = re.compile(r'\([^()]*\)|"(?:[^"\\]|\\.)*"|[^\s()"]+')


def read(path: Path, *, labels: bool, axes: str | None, notes: Notes, ignore_affine: bool = False) -> Volume:
    """Read a file; see `volseg.io.read_volume`."""
    found = describe(path, notes, axes, ignore_affine)
    header, letters = found.header, found.header.axes
    array = load(found.stored, path, notes)
    kept = letters.replace("1", "")
    array = array.reshape(
        [n for n, a in zip(found.stored.shape, letters, strict=True) if a != "1"], order="F"
    )
    array = np.moveaxis(array, kept.index("C"), 0) if "C" in kept else array[None]
    if labels:
        array, known = nrrd_grid.merge_layers(array, header.segments, path)
        header = replace(header, segments=known)
    header = None if ignore_affine else header
    return Volume(contiguous(array), found.affine, found.unit, path, header, found.blank)


def describe(path: Path, notes: Notes, axes: str | None = None, ignore_affine: bool = False) -> Description:
    """All that the header says, and where the voxels are."""
    fields, pairs, start = _parse(path)
    shape = size_of_axes(path, "sizes", needed(path, fields, "sizes"))
    if needed(path, fields, "dimension") != str(len(shape)):
        raise InputError(
            f"{path}: dimension = {fields['dimension']}, but sizes has {len(shape)} numbers. "
            "The header is damaged."
        )
    per_axis = {name: _split(path, fields, name, len(shape)) for name in _PER_AXIS if name in fields}
    letters = _letters(shape, per_axis, axes, path)
    whole = {name: fields[name] for name in _WHOLE if name in fields}
    of_slicer = path.name.lower().endswith(_SEGMENTATION)
    known = nrrd_grid.parse(pairs, path) if of_slicer else ()
    header = NrrdHeader(whole, per_axis, letters, known, nrrd_grid.parse_offset(pairs) if of_slicer else None)
    affine, unit = (grid_of if ignore_affine else affine_of)(header, path, notes)
    blank = blank_in(pairs.get("description", ""))
    return Description(_stored(path, fields, shape, start), header, affine, unit, blank=blank)


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the geometry of ``like``; return the axes to read it back with."""
    head, letters = header_for(path, array, like, "gzip")
    moved = array if array.shape[0] > 1 else array[0]
    names = "CXYZ" if array.shape[0] > 1 else "XYZ"
    moved = moved.transpose([names.index(a) for a in letters])
    with path.open("wb") as file:
        file.write(head)
        with gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:  # same voxels, same bytes
            for piece in np.array_split(moved, 1 + moved.nbytes // (16 << 20), axis=-1):
                packed.write(piece.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F"))
    return letters


def header_for(path: Path, array: NDArray[Any], like: Volume, encoding: str) -> tuple[bytes, str]:
    """What stands before the voxels, little-endian, of such an array; and its axes, the fastest first."""
    channels = array.shape[0]
    code = array.dtype.str[1:]
    if code not in _NAME_OF:
        raise ValueError(f"NRRD cannot hold {array.dtype} voxels: convert them to float32 or an integer.")
    old = like.header if isinstance(like.header, NrrdHeader) else new_header(like)
    letters, source = _letters_to_write(old.axes, channels)
    sizes = dict(zip("XYZ", array.shape[1:], strict=False)) | {"C": channels, "1": 1}
    shape = [sizes[letter] for letter in letters]
    lines = ["NRRD0005", f"type: {_NAME_OF[code]}", f"dimension: {len(shape)}"]
    lines += [f"{name}: {old.whole[name]}" for name in ("space", "space dimension") if name in old.whole]
    lines += [f"sizes: {' '.join(map(str, shape))}"]
    for name, entries in old.per_axis.items():
        fresh = [_PER_AXIS[name] if i is None else entries[i] for i in source]
        lines.append(f"{name}: {' '.join(fresh)}")
    lines += ["endian: little", f"encoding: {encoding}"]
    lines += [f"{name}: {old.whole[name]}" for name in _WHOLE[2:] if name in old.whole]
    if words := blank_words(like):
        lines.append(f"description:={words}")
    if path.name.lower().endswith(_SEGMENTATION):
        lines += nrrd_grid.header_lines(old.segments, array.shape[1:])
    return ("\n".join(lines) + "\n\n").encode(), letters.replace("1", "")


def segments_of(volume: Volume) -> tuple[Segment, ...]:
    """The segments of a ``.seg.nrrd``; none of any other file."""
    return volume.header.segments if isinstance(volume.header, NrrdHeader) else ()


def as_stack(volume: Volume) -> Volume:
    """A plane of a file with three axes as the volume of one slice that it is; anything else as it is."""
    header = volume.header
    if volume.spatial_dims != 2 or not isinstance(header, NrrdHeader) or "1" not in header.axes:
        return volume
    header = replace(header, axes=header.axes.replace("1", "Z"))
    affine, unit = affine_of(header, volume.path or Path(), Notes())
    return Volume(volume.array[..., None], affine, unit, volume.path, header)


def extent_offset(volume: Volume) -> tuple[int, ...] | None:
    """The voxel of the painted image at which a ``.seg.nrrd`` begins, where it says so."""
    header = volume.header
    begin = header.begin if isinstance(header, NrrdHeader) else None
    return None if begin is None else begin[: volume.spatial_dims]


def on_grid(volume: Volume, array: NDArray[Any], affine: NDArray[np.float64], unit: str) -> Volume:
    """A label on another grid: it keeps its segments, and nothing that says where its own file lies."""
    moved = replace(volume, array=array, affine=affine, unit=unit, header=None)
    known = segments_of(volume)
    return with_segments(moved, known) if known else moved


def with_segments(volume: Volume, known: Sequence[Segment]) -> Volume:
    """The same volume, but what is written like it as ``.seg.nrrd`` has these segments."""
    header = volume.header if isinstance(volume.header, NrrdHeader) else new_header(volume)
    return replace(volume, header=replace(header, segments=tuple(known)))


def _parse(path: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, free key/value pairs, and where the header ends."""
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER)
    if not start:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    if not re.match(rb"NRRD000[1-6]\r?\n", start):
        raise InputError(
            f"{path}: this is not an NRRD file: its first bytes are {start[:8]!r}. Export it again."
        )
    end = re.search(rb"\r?\n\r?\n", start)
    if end is None and (len(start) == _MAX_HEADER or b"data file" not in start.lower()):
        raise InputError(f"{path}: the file ends within its header. It was cut; fetch it again.")
    text = start[: end.start()] if end else start
    try:
        lines = text.decode().splitlines()[1:]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the header is not text ({error}). The file is damaged.") from error
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        found = re.match(r"([^:]+):(=|\s)\s*(.*)$", line)
        if found is None:
            raise InputError(f"{path}: the header line {line[:60]!r} is no 'field: value'. It is damaged.")
        key, mark, value = found.groups()
        if mark == "=":
            pairs[key] = value
        elif key.strip().lower() in fields:
            raise InputError(f"{path}: the header gives '{key}' twice. The file is damaged.")
        else:
            fields[key.strip().lower()] = value.strip()
    return fields, pairs, end.end() if end else len(start)


def _stored(path: Path, fields: dict[str, str], shape: tuple[int, ...], start: int) -> Stored:
    """Where and how the voxels are kept."""
    name = needed(path, fields, "type").lower()
    if name not in _CODE_OF:
        raise InputError(f"{path}: type = '{name}' in the header is unknown. Save it as float or an integer.")
    encoding = needed(path, fields, "encoding").lower()
    if encoding not in _ENCODINGS:
        raise InputError(
            f"{path}: voxels in the encoding '{encoding}' are not read. Save it again with gzip, or raw."
        )
    dtype = np.dtype(_CODE_OF[name])
    if dtype.itemsize > 1:
        orders = {"little": "<", "big": ">"}
        order = needed(path, fields, "endian").lower()
        if order not in orders:
            raise InputError(f"{path}: endian = '{order}' is neither little nor big. The header is damaged.")
        dtype = dtype.newbyteorder(orders[order])  # type: ignore[arg-type]
    if fields.get("line skip", fields.get("lineskip", "0")) != "0":
        raise InputError(f"{path}: a data file with lines to skip is not read. Save it as a single .nrrd.")
    detached = fields.get("data file", fields.get("datafile"))
    skip = fields.get("byte skip", fields.get("byteskip", "0"))
    if detached is not None and (re.match(r"LIST\b", detached) or re.search(r"%\d*d|\s\d+\s+\d+", detached)):
        raise InputError(f"{path}: voxels in several data files are not read. Save it as a single .nrrd.")
    file = path if detached is None else beside(path, detached)
    packed = _ENCODINGS[encoding] == "gzip"
    begin = start if detached is None else 0
    if skip == "-1" and not packed:
        need = int(np.prod(shape, dtype=object)) * dtype.itemsize
        begin = max(begin, file.stat().st_size - need)
    elif skip != "0":
        if packed:
            raise InputError(f"{path}: bytes to skip in packed data are not read. Save it as a single .nrrd.")
        begin += size_of_axes(path, "byte skip", skip)[0]
    return Stored(file, begin, "gzip" if packed else "raw", dtype, shape)


def _letters(shape: tuple[int, ...], per_axis: dict[str, list[str]], axes: str | None, path: Path) -> str:
    """What each axis of the file is; ambiguity is the user's to resolve."""
    kinds = [kind.lower() for kind in per_axis.get("kinds", [])]
    directions = [text.lower() for text in per_axis.get("space directions", [])]
    names = iter("XYZ")
    if axes is not None:
        letters = chosen_axes(axes, shape, path)
    else:
        known = kinds or directions
        if (
            len(shape) == 4
            and shape[3] == 1
            and not {"none", "list", "vector"} & {*kinds[:3], *directions[:3]}
        ):
            return "XY1C" if shape[2] == 1 else "XYZC"  # one moment, or one channel
        world = [
            (kinds[i] in _WORLD if kinds and kinds[i] not in ("???", "none") else True)
            and (directions[i] != "none" if directions else True)
            for i in range(len(shape))
        ]
        if (not known and len(shape) > 3) or world.count(False) > 1 or world.count(True) not in (2, 3):
            raise InputError(
                f"{path} has {len(shape)} axes ({times(shape)}), and the header does not say which are "
                "channels. Pass axes, X, Y, Z and C in the file's order, such as axes='CXYZ' "
                f"('{conversion(path, axes='CXYZ')}'); of a series in time, "
                f"'{conversion(path, axes='CXYZ', channel=0)}' takes the "
                "first moment."
            )
        if any(kind == "time" for kind in kinds):
            moment = "".join(next(names) if inside else "C" for inside in world)
            raise InputError(
                f"{path} has an axis of time. Take one moment as a 3D image: "
                f"'{conversion(path, axes=moment, channel=0)}'."
            )
        letters = "".join(next(names) if inside else "C" for inside in world)
    if "Z" in letters and shape[letters.index("Z")] == 1 and axes is None:
        letters = letters.replace("Z", "1")
    return letters


def _letters_to_write(old: str, channels: int) -> tuple[str, list[int | None]]:
    """The old file's axes with or without a channel axis, and which old axis each one is."""
    if channels == 1:
        kept = [i for i, letter in enumerate(old) if letter != "C"]
        return "".join(old[i] for i in kept), list(kept)
    if "C" in old:
        return old, list(range(len(old)))
    return "C" + old, [None, *range(len(old))]


def _split(path: Path, fields: dict[str, str], name: str, count: int) -> list[str]:
    tokens = _TOKEN.findall(fields[name])
    if len(tokens) != count:
        raise InputError(
            f"{path}: '{name}' has {len(tokens)} entries for {count} axes. The header is damaged."
        )
    return tokens
