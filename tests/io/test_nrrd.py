"""NRRD and MetaImage: SimpleITK is the second opinion on what a file holds and on what we write."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - what everybody calls it

from volseg.errors import InputError, RefusedError
from volseg.io import Volume, check_alignment, read_volume, write_volume
from volseg.io.grid import embed

FORMATS = ("nrrd", "nhdr", "mha", "mhd")
WRITTEN = ("nrrd", "mha")


@pytest.fixture(params=[(12, 10), (12, 10, 6)], ids=["2d", "3d"])
def image(request):
    """An image of SimpleITK's, anisotropic, turned and off the origin."""
    rng = np.random.default_rng(0)
    dims = len(request.param)
    image = sitk.GetImageFromArray(rng.integers(-9, 999, request.param[::-1]).astype(np.int16))
    image.SetSpacing((0.5, 0.7, 2.0)[:dims])
    image.SetOrigin((3.0, -4.5, 5.0)[:dims])
    image.SetDirection(np.linalg.qr(rng.standard_normal((dims, dims)))[0].ravel().tolist())
    return image


def ras_affine(image):
    """What SimpleITK says, from left-posterior-superior to right-anterior-superior."""
    dims = image.GetDimension()
    signs = np.array([-1, -1, 1][:dims])
    affine = np.eye(dims + 1)
    direction = np.reshape(image.GetDirection(), (dims, dims))
    affine[:-1, :-1] = signs[:, None] * direction * image.GetSpacing()
    affine[:-1, -1] = signs * image.GetOrigin()
    return affine


def voxels(image):
    """``(C, X, Y[, Z])`` of an image of SimpleITK's."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    return array.transpose(*range(array.ndim)[::-1])


def save(path, image, compressed=False):
    sitk.WriteImage(image, str(path), compressed)
    return path


def edit(path, old, new):
    """Change the text of a header, which must be there."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "packed"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_voxels_and_place_are_those_that_simpleitk_reads(tmp_path, image, suffix, compressed):
    volume = read_volume(save(tmp_path / f"a.{suffix}", image, compressed))
    assert volume.array.dtype == np.int16
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, voxels(image))
    np.testing.assert_allclose(volume.affine, ras_affine(image), atol=1e-12)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing())


@pytest.mark.parametrize("suffix", FORMATS)
def test_vectors_are_channels(tmp_path, image, suffix):
    colours = sitk.Compose(image, image + 1, image + 2)
    volume = read_volume(save(tmp_path / f"a.{suffix}", colours))
    np.testing.assert_array_equal(volume.array, voxels(colours))
    for out in WRITTEN:
        write_volume(tmp_path / f"o.{out}", volume.array, volume)
        np.testing.assert_array_equal(voxels(sitk.ReadImage(str(tmp_path / f"o.{out}"))), volume.array)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_every_type_is_read_and_written(tmp_path, suffix, dtype):
    array = np.random.default_rng(0).integers(0, 120, (4, 5, 6)).astype(dtype)
    write_volume(tmp_path / f"a.{suffix}", array, Volume(array[None], np.eye(4)))
    theirs = sitk.ReadImage(str(tmp_path / f"a.{suffix}"))
    assert sitk.GetArrayFromImage(theirs).dtype == np.dtype(dtype)
    np.testing.assert_array_equal(voxels(theirs)[0], array)
    back = read_volume(save(tmp_path / f"b.{suffix}", theirs))
    assert back.array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.array[0], array)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_result_opens_over_its_image(tmp_path, image, suffix):
    volume = read_volume(save(tmp_path / f"a.{suffix}", image))
    out = {"nhdr": "nrrd", "mhd": "mha"}.get(suffix, suffix)
    classes = (volume.array[0] > 99).astype(np.uint8)
    write_volume(tmp_path / f"o.{out}", classes, volume)
    theirs = sitk.ReadImage(str(tmp_path / f"o.{out}"))
    assert theirs.GetDirection() == sitk.ReadImage(str(tmp_path / f"a.{suffix}")).GetDirection()
    assert theirs.GetOrigin() == image.GetOrigin()
    assert theirs.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-15)
    assert theirs.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(voxels(theirs)[0], classes)


def test_a_header_keeps_its_own_words(tmp_path):
    """What ITK would rewrite: the space, units, centres, one word per axis."""
    lines = [
        "NRRD0005", "# a comment", "type: unsigned short", "dimension: 4", "space: right-anterior-superior",
        "sizes: 2 3 4 5", "space directions: none (1.5,0,0) (0,0.25,0) (0,0,3e-1)",
        "kinds: list domain domain domain", 'labels: "" "x" "y" "z of it"', "centerings: none cell cell node",
        "endian: big", "encoding: raw", "space origin: (1,2.50,-3)", 'space units: "um" "um" "um"',
        "content: Jane Doe", "patient:=Jane Doe",
    ]  # fmt: skip
    array = np.arange(120, dtype=">u2").reshape((2, 3, 4, 5), order="F")
    path = tmp_path / "a.nrrd"
    path.write_bytes("\r\n".join(lines).encode() + b"\r\n\r\n" + array.tobytes(order="F"))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(
        volume.affine, [[1.5, 0, 0, 1], [0, 0.25, 0, 2.5], [0, 0, 0.3, -3], [0, 0, 0, 1]]
    )
    assert volume.unit == "um"
    write_volume(tmp_path / "two.nrrd", volume.array, volume)
    write_volume(tmp_path / "one.nrrd", volume.array[0], volume)
    two, one = (
        (tmp_path / name).read_bytes().split(b"\n\n")[0].decode() for name in ("two.nrrd", "one.nrrd")
    )
    for line in (*lines[4:5], *lines[6:10], *lines[12:14]):
        assert line in two.splitlines()
    for line in (lines[4], "space directions: (1.5,0,0) (0,0.25,0) (0,0,3e-1)", 'labels: "x" "y" "z of it"',
                 "kinds: domain domain domain", lines[12], lines[13]):  # fmt: skip
        assert line in one.splitlines()
    assert "Doe" not in two + one
    again = read_volume(tmp_path / "two.nrrd")
    np.testing.assert_array_equal(again.affine, volume.affine)


def test_metaimage_keeps_its_own_words(tmp_path):
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = True",
        "Orientation = 0 1 0 1 0 0 0 0 -1", "Position = 1 2.50 -3", "CenterOfRotation = 0 0 1",
        "AnatomicalOrientation = ARS", "ElementSize = 1.5 0.250 3", "DistanceUnits = um", "DimSize = 3 4 5",
        "ElementType = MET_USHORT", "ElementDataFile = LOCAL",
    ]  # fmt: skip
    array = np.arange(60, dtype=">u2").reshape((3, 4, 5), order="F")
    path = tmp_path / "a.mha"
    path.write_bytes("\n".join(lines).encode() + b"\n" + array.tobytes(order="F"))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine[:3], [[0, -0.25, 0, -1], [-1.5, 0, 0, -2.5], [0, 0, -3, -3]])
    assert volume.unit == "um"
    write_volume(tmp_path / "o.mha", volume.array, volume)
    assert set(lines[4:10]) < set((tmp_path / "o.mha").read_bytes().split(b"LOCAL")[0].decode().splitlines())


@pytest.mark.parametrize("suffix", WRITTEN)
def test_same_voxels_same_bytes(tmp_path, image, suffix):
    volume = read_volume(save(tmp_path / f"a.{suffix}", image))
    for name in "pq":
        write_volume(tmp_path / f"{name}.{suffix}", volume.array, volume)
    assert (tmp_path / f"p.{suffix}").read_bytes() == (tmp_path / f"q.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", WRITTEN)
def test_one_slice_is_a_2d_image_unless_asked(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.arange(30, dtype=np.uint8).reshape(1, 5, 6))
    image.SetSpacing((0.5, 0.25, 9))
    path = save(tmp_path / f"a.{suffix}", image)
    flat = read_volume(path)
    assert flat.spatial_shape == (6, 5)
    np.testing.assert_allclose(flat.spacing, (0.5, 0.25))
    assert read_volume(path, axes="XYZ").spatial_shape == (6, 5, 1)
    write_volume(tmp_path / f"o.{suffix}", flat.array, flat)
    assert sitk.ReadImage(str(tmp_path / f"o.{suffix}")).GetSize() == (6, 5, 1)


@pytest.mark.parametrize("other", ["nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_a_volume_lies_in_the_same_place_in_every_format(tmp_path, image, suffix, other):
    """Two witnesses: what SimpleITK wrote in one format and nibabel or we wrote in another agree."""
    first = read_volume(save(tmp_path / f"a.{suffix}", image))
    second = read_volume(save(tmp_path / f"b.{other}", image), labels=True)
    assert check_alignment(first, second) is second
    write_volume(tmp_path / f"c.{other}", first.array, first)
    third = read_volume(tmp_path / f"c.{other}", labels=True)
    assert check_alignment(first, third) is third
    theirs = sitk.ReadImage(str(tmp_path / f"c.{other}"))
    np.testing.assert_allclose(ras_affine(theirs), ras_affine(image), atol=1e-5)
    if other == "nii.gz":
        np.testing.assert_allclose(
            nib.load(tmp_path / "c.nii.gz").affine, embed(ras_affine(image)), atol=1e-5
        )


def test_a_label_stored_the_other_way_round_is_turned(tmp_path, image):
    """RAS and LPS: a NIfTI image, its label as NRRD with all axes reversed."""
    nib.save(
        nib.Nifti1Image(voxels(image)[0].astype(np.int16), embed(ras_affine(image))), tmp_path / "a.nii.gz"
    )
    turned = sitk.Flip(image, [True, True, False][: image.GetDimension()])
    label = read_volume(save(tmp_path / "b.nrrd", turned), labels=True)
    back = check_alignment(read_volume(tmp_path / "a.nii.gz"), label)
    np.testing.assert_array_equal(back.array, voxels(image))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_no_type_is_a_plain_value_error(tmp_path, suffix):
    array = np.zeros((3, 4), complex)
    with pytest.raises(ValueError, match="cannot hold complex128 voxels: convert them"):
        write_volume(tmp_path / f"a.{suffix}", array, Volume(array[None], np.eye(3)))


@pytest.mark.parametrize("suffix", ["nhdr", "mhd", "jpg"])
def test_two_file_and_lossy_formats_are_not_written(tmp_path, suffix):
    array = np.zeros((3, 4), np.uint8)
    with pytest.raises(
        ValueError, match=f"a.{suffix} cannot be written: .{suffix} is read only.*Write a.*instead"
    ):
        write_volume(tmp_path / f"a.{suffix}", array, Volume(array[None], np.eye(3)))


# What headers can get wrong ---------------------------------------------------------------------------------

NRRD = "\n".join(
    ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 3 4 5",
     "space directions: (1,0,0) (0,1,0) (0,0,1)", "kinds: domain domain domain", "endian: little",
     "encoding: raw", "space origin: (0,0,0)", "", ""]
)  # fmt: skip
META = "\n".join(
    ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False",
     "CompressedData = False", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0",
     "ElementSpacing = 1 1 1", "DimSize = 3 4 5", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", ""]
)  # fmt: skip
TEXTS = {"nrrd": NRRD, "mha": META}

WRONG = [
    ("nrrd", "NRRD0004", "NRRD0009", "not an NRRD file"),
    ("nrrd", "type: short", "type: block", "type = 'block' in the header is unknown"),
    ("nrrd", "type: short\n", "", "no 'type'"),
    ("nrrd", "dimension: 3", "dimension: 2", "dimension = 2, but sizes has 3 numbers"),
    ("nrrd", "sizes: 3 4 5", "sizes: 3 -4 5", "are not sizes in voxels"),
    ("nrrd", "sizes: 3 4 5", "sizes: 3 0 5", "holds no voxel"),
    ("nrrd", "sizes: 3 4 5", "sizes: 32767 32767 32767", "needs 70\\d+ bytes .* holds 120"),
    ("nrrd", "endian: little", "endian: middle", "neither little nor big"),
    ("nrrd", "endian: little\n", "", "no 'endian'"),
    ("nrrd", "encoding: raw", "encoding: ascii", "encoding 'ascii' are not read"),
    ("nrrd", "encoding: raw", "encoding: gzip", "gzip data are damaged"),
    ("nrrd", "left-posterior-superior", "up-down-charm", "space = 'up-down-charm' is not known"),
    ("nrrd", "(0,0,1)", "(0,0,x)", "'x' in space directions is not a number"),
    ("nrrd", "(0,0,1)", "(0,0,nan)", "affine holds NaN"),
    ("nrrd", "(0,0,1)", "(0,0,0)", "voxel size along z is 0"),
    ("nrrd", "(0,0,1)", "(0,1,0)", "singular"),
    ("nrrd", "(0,0,1)", "(0,1)", "do not fit"),
    ("nrrd", "(0,0,1)", "(0,0,1,5)", "do not fit"),
    ("nrrd", "(0,0,1)", "(0,0,1e300)", r"voxel size along z is 1e\+300"),
    ("nrrd", "(0,0,1)", "(0,0,1e-200)", "voxel size along z is 1e-200"),
    ("nrrd", "(0,0,1)", "5", "is not a vector"),
    ("nrrd", " (0,0,1)", "", "'space directions' has 2 entries for 3 axes"),
    ("nrrd", "kinds: domain domain domain", "kinds: domain domain time", "axis of time"),
    ("nrrd", "kinds: domain domain domain", "kinds: list list domain", "does not say which are channels"),
    ("nrrd", "endian: little", "type: short", "gives 'type' twice"),
    ("nrrd", "endian: little", "endian little", "is no 'field: value'"),
    ("nrrd", "endian: little", "line skip: 3\nendian: little", "lines to skip"),
    ("nrrd", "endian: little", "byte skip: x\nendian: little", "byte skip = 'x' are not sizes"),
    ("nrrd", "endian: little", "data file: LIST\nendian: little", "several data files"),
    ("nrrd", "endian: little", "data file: a%02d.raw 0 5 1\nendian: little", "several data files"),
    ("nrrd", "endian: little", 'space units: "mm" "mm" "um"\nendian: little', "different units"),
    ("mha", "NDims = 3", "NDims = 2", "NDims = 2, but DimSize has 3 numbers"),
    ("mha", "NDims = 3\n", "", "no 'NDims'"),
    ("mha", "DimSize = 3 4 5", "DimSize = 3 0 5", "holds no voxel"),
    ("mha", "DimSize = 3 4 5", "DimSize = 32767 32767 32767", "needs 70\\d+ bytes .* holds 120"),
    ("mha", "ObjectType = Image", "ObjectType = Tube", "holds a Tube"),
    ("mha", "MET_SHORT", "MET_STRING", "ElementType = 'MET_STRING' is not read"),
    ("mha", "BinaryData = True", "BinaryData = False", "written as text"),
    ("mha", "CompressedData = False", "CompressedData = perhaps", "neither True nor False"),
    ("mha", "CompressedData = False", "CompressedData = True", "zlib data are damaged"),
    ("mha", "Offset = 0 0 0", "Offset = 0 0", "Offset has 2 numbers, but 3 are needed"),
    ("mha", "Offset = 0 0 0", "Offset = 0 0 nan", "affine holds NaN"),
    ("mha", "ElementSpacing = 1 1 1", "ElementSpacing = 1 1 0", "ElementSpacing is not positive"),
    ("mha", "ElementSpacing = 1 1 1", "ElementSpacing = 1e300 1e300 1e300", r"along x is 1e\+300"),
    ("mha", "0 0 0 1\n", "0 0 1 0\n", "singular"),
    ("mha", "Offset = 0 0 0", "NDims = 3", "gives NDims twice"),
    ("mha", "Offset = 0 0 0", "Offset 0 0 0", "cut or damaged"),
    ("mha", "ElementDataFile = LOCAL", "ElementDataFile = LIST", "several data files"),
    ("mha", "ObjectType = Image", "<html>", "not a MetaImage file"),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "old", "new", "message"), WRONG)
def test_a_wrong_header_is_named(tmp_path, suffix, old, new, message):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(TEXTS[suffix].encode() + np.arange(60, dtype="<i2").tobytes())
    read_volume(path)
    with pytest.raises(InputError, match=message):
        read_volume(edit(path, old.encode(), new.encode()))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_a_stump_is_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_volume(path)
    path.write_bytes(TEXTS[suffix][:60].encode())
    with pytest.raises(InputError, match="cut"):
        read_volume(path)
    path.write_bytes(b"NRRD0004\n\xff\xfe: x\n\n")
    with pytest.raises(InputError, match="not text|not a MetaImage"):
        read_volume(path)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_more_voxels_than_the_header_speaks_of_are_said(tmp_path, suffix, caplog):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(TEXTS[suffix].encode() + np.arange(70, dtype="<i2").tobytes())
    assert read_volume(path).array.max() == 59
    assert "more voxels than the header speaks of" in caplog.text


def test_a_fourth_axis_has_to_be_named(tmp_path):
    body = np.arange(120, dtype="<i2").tobytes()
    text = NRRD.replace("dimension: 3", "dimension: 4").replace("3 4 5", "3 4 5 2")
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("space", "kinds"))) + "\n\n"
    (tmp_path / "a.nrrd").write_bytes(text.encode() + body)
    four = META.replace("NDims = 3", "NDims = 4").replace("3 4 5", "3 4 5 2").replace("1 1 1", "1 1 1 1")
    four = four.replace("Offset = 0 0 0", "Offset = 0 0 0 0")
    four = four.replace("1 0 0 0 1 0 0 0 1", " ".join(str(int(v)) for v in np.eye(4).ravel()))
    (tmp_path / "a.mha").write_bytes(four.encode() + body)
    for path in (tmp_path / "a.nrrd", tmp_path / "a.mha"):
        with pytest.raises(InputError, match="has 4 axes .* axes="):
            read_volume(path)
        with pytest.raises(InputError, match="axes='XYZ' does not"):
            read_volume(path, axes="XYZ")
        volume = read_volume(path, axes="xyzc")
        assert volume.array.shape == (2, 3, 4, 5)
        write_volume(path.with_stem("o"), volume.array[0], volume)
        assert read_volume(path.with_stem("o")).spatial_shape == (3, 4, 5)


@pytest.mark.parametrize("skip", ["byte skip: 7", "byte skip: -1"])
def test_a_header_of_another_program_can_be_skipped(tmp_path, skip):
    (tmp_path / "a.raw").write_bytes(b"unknown" + np.arange(60, dtype="<i2").tobytes())
    (tmp_path / "a.nhdr").write_text(NRRD.replace("endian", f"{skip}\ndata file: a.raw\nendian"))
    assert read_volume(tmp_path / "a.nhdr").array.max() == 59
    meta = META.replace("LOCAL", "a.raw").replace("DimSize", f"HeaderSize = {skip.split()[-1]}\nDimSize")
    (tmp_path / "a.mhd").write_text(meta)
    assert read_volume(tmp_path / "a.mhd").array.max() == 59
    packed = NRRD.replace("encoding: raw", "encoding: gzip").replace("endian", f"{skip}\nendian")
    (tmp_path / "b.nrrd").write_bytes(packed.encode() + gzip.compress(bytes(120)))
    with pytest.raises(InputError, match="packed data are not read|are not sizes"):
        read_volume(tmp_path / "b.nrrd")


def test_a_file_without_orientation_is_said_and_lies_as_simpleitk_has_it(tmp_path, caplog):
    text = "\n".join(line for line in NRRD.splitlines() if not line.startswith("space")) + "\n\n"
    text = text.replace("kinds: domain domain domain", "kinds: domain domain domain\nspacings: 0.5 0.25 2")
    path = tmp_path / "a.nrrd"
    path.write_bytes(text.encode() + bytes(120))
    volume = read_volume(path)
    assert "stores no orientation" in caplog.text
    np.testing.assert_allclose(volume.affine, ras_affine(sitk.ReadImage(str(path))))
    label = save(tmp_path / "b.nrrd", sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkUInt8))
    assert check_alignment(volume, read_volume(label, labels=True))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.raw", "..", "sub/a.raw", "C:\\a.raw", "..\\a.raw", "link.raw", "folder"],
)
@pytest.mark.parametrize("suffix", ["nhdr", "nrrd", "mhd", "mha"])
def test_voxels_are_read_from_beside_the_header_only(tmp_path, suffix, name):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "folder").mkdir()
    for path in (tmp_path / "secret.raw", folder / "sub" / "a.raw"):
        path.write_bytes(bytes(120))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    text = (
        META.replace("LOCAL", name)
        if suffix[0] == "m"
        else NRRD.replace("endian", f"data file: {name}\nendian")
    )
    (folder / f"a.{suffix}").write_text(text)
    with pytest.raises(RefusedError, match="not opened. Put"):
        read_volume(folder / f"a.{suffix}")


def test_voxels_that_are_missing_are_named(tmp_path):
    (tmp_path / "a.mhd").write_text(META.replace("LOCAL", "a.raw"))
    with pytest.raises(InputError, match="keeps its voxels in 'a.raw', which is missing"):
        read_volume(tmp_path / "a.mhd")


def test_what_no_memory_can_hold_is_refused_before_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD.encode() + bytes(120))
    with pytest.raises(ValueError, match="asks for 1.2e-07 GB of voxels; this machine has 1e-09 GB"):
        read_volume(path)


def test_a_missing_spacing_is_that_of_x_and_said(tmp_path, caplog):
    text = "\n".join(line for line in NRRD.splitlines() if not line.startswith("space")) + "\n\n"
    for spacings, sizes in (
        ("0.5 0.5 nan", (0.5, 0.5, 0.5)),
        ("nan nan 2", (2, 2, 2)),
        ("nan nan nan", (1,) * 3),
    ):
        kinds = f"kinds: domain domain domain\nspacings: {spacings}"
        path = tmp_path / "a.nrrd"
        path.write_bytes(text.replace("kinds: domain domain domain", kinds).encode() + bytes(120))
        caplog.clear()
        assert read_volume(path).spacing == sizes
        assert ("(1 : 1)" in caplog.text) == (spacings != "nan nan nan")
    units = kinds.replace("nan nan nan", "500 500 nan") + '\nunits: "nm" "nm" "nm"'
    path.write_bytes(text.replace("kinds: domain domain domain", units).encode() + bytes(120))
    assert (read_volume(path).spacing, read_volume(path).unit) == ((0.5, 0.5, 0.5), "um")
    assert "that along x, 0.5 um, is taken" in caplog.text
