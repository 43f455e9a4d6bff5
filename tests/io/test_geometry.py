"""Random geometries through read and write: nothing of them changes, in any format."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volseg.io import Volume, read_volume, write_volume

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 5))
SPACINGS = st.tuples(*[st.floats(1e-2, 1e2)] * 3)
ORIGINS = st.tuples(*[st.floats(-1e5, 1e5)] * 3)
SEEDS = st.integers(0, 2**32 - 1)
FIELDS = ("dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
          "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip


def turn(seed):
    """A rotation or reflection, now and then one of the axes onto each other."""
    rng = np.random.default_rng(seed)
    matrix = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3) if seed % 3 == 0 else matrix


def nifti(folder, size, spacing, origin, seed):
    """A file with both transforms, different ones, any codes, any unit; returns what must not change."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn(seed) * spacing, origin
    image = nib.Nifti1Image(rng.integers(0, 9, size).astype(np.int16), affine)
    sheared = affine @ (np.eye(4) + 0.1 * np.eye(4, k=1) * [1, 1, 1, 0])
    image.set_qform(affine, int(rng.integers(0, 5)))
    image.set_sform(sheared if seed % 2 else affine, int(rng.integers(0, 5)))
    image.header["xyzt_units"] = rng.choice([0, 1, 2, 3, 10, 18])
    nib.save(image, folder / "a.nii.gz")
    volume = read_volume(folder / "a.nii.gz")
    write_volume(folder / "o.nii.gz", volume.array.astype(np.uint8), volume, overwrite=True)
    before, after = (nib.load(folder / name).header for name in ("a.nii.gz", "o.nii.gz"))
    for field in FIELDS:
        assert before[field].tobytes() == after[field].tobytes(), field
    return volume, read_volume(folder / "o.nii.gz")


def itk(suffix):
    def check(folder, size, spacing, origin, seed):
        """A file of SimpleITK's, which reads the same from what we write."""
        image = sitk.GetImageFromArray(
            np.random.default_rng(seed).integers(0, 9, size[::-1]).astype(np.int16)
        )
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(turn(seed).ravel().tolist())
        sitk.WriteImage(image, str(folder / f"a.{suffix}"), seed % 2 == 0)
        volume = read_volume(folder / f"a.{suffix}")
        write_volume(folder / f"o.{suffix}", volume.array.astype(np.uint8), volume, overwrite=True)
        before, after = (sitk.ReadImage(str(folder / f"{name}.{suffix}")) for name in "ao")
        for what in ("Size", "Spacing", "Origin", "Direction"):
            assert getattr(before, f"Get{what}")() == getattr(after, f"Get{what}")(), what
        return volume, read_volume(folder / f"o.{suffix}")

    return check


def tiff(folder, size, spacing, origin, seed):
    """An ImageJ stack with a voxel size in some unit."""
    del origin
    size = (size[0] + 1, *size[1:])  # tifffile itself misreads an ImageJ stack that is one pixel wide
    stack = np.random.default_rng(seed).integers(0, 9, size[::-1]).astype(np.uint16)
    metadata = {"axes": "ZYX", "spacing": spacing[2], "unit": ("um", "mm", "nm", "pixel")[seed % 4]}
    resolution = (1 / spacing[0], 1 / spacing[1])
    tifffile.imwrite(folder / "a.tif", stack, imagej=True, resolution=resolution, metadata=metadata)
    volume = read_volume(folder / "a.tif")
    write_volume(folder / "o.tif", volume.array.astype(np.uint8), volume, overwrite=True)
    with tifffile.TiffFile(folder / "a.tif") as before, tifffile.TiffFile(folder / "o.tif") as after:
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert before.pages.first.tags[tag].value == after.pages.first.tags[tag].value
        for key in ("spacing", "unit"):
            assert before.imagej_metadata[key] == after.imagej_metadata[key]
    return volume, read_volume(folder / "o.tif")


QUIETLY = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
KINDS = {"nifti": nifti, "nrrd": itk("nrrd"), "mha": itk("mha"), "tiff": tiff}


def same(first: Volume, second: Volume) -> None:
    assert first.spatial_shape == second.spatial_shape
    assert first.unit == second.unit
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_array_equal(first.array, second.array)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, derandomize=True, **QUIETLY)
@given(size=SIZES, spacing=SPACINGS, origin=ORIGINS, seed=SEEDS)
def test_a_geometry_survives_reading_and_writing(tmp_path_factory, kind, size, spacing, origin, seed):
    same(*KINDS[kind](tmp_path_factory.getbasetemp(), size, spacing, origin, seed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, **QUIETLY)
@given(size=SIZES, spacing=SPACINGS, origin=ORIGINS, seed=SEEDS)
def test_a_thousand_geometries_survive(tmp_path_factory, kind, size, spacing, origin, seed):
    """250 in each of four formats."""
    same(*KINDS[kind](tmp_path_factory.getbasetemp(), size, spacing, origin, seed))


@settings(max_examples=15, derandomize=True, **QUIETLY)
@given(size=SIZES, spacing=SPACINGS, origin=ORIGINS, seed=SEEDS)
def test_a_geometry_survives_the_way_through_another_format(tmp_path_factory, size, spacing, origin, seed):
    """To NRRD and MetaImage exactly, to NIfTI as far as its 32-bit numbers go."""
    folder = tmp_path_factory.getbasetemp()
    volume, _ = nifti(folder, size, spacing, origin, seed)
    for suffix in ("nrrd", "mha"):
        write_volume(folder / f"x.{suffix}", volume.array, volume, overwrite=True)
        other = read_volume(folder / f"x.{suffix}")
        assert other.unit == ("mm" if volume.unit == "m" else volume.unit)
        factor = 1000 if volume.unit == "m" else 1
        scale = np.diag([factor] * volume.spatial_dims + [1])
        np.testing.assert_allclose(other.affine, scale @ volume.affine, rtol=1e-9, atol=1e-9 * factor)
        write_volume(folder / "y.nii", other.array, other, overwrite=True)
        back = read_volume(folder / "y.nii")
        np.testing.assert_allclose(
            back.affine, other.affine, rtol=1e-5, atol=1e-5 * np.abs(other.affine).max()
        )
