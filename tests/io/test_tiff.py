"""TIFF: axes and voxel size from the file's own words, questions instead of guesses, no cut passes."""

import logging
import struct

import numpy as np
import pytest
import tifffile

from volseg.errors import InputError, VolsegError
from volseg.io import Volume, read_volume, write_volume


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.tif"


@pytest.fixture
def stack():
    """z, y, x."""
    return np.random.default_rng(0).integers(0, 255, (6, 7, 8)).astype(np.uint8)


def imagej(path, array, axes, size=0.25, spacing=2.0, unit="um", **options):
    tifffile.imwrite(
        path, array, imagej=True, resolution=(1 / size, 1 / size),
        metadata={"axes": axes, "spacing": spacing, "unit": unit}, **options,
    )  # fmt: skip
    return path


def plain(path, array, **options):
    tifffile.imwrite(path, array, **{"photometric": "minisblack", "metadata": None} | options)
    return path


def ome(path, array, axes, **sizes):
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata={"axes": axes, **sizes})
    return path


def test_an_imagej_stack_is_x_y_z_with_its_spacing(path, stack):
    volume = read_volume(imagej(path, stack, "ZYX"))
    np.testing.assert_array_equal(volume.array[0], stack.transpose(2, 1, 0))
    np.testing.assert_allclose(volume.affine, np.diag([0.25, 0.25, 2, 1]))
    assert volume.unit == "um"
    assert volume.array.flags.c_contiguous


def test_an_image_is_2d(path, stack):
    volume = read_volume(imagej(path, stack[0], "YX"))
    np.testing.assert_array_equal(volume.array[0], stack[0].T)
    assert volume.spacing == pytest.approx((0.25, 0.25))


def test_channels_are_not_mixed_into_z(path):
    array = np.arange(6 * 2 * 7 * 8, dtype=np.uint16).reshape(6, 2, 7, 8)
    for write in (imagej, lambda p, a, axes: ome(p, a, axes)):
        np.testing.assert_array_equal(
            read_volume(write(path, array, "ZCYX")).array, array.transpose(1, 3, 2, 0)
        )


def test_ome_axes_and_sizes(tmp_path, stack):
    path = ome(tmp_path / "a.ome.tif", stack[None], "CZYX", PhysicalSizeX=250, PhysicalSizeXUnit="nm",
               PhysicalSizeY=0.25, PhysicalSizeZ=0.002, PhysicalSizeZUnit="mm")  # fmt: skip
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], stack.T)
    assert volume.spacing == pytest.approx((0.25, 0.25, 2))
    assert volume.unit == "um"


@pytest.mark.parametrize(
    ("name", "factor", "unit"),
    [
        ("nm", 1e-3, "um"),
        ("micron", 1, "um"),
        ("\\u00B5m", 1, "um"),
        ("cm", 10, "mm"),
        ("mm", 1, "mm"),
        ("pixel", 1, ""),
    ],
)
def test_units_are_brought_to_um_and_mm(path, stack, name, factor, unit):
    volume = read_volume(imagej(path, stack, "ZYX", unit=name))
    assert volume.spacing == pytest.approx((0.25 * factor, 0.25 * factor, 2 * factor))
    assert volume.unit == unit


@pytest.mark.parametrize(
    ("resolution", "unit", "spacing"),
    [((72, 72), "INCH", 1), ((300, 300), "INCH", 1), ((28.35, 28.35), "CENTIMETER", 1), ((1, 1), "NONE", 1),
     ((20000, 20000), "CENTIMETER", 0.0005), ((25400, 25400), "INCH", 0.001)],
)  # fmt: skip
def test_resolutions_of_printers_are_not_voxel_sizes(path, stack, resolution, unit, spacing):
    volume = read_volume(plain(path, stack[0], resolution=resolution, resolutionunit=unit))
    assert volume.spacing == pytest.approx((spacing, spacing))


def test_a_missing_slice_distance_is_said(path, stack, caplog):
    plain(path, stack, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    assert read_volume(path).unit == "mm"
    assert "gives no distance between slices" in caplog.text


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e100])
def test_a_voxel_size_that_can_be_none_is_refused_unless_it_is_told(path, stack, size, tmp_path):
    imagej(path, stack, "ZYX", spacing=size)
    with pytest.raises(InputError, match="voxel size .* is not positive.* spacing='X,Y,Z'"):
        read_volume(path)
    volume = read_volume(path, spacing="1,2,3um")
    assert (volume.spacing, volume.unit) == (pytest.approx((1, 2, 3)), "um")
    np.testing.assert_array_equal(volume.array[0], stack.T)
    write_volume(tmp_path / "result.tif", volume.array, volume)
    assert read_volume(tmp_path / "result.tif").spacing == pytest.approx((1, 2, 3))


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f4", ">f4", "f8", "?", "f2"]
)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
def test_voxels_come_back_as_stored(path, stack, dtype, compression):
    array = (stack % 100).astype(dtype)
    if dtype == "?":
        compression = None  # tifffile packs bits and compresses them in other ways only
    volume = read_volume(plain(path, array, compression=compression, byteorder=">" if ">" in dtype else "<"))
    np.testing.assert_array_equal(volume.array[0], array.T.astype(volume.array.dtype))
    assert volume.array.dtype.isnative
    expected = {"?": "u1", "f2": "f4"}.get(dtype, dtype.strip(">"))
    assert volume.array.dtype == np.dtype(expected)


def test_complex_voxels_are_refused(path, stack):
    with pytest.raises(InputError, match="complex64 voxels are not supported"):
        read_volume(plain(path, stack.astype(np.complex64)))


# ---------------------------------------------------------------- axes


def test_many_plain_pages_are_a_stack(path, stack):
    np.testing.assert_array_equal(read_volume(plain(path, stack)).array[0], stack.T)


def test_few_plain_pages_could_be_channels(path, stack):
    plain(path, stack[:3])
    with pytest.raises(InputError, match="axes are unclear.*axes='ZYX' or axes='CYX'"):
        read_volume(path)
    assert read_volume(path, axes="zyx").array.shape == (1, 8, 7, 3)
    assert read_volume(path, axes="CYX").array.shape == (3, 8, 7)


def test_a_stack_written_as_colours_is_a_question(path, stack):
    """tifffile of old writes three slices as one planar RGB page."""
    tifffile.imwrite(path, stack[:3], photometric="rgb", planarconfig="separate", metadata=None)
    with pytest.raises(InputError, match="calls them SYX .size 3x7x8.: slices, channels, colours"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, axes="ZYX").array[0], stack[:3].T)


def test_colours_behind_the_pixels_are_channels(path, stack):
    tifffile.imwrite(path, np.moveaxis(stack[:3], 0, -1), photometric="rgb")
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, stack[:3].transpose(0, 2, 1))


def test_a_stack_marked_as_time_is_z_and_said(path, stack, caplog):
    volume = read_volume(imagej(path, stack, "TYX"))
    np.testing.assert_array_equal(volume.array[0], stack.T)
    assert "marked as time" in caplog.text
    write_volume(path, volume.array, like=volume, overwrite=True)
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "TYX"  # opens over the source in Fiji


def test_time_and_z_together_are_a_question(path):
    imagej(path, np.zeros((2, 3, 4, 5), np.uint8), "TZYX")
    with pytest.raises(InputError, match="axes='ZCYX' or axes='CZYX'"):
        read_volume(path)


def test_one_slice_is_2d_unless_a_volume_is_wanted(path, stack):
    imagej(path, stack[:1], "ZYX")
    assert read_volume(path).array.shape == (1, 8, 7)
    assert read_volume(path, axes="ZYX").array.shape == (1, 8, 7, 1)


@pytest.mark.parametrize("axes", ["ZY", "ZZYX", "QYX"])
def test_impossible_axes_are_refused(path, stack, axes):
    plain(path, stack)
    with pytest.raises(ValueError, match=f"axes='{axes}' must name X and Y"):
        read_volume(path, axes=axes)


def test_axes_must_fit_the_file(path, stack):
    plain(path, stack)
    with pytest.raises(InputError, match=r"has 3 axes \(.YX, 6x7x8\), but axes='YX' names 2"):
        read_volume(path, axes="YX")


def test_any_order_of_axes_is_read_and_written(path, stack):
    plain(path, stack)
    volume = read_volume(path, axes="XYZ")
    np.testing.assert_array_equal(volume.array[0], stack)
    write_volume(path, volume.array, like=volume, overwrite=True)
    with tifffile.TiffFile(path) as tif:
        assert tif.series[0].axes == "XYZ"
        np.testing.assert_array_equal(tif.asarray(), stack)


def test_pages_of_different_size_are_refused(path, stack):
    with tifffile.TiffWriter(path) as tif:
        tif.write(stack[0], photometric="minisblack", metadata=None)
        tif.write(stack[0, :3], photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match="pages differ in size or type: there are 2 images .7x8, 3x8"):
        read_volume(path)


# ---------------------------------------------------------------- writing


def test_a_segmentation_opens_over_its_image(path, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 2, 7, 8)).astype(np.uint16)
    volume = read_volume(imagej(path, image, "ZCYX", size=0.1268, spacing=0.2837))
    segmentation = (volume.array[0] % 3).astype(np.uint8)
    write_volume(tmp_path / "b.tif", segmentation, like=volume)
    with tifffile.TiffFile(path) as one, tifffile.TiffFile(tmp_path / "b.tif") as two:
        assert (two.series[0].axes, two.series[0].shape) == ("ZYX", (6, 7, 8))
        for tag in ("XResolution", "YResolution", "ResolutionUnit"):
            assert one.pages[0].tags[tag].value == two.pages[0].tags[tag].value
        for key in ("spacing", "unit"):
            assert one.imagej_metadata[key] == two.imagej_metadata[key]
        assert two.pages[0].photometric == 1
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), segmentation.T)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif").affine, volume.affine)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("kind", ["imagej", "ome", "plain"])
def test_every_type_is_written_with_its_spacing(tmp_path, stack, kind, dtype):
    source = tmp_path / "a.tif"
    if kind == "ome":
        ome(source, stack, "ZYX", PhysicalSizeX=0.25, PhysicalSizeY=0.25, PhysicalSizeZ=2.0)
    else:
        imagej(source, stack, "ZYX") if kind == "imagej" else plain(source, stack)
    volume = read_volume(source)
    array = (stack.T % 100).astype(dtype)
    write_volume(tmp_path / "b.tif", array, like=volume)
    back = read_volume(tmp_path / "b.tif")
    np.testing.assert_array_equal(back.array[0], array)
    assert back.array.dtype == np.dtype(dtype)
    np.testing.assert_allclose(back.affine, volume.affine)
    assert back.unit == volume.unit


def test_few_slices_are_not_written_as_colours(path, tmp_path):
    for shape in [(3, 7, 8), (4, 7, 8), (7, 8, 3)]:
        array = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8)
        volume = read_volume(imagej(path, array, "ZYX"))
        write_volume(tmp_path / "b.tif", volume.array, like=volume, overwrite=True)
        np.testing.assert_array_equal(read_volume(tmp_path / "b.tif").array[0], array.T)


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_probabilities_are_written_as_channels(path, tmp_path, stack, axes, dtype, channels):
    volume = read_volume(imagej(path, stack if len(axes) == 3 else stack[0], axes))
    array = np.random.default_rng(0).random((channels, *volume.spatial_shape)).astype(dtype)
    write_volume(tmp_path / "b.tif", array, like=volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.tif").array, array)
    with tifffile.TiffFile(tmp_path / "b.tif") as tif:
        assert tif.series[0].axes == axes[:-2] + "CYX"


def test_an_rgb_image_gets_a_single_channel_label(path, tmp_path, stack):
    tifffile.imwrite(path, np.moveaxis(stack[:3], 0, -1), photometric="rgb")
    volume = read_volume(path)
    write_volume(tmp_path / "b.tif", volume.array[0], like=volume)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), stack[0])


def test_from_nifti_to_tiff_and_back(tmp_path):
    like = Volume(np.zeros((1, 5, 4, 6), np.uint8), np.diag([0.5, 0.25, 3, 1]), "mm")
    array = np.random.default_rng(0).integers(0, 9, (5, 4, 6)).astype(np.uint8)
    write_volume(tmp_path / "a.tif", array, like=like)
    volume = read_volume(tmp_path / "a.tif")
    write_volume(tmp_path / "b.nii.gz", volume.array, like=volume)
    back = read_volume(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(back.array[0], array)
    np.testing.assert_allclose(back.affine, like.affine)
    assert back.unit == "mm"


@pytest.mark.parametrize("size", [1e-7, 1e-3, 0.1268, 7 / 3, 1e4, 1e8])
def test_any_voxel_size_survives_tiffs_fractions(tmp_path, size):
    like = Volume(np.zeros((1, 5, 4), np.uint8), np.diag([size, size, 1]), "um")
    write_volume(tmp_path / "a.tif", like.array, like=like)
    assert read_volume(tmp_path / "a.tif").spacing == pytest.approx((size, size), rel=1e-6)


def test_no_type_of_tiff_is_a_plain_value_error(path, tmp_path, stack):
    volume = read_volume(imagej(path, stack, "ZYX"))
    with pytest.raises(ValueError, match="TIFF cannot hold complex128 voxels"):
        write_volume(tmp_path / "b.tif", volume.array.astype(complex), like=volume)


# ---------------------------------------------------------------- damage


WRITERS = {
    "imagej": lambda p, a: imagej(p, a, "ZYX"),
    "imagej deflate": lambda p, a: imagej(p, a, "ZYX", compression="zlib"),
    "imagej big-endian": lambda p, a: imagej(p, a, "ZYX", byteorder=">"),
    "imagej one page": lambda p, a: imagej(p, a, "ZYX", contiguous=True),
    "ome": lambda p, a: ome(p, a, "ZYX"),
    "plain": lambda p, a: plain(p, a),
    "plain bigtiff": lambda p, a: plain(p, a, bigtiff=True),
    "plain lzw strips": lambda p, a: plain(p, a, compression="lzw", rowsperstrip=8),
    "plain tiles": lambda p, a: plain(p, a, compression="zlib", tile=(16, 16)),
    "shaped": lambda p, a: plain(p, a, metadata={"axes": "ZYX"}),
    "2d": lambda p, a: plain(p, a[0], compression="zlib"),
    "rgb": lambda p, a: plain(p, np.moveaxis(a[:3], 0, -1), photometric="rgb"),
}


def outcome(path, truth):
    """``"same"`` or ``"error"``; anything else is a fault of ours."""
    try:
        volume = read_volume(path)
    except VolsegError as error:
        return "error" if path.name in str(error) else f"no file named in {error}"
    same = volume.array.shape == truth.array.shape and np.array_equal(volume.array, truth.array)
    return "same" if same else "other"


@pytest.mark.parametrize("kind", WRITERS)
def test_no_cut_passes_silently(path, kind):
    array = np.random.default_rng(0).integers(0, 255, (9, 48, 40)).astype(np.uint8)
    truth = read_volume(WRITERS[kind](path, array))
    whole = path.read_bytes()
    cuts = {len(whole) * i // 49 for i in range(49)} | {len(whole) - i for i in range(1, 20)}
    results = {}
    for cut in cuts:
        path.write_bytes(whole[:cut])
        results[cut] = outcome(path, truth)
    assert set(results.values()) <= {"error", "same"}, results
    # "same" only where the cut took bytes that mean nothing, such as padding at the end
    assert all(cut > len(whole) - 20 for cut, result in results.items() if result == "same"), results


@pytest.mark.parametrize("kind", ["imagej deflate", "ome", "plain lzw strips", "plain bigtiff"])
def test_no_damaged_tag_crashes(path, kind):
    """Without a checksum other values may pass; a crash, a hang or a foreign exception may not."""
    array = np.random.default_rng(0).integers(0, 255, (5, 16, 16)).astype(np.uint8)
    truth = read_volume(WRITERS[kind](path, array))
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    results = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(min(len(whole), 400))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        results.add(outcome(path, truth))
    assert results <= {"same", "error", "other"}


def ifd(entries, following=0):
    """One little-endian page."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", following)


def page(width=4, height=4, offset=8, count=16, extra=()):
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, offset), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, count), *extra]  # fmt: skip


def handmade(path, pages, start=24, loop=False):
    data = b""
    for i, entries in enumerate(pages):
        size = 2 + 12 * len(entries) + 4
        last = i == len(pages) - 1
        data += ifd(entries, (24 if loop else 0) if last else start + len(data) + size)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + bytes(range(16)) + data)
    return path


def test_a_handmade_page_is_read(path):
    np.testing.assert_array_equal(
        read_volume(handmade(path, [page()])).array[0], np.arange(16).reshape(4, 4).T
    )


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([page(width=2**31, height=2**31)], "asks for 4611686018427387904 bytes"),
        ([page(offset=10_000)], "some of its voxels of page 1 lies beyond the end"),
        ([page(offset=0)], "blocks without voxels, which would be read as zeros"),
        ([page(count=0)], "blocks without voxels"),
        ([page(extra=[(305, 2, 500, 8)])], "the value of tag 305 of page 1 lies beyond"),
        ([page(), page(extra=[(305, 2, 500, 8)])], "tag 305 of page 2"),
        ([[*page()[:5], (273, 4, 2, 8), *page()[6:]]], "lists 2 blocks of voxels but 1 block sizes"),
    ],
)
def test_a_wrong_tag_is_named(path, pages, message):
    handmade(path, pages)
    with pytest.raises(InputError, match=message):
        read_volume(path)


def test_a_loop_of_pages_ends(path):
    with pytest.raises(InputError, match="chain of pages loops after page 2"):
        read_volume(handmade(path, [page(), page()], loop=True))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"II*\0", "not a TIFF file"),
        (b"PK\3\4 not at all", "not a TIFF file: its first bytes are"),
        (b"II*\0\0\0\0\0", "holds no page"),
        (b"II*\0\x08\0\0\0", "page 1 lies beyond"),
        (b"II*\0\x08\0\0\0\x05\0", "list of tags of page 1 lies beyond"),
    ],
)
def test_a_stump_is_named(path, data, message):
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_volume(path)


def test_fewer_slices_than_promised_are_refused(path, stack):
    tifffile.imwrite(
        path, stack, description="ImageJ=1.54f\nimages=9\nslices=9\n", metadata=None, compression="zlib"
    )
    with pytest.raises(InputError, match="promises 9 slices, 6 found|damaged"):
        read_volume(path)


def test_ome_planes_in_other_files_are_refused(path, stack):
    ome(path, stack, "ZYX")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'SizeZ="6"', b'SizeZ="8"'))
    with pytest.raises(InputError, match="a.tif"):
        read_volume(path)


def test_errors_that_tifffile_only_logs_are_errors(path, stack, monkeypatch):
    plain(path, stack)
    log = logging.getLogger("tifffile")
    monkeypatch.setattr("volseg.io.tiff.affine_of", lambda *_: (log.error("torn page"), (np.eye(4), ""))[1])
    with pytest.raises(InputError, match="TIFF file is damaged .*torn page"):
        read_volume(path)


def test_resolution_per_cm_survives_a_change_of_flavour(path, tmp_path, stack):
    plain(path, stack[0], resolution=(20000, 20000), resolutionunit="CENTIMETER")
    volume = read_volume(path)
    write_volume(tmp_path / "b.tif", volume.array, like=volume)
    assert read_volume(tmp_path / "b.tif").spacing == pytest.approx((0.0005, 0.0005))


# ---------------------------------------------------------------- real files


def test_real_files(shared_data, tmp_path):
    embryo = read_volume(shared_data / "mouse_embryo_nuclei_3d" / "images" / "16_cell.tif")
    assert embryo.array.shape == (1, 122, 120, 51)
    assert embryo.spacing == pytest.approx((0.8, 0.8, 1.75))
    isbi = read_volume(shared_data / "isbi2012_em" / "train-labels.tif", labels=True)
    assert set(np.unique(isbi.array)) == {0, 255}
    assert isbi.spacing == pytest.approx((0.004, 0.004, 0.05))
    mask = shared_data / "sandstone_ct_sparse" / "example_original_rgb_mask_z0100_LZW.tif"
    assert read_volume(mask).array.shape == (3, 996, 1024)
    with pytest.raises(InputError, match="has 3 channels, but a label holds one number per voxel"):
        read_volume(mask, labels=True)
    for source in (embryo, isbi):
        write_volume(tmp_path / "a.tif", source.array, like=source, overwrite=True)
        back = read_volume(tmp_path / "a.tif")
        np.testing.assert_array_equal(back.array, source.array)
        np.testing.assert_array_equal(back.affine, source.affine)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 4), (1, 1), (1, 4, 3), (1, 1, 3), (4, 1, 3)])
def test_an_image_one_pixel_wide_is_written(tmp_path, shape, channels):
    array = np.arange(channels * np.prod(shape), dtype=np.uint8).reshape(channels, *shape)
    write_volume(tmp_path / "a.tif", array, Volume(array, np.diag([0.5] * len(shape) + [1.0]), "um"))
    axes = "ZCYX" if len(shape) == 3 else "CYX"
    back = read_volume(tmp_path / "a.tif", axes=axes if channels > 1 else axes.replace("C", ""))
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.spacing, 0.5)
