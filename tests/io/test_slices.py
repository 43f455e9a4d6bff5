"""A folder of slices becomes a volume; many files never become channels without a word."""

import numpy as np
import pytest
import tifffile

from volseg.cli import main
from volseg.errors import InputError
from volseg.io import read_volume, slices_in, stack_slices

STACK = np.random.default_rng(0).integers(0, 255, (12, 6, 7), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve slices without leading zeros, so that their names sort in another order than their numbers."""
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(STACK):
        tifffile.imwrite(
            tmp_path / "slices" / f"s_{z}.tif", plane, resolution=(20000, 20000), resolutionunit="CENTIMETER"
        )
    return tmp_path / "slices"


def test_a_folder_of_slices_becomes_a_volume(folder, tmp_path, capsys):
    assert main(["convert", str(folder), "-o", str(tmp_path / "a.tif")]) == 0
    found = read_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.array[0], STACK.T)
    assert found.spacing == pytest.approx((0.0005,) * 3)
    assert "12 slices become one volume, s_0.tif first; their distance" in capsys.readouterr().err


def test_the_distance_of_slices_can_be_told(folder, tmp_path):
    words = ["convert", str(folder), "--spacing", "5,5,20um", "-o", str(tmp_path / "a.nii.gz")]
    assert main(words) == 0
    found = read_volume(tmp_path / "a.nii.gz")
    assert (found.spacing, found.unit) == (pytest.approx((5, 5, 20)), "um")


def test_files_in_a_row_are_asked_about(folder, tmp_path, capsys):
    files = [str(folder / f"s_{z}.tif") for z in range(12)]
    assert main(["convert", *files, "-o", str(tmp_path / "a.tif")]) == 3
    assert (
        "12 files are named: are they slices of one volume or channels of one image?"
        in capsys.readouterr().err
    )
    assert main(["convert", *files, "--stack", "z", "-o", str(tmp_path / "z.tif")]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "z.tif").array[0], STACK.T)
    assert main(["convert", *files, "--stack", "c", "-o", str(tmp_path / "c.tif")]) == 0
    assert read_volume(tmp_path / "c.tif").channels == 12
    assert main(["convert", *files[:3], "-o", str(tmp_path / "3.tif")]) == 0
    assert read_volume(tmp_path / "3.tif").channels == 3


def test_other_commands_say_how_to_make_a_volume_of_a_folder(folder):
    with pytest.raises(InputError, match=rf"volseg convert {folder} -o slices\.tif$"):
        read_volume(folder)


def test_a_number_that_is_missing_is_said(folder, caplog):
    (folder / "s_4.tif").unlink()
    (folder / "s_9.tif").unlink()
    found = stack_slices(slices_in(folder), read_volume)
    assert found.spatial_shape == (7, 6, 10)
    assert "leave out 4, 9 (2 in all): is a slice missing?" in caplog.text


def test_slices_of_several_kinds_are_no_stack(folder):
    tifffile.imwrite(folder / "s_12.tif", STACK[0, :3])
    with pytest.raises(
        InputError, match=r"s_12.tif has 1 channel.s. of 7 x 3 voxels .* not slices of one volume"
    ):
        stack_slices(slices_in(folder), read_volume)
    tifffile.imwrite(folder / "s_12.tif", STACK, metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match=r"s_12.tif is a volume itself"):
        stack_slices(slices_in(folder), read_volume)
    (folder / "mask.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"images of several formats \(.png, .tif\)"):
        slices_in(folder)


def test_a_folder_without_an_image_is_no_stack(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="holds no image, so it is not a stack"):
        slices_in(tmp_path)
