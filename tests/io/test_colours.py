"""Labels in colours and layers: one option maps them, whose value the refusal spells out."""

import re

import imagecodecs
import numpy as np
import pytest
import tifffile

from volseg.errors import InputError
from volseg.io import read_volume
from volseg.io.colours import as_colours, numbers_of

TABLE = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 7], [255, 255, 255]], np.uint8)
VALUE = "000000=0,ff0000=1,00c807=2,ffffff=3"


SIZES = {2: (9, 8), 3: (5, 9, 8)}
KINDS = [
    (kind, dims)
    for kind in ("tif", "png", "nrrd", "nii", "zarr")
    for dims in SIZES
    if (kind, dims) != ("png", 3)
]


@pytest.fixture(params=KINDS, ids=[f"{kind}-{dims}d" for kind, dims in KINDS])
def painted(request, tmp_path):
    """A picture or volume in colours, as others write it, and its class numbers."""
    kind, dims = request.param
    numbers = np.random.default_rng(0).choice(4, SIZES[dims], p=[0.6, 0.2, 0.15, 0.05]).astype(np.uint8)
    colours, path = TABLE[numbers], tmp_path / f"label.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, colours, photometric="rgb")
    elif kind == "png":
        path.write_bytes(imagecodecs.png_encode(colours))
    else:
        from volseg.io import Volume, write_volume

        if kind == "zarr":
            pytest.importorskip("zarr")
        array = np.ascontiguousarray(colours.T)
        write_volume(path, array, Volume(array, np.eye(array.ndim)))
    return path, numbers.T


def proposal(error):
    return re.search(r"colours='([^']+)'", str(error.value))[1]


def test_the_refusal_lists_the_colours_and_its_value_works(painted):
    path, numbers = painted
    with pytest.raises(InputError, match=r"holds 4 colour\(s\): 000000 \(\d+ voxels\), ") as caught:
        read_volume(path, labels=True)
    assert f"'volseg convert {path} --labels --colours {proposal(caught)} -o NEW{path.suffix}'" in str(
        caught.value
    )
    np.testing.assert_array_equal(
        read_volume(path, labels=True, colours=proposal(caught)).array[0], numbers
    )  # they are numbered by how common they are, as here


def test_colours_become_the_numbers_that_are_told(painted):
    path, numbers = painted
    told = {"#000000": 7, "FF0000": 3, "0x00c807": 300, "ffffff": -1}
    want = np.array([7, 3, 300, -1])[numbers]
    np.testing.assert_array_equal(read_volume(path, labels=True, colours=told).array[0], want)


def test_a_colour_without_a_number_is_refused_or_another(painted):
    path, numbers = painted
    few = "000000=0,ff0000=1,ffffff=3"
    with pytest.raises(InputError, match=r"in 1 colour\(s\) have no number in colours, such as 00c807"):
        read_volume(path, labels=True, colours=few)
    found = read_volume(path, labels=True, colours=f"{few},other=255")
    np.testing.assert_array_equal(found.array[0], np.where(numbers == 2, 255, numbers))


def test_blended_edges_are_called_so_and_can_be_left_unlabelled(tmp_path):
    disc = (np.hypot(*(np.indices((240, 240)) - 120)) < 80).astype(float)
    for _ in range(4):
        disc = (disc + np.roll(disc, 1, 0) + np.roll(disc, 1, 1)) / 3
    picture = np.stack([255 * disc, 0 * disc, 90 * disc], -1).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(picture))
    with pytest.raises(InputError, match="edges were blended") as caught:
        read_volume(tmp_path / "a.png", labels=True)
    assert proposal(caught) == "000000=0,ff005a=1,other=255"
    found = read_volume(tmp_path / "a.png", labels=True, colours=proposal(caught)).array[0]
    assert set(np.unique(found)) == {0, 1, 255}


def test_transparent_pixels_have_a_colour_of_their_own(tmp_path):
    picture = np.zeros((6, 5, 4), np.uint8)
    picture[2:, :, 3], picture[4:, :, 0] = 255, 255
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(picture))
    found = read_volume(tmp_path / "a.png", labels=True, colours="00000000=255,000000ff=0,ff0000ff=1")
    assert found.array[0, 0].tolist() == [255, 255, 0, 0, 1, 1]


def test_samples_of_sixteen_bits_have_four_digits():
    array = np.array([[[0, 65535]], [[0, 300]]], np.uint16)
    np.testing.assert_array_equal(numbers_of(array, as_colours("00000000=0,ffff012c=5"), "a")[0], [[0, 5]])


def test_masks_that_share_voxels_are_colours_too():
    """Layers of a plain .nrrd, one-hot masks: what lies in both is said, and gets the number that is told."""
    array = np.array([[[0, 1, 0, 1]], [[0, 0, 2, 2]]], np.uint8)
    found = numbers_of(array, as_colours({"0000": 0, "0100": 1, "0002": 2, "0102": 2}), "a")
    assert found[0, 0].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("told", ["", "red=1", "ff0000", "ff0000=cell", "ff000=1", "ff0000=1.5", "=1"])
def test_what_names_no_colour_is_refused(told):
    with pytest.raises(ValueError, match="colours"):
        as_colours(told)


def test_a_colour_has_one_number():
    with pytest.raises(ValueError, match="ff0000 has two numbers, 1 and 2"):
        as_colours("ff0000=1,FF0000=2")


def test_probabilities_are_not_colours(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.linspace(0, 1, 90, dtype=np.float32).reshape(3, 6, 5),
        metadata={"axes": "CYX"},
        photometric="minisblack",
    )
    with pytest.raises(InputError, match="fractions or negative numbers, as probabilities do"):
        read_volume(tmp_path / "a.tif", labels=True)


def test_colours_belong_to_labels_with_channels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 5), np.uint8))
    with pytest.raises(ValueError, match="read as an image"):
        read_volume(tmp_path / "a.tif", colours=VALUE)
    with pytest.raises(InputError, match="has one channel: its numbers are classes already"):
        read_volume(tmp_path / "a.tif", labels=True, colours=VALUE)


# --- pages of a kind -----------------------------------------------------------------------------------


LOSSY = {
    "jpeg": ("jpeg", {}, "JPEG"),
    "jpeg 2000": ("jpeg2000", {"level": 80}, "JPEG 2000 with its irreversible"),
    "webp": ("webp", {"level": 50, "lossless": False}, "WebP"),
    "jpeg xl": ("jpegxl", {"distance": 2.0}, "JPEG XL"),
    "jpeg xr": ("jpegxr", {"level": 0.5}, "JPEG XR"),
}
EXACT = {
    "jpeg 2000": ("jpeg2000", {"reversible": True}),
    "webp": ("webp", {"lossless": True}),
    "lzw": ("lzw", {}),
    "zstd": ("zstd", {}),
}


def rgb_or_grey(kind):
    return ((np.arange(64 * 64).reshape(64, 64) // 700) * 50).astype(np.uint8) if kind != "webp" else None


@pytest.mark.parametrize(("codec", "options", "name"), LOSSY.values(), ids=LOSSY)
def test_labels_packed_with_loss_are_refused_in_tiff_too(tmp_path, codec, options, name):
    """As an image such a file is read."""
    array = rgb_or_grey(codec)
    array = np.zeros((64, 64, 3), np.uint8) if array is None else array
    tifffile.imwrite(tmp_path / "a.tif", array, compression=codec, compressionargs=options)
    with pytest.raises(InputError, match=f"packed with {name}.* cannot hold labels"):
        read_volume(tmp_path / "a.tif", labels=True)
    assert read_volume(tmp_path / "a.tif").spatial_shape == (64, 64)


@pytest.mark.parametrize(("codec", "options"), EXACT.values(), ids=EXACT)
def test_labels_packed_without_loss_are_read_whatever_the_codec_is_called(tmp_path, codec, options):
    array = rgb_or_grey(codec)
    array = np.repeat(np.arange(64, dtype=np.uint8)[:, None], 64, 1) if array is None else array
    stored = np.repeat(array[..., None], 3, -1) if codec == "webp" else array
    tifffile.imwrite(tmp_path / "a.tif", stored, compression=codec, compressionargs=options)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif", labels=True).array[0], array.T)


def test_numbers_are_as_stored_whatever_they_look_like(tmp_path, caplog):
    caplog.set_level("INFO")
    numbers = np.arange(30, dtype=np.uint8).reshape(6, 5) % 3
    tifffile.imwrite(tmp_path / "white.tif", numbers, photometric="miniswhite")
    np.testing.assert_array_equal(read_volume(tmp_path / "white.tif", labels=True).array[0], numbers.T)
    assert "0 as white (MINISWHITE): its numbers are taken as stored" in caplog.text
    table = np.zeros((3, 256), np.uint16)
    table[0, 1] = 65535
    tifffile.imwrite(tmp_path / "table.tif", numbers, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_volume(tmp_path / "table.tif", labels=True).array[0], numbers.T)
    assert "0 as 000000, 1 as ff0000, 2 as 000000." in caplog.text  # and none that does not occur


def test_a_png_with_a_colour_table_says_which_colour_is_which_number(tmp_path, caplog):
    from PIL import Image

    caplog.set_level("INFO")
    picture = Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert read_volume(tmp_path / "a.png", labels=True).array[0].tolist() == [[0, 2], [1, 2]]
    assert "0 is 000000, 1 is ff0000, 2 is 0000ff" in caplog.text
