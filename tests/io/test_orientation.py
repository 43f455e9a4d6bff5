"""Pictures are read as viewers show them: Pillow's exif_transpose is the witness, for all eight tags."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from volseg.io import Notes, read_volume, write_volume
from volseg.io.blocks import open_blocks
from volseg.io.pictures import exif_orientation


@pytest.fixture(params=range(1, 9), ids=lambda tag: f"tag{tag}")
def turned(request, tmp_path):
    """A picture without symmetry, stored in three formats with one tag, and how it is shown."""
    array = np.random.default_rng(0).integers(0, 255, (16, 24), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = request.param
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif, dpi=(50, 100))
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=95)
    tag = [(274, 3, 1, request.param, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", array, extratags=tag, resolution=(300, 600), resolutionunit="CENTIMETER"
    )
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    return tmp_path, request.param, np.asarray(shown).T


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("labels", [False, True])
def test_images_and_labels_are_read_as_shown(turned, suffix, labels, caplog):
    folder, tag, shown = turned
    np.testing.assert_array_equal(read_volume(folder / f"a.{suffix}", labels=labels).array[0], shown)
    assert (f"orientation tag ({tag})" in caplog.text) is (tag > 1)


def test_a_jpeg_is_read_as_shown(turned):
    folder, _, _ = turned
    shown = np.asarray(ImageOps.exif_transpose(Image.open(folder / "a.jpg"))).T
    np.testing.assert_array_equal(read_volume(folder / "a.jpg").array[0], shown)


@pytest.mark.parametrize(
    ("source", "result"), [("jpg", "png"), ("png", "png"), ("tif", "tif"), ("png", "tif")]
)
def test_a_result_lies_as_its_image_is_shown(turned, source, result):
    folder, _, shown = turned
    image = read_volume(folder / f"a.{source}")
    write_volume(folder / f"o.{result}", (shown > 99).astype(np.uint8), image)
    with Image.open(folder / f"o.{result}") as picture:
        assert picture.getexif().get(274, 1) == 1
        np.testing.assert_array_equal(np.asarray(picture).T, shown > 99)


def test_voxel_sizes_turn_with_the_picture(turned):
    folder, tag, shown = turned
    image = read_volume(folder / "a.tif")
    want = (1 / 300 * 10, 1 / 600 * 10)
    assert image.spacing == pytest.approx(want[::-1] if tag > 4 else want)
    write_volume(folder / "o.tif", shown, image)
    assert read_volume(folder / "o.tif").spacing == pytest.approx(image.spacing)


def test_a_stack_is_turned_slice_by_slice_also_when_read_in_blocks(tmp_path):
    stack = np.random.default_rng(0).integers(0, 9, (5, 6, 7), dtype=np.uint8)
    tag = [(274, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", stack, extratags=tag, metadata={"axes": "ZYX"})
    shown = np.rot90(stack, -1, (1, 2)).T
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[0], shown)
    blocks = open_blocks(tmp_path / "a.tif")
    np.testing.assert_array_equal(blocks[:, 1:4, 2:5, 3:5][0], shown[1:4, 2:5, 3:5])


def test_a_tag_that_is_none_leaves_the_picture_alone(tmp_path):
    array = np.arange(20, dtype=np.uint8).reshape(4, 5)
    for tag in (0, 9):
        tifffile.imwrite(tmp_path / "a.tif", array, extratags=[(274, 3, 1, tag, True)])
        np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").array[0], array.T)
    assert exif_orientation(b"", Path("a.png"), Notes()) == 1
    notes = Notes()
    assert exif_orientation(b"II*\0\xff\xff\xff\xff", Path("a.png"), notes) == 1
    assert [note.text for note in notes] == [
        "a.png: a block of EXIF is cut: its orientation is taken as 1, as stored."
    ]
