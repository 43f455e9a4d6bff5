"""Volumes of any format, block by block: one door for reading, one for writing.

Read where they lie: uncompressed NIfTI, TIFF, NRRD and MetaImage, and OME-Zarr. Everything else is read
whole, once, and that is said. Written are the same kinds; a ``.nii.gz`` is packed when it is complete.
"""

import gzip
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.alignment import check_alignment
from volseg.io.atomic import stamp
from volseg.io.files import is_volume, read_volume
from volseg.io.grid import with_spacing
from volseg.io.mapped import NotMappedError, create_mapped, map_volume
from volseg.io.ome_zarr import ZarrVolume, add_levels, create_zarr, open_zarr
from volseg.io.volume import Volume, noticing

__all__ = [
    "BlockVolume",
    "ChannelFiles",
    "WholeVolume",
    "can_write_blocks",
    "create_blocks",
    "finish_blocks",
    "hidden_name",
    "open_blocks",
]

logger = logging.getLogger(__name__)

_MAPPED = (".nii", ".tif", ".tiff", ".nrrd", ".mha")
_PACKED = ".nii.gz"


class BlockVolume(Protocol):
    """An image ``(C, *spatial)`` of which blocks are read, and written where it was made for that."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def like(self) -> Volume:
        """Its geometry; the array has the right size and no content."""
        ...

    @property
    def stamp(self) -> str:
        """What changes when the voxels do."""
        ...

    def __getitem__(self, index: tuple[slice, ...], /) -> NDArray[Any]: ...

    def __setitem__(self, index: tuple[slice, ...], block: NDArray[Any], /) -> None: ...


@dataclass(frozen=True)
class WholeVolume:
    """An image that had to be read whole."""

    volume: Volume

    @property
    def path(self) -> Path:
        assert self.volume.path is not None
        return self.volume.path

    @property
    def shape(self) -> tuple[int, ...]:
        return self.volume.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.volume.array.dtype

    @property
    def like(self) -> Volume:
        return self.volume

    @property
    def stamp(self) -> str:
        return stamp(self.path)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        block: NDArray[Any] = self.volume.array[index]
        return block

    def __setitem__(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        raise TypeError(f"{self.path} was read whole and is not written.")


@dataclass(frozen=True)
class ChannelFiles:
    """An image whose channels are files of their own."""

    parts: tuple[BlockVolume, ...]

    @property
    def path(self) -> Path:
        return self.parts[0].path

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def like(self) -> Volume:
        first = self.parts[0].like
        return replace(first, array=np.broadcast_to(np.zeros((), self.dtype), self.shape))

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Voxels per axis of what is unpacked at once, in the first of the files; ``None`` if nothing is."""
        return self.parts[0].chunks if isinstance(self.parts[0], ZarrVolume) else None

    @property
    def stamp(self) -> str:
        return " ".join(part.stamp for part in self.parts)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        channels, *places = index
        blocks = [part[(slice(0, 1), *places)] for part in self.parts[channels]]
        return np.concatenate([block.astype(self.dtype, copy=False) for block in blocks])

    def __setitem__(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        raise TypeError(f"{self.path} is one of several files and is not written.")


def open_blocks(*paths: str | os.PathLike[str], spacing: str | None = None) -> BlockVolume:
    """Open an image, or one of several files with a channel each, for reading blocks.

    What cannot be read in blocks is read whole, which is said.

    Args:
        spacing: the voxel size, where the file names none or a wrong one; see `volseg.io.read_volume`.

    Raises:
        InputError: if there is no image, it is damaged, or files do not belong together.
    """
    parts = tuple(_open(Path(path), spacing) for path in paths)
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.shape[0] != 1:
            raise InputError(
                f"{part.path} has {part.shape[0]} channels, but one was expected: it is one file of several."
            )
        aligned = check_alignment(parts[0].like, part.like, what="channel")
        if aligned is not part.like:
            raise InputError(
                f"{part.path} stores the grid of {parts[0].path} in another orientation, which cannot be "
                "turned block by block. Save both in the same orientation."
            )
    return ChannelFiles(parts)


def voxels_of(path: str | os.PathLike[str]) -> int:
    """How many voxels an image has, from its header; 0 where it takes reading the image to know."""
    path = Path(path)
    try:
        if not is_volume(path):
            return 0
        shape = open_zarr(path).shape if path.is_dir() else map_volume(path).shape
        return prod(shape[1:])
    except NotMappedError as error:
        return error.voxels


def _open(path: Path, spacing: str | None) -> BlockVolume:
    if not is_volume(path):
        read_volume(path)  # says what is wrong
    try:
        with noticing(None, path) as noted:
            found = open_zarr(path, noted) if path.is_dir() else map_volume(path, noted, sized=bool(spacing))
        return found if spacing is None else replace(found, like=with_spacing(found.like, spacing))
    except NotMappedError as error:
        reason = str(error).removeprefix(f"{path} ")
    volume = read_volume(path, spacing=spacing)
    logger.info("%s is read whole, %.2f GB: it %s", path, volume.array.nbytes / 1e9, reason)
    return WholeVolume(volume)


def can_write_blocks(path: Path) -> bool:
    """Whether a file of this name can be written block by block."""
    return path.name.lower().endswith((*_MAPPED, _PACKED, ".zarr"))


def create_blocks(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    like: Volume,
    *,
    tile: Sequence[int] | None = None,
    fresh: bool = True,
) -> BlockVolume:
    """An image of zeros with the geometry of ``like``, ready to be filled; ``shape`` is ``(C, *spatial)``.

    Args:
        path: a hidden name, see :func:`finish_blocks`; of a ``.nii.gz`` it ends in ``.nii``.
        tile: what will be written at once.
        fresh: ``False`` opens what an earlier call with the same arguments made.
    """
    if path.suffix.lower() == ".zarr":
        if fresh and path.is_dir():
            shutil.rmtree(path)
        return create_zarr(path, shape, dtype, like, tile=tile, fresh=fresh)
    return create_mapped(path, shape, dtype, like, fresh=fresh)


def hidden_name(target: Path) -> Path:
    """Where an image is made before it is complete: beside it, in a format that takes blocks."""
    suffix = ".nii" if target.name.lower().endswith(_PACKED) else target.suffix
    return target.with_name(f".{target.name}.unfinished{suffix}")


def finish_blocks(made: Path, target: Path) -> Path:
    """What is left to do once every block is there; what then should get the name ``target``."""
    if made.is_dir():
        add_levels(made)
        return made
    if not target.name.lower().endswith(_PACKED):
        return made
    packed = made.with_name(f".{target.name}.packed")
    try:
        with made.open("rb") as source, packed.open("wb") as file:
            with gzip.GzipFile(
                "", "wb", 4, file, mtime=0
            ) as into:  # no name, no time: same voxels, same bytes
                shutil.copyfileobj(source, into, 16 << 20)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        packed.unlink(missing_ok=True)
        raise
    return packed
