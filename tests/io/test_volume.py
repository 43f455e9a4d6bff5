"""The one door: what paths, values and arrays it takes, and what it says to the others."""

import re
import shlex

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch

from volseg.arguments import as_entry, come_through
from volseg.errors import InputError, ResourceError
from volseg.io import Volume, files, read_volume, write_volume
from volseg.io.volume import contiguous


@pytest.fixture(params=["a.nii.gz", "a.nii", "a.tif"])
def save(request, tmp_path):
    """Write voxels (x, y, z) in one of the formats and return the path."""

    def write(array):
        path = tmp_path / request.param
        if path.suffix == ".tif":
            tifffile.imwrite(
                path, np.asarray(array).T, photometric="minisblack", metadata={"axes": "ZYX"[-array.ndim :]}
            )
        else:
            nib.Nifti1Image(array, np.eye(4), dtype=array.dtype).to_filename(path)
        return path

    return write


@pytest.fixture(params=[(5, 4), (5, 4, 6)], ids=["2d", "3d"])
def array(request):
    return np.random.default_rng(0).integers(0, 4, request.param).astype(np.float32)


def test_whole_numbers_in_floating_point_are_labels(save, array, caplog):
    volume = read_volume(save(array), labels=True)
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array[0], array)
    assert not caplog.records


def test_almost_whole_numbers_are_rounded_not_cut(save, array, caplog):
    array.flat[3] = 2.9999
    volume = read_volume(save(array), labels=True)
    assert volume.array[0].flat[3] == 3
    assert "they are rounded" in caplog.text


def test_fractions_are_not_labels(save, array):
    array[1, 2] = 1.5
    with pytest.raises(
        InputError, match=r"fractional labels? .*at voxel 1, 2.*such as 1.5.*nearest neighbour"
    ):
        read_volume(save(array), labels=True)


def test_nan_in_a_label_is_unlabelled(save, array, caplog):
    """With 255, or with -1 where 255 is a class; never with the number of a class."""
    want = array.astype(int)
    array[1, 2] = np.nan
    want[1, 2] = 255
    np.testing.assert_array_equal(read_volume(save(array), labels=True).array[0], want)
    assert "taken as unlabelled, with the number 255" in caplog.text
    array[0, 0] = 255
    want[0, 0], want[1, 2] = 255, -1
    np.testing.assert_array_equal(read_volume(save(array), labels=True).array[0], want)
    array[3, 3] = -1
    with pytest.raises(InputError, match="255 and -1, the numbers for that, are used"):
        read_volume(save(array), labels=True)


def test_infinity_is_no_label(save, array):
    array[1, 2] = np.inf
    with pytest.raises(InputError, match="infinite label"):
        read_volume(save(array), labels=True)


def test_nan_replaced_in_what_looks_like_a_label_is_warned_of(save, array, caplog):
    array[1, 2] = np.nan
    read_volume(save(array), nonfinite="replace")
    assert "if it is a label, read it as one" in caplog.text


def test_numbers_beyond_floating_point_are_not_labels(save, array):
    with pytest.raises(InputError, match=r"2\*\*53 or more"):
        read_volume(save(array.astype(np.float64) * 1e30), labels=True)
    assert read_volume(save(array.astype(np.float64) + 2**40), labels=True).array.dtype == np.int64


def test_integers_are_labels_as_they_are(save, array):
    for dtype in (np.uint8, np.uint16, np.int64, np.int8):
        volume = read_volume(save(array.astype(dtype)), labels=True)
        assert volume.array.dtype == dtype
        np.testing.assert_array_equal(volume.array[0], array)


def test_a_grey_picture_of_a_label_is_one(tmp_path, caplog):
    grey = np.random.default_rng(0).integers(0, 4, (5, 4)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([grey] * 3, -1), photometric="rgb")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", labels=True).array[0], grey.T)
    assert "three equal channels" in caplog.text
    grey_but_one = np.stack([grey, grey, grey + 1], -1)
    tifffile.imwrite(tmp_path / "a.tif", grey_but_one, photometric="rgb")
    with pytest.raises(InputError, match="3 channels, but a label holds one number per voxel"):
        read_volume(tmp_path / "a.tif", labels=True)


def test_nan_in_an_image_is_refused_or_replaced(save, array, caplog):
    array += 7
    array[1, 2] = np.nan
    array[2, 1] = np.inf
    path = save(array)
    n = np.count_nonzero(~np.isfinite(array))
    with pytest.raises(
        InputError, match=f"holds {n} NaN or infinite voxels .the first at voxel 1, 2.*nonfinite="
    ):
        read_volume(path)
    come_through(as_entry)
    with pytest.raises(InputError) as refused:
        read_volume(path)
    assert f"there: 'volseg convert {path} --nonfinite replace -o NEW{''.join(path.suffixes)}'." in str(
        refused.value
    )
    volume = read_volume(path, nonfinite="replace")
    np.testing.assert_array_equal(
        volume.array[0], np.where(np.isfinite(array), array, array[np.isfinite(array)].min())
    )
    assert "replaced" in caplog.text
    assert read_volume(save(np.full_like(array, np.nan)), nonfinite="replace").array.max() == 0


def test_nonfinite_has_two_values(save, array):
    assert read_volume(save(array), nonfinite="replace").array.dtype == np.float32
    with pytest.raises(ValueError, match="nonfinite='drop' is unknown"):
        read_volume(save(array), nonfinite="drop")


def test_a_missing_file_is_named_with_a_guess(tmp_path):
    (tmp_path / "image_01.nii.gz").touch()
    with pytest.raises(InputError, match="no file .*image_1.nii.gz. Did you mean image_01.nii.gz"):
        read_volume(tmp_path / "image_1.nii.gz")
    with pytest.raises(InputError, match="no file .*Check the spelling"):
        read_volume(tmp_path / "none" / "a.tif")


def test_folders_and_unknown_formats_are_named(tmp_path):
    for labels, option in ((False, ""), (True, " --labels")):
        folder = tmp_path / "my slices"
        folder.mkdir(exist_ok=True)
        line = shlex.join(["volseg", "convert", str(folder), "-o", "my slices.tif"]) + option
        with pytest.raises(InputError, match=f"is a folder.*make that first: {re.escape(line)}$"):
            read_volume(folder, labels=labels)
    (tmp_path / "a.gif").touch()
    with pytest.raises(
        InputError, match="format cannot be known from the name. Known are .nii, .nii.gz, .tif, .tiff"
    ):
        read_volume(tmp_path / "a.gif")
    with pytest.raises(InputError, match="not a regular file"):
        read_volume("/dev/null")


def test_trouble_of_the_machine_is_not_a_traceback(save, array, monkeypatch):
    path = save(array)
    for error, expected, message in [
        (MemoryError(), ResourceError, "does not fit into memory"),
        (OSError(5, "Input/output error"), InputError, "cannot be read: Input/output error"),
    ]:

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(files, "_FORMATS", [f._replace(read=fail) for f in files._FORMATS])
        with pytest.raises(expected, match=message):
            read_volume(path)


def test_an_array_on_another_grid_is_refused(save, array, tmp_path):
    volume = read_volume(save(array))
    for wrong in (array[:-1], array[..., None, None], np.zeros((0, *array.shape), np.uint8)):
        with pytest.raises(ValueError, match="does not lie on the grid of"):
            write_volume(tmp_path / "b.tif", wrong, like=volume)


def test_tensors_can_be_written(save, array, tmp_path):
    volume = read_volume(save(array))
    write_volume(tmp_path / "b.tif", torch.from_numpy(array)[None], like=volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif").array[0], array)


def test_nan_can_be_written(save, array, tmp_path):
    volume = read_volume(save(array))
    array[1, 1] = np.nan
    write_volume(tmp_path / "b.nii.gz", array, like=volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), array)


def test_volume_checks_its_arguments():
    with pytest.raises(ValueError, match=r"shape \(3, 3\). Add the channel axis"):
        Volume(np.zeros((3, 3)), np.eye(3))
    with pytest.raises(
        ValueError, match="affine has shape .3, 3., but an array with 3 spatial axes needs .4, 4."
    ):
        Volume(np.zeros((1, 3, 3, 3)), np.eye(3))
    assert Volume(np.zeros((1, 3, 3)), np.eye(3)).name == "volume in memory"


@pytest.mark.parametrize("dtype", [">f4", "?", "f2", "u1"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 90, 91, 92)])
def test_contiguous_changes_the_layout_and_nothing_else(dtype, shape):
    array = (np.random.default_rng(0).random(shape[::-1]) * 3).astype(dtype).T[:, ::-1]
    out = contiguous(array)
    np.testing.assert_array_equal(out, array)
    assert out.flags.c_contiguous
    assert out.flags.writeable
    assert out.dtype.isnative
    assert out.dtype not in (bool, np.float16)


def test_a_link_that_leads_nowhere_is_called_that(tmp_path):
    for name, target in (("a.tif", "gone/a.tif"), ("b.tif", "b.tif"), ("c.ome.zarr", "gone")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(InputError, match=f"{name} is a link to {target}, which is not there"):
            read_volume(tmp_path / name)
