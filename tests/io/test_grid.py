"""Voxel sizes: every unit of every format, sizes that are missing, sizes that are told."""

import logging

import nibabel as nib
import numpy as np
import pytest
import tifffile

from volseg.errors import InputError
from volseg.io import Notes, Volume, read_volume, write_volume
from volseg.io.grid import METRES, as_spacing, common_unit

IN_METRES = {
    "nm": 1e-9, "nanometer": 1e-9, "nanometres": 1e-9, "Å": 1e-10, "A\u030a": 1e-10, "\u212b": 1e-10,
    "angstrom": 1e-10, "Angstroms": 1e-10, "ångström": 1e-10, "pm": 1e-12, "picometer": 1e-12, "um": 1e-6,
    "UM": 1e-6, "µm": 1e-6, "μm": 1e-6, "\\u00B5m": 1e-6, "micron": 1e-6, "microns": 1e-6, "micrometre": 1e-6,
    "Micrometers": 1e-6, "mm": 1e-3, "millimetre": 1e-3, "cm": 1e-2, "centimeters": 1e-2, "centimeter": 1e-2,
    "decimeter": 0.1,
    "m": 1.0, "meter": 1.0, "metres": 1.0, "km": 1e3, "Mm": 1e6, "inch": 0.0254, "in": 0.0254,
    "inches": 0.0254,
    "foot": 0.3048, "feet": 0.3048, "yard": 0.9144, "mile": 1609.344, "thou": 2.54e-5,
}  # fmt: skip
NO_UNIT = ["", "pixel", "pixels", "px", "voxel", "Voxels", "reference frame", "unknown", "pixel units"]
SIZES = {2: (0.25, 0.5), 3: (0.25, 0.5, 2.0)}
FORMATS = [".nii.gz", ".tif", ".ome.tif", ".nrrd", ".mha", ".zarr"]


@pytest.fixture(params=[(6, 5), (6, 5, 4)], ids=["2d", "3d"])
def array(request):
    return np.random.default_rng(0).integers(0, 99, (1, *request.param)).astype(np.uint8)


def metres(volume):
    return np.array(volume.spacing) * METRES[volume.unit]


@pytest.mark.parametrize(("name", "length"), IN_METRES.items(), ids=map(ascii, IN_METRES))
def test_units_are_as_long_as_they_are(name, length):
    factor, unit = common_unit(name)
    assert unit in ("um", "mm")
    assert factor * METRES[unit] == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("name", NO_UNIT)
def test_a_pixel_is_no_unit_and_needs_no_word(name, caplog):
    assert common_unit(name) == (1.0, "")
    assert not caplog.text


def test_a_unit_that_is_not_known_is_noted_and_none():
    notes = Notes()
    assert common_unit("furlong", "a.tif", notes) == (1.0, "")
    assert "a.tif: 'furlong' is not a known unit of length" in notes[0].text


@pytest.mark.parametrize("unit", ["um", "mm", "m"])
@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_a_size_is_the_same_length_after_every_change_of_format(tmp_path, array, source, target, unit):
    """Whatever a format cannot store is converted, not lost."""
    if ".zarr" in (source, target):
        pytest.importorskip("zarr")
    dims = array.ndim - 1
    volume = Volume(array, np.diag([*SIZES[dims], 1.0]), unit)
    write_volume(tmp_path / f"a{source}", array, volume)
    first = read_volume(tmp_path / f"a{source}")
    np.testing.assert_allclose(metres(first), metres(volume), rtol=1e-5)
    write_volume(tmp_path / f"b{target}", array, first)
    np.testing.assert_allclose(metres(read_volume(tmp_path / f"b{target}")), metres(volume), rtol=1e-5)


@pytest.mark.parametrize("target", FORMATS)
def test_a_size_without_a_unit_stays_without_one(tmp_path, array, target):
    if target == ".zarr":
        pytest.importorskip("zarr")
    volume = Volume(array, np.diag([*SIZES[array.ndim - 1], 1.0]), "")
    write_volume(tmp_path / f"a{target}", array, volume)
    found = read_volume(tmp_path / f"a{target}")
    assert found.unit == ""
    np.testing.assert_allclose(found.spacing, volume.spacing, rtol=1e-5)


@pytest.mark.parametrize("name", ["angstrom", "nanometer", "centimeter", "meter", "inch", "foot"])
@pytest.mark.parametrize("version", [2, 3])
def test_units_of_ome_zarr(tmp_path, version, name):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=version)
    axes = [{"name": a, "type": "space", "unit": name} for a in "zyx"]
    steps = [{"type": "scale", "scale": [30, 20, 10]}]
    content = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ]
    group.attrs.put({"multiscales": content} if version == 2 else {"ome": {"multiscales": content}})
    made = group.create_array(
        "0", shape=(4, 5, 6), chunks=(4, 5, 6), dtype="u1", config={"write_empty_chunks": True}
    )
    made[...] = 1
    np.testing.assert_allclose(
        metres(read_volume(tmp_path / "a.zarr")), np.array([10, 20, 30]) * IN_METRES[name], rtol=1e-9
    )


@pytest.mark.parametrize("name", ["nm", "angstrom", "\\u00B5m", "cm", "inch", "m", "pixel", "furlong"])
def test_units_of_imagej(tmp_path, name):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), imagej=True, resolution=(0.25, 0.5),
        metadata={"axes": "ZYX", "unit": name, "spacing": 8},
    )  # fmt: skip
    found = read_volume(tmp_path / "a.tif")
    length = IN_METRES.get(name, 1.0)
    assert (found.unit == "") == (name in ("pixel", "furlong"))
    np.testing.assert_allclose(
        np.array(found.spacing) * METRES.get(found.unit, 1.0), np.array([4, 2, 8]) * length, rtol=1e-6
    )


# --- sizes that are missing --------------------------------------------------------------------------


def ome(path, **sizes):
    tifffile.imwrite(path, np.zeros((4, 5, 6), np.uint8), metadata={"axes": "ZYX", **sizes}, ome=True)
    return path


def test_a_missing_distance_of_slices_is_that_of_pixels_and_said(tmp_path, caplog):
    nano = {f"PhysicalSize{a}": 4.0 for a in "XY"} | {f"PhysicalSize{a}Unit": "nm" for a in "XY"}
    found = read_volume(ome(tmp_path / "a.ome.tif", **nano))
    assert (found.spacing, found.unit) == (pytest.approx((0.004, 0.004, 0.004)), "um")
    assert "gives no distance between slices: that along x, 0.004 um, is taken (1 : 1)" in caplog.text


def test_a_file_that_says_1_for_want_of_a_size_needs_no_word(tmp_path, caplog):
    one = {"imagej": True, "resolution": (1.0, 1.0), "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "a.tif", np.ones((5, 6, 7), np.uint8), **one)
    assert read_volume(tmp_path / "a.tif").spacing == (1, 1, 1)
    assert "gives no distance" not in caplog.text


def test_no_size_is_asked_for_where_one_is_given(tmp_path, caplog):
    nano = {f"PhysicalSize{a}": 4.0 for a in "XY"} | {f"PhysicalSize{a}Unit": "nm" for a in "XY"}
    found = read_volume(ome(tmp_path / "a.ome.tif", **nano), spacing="4,4,50nm")
    assert found.spacing == pytest.approx((0.004, 0.004, 0.05))
    assert "gives no distance" not in caplog.text


@pytest.mark.parametrize(
    "options",
    [{}, {"resolution": (2.0, 2.0), "resolutionunit": "CENTIMETER"},
     {"imagej": True, "resolution": (2.0, 2.0), "metadata": {"axes": "ZYX", "unit": "um"}},
     {"imagej": True, "resolution": (2.0, 2.0), "metadata": {"axes": "ZYX"}}],
    ids=["plain", "per cm", "um", "without a unit"],
)  # fmt: skip
def test_what_is_written_is_read_again_without_a_question_and_as_large(tmp_path, options, caplog):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((5, 6, 7), np.uint8), **options)
    image = read_volume(tmp_path / "a.tif")
    write_volume(tmp_path / "b.tif", image.array, image)
    caplog.clear()
    found = read_volume(tmp_path / "b.tif")
    assert caplog.text == ""
    assert (found.spacing, found.unit) == (pytest.approx(image.spacing), image.unit)


@pytest.mark.parametrize("axis", "XYZ")
def test_one_size_stands_for_all(tmp_path, axis, caplog):
    size = {f"PhysicalSize{axis}": 0.5, f"PhysicalSize{axis}Unit": "µm"}
    assert read_volume(ome(tmp_path / "a.ome.tif", **size)).spacing == pytest.approx((0.5,) * 3)
    assert f"that along {axis.lower()}, 0.5 um" in caplog.text


@pytest.mark.parametrize(("per", "size"), [("INCH", 25.4), ("CENTIMETER", 10.0)])
def test_a_resolution_gives_slices_the_distance_of_pixels(tmp_path, per, size):
    """As SimpleITK writes a stack: a size in x and y, and none in z."""
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((6, 5, 6), np.uint8), resolution=(35, 35), resolutionunit=per,
        metadata=None, photometric="minisblack",
    )  # fmt: skip
    found = read_volume(tmp_path / "a.tif")
    assert found.unit == "mm"
    assert found.spacing == pytest.approx((size / 35,) * 3)


def test_imagej_may_leave_its_unit_to_the_resolution(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((6, 5, 6), np.uint8), resolution=(10000, 10000),
        resolutionunit="CENTIMETER", imagej=True, metadata={"axes": "ZYX", "spacing": 0.0003},
    )  # fmt: skip
    found = read_volume(tmp_path / "a.tif")
    assert (found.spacing, found.unit) == (pytest.approx((0.001, 0.001, 0.003)), "mm")


def test_an_axis_in_pixels_beside_others_in_micrometres_has_no_size(tmp_path):
    units = {f"PhysicalSize{a}": 2.0 for a in "XYZ"} | {"PhysicalSizeZUnit": "pixel"}
    found = read_volume(ome(tmp_path / "a.ome.tif", **units))
    assert (found.spacing, found.unit) == ((2.0, 2.0, 2.0), "um")


# --- sizes that are told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sizes", "unit"),
    [
        ("4,4,50nm", (0.004, 0.004, 0.05), "um"),
        (" 0.5, 1 , 2e0 microns", (0.5, 1, 2), "um"),
        ("1 2 3", (1, 2, 3), ""),
        ("0.5mm", (0.5,), "mm"),
        ((1, 2), (1, 2), ""),
    ],
)
def test_a_spacing_is_read_as_people_write_it(text, sizes, unit):
    found = as_spacing(text)
    assert (found.sizes, found.unit) == (pytest.approx(sizes), unit)


@pytest.mark.parametrize(
    "text", ["", "x", "0,1,2", "-1,1,1", "1,2,3,4", "nan", "1..2", "1,,2", "um", "1" * 400]
)
def test_what_is_no_spacing_is_refused(text):
    with pytest.raises(ValueError, match="is not a voxel size"):
        as_spacing(text)


def test_a_spacing_in_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="'furlong' is not a unit of length"):
        as_spacing("1,2,3furlong")


@pytest.mark.parametrize("labels", [False, True])
def test_a_spacing_that_is_told_replaces_that_of_the_file(tmp_path, labels, caplog):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((5, 6, 7), np.uint8), metadata={"axes": "ZYX"}, imagej=True)
    with caplog.at_level(logging.INFO):
        found = read_volume(tmp_path / "a.tif", spacing="4,4,50nm", labels=labels)
    assert (found.spacing, found.unit) == (pytest.approx((0.004, 0.004, 0.05)), "um")
    assert "voxels of 0.004 x 0.004 x 0.05 um, as given (the file names no voxel size)" in caplog.text


def test_directions_and_the_first_voxel_stay_where_they_are(tmp_path):
    affine = np.array([[0, -2, 0, 10], [2, 0, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii", spacing="500,1000,1500um")
    want = np.array([[0, -1000, 0, 10000], [500, 0, 0, 20000], [0, 0, 1500, 30000], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(found.affine, want)


def test_a_spacing_has_a_number_for_each_axis(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 7), np.uint8))
    with pytest.raises(ValueError, match="spacing has 3 numbers, but .*a.tif has 2 axes"):
        read_volume(tmp_path / "a.tif", spacing="1,2,3um")
    assert read_volume(tmp_path / "a.tif", spacing="3um").spacing == (3.0, 3.0)


def test_voxels_that_are_far_longer_than_wide_are_said(tmp_path, caplog):
    for z, warned in ((19, False), (21, True)):
        tifffile.imwrite(
            tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), imagej=True, resolution=(1, 1),
            metadata={"axes": "ZYX", "unit": "um", "spacing": z},
        )  # fmt: skip
        caplog.clear()
        read_volume(tmp_path / "a.tif")
        assert ("21 times as long as wide" in caplog.text) is warned


def test_a_scale_of_300_digits_is_no_size(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=3)
    steps = [{"type": "scale", "scale": [1, 1, 10**400]}]
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    content = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    group.attrs.put({"ome": {"version": "0.5", "multiscales": content}})
    with pytest.raises(InputError, match="number of 401 digits"):
        read_volume(tmp_path / "a.zarr")
