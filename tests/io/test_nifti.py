"""NIfTI: read as stored, written so that it opens over the source, damage never passed on."""

import gzip
import io
import logging

import nibabel as nib
import numpy as np
import pytest

from volseg.errors import InputError, ResourceError, VolsegError
from volseg.io import Volume, files, read_volume, write_volume

AFFINE = np.array([[0.0, 0, 2.5, -10], [-0.8, 0, 0, 20], [0, 0.8, 0, -30], [0, 0, 0, 1]])  # PSR, anisotropic


def save(path, array, affine=AFFINE, edit=None, kind=nib.Nifti1Image):
    """Write with nibabel; ``edit`` changes header fields in the file's bytes afterwards."""
    image = kind(array, affine[:4, :4])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    if edit:
        change(path, **edit)
    return path


def change(path, **fields):
    """Change header fields without letting nibabel put them right."""
    zipped = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    header = nib.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        index = ...
        if isinstance(value, tuple):
            index, value = value
        header[name][index] = value
    data = header.binaryblock + data[348:]
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)


@pytest.fixture(params=["a.nii", "a.nii.gz"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.fixture(params=[(5, 4), (5, 4, 6)], ids=["2d", "3d"])
def array(request):
    return np.random.default_rng(0).integers(-300, 300, request.param).astype(np.int16)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", ">f4", "<f8"]
)
def test_voxels_come_back_as_stored(path, array, dtype):
    stored = (array % 100).astype(dtype)
    image = nib.Nifti1Image(stored, AFFINE, dtype=dtype)
    image.to_filename(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], stored)
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.array.flags.c_contiguous
    assert volume.array.flags.writeable
    assert volume.array.dtype.isnative


def test_affine_spacing_and_unit(path, array):
    volume = read_volume(save(path, array))
    assert volume.spacing == pytest.approx((0.8, 0.8, 2.5)[: array.ndim])
    assert volume.unit == "mm"
    assert volume.path == path
    assert (volume.spatial_dims, volume.spatial_shape, volume.channels) == (array.ndim, array.shape, 1)
    if array.ndim == 3:
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


def test_big_volumes_are_transposed_right(tmp_path):
    array = np.random.default_rng(0).standard_normal((67, 70, 71)).astype(np.float32)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.nii", array)).array[0], array)


def test_nifti2_is_read(tmp_path, array):
    volume = read_volume(save(tmp_path / "a.nii.gz", array, kind=nib.Nifti2Image))
    np.testing.assert_array_equal(volume.array[0], array)
    write_volume(tmp_path / "b.nii.gz", array, like=volume)
    assert isinstance(nib.load(tmp_path / "b.nii.gz"), nib.Nifti2Image)


def test_one_slice_is_a_2d_image(path):
    volume = read_volume(save(path, np.zeros((5, 4, 1), np.uint8)))
    assert volume.array.shape == (1, 5, 4)
    write_volume(path, volume.array, like=volume, overwrite=True)
    assert nib.load(path).shape == (5, 4, 1)  # the file keeps its form


def test_one_slice_is_a_volume_on_request(path):
    volume = read_volume(save(path, np.zeros((5, 4, 1), np.uint8)), axes="xyz")
    assert volume.array.shape == (1, 5, 4, 1)
    assert read_volume(save(path, np.zeros((5, 4), np.uint8)), axes="XYZ").array.shape == (1, 5, 4, 1)


def test_a_plane_keeps_its_voxel_size_however_it_lies(tmp_path):
    """A label stored transposed and flipped in an oblique plane has the same corners as its image."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation * [0.5, 2.0, 1.0]
    affine[:3, 3] = 7, 8, 9
    image = np.arange(20, dtype=np.int16).reshape(5, 4)
    turn = np.array([[0, -1, 0, 4], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # index of label -> of image
    first = read_volume(save(tmp_path / "a.nii", image, affine))
    second = read_volume(save(tmp_path / "b.nii", image[::-1].T.copy(), affine @ turn))
    assert first.spacing == pytest.approx((0.5, 2.0))
    np.testing.assert_allclose(first.affine @ [0, 3, 1], second.affine @ [3, 4, 1], atol=1e-4)


def test_a_fourth_axis_has_to_be_named(path):
    array = np.random.default_rng(0).integers(0, 9, (5, 4, 6, 2)).astype(np.uint8)
    save(path, array)
    with pytest.raises(InputError, match="has 4 axes .5 x 4 x 6 x 2.*pass axes='XYZC'"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, axes="XYZC").array, np.moveaxis(array, -1, 0))


def test_three_axes_can_be_a_2d_image_with_channels(path):
    array = np.random.default_rng(0).integers(0, 9, (5, 4, 3)).astype(np.uint8)
    volume = read_volume(save(path, array), axes="XYC")
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, -1, 0))
    write_volume(path, volume.array[0], like=volume, overwrite=True)
    assert nib.load(path).shape == (5, 4)


@pytest.mark.parametrize("axes", ["ZYX", "XYT", "XCY", "X", "XYCZ"])
def test_impossible_axes_are_refused(path, array, axes):
    save(path, array)
    with pytest.raises(ValueError, match=f"axes='{axes}' cannot be those of a NIfTI file"):
        read_volume(path, axes=axes)


def test_axes_must_cover_the_file(path):
    save(path, np.zeros((5, 4, 6), np.uint8))
    with pytest.raises(InputError, match="has 3 axes .5 x 4 x 6., but axes='XY' names 2"):
        read_volume(path, axes="XY")


def test_colours_become_channels(tmp_path, array):
    rgb = np.random.default_rng(0).integers(0, 255, (*array.shape, 3)).astype(np.uint8)
    stored = np.ascontiguousarray(rgb).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nib.Nifti1Image(stored, AFFINE).to_filename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, np.moveaxis(rgb, -1, 0))


def test_scaling_applies_to_images_and_is_refused_on_labels(path, array):
    save(path, array, edit={"scl_slope": 0.5, "scl_inter": 3})
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], array * 0.5 + 3)
    with pytest.raises(InputError, match="scales the stored numbers .scl_slope 0.5, scl_inter 3"):
        read_volume(path, labels=True)


def test_a_label_over_a_scaled_image_is_not_scaled(path, array):
    volume = read_volume(save(path, array, edit={"scl_slope": 0.5, "scl_inter": 3}))
    write_volume(path, array, like=volume, overwrite=True)
    np.testing.assert_array_equal(read_volume(path, labels=True).array[0], array)


def test_slope_zero_means_no_scaling(path, array):
    save(path, array, edit={"scl_slope": 0, "scl_inter": 5})
    np.testing.assert_array_equal(read_volume(path, labels=True).array[0], array)


def test_scaling_by_nonsense_is_refused(path, array):
    save(path, array, edit={"scl_slope": 2, "scl_inter": np.nan})
    with pytest.raises(InputError, match="scl_inter is nan"):
        read_volume(path)


def test_large_label_numbers_survive(path):
    labels = np.array([[[2**24 + 1, 0], [1, 2]]], np.int32)
    assert read_volume(save(path, labels), labels=True).array[0, 0, 0, 0] == 2**24 + 1


# ---------------------------------------------------------------- writing


GEOMETRY = [
    "dim_info", "pixdim", "slice_start", "slice_end", "slice_code", "xyzt_units", "slice_duration", "toffset",
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_the_header_comes_back_field_for_field(tmp_path, seed):
    """Random codes, units, byte orders and differing, sheared transforms."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 9, rng.integers(1, 7, 3) + [0, 0, 1]).astype(np.int16)
    header = nib.Nifti1Header(endianness="<>"[seed % 2])
    image = nib.Nifti1Image(array, None, header)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    image.set_qform(nib.affines.from_matvec(rotation * rng.uniform(0.1, 9, 3), rng.uniform(-99, 99, 3)))
    image.set_sform(nib.affines.from_matvec(rng.standard_normal((3, 3)), rng.uniform(-99, 99, 3)))
    image.header["qform_code"], image.header["sform_code"] = rng.integers(0, 5, 2)
    image.header["xyzt_units"] = int(rng.choice([0, 1, 2, 3, 10, 18]))
    image.header["toffset"], image.header["slice_code"], image.header["dim_info"] = 1.5, 2, 27
    image.header["descrip"], image.header["aux_file"] = b"Erika Mustermann", b"patient 17"
    nib.Nifti1Image.to_filename(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    segmentation = rng.integers(0, 3, array.shape).astype(np.uint8)
    write_volume(tmp_path / "b.nii.gz", segmentation, like=volume)
    one, two = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    for name in GEOMETRY:
        np.testing.assert_array_equal(one.header[name], two.header[name], err_msg=name)
    np.testing.assert_array_equal(one.affine, two.affine)
    np.testing.assert_array_equal(np.asarray(two.dataobj), segmentation)
    assert two.get_data_dtype() == np.uint8
    assert b"Mustermann" not in two.header.binaryblock
    assert b"patient" not in two.header.binaryblock
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").affine, volume.affine)


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<u2", "<i4", "<i8", "<f4", "<f8"])
def test_written_voxels_keep_their_type(path, array, dtype):
    volume = read_volume(save(path, array))
    write_volume(path, array.astype(dtype), like=volume, overwrite=True)
    assert nib.load(path).get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(read_volume(path).array[0], array.astype(dtype))


def test_channels_are_written_as_the_standards_vector(path, array):
    volume = read_volume(save(path, array))
    probabilities = np.random.default_rng(0).random((3, *array.shape)).astype(np.float32)
    write_volume(path, probabilities, like=volume, overwrite=True)
    stored = nib.load(path)
    assert stored.shape == (*array.shape, *(1,) * (4 - array.ndim), 3)
    assert stored.header["intent_code"] == 1007
    np.testing.assert_array_equal(read_volume(path).array, probabilities)


def test_no_type_of_nifti_is_a_plain_value_error(path, array):
    volume = read_volume(save(path, array))
    with pytest.raises(ValueError, match="NIfTI cannot hold <U1 voxels"):
        write_volume(path, np.full(array.shape, "a"), like=volume, overwrite=True)


def test_bool_and_half_are_stored_without_loss(path, array):
    volume = read_volume(save(path, array))
    write_volume(path, array > 0, like=volume, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).array[0], array > 0)
    write_volume(path, array.astype(np.float16), like=volume, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).array[0], array)


def test_an_axis_longer_than_int16_becomes_nifti2(tmp_path):
    like = Volume(np.zeros((1, 40_000, 2), np.uint8), np.diag([2.0, 3, 1]), "um")
    write_volume(tmp_path / "a.nii.gz", like.array, like=like)
    back = read_volume(tmp_path / "a.nii.gz")
    assert back.array.shape == like.array.shape
    assert (back.spacing, back.unit) == ((2.0, 3.0), "um")


def test_a_volume_without_header_gets_its_affine(path):
    sheared = np.array([[1, 0.3, 0, 5], [0, 2, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    for affine in (AFFINE, sheared):
        like = Volume(np.zeros((1, 5, 4, 6), np.uint8), affine, "mm")
        write_volume(path, like.array, like=like, overwrite=True)
        np.testing.assert_allclose(read_volume(path).affine, affine, atol=1e-5)
        assert int(nib.load(path).header["qform_code"]) == (affine is AFFINE)


def test_same_voxels_same_bytes(tmp_path, array):
    volume = read_volume(save(tmp_path / "a.nii.gz", array))
    for name in ("b.nii.gz", "c.nii.gz"):
        write_volume(tmp_path / name, array, like=volume)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


def test_what_does_not_read_back_is_not_kept(tmp_path, array, monkeypatch):
    volume = read_volume(save(tmp_path / "a.nii.gz", array))
    broken = files._FORMATS[0]._replace(write=lambda path, a, like: files.nifti.write(path, a + 1, like))
    monkeypatch.setattr(files, "_FORMATS", (broken,))
    with pytest.raises(ResourceError, match="reading it back gave other voxels"):
        write_volume(tmp_path / "b.nii.gz", array, like=volume)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


# ---------------------------------------------------------------- damage


def outcome(path, truth):
    """``"same"`` or ``"error"``; anything else is a fault of ours."""
    try:
        volume = read_volume(path)
    except VolsegError as error:
        return "error" if path.name in str(error) else f"no file named in {error}"
    return (
        "same"
        if np.array_equal(volume.array, truth.array) and (volume.affine == truth.affine).all()
        else "other"
    )


def test_no_cut_passes_silently(path):
    array = np.random.default_rng(0).integers(0, 500, (16, 15, 14)).astype(np.int16)
    truth = read_volume(save(path, array))
    whole = path.read_bytes()
    for i in range(49):
        path.write_bytes(whole[: len(whole) * i // 49])
        assert outcome(path, truth) == "error", i
    for missing in range(1, 9):  # the gzip trailer, or the last voxels
        path.write_bytes(whole[:-missing])
        assert outcome(path, truth) == "error", missing


@pytest.mark.parametrize("rounds", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stored", [False, True], ids=["deflated", "stored"])
def test_no_flipped_bit_of_a_gzip_file_changes_a_voxel(tmp_path, stored, rounds):
    array = np.random.default_rng(0).integers(0, 500, (9, 8, 7)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", array)
    if stored:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    truth, whole = read_volume(path), path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(rounds):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        assert outcome(path, truth) in ("same", "error")


@pytest.mark.parametrize("rounds", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damaged_header_crashes(tmp_path, caplog, rounds):
    """Without a checksum other values may pass; a crash, a hang or a foreign exception may not."""
    caplog.set_level(logging.CRITICAL)
    array = np.zeros((9, 8, 7), np.int16)
    path = save(tmp_path / "a.nii", array)
    truth, whole = read_volume(path), path.read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(rounds):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(352)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        outcome(path, truth)


def test_several_gzip_members_and_padding_are_one_stream(tmp_path, array):
    path = save(tmp_path / "a.nii.gz", array)
    truth, data = read_volume(path), gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:400]) + gzip.compress(data[400:]) + b"\0" * 100)
    assert outcome(path, truth) == "same"
    path.write_bytes(gzip.compress(data) + b"garbage")
    assert outcome(path, truth) == "error"


def test_a_large_gzip_file_takes_the_streaming_way(tmp_path, array, monkeypatch):
    monkeypatch.setattr("volseg.io.stored._SMALL", 100)
    path = save(tmp_path / "a.nii.gz", array)
    np.testing.assert_array_equal(read_volume(path).array[0], array)
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match="checksum of the gzip data is wrong"):
        read_volume(path)


def test_damage_is_named(tmp_path):
    array = np.random.default_rng(0).integers(0, 500, (16, 15, 14)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", array)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="a.nii.gz: the gzip stream ends early .*gzip -t"):
        read_volume(path)
    path.write_bytes(whole[:40] + bytes(60) + whole[100:])
    with pytest.raises(InputError, match="gzip data are damaged"):
        read_volume(path)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-10]))
    with pytest.raises(
        InputError, match="7072 bytes for 16 x 15 x 14 voxels, but there are 7062 after unpacking"
    ):
        read_volume(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "needs .* bytes for 32767 x 32767 x 32767 voxels"),
        ({"dim": (1, -5)}, r"dim\[1\] = -5 .* holds no voxel"),
        ({"dim": (2, 0)}, r"dim\[2\] = 0 .* holds no voxel"),
        ({"dim": (0, 9)}, r"dim\[0\] = 9 .* 1 to 7 axes"),
        ({"vox_offset": 1e7}, "the header needs 1000"),
        ({"vox_offset": 20}, "vox_offset = 20.0 .* lies within the header"),
        ({"vox_offset": np.nan}, "vox_offset = nan"),
        ({"datatype": 77}, "datatype = 77 in the header is unknown"),
        ({"datatype": 32, "dim": (1, 2)}, "complex64 voxels are not supported"),
        ({"magic": b"n+7"}, "magic field is b'n.7"),
        ({"magic": b"ni1"}, "half of a .hdr/.img pair"),
        ({"sizeof_hdr": 100}, "not a NIfTI file .sizeof_hdr is neither 348 nor 540"),
        ({"srow_x": np.nan}, "affine holds NaN or infinity"),
        ({"srow_x": 0, "srow_y": (2, 3)}, "singular: two axes point the same way"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": (1, 0)}, "voxel size along x is 0"),
        ({"sform_code": 0, "qform_code": 1, "pixdim": (1, -1)}, "position cannot be worked out"),
    ],
)
def test_a_wrong_header_field_is_named(path, fields, message):
    save(path, np.zeros((5, 4, 6), np.int16), edit=fields)
    with pytest.raises(InputError, match=message):
        read_volume(path)


def test_an_empty_file_and_a_cut_header_are_named(path):
    path.write_bytes(b"")
    with pytest.raises(InputError, match="the file is empty"):
        read_volume(path)
    path.write_bytes(bytes([92, 1, 0, 0, 0, 0]))
    with pytest.raises(InputError, match="ends within its header of 348 bytes"):
        read_volume(path)


@pytest.mark.parametrize("wrong", ["plain as gz", "gz as plain"])
def test_a_wrong_suffix_is_said_and_read(tmp_path, array, caplog, wrong):
    buffer = io.BytesIO(nib.Nifti1Image(array, AFFINE).to_bytes()).getvalue()
    path = tmp_path / ("a.nii.gz" if wrong == "plain as gz" else "a.nii")
    path.write_bytes(buffer if wrong == "plain as gz" else gzip.compress(buffer))
    np.testing.assert_array_equal(read_volume(path).array[0], array)
    assert "read as what it is" in caplog.text


def test_differing_transforms_are_said(path, array, caplog):
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 2)
    image.to_filename(path)
    read_volume(path)
    assert not caplog.records
    image.set_qform(AFFINE @ np.diag([-1, -1, 1, 1.0]), 1)
    image.to_filename(path)
    read_volume(path)
    assert "sform and qform differ by up to" in caplog.text


def test_an_unreadable_qform_beside_an_sform_does_no_harm(path):
    save(path, np.zeros((5, 4, 6), np.int16), edit={"qform_code": 1, "quatern_b": 5})
    np.testing.assert_allclose(read_volume(path).affine, AFFINE, atol=1e-6)


def test_a_file_without_orientation_is_said(path, array, caplog):
    save(path, array, edit={"sform_code": 0, "qform_code": 0})
    read_volume(path)
    assert "stores no orientation" in caplog.text


def test_what_was_said_of_the_source_is_not_said_again_of_what_is_written(path, array, tmp_path, caplog):
    """A result has the header of its image, and is read back."""
    save(path, array, edit={"sform_code": 0, "qform_code": 0})
    source = read_volume(path)
    caplog.clear()
    write_volume(tmp_path / "out.nii", source.array[0], source)
    assert not caplog.records
    read_volume(tmp_path / "out.nii")
    assert "stores no orientation" in caplog.text


# ---------------------------------------------------------------- real files


def test_real_files_equal_nibabel_and_are_written_back(shared_data, tmp_path):
    paths = sorted((shared_data / "msd_hippocampus_3d" / "labelsTr").glob("*.nii.gz"))[:5]
    paths += sorted((shared_data / "msd_hippocampus_3d" / "imagesTr").glob("*.nii.gz"))[:5]
    paths += sorted((shared_data / "med_single_cases_3d").glob("spine_t2/*.nii.gz"))
    for path in paths:
        truth = nib.load(path)
        volume = read_volume(path, labels="label" in str(path))
        np.testing.assert_array_equal(volume.array[0], np.asanyarray(truth.dataobj))
        np.testing.assert_array_equal(volume.affine, truth.affine)
        write_volume(tmp_path / "out.nii.gz", volume.array, like=volume, overwrite=True)
        back = nib.load(tmp_path / "out.nii.gz")
        for name in GEOMETRY:
            np.testing.assert_array_equal(
                back.header[name], truth.header[name], err_msg=f"{path.name} {name}"
            )
