"""Four axes: one of size 1 is no axis, in any format; of several moments a command takes one."""

import shlex

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile

from volseg.cli import main
from volseg.errors import InputError
from volseg.io import read_volume, write_volume

MOMENTS = np.random.default_rng(0).integers(1, 99, (3, 4, 5, 6), dtype=np.uint8)  # t, z, y, x
SUFFIXES = ["nii", "nrrd", "mha", "tif", "ome.tif", "zarr"]


def save(path, array):
    """As the programs write a series in time that use the format."""
    name = path.name
    if name.endswith("nii"):
        nib.save(nib.Nifti1Image(array.T, np.diag([2.0, 3, 4, 1])), path)
    elif name.endswith(("nrrd", "mha")):
        image = sitk.GetImageFromArray(array, isVector=False)
        image.SetSpacing((2, 3, 4, 1))
        sitk.WriteImage(image, str(path))
    elif name.endswith("tif"):
        tifffile.imwrite(
            path, array, imagej="ome" not in name, metadata={"axes": "TZYX"}, photometric="minisblack"
        )
    else:
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(path), mode="w", zarr_format=2)
        axes = [{"name": a, "type": "time" if a == "t" else "space"} for a in "tzyx"]
        steps = [{"type": "scale", "scale": [1, 4, 3, 2]}]
        content = {
            "version": "0.4",
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": steps}],
        }
        group.attrs.put({"multiscales": [content]})
        group.create_array("0", shape=array.shape, chunks=array.shape, dtype="u1")[...] = array
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels", [False, True])
def test_one_moment_is_a_volume(tmp_path, suffix, labels):
    found = read_volume(save(tmp_path / f"a.{suffix}", MOMENTS[:1]), labels=labels)
    np.testing.assert_array_equal(found.array[0], MOMENTS[0].T)
    if "tif" not in suffix:
        assert found.spacing == pytest.approx((2, 3, 4))
    write_volume(tmp_path / f"b.{suffix}", found.array, found)
    back = read_volume(tmp_path / f"b.{suffix}")
    np.testing.assert_array_equal(back.array, found.array)
    np.testing.assert_allclose(back.affine, found.affine)


@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha", "tif", "ome.tif"])
def test_several_moments_are_refused_and_the_command_takes_one(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path / f"a.{suffix}", MOMENTS)
    with pytest.raises(InputError, match="4 axes|axes are unclear") as caught:
        read_volume(path)
    assert "--channel 0" in str(caught.value)
    axes = "CZYX" if "tif" in suffix else "XYZC"
    assert "time" in str(caught.value)
    words = f"convert a.{suffix} --axes {axes} --channel 1 -o b.{suffix}"
    assert main(shlex.split(words)) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / f"b.{suffix}").array[0], MOMENTS[1].T)
    assert main(shlex.split(words.replace("--channel 1", "--channel 3") + " --overwrite")) == 3
