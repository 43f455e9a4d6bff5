"""NIfTI: voxels, header, and the affine from its two transforms.

nibabel parses the header; the bytes are read here, because a reader has to compare the sizes before it
allocates and to reach the checksum behind the data. SimpleITK is not used: it returns zeros for the
missing part of a file that was cut.

The letters of a file's axes are ``X Y Z``, ``C`` for channels and ``1`` for an axis of size 1.
"""

import contextlib
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from volseg.arguments import conversion
from volseg.errors import InputError
from volseg.io.grid import check_affine, embed, in_plane, is_sheared, plain_grid, remedy_for
from volseg.io.stored import MAX_RATIO, Description, Stored, is_gzip, peek, read_at_most, times
from volseg.io.volume import Notes, Volume, blank_in, blank_words, contiguous

__all__ = ["NiftiHeader", "describe", "read", "stored_layout", "write"]


def affine_of(fields: Any, spatial_dims: int, path: Path, notes: Notes) -> NDArray[np.float64]:
    """Voxel index to RAS position ``(4, 4)``: the sform, else the qform, else the voxel sizes, as nibabel."""
    sform, qform = int(fields["sform_code"]), int(fields["qform_code"])
    try:
        affine = np.asarray(fields.get_best_affine(), np.float64)
    except Exception as error:
        raise InputError(
            f"{path}: the header's position cannot be worked out ({error}). {remedy_for(path)}"
        ) from error
    check_affine(affine, spatial_dims, path)
    if sform <= 0 and qform <= 0:
        notes.warning(
            "%s stores no orientation (both form codes are 0): it is treated as a plain voxel grid.", path
        )
    if is_sheared(affine, spatial_dims):
        notes.warning("%s: the axes are not at right angles; volseg works on the voxel grid as it is.", path)
    if sform > 0 and qform > 0:
        _compare(affine, fields, path, spatial_dims, notes)
    return affine


def _compare(sform: NDArray[np.float64], fields: Any, path: Path, spatial_dims: int, notes: Notes) -> None:
    """Say so if the two transforms put some corner more than a tenth of a voxel apart."""
    try:
        qform = fields.get_qform()
    except Exception:  # an unused, unreadable qform does no harm
        return
    size = np.asarray(fields["dim"][1:4], float)
    corners = np.indices((2, 2, 2)).reshape(3, -1) * np.maximum(size - 1, 0)[:, None]
    apart = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
    if not apart <= 0.1 * np.linalg.norm(sform[:3, :spatial_dims], axis=0).min():
        notes.warning("%s: sform and qform differ by up to %.3g world units; the sform is used.", path, apart)


_UNITS = {0: "", 1: "m", 2: "mm", 3: "um"}
_CODES = {unit: code for code, unit in _UNITS.items()}
_COLOURS = {128: 3, 2304: 4}  # data type codes RGB24 and RGBA32
_VECTOR = 1007  # NIFTI_INTENT_VECTOR
_MAX_DIM = 32767  # NIfTI-1 counts voxels in int16
_MAGIC = {348: slice(344, 348), 540: slice(4, 12)}
# Fields that describe the old voxel values, or may hold a patient's name: not carried over.
_FORGET = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "intent_code", "intent_p1",
           "intent_p2", "intent_p3", "cal_max", "cal_min", "glmax", "glmin")  # fmt: skip


@dataclass(frozen=True)
class NiftiHeader:
    """The file's header as it stands, and the letters of its axes."""

    fields: Any
    axes: str


def read(path: Path, *, labels: bool, axes: str | None, notes: Notes, ignore_affine: bool = False) -> Volume:
    """Read a file; see `volseg.io.read_volume`."""
    stored, fields = stored_layout(path)
    if (stored.encoding == "gzip") != (path.suffix.lower() == ".gz"):
        packed = stored.encoding == "gzip"
        says, holds = ("plain NIfTI", "gzip data") if packed else ("gzip", "no gzip data")
        notes.warning("%s: the name says %s, the file holds %s; it is read as what it is.", path, says, holds)
    found = _describe(path, stored, fields, axes, notes, ignore_affine)
    array = _scaled(_spatial(_voxels(stored), found.header.axes), fields, labels, path)
    header = None if ignore_affine else found.header
    return Volume(contiguous(array), found.affine, found.unit, path, header, found.blank)


def describe(path: Path, notes: Notes, axes: str | None = None) -> Description:
    """All that the header says, and where the voxels are."""
    return _describe(path, *stored_layout(path), axes, notes)


def _describe(
    path: Path, stored: Stored, fields: Any, axes: str | None, notes: Notes, ignore_affine: bool = False
) -> Description:
    letters = _letters(stored.shape, axes, path)
    size, packed = path.stat().st_size, stored.encoding == "gzip"
    need = stored.start + math.prod(stored.shape) * stored.dtype.itemsize
    most = size * MAX_RATIO if packed else size
    if need > most:
        raise InputError(
            f"{path}: the header needs {need} bytes for {times(stored.shape)} voxels, but the file of {size} "
            f"bytes holds {'at most ' if packed else ''}{most}. It was cut or is damaged; fetch it again."
        )
    dims = sum(letter in "XYZ" for letter in letters)
    if ignore_affine:
        affine = plain_grid(fields["pixdim"][1 : 1 + dims], path, notes)
    else:
        affine = affine_of(fields, dims, path, notes)
        affine = affine if dims == 3 else in_plane(affine)
    unit = _UNITS.get(int(fields["xyzt_units"]) & 7, "")
    header, blank = NiftiHeader(fields, letters), blank_in(fields["descrip"].tobytes())
    return Description(stored, header, affine, unit, _scaling(fields, path), blank)


def stored_layout(path: Path) -> tuple[Stored, Any]:
    """Where the voxels are, behind ``start`` bytes of the unpacked file, and the header's fields."""
    with path.open("rb") as file:
        start = file.read(540)
    packed = is_gzip(start)
    fields = _parse(peek(path, 540) if packed else start, path)
    shape, dtype = _layout(fields, path)
    return Stored(path, _offset(fields, path), "gzip" if packed else "raw", dtype, shape), fields


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the geometry of ``like``; return the axes to read it back with."""
    channels = array.shape[0]
    old = (
        like.header
        if isinstance(like.header, NiftiHeader)
        else NiftiHeader(_new_header(like), "XYZ"[: array.ndim - 1])
    )
    letters = _letters_to_write(old.axes, channels)
    sizes = dict(zip("XYZ", array.shape[1:], strict=False)) | {"C": channels}
    shape = [sizes.get(letter, 1) for letter in letters]
    fields = old.fields.as_byteswapped("<")
    for name in _FORGET:
        if name in fields:
            fields[name] = np.zeros_like(fields[name])
    fields["descrip"] = blank_words(like)
    if letters[4:] == "C":
        fields["intent_code"] = _VECTOR
    try:
        fields.set_data_dtype(array.dtype)
    except (nib.spatialimages.HeaderDataError, ValueError) as error:
        raise ValueError(
            f"NIfTI cannot hold {array.dtype} voxels: convert them to float32 or an integer."
        ) from error
    fields["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    fields["scl_slope"] = fields["scl_inter"] = np.nan
    fields["vox_offset"] = fields.sizeof_hdr + 4
    fields["magic"] = fields.single_magic
    moved = array if channels > 1 else array[0]
    order = ["CXYZ".index(a) if channels > 1 else "XYZ".index(a) for a in letters if a != "1"]
    moved = moved.transpose(order)[tuple(None if a == "1" else slice(None) for a in letters)]
    with _open_to_write(path) as file:
        file.write(fields.binaryblock + b"\0\0\0\0")
        for slab in _slabs(moved):
            file.write(slab.astype(fields.get_data_dtype(), copy=False).tobytes(order="F"))
    return letters.replace("1", "")


def _parse(start: bytes, path: Path) -> Any:
    """The header, if these bytes begin with one."""
    if not start:
        raise InputError(f"{path}: the file is empty. Fetch or export it again.")
    orders: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
    found = [(n, o) for n in _MAGIC for o, name in orders.items() if int.from_bytes(start[:4], name) == n]
    if not found:
        raise InputError(
            f"{path}: this is not a NIfTI file (sizeof_hdr is neither 348 nor 540). Export it again."
        )
    size, order = found[0]
    if len(start) < size:
        raise InputError(
            f"{path}: the file ends within its header of {size} bytes. It was cut; fetch it again."
        )
    magic = start[_MAGIC[size]]
    if magic[:3] in (b"ni1", b"ni2"):
        raise InputError(
            f"{path}: this is half of a .hdr/.img pair. Convert the pair to one .nii.gz file first."
        )
    kind = {b"n+1\0": nib.Nifti1Header, b"n+2\0\r\n\x1a\n": nib.Nifti2Header}.get(magic)
    if kind is None:
        raise InputError(
            f"{path}: the header's magic field is {magic!r}, not that of NIfTI. It is an Analyze file, whose "
            "orientation cannot be known, or damaged. Convert it to NIfTI with the program that wrote it."
        )
    return kind(start[:size], order, check=False)


def _layout(fields: Any, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Size of every axis, and the stored data type."""
    dim = [int(d) for d in fields["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(
            f"{path}: dim[0] = {dim[0]} in the header, but an image has 1 to 7 axes. Export it again."
        )
    for axis in range(1, dim[0] + 1):
        if dim[axis] < 1:
            raise InputError(
                f"{path}: dim[{axis}] = {dim[axis]} in the header, so it holds no voxel. Export it again."
            )
    code = int(fields["datatype"])
    try:
        dtype = fields.get_data_dtype()
    except Exception as error:
        raise InputError(
            f"{path}: datatype = {code} in the header is unknown. The header is damaged."
        ) from error
    if code in _COLOURS:
        dtype = np.dtype((np.uint8, (_COLOURS[code],)))
    elif dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: {dtype} voxels are not supported. Save the magnitude as float32 instead.")
    return tuple(dim[1 : dim[0] + 1]), dtype


def _offset(fields: Any, path: Path) -> int:
    """Where the voxels begin."""
    offset = float(fields["vox_offset"])
    if offset == 0:
        return int(fields.sizeof_hdr) + 4
    if not (math.isfinite(offset) and offset >= fields.sizeof_hdr):
        raise InputError(
            f"{path}: vox_offset = {offset} in the header lies within the header. The file is damaged."
        )
    return int(offset)


def _letters(shape: tuple[int, ...], axes: str | None, path: Path) -> str:
    """What each axis of the file is; ambiguity is the user's to resolve."""
    last = max((i for i, n in enumerate(shape) if n > 1), default=0) + 1
    used = max(last, 2)
    if axes is not None:
        if axes not in ("XY", "XYZ", "XYC", "XYZC"):
            raise ValueError(f"axes={axes!r} cannot be those of a NIfTI file: use XY, XYZ, XYC or XYZC.")
        if used == 5 and axes.endswith("C"):
            axes = axes[:-1].ljust(4, "1") + "C"
        filled = axes.ljust(len(shape), "1")
        small = all(n == 1 for n, a in zip(shape, filled, strict=False) if a == "1")
        if not small or len(axes) > max(len(shape), 3):
            raise InputError(
                f"{path} has {used} axes ({times(shape)}), but axes={axes!r} names {len(axes)}. "
                "Give one letter for each axis longer than one voxel."
            )
        return filled
    if used == 5 and shape[3] == 1:  # the standard's place for a vector at each voxel
        return ("XY1" if shape[2] == 1 else "XYZ") + "1C" + "1" * (len(shape) - 5)
    if used > 3:
        raise InputError(
            f"{path} has {used} axes ({times(shape)}), and the file does not say what the last is. "
            "If it holds channels, pass axes='XYZC' "
            f"('{conversion(path, axes='XYZC')}'); if it is time, "
            f"take one moment: '{conversion(path, axes='XYZC', channel=0)}'."
        )
    return "XYZ"[:used].ljust(len(shape), "1")


def _letters_to_write(old: str, channels: int) -> str:
    """The old file's axes, without its channel axis, or with one where the new array needs it."""
    if channels == 1:
        return old.split("C")[0].rstrip("1") if "C" in old else old
    return old if "C" in old else old[:3].ljust(4, "1") + "C"


def _voxels(stored: Stored) -> NDArray[Any]:
    """The stored array, x fastest; colours become a leading axis."""
    path, offset, dtype, shape = stored.file, stored.start, stored.dtype, stored.shape
    need = math.prod(shape) * dtype.itemsize
    if stored.encoding == "gzip":
        data = read_at_most(path, offset + need)
        if len(data) < offset + need:
            raise InputError(
                f"{path}: the header needs {offset + need} bytes for {times(shape)} voxels, but there are "
                f"{len(data)} after unpacking. The file was cut before it was packed; export it again."
            )
        flat = np.frombuffer(data, np.uint8, need, offset)
    else:
        flat = np.fromfile(path, np.uint8, need, offset=offset)
    if dtype.subdtype is not None:
        return flat.reshape(dtype.shape + shape, order="F")
    return flat.view(dtype).reshape((1, *shape), order="F")


def _spatial(array: NDArray[Any], letters: str) -> NDArray[Any]:
    """Turn ``(colours, *file axes)`` into ``(C, *spatial)``."""
    colours, sizes = array.shape[0], array.shape[1:] + (1,) * (len(letters) - array.ndim + 1)
    kept = letters.replace("1", "")
    array = array.reshape((colours, *(n for n, a in zip(sizes, letters, strict=True) if a != "1")), order="F")
    if "C" not in kept:
        return array
    array = np.moveaxis(array, 1 + kept.index("C"), 1)
    return array.reshape((-1, *array.shape[2:]), order="F") if colours > 1 else array[0]


def _scaling(fields: Any, path: Path) -> tuple[float, float]:
    """What stored numbers are multiplied by, and what is added then."""
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not math.isfinite(slope) or slope == 0 or int(fields["datatype"]) in _COLOURS:
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise InputError(
            f"{path}: scl_inter is {inter} in the header. Set it to 0, or export the image again."
        )
    return slope, inter


def _scaled(array: NDArray[Any], fields: Any, labels: bool, path: Path) -> NDArray[Any]:
    """Apply the header's intensity scaling to an image; refuse it on a label."""
    slope, inter = _scaling(fields, path)
    if (slope, inter) == (1.0, 0.0):
        return array
    if labels:
        raise InputError(
            f"{path}: the header scales the stored numbers (scl_slope {slope:g}, scl_inter {inter:g}), but "
            "a label's numbers are names. Save the label as integers without scaling."
        )
    small = array.dtype.itemsize <= 2 or array.dtype == np.float32
    scaled: NDArray[Any] = array.astype(np.float32 if small else np.float64)
    scaled *= slope
    scaled += inter
    return scaled


def _new_header(like: Volume) -> Any:
    """A header for a volume that came from another format."""
    long = max(like.spatial_shape) > _MAX_DIM
    fields = nib.Nifti2Header() if long else nib.Nifti1Header()
    affine = embed(like.affine)
    fields["dim"][:4] = [3, *like.spatial_shape, 1][:4]
    fields.set_sform(affine, code=1)
    if is_sheared(affine):
        fields["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    else:
        fields.set_qform(affine, code=1)
    fields["xyzt_units"] = _CODES.get(like.unit, 0)
    return fields


@contextlib.contextmanager
def _open_to_write(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", 4, file, mtime=0) as packed:  # no name, no time: same voxels, same bytes
            yield packed  # type: ignore[misc]


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Pieces of some 16 MB along the last axis, which is the slowest in the file."""
    step = max(1, (16 << 20) * array.shape[-1] // max(1, array.nbytes))
    for start in range(0, array.shape[-1], step):
        yield array[..., start : start + step]
