"""Volumes block by block: what is written is what any reader finds, and what cannot be is told."""

import os

import numpy as np
import pytest

from volseg.errors import InputError, ResourceError
from volseg.io import Volume, read_volume, write_volume
from volseg.io.blocks import can_write_blocks, create_blocks, open_blocks, voxels_of
from volseg.io.mapped import create_mapped, map_volume

SIZE = (23, 19, 14)
LIKE = Volume(np.zeros((1, *SIZE), np.uint8), np.diag([0.5, 0.25, 2.0, 1.0]), "um")
MAPPED = (".nii", ".tif", ".nrrd", ".mha")


@pytest.mark.parametrize("suffix", MAPPED)
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_that_are_written_make_the_file_that_any_reader_reads(tmp_path, suffix, channels, monkeypatch):
    """A few pages of the file at a time, and blocks that reach beyond the end."""
    monkeypatch.setattr("volseg.io.mapped._HELD", 3 * 4096)
    array = np.random.default_rng(0).integers(0, 999, (channels, *SIZE)).astype(np.uint16)
    path = tmp_path / f"a{suffix}"
    volume = create_blocks(path, array.shape, array.dtype, LIKE)
    for x in range(0, 30, 10):
        for z in range(0, 14, 9):
            place = (slice(0, channels), slice(x, x + 10), slice(0, 19), slice(z, z + 9))
            volume[place] = array[place]
    axes = {".nii": "XYZC"}.get(suffix) if channels > 1 else None
    found = read_volume(path, axes=axes)
    np.testing.assert_array_equal(found.array, array)
    np.testing.assert_allclose(found.affine, LIKE.affine)
    if axes is None:
        again = open_blocks(path)
        place = (slice(0, channels), slice(3, 40), slice(2, 9), slice(5, 6))
        np.testing.assert_array_equal(again[place], array[place])
        assert again.like.spacing == found.spacing
        assert again.like.array.shape == array.shape


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.nrrd", "a.mha", "a.ome.zarr"])
def test_a_voxel_size_that_is_given_is_that_of_the_whole_volume(tmp_path, name):
    write_volume(tmp_path / name, LIKE.array, LIKE)
    blocks = open_blocks(tmp_path / name, spacing="3,4,50nm").like
    whole = read_volume(tmp_path / name, spacing="3,4,50nm")
    assert (blocks.spacing, blocks.unit) == (whole.spacing, whole.unit)
    np.testing.assert_allclose(blocks.affine, whole.affine)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.tif", "a.nrrd", "a.mha"])
def test_the_number_of_voxels_is_known_without_reading_them(tmp_path, name, monkeypatch):
    write_volume(tmp_path / name, LIKE.array, LIKE)
    monkeypatch.setattr("volseg.io.blocks.read_volume", None)
    assert voxels_of(tmp_path / name) == 23 * 19 * 14
    assert voxels_of(tmp_path / "missing.nii") == 0
    assert can_write_blocks(tmp_path / name)
    assert not can_write_blocks(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_file_that_was_cut_is_refused_before_it_is_mapped(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    create_blocks(path, LIKE.array.shape, np.dtype(np.uint8), LIKE)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(InputError, match="the header needs 6118 bytes, but there are .* It was cut"):
        open_blocks(path)


def test_what_was_read_whole_is_not_written(tmp_path):
    write_volume(tmp_path / "a.nii.gz", LIKE.array, LIKE)
    for volume in (open_blocks(tmp_path / "a.nii.gz"), open_blocks(*[tmp_path / "a.nii.gz"] * 2)):
        with pytest.raises(TypeError, match="not written"):
            volume[tuple(slice(0, n) for n in volume.shape)] = LIKE.array


def test_voxels_that_change_change_the_stamp(tmp_path):
    path = tmp_path / "a.nii"
    volume = create_blocks(path, LIKE.array.shape, np.dtype(np.uint8), LIKE)
    before = volume.stamp
    os.utime(path, ns=(0, 0))
    assert volume.stamp != before
    assert open_blocks(path, path).stamp == f"{volume.stamp} {volume.stamp}"


def test_a_full_disk_is_said_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match=r"cannot make .* needs 0\.0 GB: No space left"):
        create_mapped(tmp_path / "out.nii", (1, *SIZE), np.dtype(np.uint8), LIKE)


def test_large_tiff_files_are_big_tiff(tmp_path, monkeypatch):
    monkeypatch.setattr("volseg.io.tiff._BIG", 100)
    path = tmp_path / "a.tif"
    create_blocks(path, LIKE.array.shape, np.dtype(np.uint8), LIKE)
    assert path.read_bytes()[2:4] == b"+\0"
    assert map_volume(path).shape == (1, *SIZE)


@pytest.mark.parametrize("gap", [0, 1 << 16], ids=["row by row", "with all between"])
@pytest.mark.parametrize("size", [(23, 19), (23, 9, 7)], ids=["2d", "3d"])
def test_any_block_is_the_one_of_the_whole_array(tmp_path, monkeypatch, gap, size):
    monkeypatch.setattr("volseg.io.mapped._GAP", gap)
    random = np.random.default_rng(0)
    array = random.normal(size=(3, *size)).astype(np.float32)
    for suffix in (".nii", ".tif", ".nrrd", ".mha"):
        write_volume(tmp_path / f"a{suffix}", array, Volume(array, np.eye(len(size) + 1), "mm"))
        volume = open_blocks(tmp_path / f"a{suffix}")
        for _ in range(20):
            ends = [sorted(random.integers(0, n + 1, 2)) for n in array.shape]
            index = tuple(slice(int(a), int(b)) for a, b in ends)
            np.testing.assert_array_equal(volume[index], array[index])
