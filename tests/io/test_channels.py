"""Channels that lie in files of their own become one image, if they lie on one grid."""

import numpy as np
import pytest

from volseg.errors import InputError
from volseg.io import Volume, channel_of, read_channels, read_volume, write_volume


@pytest.fixture(params=[(5, 4), (5, 4, 6)], ids=["2d", "3d"])
def grid(request):
    dims = len(request.param)
    return Volume(np.zeros((1, *request.param), np.uint8), np.diag([0.5] * dims + [1.0]), "mm")


@pytest.fixture(params=[".nii.gz", ".nrrd", ".mha", ".tif"])
def save(request, tmp_path, grid):
    def save(index, array, like=grid):
        path = tmp_path / f"a_{index:04d}{request.param}"
        write_volume(path, array, like)
        return path

    return save


def test_files_become_channels_in_their_order(save, grid, tmp_path):
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 99, grid.spatial_shape).astype(dtype) for dtype in ("u1", "u2", "f4")]
    paths = [save(i, array) for i, array in enumerate(arrays)]
    volume = read_channels(paths)
    np.testing.assert_array_equal(volume.array, np.stack(arrays))
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.spacing, 0.5)
    out = tmp_path / f"result{''.join(paths[0].suffixes)}"
    write_volume(out, arrays[0], volume)
    np.testing.assert_array_equal(read_volume(out).affine, read_volume(paths[0]).affine)


def test_one_file_is_an_image_as_it_is(save, grid):
    array = np.arange(2 * grid.array.size, dtype=np.uint8).reshape(2, *grid.spatial_shape)
    path = save(0, array[0])
    np.testing.assert_array_equal(read_channels([path]).array[0], array[0])


def test_a_channel_of_another_size_is_refused(save, grid):
    smaller = Volume(grid.array[:, 1:], grid.affine, grid.unit)
    paths = [save(0, grid.array), save(1, smaller.array, smaller)]
    with pytest.raises(InputError, match="the channel .*a_0001.* They cannot belong together"):
        read_channels(paths)


def test_a_channel_at_another_place_is_refused(save, grid):
    other = Volume(grid.array, grid.affine @ np.diag([2.0] * grid.spatial_dims + [1.0]), grid.unit)
    paths = [save(0, grid.array), save(1, other.array, other)]
    with pytest.raises(InputError, match="the channel .*a_0001.* corners lie up to"):
        read_channels(paths)


def test_a_file_with_several_channels_is_not_one_of_several(tmp_path, grid):
    volume = Volume(np.repeat(grid.array, 2, 0), grid.affine, grid.unit)
    paths = [tmp_path / f"a_000{i}.nrrd" for i in range(2)]
    for path in paths:
        write_volume(path, volume.array, volume)
    with pytest.raises(InputError, match="has 2 channels, but one was expected"):
        read_channels(paths)
    assert read_channels(paths[:1]).channels == 2


def test_no_file_is_no_image():
    with pytest.raises(ValueError, match="at least one channel"):
        read_channels([])


@pytest.mark.parametrize(
    ("stem", "found"),
    [("a_0001", ("a", 1)), ("a_b_0000", ("a_b", 0)), ("a", ("a", None)), ("a_1", ("a_1", None)),
     ("_0001", ("_0001", None)), ("slice_00001", ("slice_00001", None))],
)  # fmt: skip
def test_four_digits_behind_an_underscore_name_a_channel(stem, found):
    assert channel_of(stem) == found
