"""Slices of a volume whose chunks have to be unpacked: those around the slice last looked at stay at hand.

A slice of 2048² voxels crosses 256 chunks of 64 x 128 x 128, which hold 0.5 GB, and so does the next one.
So of every axis the slab is kept in which the last slice lay: no thicker than a chunk, no larger than a share
of the memory.
"""

import threading
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from volseg.io.blocks import ChannelFiles
from volseg.io.ome_zarr import ZarrVolume
from volseg.machine import free_memory

__all__ = ["SLABS", "Slabs"]

SLABS = 768 << 20  # bytes of all slabs at most; also no more than a quarter of the memory that is free
_SHARE = 4


class Slabs:
    """The slices of an image ``(C, *spatial)`` along each of its axes; safe to call from several threads.

    Args:
        voxels: an array, or what is indexed like one; if it is read from chunks, slabs of it are kept.
    """

    def __init__(self, voxels: Any) -> None:
        self._voxels = voxels
        chunks = voxels.chunks if isinstance(voxels, ZarrVolume | ChannelFiles) else None
        self._steps = chunks or (1,) * len(voxels.shape)
        self._kept: dict[int, tuple[slice, NDArray[Any]]] = {}  # axis of the voxels: which slices, and these
        self._locks = [threading.Lock() for _ in voxels.shape]

    @property
    def nbytes(self) -> int:
        """Memory of what is kept."""
        return sum(slab.nbytes for _, slab in [*self._kept.values()])

    def __getitem__(self, block: tuple[slice, ...]) -> NDArray[Any]:
        """A block of the image, of its own; of a slice, one voxel thick, in little time."""
        thin = [axis for axis, part in enumerate(block) if axis and part.stop - part.start == 1]
        if len(thin) != 1 or self._steps[thin[0]] == 1:
            return np.asarray(self._voxels[block])
        axis, index = thin[0], block[thin[0]].start
        with self._locks[axis]:
            found, slab = self._kept.get(axis, (slice(0, 0), None))
            if slab is None or not found.start <= index < found.stop:
                slab = None
                self._kept.pop(axis, None)  # first: there is not room for both
                found = self._slab_of(axis, index)
                if found.stop - found.start == 1:
                    return np.asarray(self._voxels[block])
                whole = tuple(slice(0, n) for n in self._voxels.shape)
                slab = np.asarray(self._voxels[(*whole[:axis], found, *whole[axis + 1 :])])
                self._kept[axis] = found, slab
        inside = slice(index - found.start, index - found.start + 1)
        return slab[(*block[:axis], inside, *block[axis + 1 :])].copy()  # so that the slab can go

    def _slab_of(self, axis: int, index: int) -> slice:
        """Slices of the same chunks, as many as there is room for."""
        shape, step = self._voxels.shape, self._steps[axis]
        layer = prod(shape) // shape[axis] * np.dtype(self._voxels.dtype).itemsize
        room = min(SLABS, free_memory(torch.device("cpu")) // _SHARE) // (len(shape) - 1)
        parts = -(-step * layer // max(room, 1))
        thick = max(step // parts, 1)
        first = index - index % step
        start = first + (index - first) // thick * thick
        return slice(start, min(start + thick, first + step, shape[axis]))
