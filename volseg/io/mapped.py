"""Volumes that stay in their files: blocks are read and written where they lie.

Possible where voxels lie uncompressed one after another: NIfTI (``.nii``), and TIFF, NRRD and MetaImage
without compression. Nothing is kept open or in memory between two blocks, so the size of a volume does not
matter.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from volseg.errors import InputError, ResourceError
from volseg.io import metaimage, nifti, nrrd, tiff
from volseg.io.atomic import stamp
from volseg.io.ome_tiff import affine_of
from volseg.io.stored import Description
from volseg.io.tiff_open import check_complete, clear_axes, only_series, open_tiff
from volseg.io.volume import Notes, Volume, noticing

__all__ = ["MappedVolume", "NotMappedError", "create_mapped", "map_volume"]


_PAGE = 4096
_GAP = 1 << 16  # bytes between two rows of a block that are not read along with them
_HELD = 4 << 20  # bytes of the file that are mapped in at a time, about


class NotMappedError(InputError):
    """The image may be whole, but it cannot be read block by block; ``voxels`` as far as they are known."""

    def __init__(self, message: str, voxels: int = 0) -> None:
        super().__init__(message)
        self.voxels = voxels


@dataclass(frozen=True)
class MappedVolume:
    """An image ``(C, *spatial)`` in a file, read and written block by block.

    Args:
        like: where it lies and what its header says; its array has the right size and no content.
        order: which axis of the file each axis of the image is; ``None`` for a channel axis that it lacks.
        slope, intercept: what stored numbers are multiplied by, and what is added then.
    """

    path: Path
    offset: int
    stored: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int | None, ...]
    like: Volume
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(1 if axis is None else self.stored[axis] for axis in self.order)

    @property
    def stamp(self) -> str:
        """What changes when the voxels do."""
        return stamp(self.path)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """A block, in memory, in the byte order of this machine."""
        inside = [slice(*part.indices(n)[:2]) for part, n in zip(index, self.shape, strict=True)]
        there = [axis for axis in self.order if axis is not None]
        stored = self._fetch([inside[self.order.index(axis)] for axis in sorted(there)]).transpose(there)
        array = stored if None not in self.order else stored[None]
        array = np.ascontiguousarray(array, self.dtype.newbyteorder("="))
        if (self.slope, self.intercept) == (1.0, 0.0):
            return array
        scaled: NDArray[Any] = array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)
        scaled *= self.slope
        scaled += self.intercept
        return scaled

    def _fetch(self, spans: Sequence[slice]) -> NDArray[Any]:
        """A block in the file's order of axes, read rather than mapped.

        Where a mapped file becomes shorter, the system ends the process; a read says so.
        """
        width, size = self.stored[-1], self.dtype.itemsize
        *slow, rows, columns = spans
        block = np.empty([part.stop - part.start for part in spans], self.dtype)
        steps = [prod(self.stored[axis + 1 :]) for axis in range(len(self.stored) - 2)]
        sparse = (width - block.shape[-1]) * size > _GAP
        with self.path.open("rb") as file:

            def numbers(start: int, count: int) -> NDArray[Any]:
                file.seek(self.offset + start * size)
                data = file.read(count * size)
                if len(data) < count * size:
                    raise InputError(f"{self.path} has become shorter while it was read. Do it again.")
                return np.frombuffer(data, self.dtype)

            for place in np.ndindex(*block.shape[:-2]):
                start = sum((part.start + i) * n for part, i, n in zip(slow, place, steps, strict=True))
                if sparse:
                    for row in range(block.shape[-2]):
                        first = start + (rows.start + row) * width + columns.start
                        block[(*place, row)] = numbers(first, block.shape[-1])
                else:
                    whole = numbers(start + rows.start * width, block.shape[-2] * width)
                    block[place] = whole.reshape(-1, width)[:, columns]
        return block

    def __setitem__(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write a block; it is on the disk when this returns."""
        inside = [slice(*part.indices(n)[:2]) for part, n in zip(index, self.shape, strict=True)]
        for place, where in self._steps(inside):
            self._view()[where] = block[place]
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _steps(self, inside: Sequence[slice]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Parts of a block, in the block and in the volume: few pages of the file are held at a time."""
        slow = self.order.index(0)
        sizes = [1 if axis is None else inside[i].stop - inside[i].start for i, axis in enumerate(self.order)]
        fast = self.order.index(len(self.stored) - 1)
        row = sizes[fast] * self.dtype.itemsize
        if 0 in sizes:
            return
        pages = prod(sizes) // (sizes[slow] * sizes[fast]) * (row // _PAGE + 2) if fast != slow else 1
        step = max(1, _HELD // (pages * _PAGE))
        for start in range(inside[slow].start, inside[slow].stop, step):
            part = slice(start, min(start + step, inside[slow].stop))
            place = [slice(None)] * len(inside)
            place[slow] = slice(part.start - inside[slow].start, part.stop - inside[slow].start)
            yield tuple(place), (*inside[:slow], part, *inside[slow + 1 :])

    def _view(self) -> NDArray[Any]:
        """Mapped again each time: what was written then no longer counts as this process's memory."""
        mapped = np.memmap(self.path, self.dtype, "r+", self.offset, self.stored)
        there = [axis for axis in self.order if axis is not None]
        view = mapped.transpose(there)
        return view if None not in self.order else view[None]


def map_volume(
    path: str | os.PathLike[str], notes: Notes | None = None, *, sized: bool = False
) -> MappedVolume:
    """Open an uncompressed file without reading its voxels.

    Args:
        notes: collects what is noticed, which is logged else.
        sized: the voxel size is given elsewhere, so that a TIFF file's need not be usable.

    Raises:
        InputError: if the voxels are compressed or scattered, or the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}. Check the spelling and the folder.")
    with noticing(notes, path) as noted:
        found = _map(path, noted, sized)
        return replace(found, like=replace(found.like, notes=tuple(noted)))


def _map(path: Path, notes: Notes, sized: bool = False) -> MappedVolume:
    name = path.name.lower()
    if name.endswith(".nii"):
        return _map_described(path, nifti.describe(path, notes))
    if name.endswith((".tif", ".tiff")):
        return _map_tiff(path, notes, sized=sized)
    if name.endswith((".nrrd", ".nhdr")):
        return _map_described(path, nrrd.describe(path, notes))
    if name.endswith((".mha", ".mhd")):
        return _map_described(path, metaimage.describe(path, notes))
    voxels = 0
    if name.endswith(".nii.gz"):
        voxels = prod(nifti.stored_layout(path)[0].shape)
    raise NotMappedError(
        f"{path} cannot be read block by block: that takes an uncompressed .nii, .tif, .nrrd or .mha, or a "
        ".zarr. Unpack it.",
        voxels,
    )


def create_mapped(
    path: Path, shape: Sequence[int], dtype: np.dtype[Any], like: Volume, *, fresh: bool = True
) -> MappedVolume:
    """A file of zeros with the geometry of ``like``, ready to be filled; ``shape`` is ``(C, *spatial)``.

    Args:
        fresh: ``False`` opens the file that an earlier call with the same arguments made.

    Raises:
        ResourceError: if the disk has no room for it.
    """
    blank = np.broadcast_to(np.zeros((), dtype), tuple(shape))  # the size, in one byte of memory
    kind = path.suffix.lower()
    data, meaning, options = tiff.as_stored(path, blank, like) if kind in _TIFF else (blank, "", {})
    if fresh:
        try:
            if kind in _TIFF:
                tifffile.imwrite(path, shape=data.shape, dtype=data.dtype, **options)
            elif kind == ".nii":
                nifti.write(path, blank, like)
            else:
                head, _ = (
                    nrrd.header_for(path, blank, like, "raw")
                    if kind == ".nrrd"
                    else metaimage.header_for(blank, like, packed=False)
                )
                path.write_bytes(head)
                os.truncate(path, len(head) + blank.nbytes)
            _reserve(path)
        except OSError as error:
            raise ResourceError(
                f"cannot make {path}, which needs {blank.nbytes / 1e9:.1f} GB: {error.strerror or error}. "
                "Free some space or choose another folder."
            ) from error
    if kind in _TIFF:
        found = _map_tiff(path, Notes(), meaning)
    elif kind == ".nii":
        axes = "XYZ"[: like.spatial_dims] + "C" if shape[0] > 1 else None
        found = _map_described(path, nifti.describe(path, Notes(), axes))
    else:
        found = _map(path, Notes())
    if found.shape != tuple(shape):
        raise InputError(f"{path}: a volume of {tuple(shape)[1:]} voxels cannot be written block by block.")
    return found


def _reserve(path: Path) -> None:
    """Have the disk set the space aside: a mapped write to a full disk would end the process."""
    if hasattr(os, "posix_fallocate"):
        handle = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, os.fstat(handle).st_size)
        finally:
            os.close(handle)


def _map_tiff(path: Path, notes: Notes, meaning: str | None = None, *, sized: bool = False) -> MappedVolume:
    with open_tiff(path, notes) as opened:
        tif, series = opened.tif, only_series(opened.tif, path)
        check_complete(opened, series, path, alone=True)
        turned = tiff.orientation_of(series.keyframe) != 1
        if turned or opened.others or series.dataoffset is None or series.keyframe.compression != 1:
            raise NotMappedError(
                f"{path} is compressed, scattered or turned, so it cannot be read block by block. Save it "
                "without compression, as one stack.",
                prod(series.shape),
            )
        pairs = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "XY"]
        letters, stored = "".join(a for a, _ in pairs), tuple(n for _, n in pairs)
        meaning = meaning or clear_axes(letters, stored, series.kind, path, notes)
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        dims, number = 3 if "Z" in meaning else 2, tif.series.index(series)
        affine, unit = affine_of(tif, series.keyframe, dims, path, number, notes, sized)
        header = tiff.header_of(tif, letters, meaning)
        found = MappedVolume(path, series.dataoffset, stored, dtype, _order(meaning), _NOTHING)
    return _placed(found, affine, unit, header)


def _map_described(path: Path, found: Description) -> MappedVolume:
    """NIfTI, NRRD and MetaImage: a header that says where the voxels are."""
    stored, letters = found.stored, found.header.axes
    if stored.encoding != "raw" or stored.dtype.subdtype is not None:
        what, way = (
            ("holds colours", "as grey values")
            if stored.encoding == "raw"
            else ("is compressed", "without compression")
        )
        raise NotMappedError(
            f"{path} {what}, so it cannot be read block by block. Save it {way}.", prod(stored.shape)
        )
    size, need = stored.file.stat().st_size, prod(stored.shape) * stored.dtype.itemsize
    if stored.start + need > size:
        raise InputError(f"{path}: the header needs {need} bytes, but there are {size}. It was cut.")
    shape = stored.shape + (1,) * (len(letters) - len(stored.shape))
    pairs = [(a, n) for a, n in zip(letters, shape, strict=True) if a != "1"][::-1]  # the last axis fastest
    volume = MappedVolume(
        stored.file, stored.start, tuple(n for _, n in pairs), stored.dtype,
        _order("".join(a for a, _ in pairs)), _NOTHING, *found.scaling,
    )  # fmt: skip
    volume = _placed(volume, found.affine, found.unit, found.header)
    return replace(volume, like=replace(volume.like, path=path))


_TIFF = (".tif", ".tiff")
_NOTHING = Volume(np.zeros((1, 1, 1), np.uint8), np.eye(3))


def _order(letters: str) -> tuple[int | None, ...]:
    dims = "XYZ" if "Z" in letters else "XY"
    return tuple(letters.index(a) if a in letters else None for a in "C" + dims)


def _placed(found: MappedVolume, affine: NDArray[np.float64], unit: str, header: object) -> MappedVolume:
    if found.dtype.kind not in "biuf":
        raise InputError(f"{found.path}: {found.dtype} voxels are not supported. Save it as float32 instead.")
    blank = np.broadcast_to(np.zeros((), found.dtype.newbyteorder("=")), found.shape)
    return replace(found, like=Volume(blank, affine, unit, found.path, header))
