"""Paint made in ITK-SNAP, 3D Slicer, napari and Fiji lies where its voxels say, over images of both kinds.

The files are as those programs write them: ITK's by SimpleITK, which they use, with the keys of 3D Slicer 5;
napari's and Fiji's by tifffile. The windows of the programs were not run.
"""

import itertools
import logging

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it
import tifffile

from volseg.cli import main
from volseg.errors import InputError
from volseg.io import Volume, check_alignment, put_onto, read_volume, segments_of, with_segments, write_volume

SIZE = (9, 8, 7)
BOX = ((2, 6), (1, 7), (3, 6))  # what is painted, per axis


@pytest.fixture
def paint():
    """What somebody painted, x, y, z: two classes, nothing alike along any axis."""
    array = np.zeros(SIZE, np.uint8)
    part = tuple(slice(*ends) for ends in BOX)
    array[part] = np.random.default_rng(0).integers(0, 3, array[part].shape)
    array[part][[0, -1], [0, -1], [0, -1]] = 1
    return array


def grey(shape=SIZE):
    return np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)


def imagej(path):
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite(path, grey().T, imagej=True, resolution=(2, 2), metadata=metadata)


def plain(path):
    tifffile.imwrite(path, grey().T, photometric="minisblack", metadata={"axes": "ZYX"})


def inches(path):
    tifffile.imwrite(path, grey().T, photometric="minisblack", resolution=(300, 300), resolutionunit=2,
                     metadata={"axes": "ZYX"})  # fmt: skip


def ome(path):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", (0.3, 0.3, 1.5), strict=True)}
    tifffile.imwrite(path, grey().T, photometric="minisblack", metadata={"axes": "ZYX"} | sizes)


def oblique(path):
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] * [0.5, 0.7, 3.0]
    turn[:3, 3] = 11, -7, 40
    nib.save(nib.Nifti1Image(grey(), turn), path)


def patient(path):
    nib.save(nib.Nifti1Image(grey(), np.diag([-0.5, -0.5, 2, 1]) + [[0, 0, 0, 90], [0, 0, 0, 60], [0] * 4, [0] * 4]), path)  # noqa: E501 # fmt: skip


TIFFS = {"imagej.tif": imagej, "plain.tif": plain, "inches.tif": inches, "image.ome.tif": ome}
NIFTIS = {"oblique.nii.gz": oblique, "patient.nii.gz": patient}


@pytest.fixture(params=[*TIFFS, *NIFTIS])
def image_path(request, tmp_path):
    path = tmp_path / request.param
    (TIFFS | NIFTIS)[request.param](path)
    return path


# --- as the programs write


def drawn_in_itk(image, paint, spacing=None):
    """The paint on the grid on which ITK has the image."""
    seen = sitk.ReadImage(str(image))
    if spacing is not None:
        seen.SetSpacing(spacing)
    label = sitk.GetImageFromArray(paint.T)
    label.CopyInformation(seen)
    return label


def itk_snap(suffix):
    def write(image, paint, folder):
        sitk.WriteImage(drawn_in_itk(image, paint), str(folder / f"paint{suffix}"))
        return folder / f"paint{suffix}"

    return write


def slicer(box=BOX, *, offset=True, spacing=None):
    """A segmentation cropped to a box, or with room around it where the box is larger than the image."""

    def write(image, paint, folder):
        label = drawn_in_itk(image, paint, spacing)
        low = [max(0, -a) for a, _ in box]
        high = [max(0, b - n) for (_, b), n in zip(box, SIZE, strict=True)]
        label = sitk.ConstantPad(label, low, high, 0)
        label = label[tuple(slice(a + add, b + add) for (a, b), add in zip(box, low, strict=True))]
        keys = {
            f"Segment{i}_{key}": text
            for i, name in enumerate(("wall", "lumen"))
            for key, text in {
                "ID": f"Segment_{i + 1}",
                "Name": name,
                "LabelValue": f"{i + 1}",
                "Layer": "0",
            }.items()
        }
        if offset:
            keys["Segmentation_ReferenceImageExtentOffset"] = " ".join(str(a) for a, _ in box)
        for key, text in keys.items():
            label.SetMetaData(key, text)
        sitk.WriteImage(label, str(folder / "paint.seg.nrrd"), useCompression=True)
        return folder / "paint.seg.nrrd"

    return write


def napari(dtype):
    def write(_, paint, folder):
        tifffile.imwrite(folder / "paint.tif", paint.T.astype(dtype), compression="zlib")
        return folder / "paint.tif"

    return write


def fiji(dtype, unit):
    """With a colour table in 8 bits; with the voxel size of the image if it has a unit."""

    def write(image, paint, folder):
        x, y, z = read_volume(image).spacing
        metadata = {"axes": "ZYX", "min": 0.0, "max": 2.0} | ({"unit": unit} if unit else {})
        if dtype == np.uint8:
            metadata["LUTs"] = [np.random.default_rng(0).integers(0, 255, (3, 256)).astype(np.uint8)]
        if unit == "image":
            metadata |= {"spacing": z, "unit": read_volume(image).unit or "pixel"}
        tifffile.imwrite(folder / "paint.tif", paint.T.astype(dtype), imagej=True, metadata=metadata,
                         resolution=(1 / x, 1 / y) if unit == "image" else None)  # fmt: skip
        return folder / "paint.tif"

    return write


LARGER = ((-2, 11), (0, 8), (-1, 9))
PROGRAMS = {
    "ITK-SNAP .nii.gz": itk_snap(".nii.gz"),
    "ITK-SNAP .nrrd": itk_snap(".nrrd"),
    "ITK-SNAP .mha": itk_snap(".mha"),
    "Slicer, whole": slicer(tuple((0, n) for n in SIZE)),
    "Slicer, cropped": slicer(),
    "Slicer, cropped, old": slicer(offset=False),
    "Slicer, larger": slicer(LARGER),
    "Slicer, larger in one direction, cropped in another": slicer(((-2, 11), (1, 7), (3, 6))),
    "napari uint32": napari(np.uint32),
    "napari int64": napari(np.int64),
    "Fiji 8 bit with colours": fiji(np.uint8, "image"),
    "Fiji 16 bit": fiji(np.uint16, "pixel"),
    "Fiji without a unit": fiji(np.uint8, ""),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_paint_lies_where_it_was_painted(program, image_path, paint, tmp_path, caplog):
    path = PROGRAMS[program](image_path, paint, tmp_path)
    image = read_volume(image_path)
    with caplog.at_level(logging.INFO):
        label = check_alignment(image, read_volume(path, labels=True))
    np.testing.assert_array_equal(label.array[0], paint)
    same_grid = image_path.name in NIFTIS and program.startswith(("ITK", "Slicer, whole"))
    said = any(words in caplog.text for words in ("voxel by voxel", "put in its place", "taken to agree"))
    assert said or same_grid or np.allclose(image.affine, label.affine)
    if program.startswith("Slicer"):
        assert [segment.name for segment in segments_of(label)] == ["wall", "lumen"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_part_that_itk_cut_out_goes_to_its_place(suffix, paint, tmp_path, caplog):
    """A label map exported cropped, over a TIFF."""
    plain(tmp_path / "image.tif")
    part = drawn_in_itk(tmp_path / "image.tif", paint)[tuple(slice(*ends) for ends in BOX)]
    sitk.WriteImage(part, str(tmp_path / f"part{suffix}"))
    image, label = read_volume(tmp_path / "image.tif"), read_volume(tmp_path / f"part{suffix}", labels=True)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(check_alignment(image, label).array[0], paint)
    assert "covers a part of it, from voxel (2, 1, 3) on (counted from 0)" in caplog.text
    filled = check_alignment(image, label, fill=9).array[0]
    inside = np.zeros(SIZE, bool)
    inside[tuple(slice(*ends) for ends in BOX)] = True
    np.testing.assert_array_equal(filled, np.where(inside, paint, 9))


@pytest.mark.usefixtures("clean_process")
@pytest.mark.parametrize("name", ["plain.tif", "oblique.nii.gz"])
def test_the_command_that_a_refusal_names_works(name, paint, tmp_path, capsys):
    """The part begins at the first voxel, so that it could belong to another image."""
    (TIFFS | NIFTIS)[name](tmp_path / name)
    paint[0, 0, 0] = 2
    part = drawn_in_itk(tmp_path / name, paint)[0:6, 0:7, 0:6]
    sitk.WriteImage(part, str(tmp_path / "part.nrrd"))
    image, paths = read_volume(tmp_path / name), [str(tmp_path / n) for n in (name, "part.nrrd", "new.nrrd")]
    with pytest.raises(
        InputError, match="9 x 8 x 7 voxels, the label .* 6 x 7 x 6.*'volseg convert .* --like "
    ):
        check_alignment(image, read_volume(paths[1], labels=True))
    assert main(["convert", paths[1], "--like", paths[0], "-o", paths[2]]) == 0
    capsys.readouterr()
    np.testing.assert_array_equal(check_alignment(image, read_volume(paths[2], labels=True)).array[0], paint)


def test_paint_beyond_the_image_is_refused_with_the_voxel(paint, tmp_path, image_path):
    label = sitk.ConstantPad(drawn_in_itk(image_path, paint), [2, 0, 0], [0, 0, 0], 1)
    label.SetMetaData("Segment0_Name", "wall")
    label.SetMetaData("Segment0_LabelValue", "1")
    sitk.WriteImage(label, str(tmp_path / "paint.seg.nrrd"))
    image, found = read_volume(image_path), read_volume(tmp_path / "paint.seg.nrrd", labels=True)
    with pytest.raises(
        InputError, match=r"112 painted voxel\(s\) .* beyond .* at voxel \(0, 0, 0\) of the label"
    ):
        check_alignment(image, found)
    with pytest.raises(InputError, match="lie beyond the image"):
        put_onto(image, found)


def test_a_finer_grid_is_refused(paint, tmp_path):
    """Slicer's segmentation geometry, oversampled by two: its voxels are not those of the image."""
    plain(tmp_path / "image.tif")
    fine = np.kron(paint, np.ones((2, 2, 2), np.uint8))
    label = sitk.GetImageFromArray(fine.T)
    label.SetSpacing((0.5, 0.5, 0.5))
    label.SetOrigin((-0.25, -0.25, -0.25))
    sitk.WriteImage(label, str(tmp_path / "a.nrrd"))
    with pytest.raises(InputError, match="lie between those of the image.* export the label again"):
        check_alignment(read_volume(tmp_path / "image.tif"), read_volume(tmp_path / "a.nrrd", labels=True))
    label.SetOrigin((1.0, 1.0, 1.0))
    sitk.WriteImage(label[2:8, 2:8, 2:8], str(tmp_path / "b.nrrd"))
    with pytest.raises(InputError, match="Its voxels are 0.5 x 0.5 x 0.5, the image's 1 x 1 x 1"):
        check_alignment(read_volume(tmp_path / "image.tif"), read_volume(tmp_path / "b.nrrd", labels=True))


def test_a_centred_volume_is_taken_by_the_offset_that_slicer_writes(paint, tmp_path):
    """Loaded with "Center volume", an image lies anywhere; the offset of the crop is in voxels."""
    imagej(tmp_path / "image.tif")
    path = slicer()(tmp_path / "image.tif", paint, tmp_path)
    moved = sitk.ReadImage(str(path))
    moved.SetOrigin([a + 3.7 for a in moved.GetOrigin()])
    sitk.WriteImage(moved, str(path))
    image = read_volume(tmp_path / "image.tif")
    np.testing.assert_array_equal(check_alignment(image, read_volume(path, labels=True)).array[0], paint)
    whole = drawn_in_itk(tmp_path / "image.tif", paint)
    whole.SetOrigin((-4.5, -4.0, -3.5))
    sitk.WriteImage(whole, str(tmp_path / "whole.nrrd"))
    label = check_alignment(image, read_volume(tmp_path / "whole.nrrd", labels=True))
    np.testing.assert_array_equal(label.array[0], paint)


def test_one_painted_slice_cropped_is_no_image(paint, tmp_path):
    plain(tmp_path / "image.tif")
    paint[..., 4] = 1
    paint[..., [0, 1, 2, 3, 5, 6]] = 0
    path = slicer(((0, 9), (0, 8), (4, 5)))(tmp_path / "image.tif", paint, tmp_path)
    label = check_alignment(read_volume(tmp_path / "image.tif"), read_volume(path, labels=True))
    np.testing.assert_array_equal(label.array[0], paint)


@pytest.mark.parametrize(
    "spacing", [(0.5, 0.5, 2.0), (0.0005, 0.0005, 0.002), (1, 1, 1), (0.0847, 0.0847, 1)]
)
def test_voxel_sizes_may_be_the_images_own_or_those_that_itk_takes(spacing, paint, tmp_path):
    imagej(tmp_path / "image.tif")
    path = slicer(offset=False, spacing=spacing)(tmp_path / "image.tif", paint, tmp_path)
    image, label = read_volume(tmp_path / "image.tif"), read_volume(path, labels=True)
    np.testing.assert_array_equal(check_alignment(image, label).array[0], paint)


def test_a_flat_picture_takes_the_slice_that_itk_snap_makes_of_it(tmp_path):
    picture = grey((9, 8))
    write_volume(tmp_path / "image.png", picture, Volume(picture[None], np.eye(3)))
    drawn = (picture > 100).astype(np.uint8)
    for suffix, flat in itertools.product((".nii.gz", ".nrrd", ".mha"), (True, False)):
        label = sitk.GetImageFromArray(drawn.T if flat else drawn.T[None])
        sitk.WriteImage(label, str(tmp_path / f"paint{suffix}"))
        found = check_alignment(
            read_volume(tmp_path / "image.png"), read_volume(tmp_path / f"paint{suffix}", labels=True)
        )
        np.testing.assert_array_equal(found.array[0], drawn)


# --- several channels: ITK sees a slice for each page


@pytest.fixture(params=["stack.tif", "stack.ome.tif"])
def stack(request, tmp_path):
    channels = np.random.default_rng(0).integers(0, 255, (3, *SIZE)).astype(np.uint8)
    path = tmp_path / request.param
    write_volume(path, channels, Volume(channels, np.diag([0.5, 0.5, 2, 1]), "um"))
    return path


def test_paint_on_pages_is_put_together(stack, paint, tmp_path, caplog):
    seen = sitk.ReadImage(str(stack))
    pages = sitk.GetArrayFromImage(seen)  # which page shows what is found by looking, not by a rule
    image = read_volume(stack)
    label = np.zeros(pages.shape, np.uint8)
    for z in range(SIZE[2]):
        channel = z % 3
        (page,) = [
            i for i, plane in enumerate(pages) if np.array_equal(plane.T, image.array[channel, ..., z])
        ]
        label[page] = paint[..., z].T
    drawn = sitk.GetImageFromArray(label)
    drawn.CopyInformation(seen)
    sitk.WriteImage(drawn, str(tmp_path / "paint.nii.gz"))
    with caplog.at_level(logging.INFO):
        found = check_alignment(image, read_volume(tmp_path / "paint.nii.gz", labels=True))
    np.testing.assert_array_equal(found.array[0], paint)
    assert "has a slice for each of the 3 channels" in caplog.text
    whole = read_volume(tmp_path / "paint.nii.gz", labels=True)
    whole.array[...] = np.arange(1, 1 + whole.array.shape[-1])
    with pytest.raises(InputError, match=r"contradict each other at voxel \(0, 0, 0\)"):
        check_alignment(image, whole)


def test_a_crop_of_pages_is_asked_about(stack, paint, tmp_path):
    label = drawn_in_itk(stack, np.repeat(paint, 3, axis=2))[2:6, 1:7, 6:15]
    sitk.WriteImage(label, str(tmp_path / "paint.nrrd"))
    with pytest.raises(InputError, match="whose pages ITK takes for slices.* Save the label uncropped"):
        check_alignment(read_volume(stack), read_volume(tmp_path / "paint.nrrd", labels=True))


# --- what stays refused


def test_another_size_without_a_position_is_refused(paint, tmp_path):
    plain(tmp_path / "image.tif")
    image = read_volume(tmp_path / "image.tif")
    for array, why in ((paint[:, :6], "no position, either"), (paint.T, "--axes XYZ")):
        tifffile.imwrite(tmp_path / "paint.tif", np.ascontiguousarray(array.T), metadata={"axes": "ZYX"})
        with pytest.raises(InputError, match=why):
            check_alignment(image, read_volume(tmp_path / "paint.tif", labels=True))


def test_an_image_with_a_position_is_still_compared_with_it(paint, tmp_path):
    oblique(tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(paint, np.eye(4)), tmp_path / "paint.nii.gz")
    with pytest.raises(InputError, match="corners lie up to"):
        check_alignment(
            read_volume(tmp_path / "image.nii.gz"), read_volume(tmp_path / "paint.nii.gz", labels=True)
        )


@pytest.mark.parametrize("name", ["imagej.tif", "patient.nii.gz"])
def test_two_files_that_name_other_voxel_sizes_are_refused(name, paint, tmp_path):
    (TIFFS | NIFTIS)[name](tmp_path / name)
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite(tmp_path / "paint.tif", paint.T, imagej=True, resolution=(2, 3), metadata=metadata)
    with pytest.raises(InputError, match="corners lie up to"):
        check_alignment(read_volume(tmp_path / name), read_volume(tmp_path / "paint.tif", labels=True))


def test_a_label_of_unknown_direction_is_taken_by_its_voxels_with_a_warning(paint, tmp_path, caplog):
    plain(tmp_path / "image.tif")
    oblique(tmp_path / "oblique.nii.gz")
    sitk.WriteImage(drawn_in_itk(tmp_path / "oblique.nii.gz", paint), str(tmp_path / "paint.nii.gz"))
    label = check_alignment(
        read_volume(tmp_path / "image.tif"), read_volume(tmp_path / "paint.nii.gz", labels=True)
    )
    np.testing.assert_array_equal(label.array[0], paint)
    assert [record.levelname for record in caplog.records if "not mirrored" in record.message] == ["WARNING"]


def test_a_label_stored_backwards_in_itks_world_is_turned(paint, tmp_path, caplog):
    """Saved by a program that writes all its files from right to left, with their position."""
    plain(tmp_path / "image.tif")
    flipped = sitk.Flip(drawn_in_itk(tmp_path / "image.tif", paint), [True, False, True])
    sitk.WriteImage(flipped, str(tmp_path / "paint.nrrd"))
    label = check_alignment(
        read_volume(tmp_path / "image.tif"), read_volume(tmp_path / "paint.nrrd", labels=True)
    )
    np.testing.assert_array_equal(label.array[0], paint)
    assert "in another orientation" in caplog.text


# --- back again


@pytest.mark.parametrize("program", ["Slicer, cropped", "Slicer, whole", "Slicer, larger"])
@pytest.mark.parametrize("name", ["imagej.tif", "plain.tif", "oblique.nii.gz"])
def test_what_is_written_like_the_paint_opens_in_slicer_over_the_image(name, program, paint, tmp_path):
    (TIFFS | NIFTIS)[name](tmp_path / name)
    path = PROGRAMS[program](tmp_path / name, paint, tmp_path)
    label = check_alignment(read_volume(tmp_path / name), read_volume(path, labels=True))
    write_volume(tmp_path / "result.seg.nrrd", label.array, with_segments(label, segments_of(label)))
    seen, result = sitk.ReadImage(str(tmp_path / name)), sitk.ReadImage(str(tmp_path / "result.seg.nrrd"))
    assert result.GetSize() == seen.GetSize()
    np.testing.assert_allclose(result.GetOrigin(), seen.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(result.GetSpacing(), seen.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(result.GetDirection(), seen.GetDirection(), atol=1e-6)
