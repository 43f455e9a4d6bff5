"""OME-Zarr (NGFF 0.4 and 0.5): a folder with an image in chunks, and smaller copies of it to look at.

Blocks are read and written where they lie. What is written has a checksum on every chunk, every chunk is
written, empty or not, and the copies are made chunk by chunk when the image itself is complete.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError
from volseg.io.atomic import stamp
from volseg.io.grid import check_affine
from volseg.io.stored import require_memory, times
from volseg.io.volume import Notes, Volume, blank_in, blank_words, contiguous, noticing
from volseg.io.zarr_array import ZarrArray, zarr_library
from volseg.io.zarr_store import (
    Multiscale,
    attributes_of,
    create_array,
    describe,
    make_group,
    multiscale_of,
    new_multiscale,
)

__all__ = ["OmeZarrHeader", "ZarrVolume", "add_levels", "create_zarr", "open_zarr", "read", "write"]

logger = logging.getLogger(__name__)

_CHUNK = {2: 512, 3: 64}  # voxels along each axis, as far as tiles allow
_LAST = 256  # copies are made until no axis is longer
_WORDS = "description"  # an attribute of the group
_NEW = 3  # the version of Zarr where the source has none


@dataclass(frozen=True)
class OmeZarrHeader:
    """The version of Zarr, and what the file says about its axes and levels."""

    version: int
    multiscale: Multiscale


@dataclass(frozen=True)
class ZarrVolume:
    """An image ``(C, *spatial)`` in a Zarr folder, read and written block by block.

    ``order`` is which axis of the array each axis of the image is; ``None`` for channels that it lacks.
    """

    path: Path
    array: ZarrArray
    order: tuple[int | None, ...]
    like: Volume

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(1 if axis is None else self.array.shape[axis] for axis in self.order)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels per axis of what is unpacked at once."""
        steps = self.array.shard or self.array.chunks
        return tuple(1 if axis is None else steps[axis] for axis in self.order)

    @property
    def stamp(self) -> str:
        """What changes when the voxels do."""
        return stamp(self.array.folder)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """A block, in memory."""
        block = self.array.read(self._index(index))
        there = [axis for axis in self.order if axis is not None]
        block = block.reshape([block.shape[axis] for axis in sorted(there)])
        block = block.transpose(np.argsort(np.argsort(there)).tolist())
        block = block if None not in self.order else block[None]
        return block.view(np.uint8) if block.dtype.kind == "b" else block

    def __setitem__(self, index: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write a block; it is on the disk when this returns."""
        places = self._index(index)
        there = [axis for axis in self.order if axis is not None]
        block = block if None not in self.order else block[0]
        block = block.transpose(np.argsort(there).tolist())
        self.array.write(places, block.reshape([part.stop - part.start for part in places]))

    def _index(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        places = [slice(0, 1)] * len(self.array.shape)
        for axis, part in zip(self.order, index, strict=True):
            if axis is not None:
                places[axis] = slice(*part.indices(self.array.shape[axis])[:2])
        return tuple(places)


def open_zarr(path: Path, notes: Notes | None = None) -> ZarrVolume:
    """Open an image without reading its voxels, after everything that can be checked about it."""
    group, version, multiscale, unlabelled = _image(path)
    array = describe(group, multiscale.levels[0][0])
    letters = multiscale.letters
    if len(array.shape) != len(letters):
        raise InputError(
            f"{path} names {len(letters)} axes, but its array has {len(array.shape)} ({times(array.shape)}). "
            "The description is damaged."
        )
    sizes = dict(zip(letters, array.shape, strict=True))
    if sizes.get("T", 1) > 1:
        raise InputError(
            f"{path} has {sizes['T']} moments in time. Save the wanted one as an image of its own."
        )
    dims = 3 if sizes.get("Z", 1) > 1 else 2
    with noticing(notes, path) as noted:
        array.check_chunks(noted)
        affine, unit = multiscale.place(dims, path, noted)
    check_affine(affine, dims, path, "Put valid numbers into its coordinateTransformations.")
    order = tuple(letters.index(a) if a in letters else None for a in "CXYZ"[: dims + 1])
    found = ZarrVolume(path, array, order, Volume(np.zeros((1,) * (dims + 1)), np.eye(dims + 1)))
    dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype
    blank = np.broadcast_to(np.zeros((), dtype), found.shape)
    like = Volume(blank, affine, unit, path, OmeZarrHeader(version, multiscale), unlabelled, tuple(noted))
    return ZarrVolume(path, array, order, like)


def create_zarr(
    path: Path,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    like: Volume,
    *,
    tile: Sequence[int] | None = None,
    fresh: bool = True,
) -> ZarrVolume:
    """An image with the geometry of ``like``, ready to be filled; ``shape`` is ``(C, *spatial)``.

    Args:
        tile: what will be written at once; a tile then has chunks of its own, so that several processes can
            write.
        fresh: ``False`` opens what an earlier call with the same arguments made.
    """
    channels, dims = shape[0], len(shape) - 1
    header = like.header if isinstance(like.header, OmeZarrHeader) else None
    if header is None:
        if not np.array_equal(like.affine[:-1, :-1], np.diag(like.spacing)):
            logger.info("OME-Zarr cannot store the orientation of %s; its voxel size is written.", like.name)
        header = OmeZarrHeader(_NEW, new_multiscale(dims, like.affine, like.unit))
    multiscale = header.multiscale.for_result(channels)
    letters = multiscale.letters
    sizes = dict(zip("CXYZ", shape, strict=False))
    steps = dict(zip("XYZ", _chunks(shape[1:], tile), strict=False))
    if fresh:
        words = {_WORDS: said} if (said := blank_words(like)) else {}
        make_group(path, header.version, multiscale.description(header.version, _plain(path)) | words)
        create_array(
            path, "0", [sizes.get(a, 1) for a in letters], [steps.get(a, 1) for a in letters], dtype,
            header.version, [str(axis["name"]) for axis in multiscale.axes],
        )  # fmt: skip
    order = tuple(letters.index(a) if a in letters else None for a in "CXYZ"[: dims + 1])
    return ZarrVolume(path, describe(path, "0"), order, like)


def add_levels(path: Path) -> None:
    """Smaller copies of a complete image: means of measured values, and of class numbers every second one."""
    version, attributes = attributes_of(path)
    multiscale = multiscale_of(attributes, path)
    assert multiscale is not None
    source, letters = describe(path, "0"), multiscale.letters
    levels = list(multiscale.levels)
    while True:
        name, scale, start = levels[-1]
        space = [i for i, a in enumerate(letters) if a in "XYZ"]
        finest = min(scale[i] for i in space if source.shape[i] > 1) if max(source.shape) > 1 else 1.0
        # Long voxels are left as they are until the others are as long.
        halved = [i for i in space if source.shape[i] > 1 and scale[i] < 2 * finest]
        if not halved or max(source.shape[i] for i in space) <= _LAST:
            break
        factor = [2 if i in halved else 1 for i in range(len(letters))]
        shape = [-(-n // f) for n, f in zip(source.shape, factor, strict=True)]
        mean = source.dtype.kind == "f"
        moved = [0.5 * (f - 1) * s if mean else 0.0 for f, s in zip(factor, scale, strict=True)]
        name = str(len(levels))
        axes = [str(axis["name"]) for axis in multiscale.axes]
        target = create_array(path, name, shape, source.chunks, source.dtype, version, axes)
        _reduce(source, target, factor, mean)
        levels.append(
            (
                name,
                tuple(s * f for s, f in zip(scale, factor, strict=True)),
                tuple(a + b for a, b in zip(start, moved, strict=True)),
            )
        )
        source = target
    described = Multiscale(multiscale.axes, tuple(levels)).description(version, _plain(path))
    described |= {_WORDS: attributes[_WORDS]} if _WORDS in attributes else {}
    make_group(path, version, described)
    for leftover in path.rglob("*.partial"):  # of processes that were killed
        leftover.unlink()


def read(path: Path, *, labels: bool, axes: str | None, notes: Notes) -> Volume:
    """Read a folder; see `volseg.io.read_volume`."""
    del labels  # nothing is scaled
    source = open_zarr(path, notes)
    header = source.like.header
    assert isinstance(header, OmeZarrHeader)
    own = header.multiscale.letters.replace("T", "")
    if axes and axes != own:
        raise InputError(f"{path} says itself that its axes are {own}; axes='{axes}' does not fit.")
    require_memory(int(np.prod(source.shape, dtype=object)) * source.dtype.itemsize, path)
    array = source[tuple(slice(0, n) for n in source.shape)]
    return Volume(contiguous(array), source.like.affine, source.like.unit, path, header, source.like.blank)


def write(path: Path, array: NDArray[Any], like: Volume) -> str:
    """Write ``(C, *spatial)`` with the geometry of ``like``; the file says its axes itself."""
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ValueError(f"OME-Zarr cannot hold {array.dtype} voxels: convert them to float32 or an integer.")
    target = create_zarr(path, array.shape, array.dtype, like)
    target[tuple(slice(0, n) for n in array.shape)] = array
    add_levels(path)
    return ""


def _image(path: Path) -> tuple[Path, int, Multiscale, int | None]:
    """The group with the image, the version of Zarr, the description, and the number for unlabelled."""
    zarr_library()  # without it, say so first
    version, attributes = attributes_of(path)
    found = multiscale_of(attributes, path)
    if found is not None:
        return path, version, found, blank_in(str(attributes.get(_WORDS, "")))
    if (path / "0").is_dir() and not (path / "1").is_dir():  # as bioformats2raw writes it
        version, attributes = attributes_of(path / "0")
        found = multiscale_of(attributes, path / "0")
        if found is not None:
            return path / "0", version, found, None
    inside = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    raise InputError(
        f"{path} describes no OME-Zarr image (it holds {', '.join(inside[:5]) or 'nothing'}). Name the "
        "folder of one image, whose description has 'multiscales'."
    )


def _chunks(size: Sequence[int], tile: Sequence[int] | None) -> list[int]:
    """Chunks of a convenient size; with tiles, as many whole ones to a tile."""
    wanted = _CHUNK[len(size)]
    found = []
    for n, step in zip(size, tile or size, strict=True):
        if step >= n:
            found.append(min(n, wanted))
            continue
        whole = [step // k for k in range(1, step + 1) if step % k == 0]
        found.append(min(whole, key=lambda chunk: abs(np.log(chunk / wanted))))
    return found


def _reduce(source: ZarrArray, target: ZarrArray, factor: Sequence[int], mean: bool) -> None:
    """Fill a copy whose axes are shorter by these factors, chunk by chunk."""
    spans = [range(0, n, c) for n, c in zip(target.shape, target.chunks, strict=True)]
    for corner in product(*spans):
        inside = tuple(
            slice(a, min(a + c, n)) for a, c, n in zip(corner, target.chunks, target.shape, strict=True)
        )
        wider = tuple(
            slice(p.start * f, min(p.stop * f, n))
            for p, f, n in zip(inside, factor, source.shape, strict=True)
        )
        block = source.read(wider)
        if not mean:
            block = block[tuple(slice(None, None, f) for f in factor)]
        else:
            for axis, f in enumerate(factor):
                if f == 2:
                    first = block.take(range(0, block.shape[axis], 2), axis)
                    second = block.take(range(1, block.shape[axis], 2), axis)
                    if second.shape[axis] < first.shape[axis]:  # an odd voxel at the end stands for two
                        last = first.take([first.shape[axis] - 1], axis)
                        second = np.concatenate([second, last], axis)
                    block = (first + second) / 2
        target.write(inside, np.ascontiguousarray(block, target.dtype))


def _plain(path: Path) -> str:
    """The name of an image, also while its folder has a hidden one."""
    return path.name.lstrip(".").split(".")[0]
