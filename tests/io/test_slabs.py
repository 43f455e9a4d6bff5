"""Slices around the one that was looked at cost no second reading, and not more memory than was allowed."""

import numpy as np
import pytest

from volseg import Session
from volseg.io import Volume, write_volume
from volseg.io.blocks import open_blocks
from volseg.io.slabs import SLABS, Slabs
from volseg.io.zarr_array import ZarrArray

zarr = pytest.importorskip("zarr")

SIZE = (70, 66, 130)  # chunks of 64


@pytest.fixture(params=[1, 2], ids=["a file", "a file per channel"])
def voxels(request, tmp_path):
    rng = np.random.default_rng(0)
    for name in range(request.param):
        array = rng.integers(0, 999, SIZE).astype(np.uint16)
        write_volume(tmp_path / f"{name}.ome.zarr", array, Volume(array[None], np.eye(4)))
    return open_blocks(*(tmp_path / f"{name}.ome.zarr" for name in range(request.param)))


@pytest.fixture
def reads(monkeypatch):
    """Blocks that were read from an array."""
    found, read = [], ZarrArray.read
    monkeypatch.setattr(ZarrArray, "read", lambda array, index: found.append(index) or read(array, index))
    return found


def slices(voxels, axis, indices):
    """Blocks of slices across an axis."""
    for index in indices:
        block = [slice(0, n) for n in voxels.shape]
        block[axis] = slice(index, index + 1)
        yield tuple(block)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_slices_are_those_of_a_plain_read(voxels, axis):
    slabs = Slabs(voxels)
    for block in slices(voxels, axis, (0, 30, 63, 64, voxels.shape[axis] - 1, 1)):
        np.testing.assert_array_equal(slabs[block], voxels[block])


def test_a_slice_beside_one_that_was_read_reads_no_chunk_again(voxels, reads):
    slabs = Slabs(voxels)
    for axis in (1, 2, 3):
        for block in slices(voxels, axis, (20,)):
            slabs[block]
    first = len(reads)
    assert first
    for axis in (3, 1, 2, 3):
        for block in slices(voxels, axis, (21, 19, 0, 63)):
            slabs[block]
    assert len(reads) == first


def test_another_place_takes_the_room_of_the_last(voxels, reads):
    slabs = Slabs(voxels)
    for block in slices(voxels, 3, (20, 100, 101)):
        slabs[block]
        assert slabs.nbytes == 64 * 2 * SIZE[0] * SIZE[1] * voxels.shape[0]
    before = len(reads)
    for block in slices(voxels, 3, (20,)):
        slabs[block]
    assert len(reads) > before


@pytest.mark.parametrize("free", [4 << 20, 8 << 20, 1 << 10])
def test_what_is_kept_is_a_quarter_of_the_free_memory_at_most(voxels, monkeypatch, free):
    monkeypatch.setattr("volseg.io.slabs.free_memory", lambda device: free)
    slabs = Slabs(voxels)
    for axis in (1, 2, 3):
        for block in slices(voxels, axis, range(0, voxels.shape[axis], 9)):
            np.testing.assert_array_equal(slabs[block], voxels[block])
            assert slabs.nbytes <= free // 4
    assert (slabs.nbytes > 0) == (free > 1 << 20)


def test_slabs_of_a_large_volume_stay_within_the_bound(monkeypatch):
    monkeypatch.setattr("volseg.io.slabs.free_memory", lambda device: 1 << 40)

    class Large:
        shape, dtype, chunks = (1, 2048, 2048, 2048), np.dtype(np.uint16), (1, 128, 128, 64)

        def __getitem__(self, block):
            shape = [len(range(n)[part]) for part, n in zip(block, self.shape, strict=True)]
            return np.broadcast_to(np.uint16(block[3].start), shape)

    monkeypatch.setattr("volseg.io.slabs.ZarrVolume", Large)
    slabs = Slabs(Large())
    for axis in (1, 2, 3):
        for block in slices(Large(), axis, (700,)):
            assert slabs[block].size == 2048**2
    assert SLABS // 2 < slabs.nbytes <= SLABS <= 2**30


def test_a_session_keeps_them(voxels, reads):
    with Session(voxels) as session:
        for axis in (2, 0):
            one = session.image_slice(axis, 40)
            before = len(reads)
            other = session.image_slice(axis, 41)
            assert len(reads) == before
            whole = voxels[tuple(slice(0, n) for n in voxels.shape)]
            np.testing.assert_array_equal(one, np.take(whole, 40, axis + 1))
            np.testing.assert_array_equal(other, np.take(whole, 41, axis + 1))
