"""Every place that prints a slice gives its index from 0 and its number from 1, and says which is which."""

import logging
import re

import numpy as np
import pytest

from volseg.annotation import COUNTED, numbered, numbered_slices, ordinal, summarise, understand_paint
from volseg.annotation.audit import audit
from volseg.annotation.numbering import ranges
from volseg.cli import main
from volseg.io import Volume, write_volume

SIZE = (30, 28, 26)


@pytest.mark.parametrize(
    ("n", "said"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (13, "13th"),
                    (21, "21st"), (22, "22nd"), (101, "101st"), (111, "111th"), (113, "113th")]
)  # fmt: skip
def test_numbers_from_one_are_ordinals(n, said):
    assert ordinal(n) == said


def test_a_slice_is_named_both_ways():
    assert numbered("z", 15, 51) == "z = 15 (16 of 51)"
    assert numbered("z", 0) == "z = 0 (the 1st)"
    assert numbered_slices({"z": [3, 9], "x": [12], "y": []}) == "x = 12 (the 13th); z = 3, 9 (the 4th, 10th)"
    assert summarise([(0, 12), (2, 7), (2, 3)]) == "xy slices 3, 7 (the 4th, 8th) and yz slice 12 (the 13th)"
    assert summarise([(2, i) for i in range(6)]) == "xy slices 0, 1, 2, 3 (the 1st, 2nd, 3rd, 4th) and 2 more"
    assert summarise([(-1, 0)]) == "the image"


@pytest.mark.parametrize("first", [0, 1])
def test_ranges_of_slices_are_the_same_slices(first):
    """Read back, the words are the indices they were made from."""
    random = np.random.default_rng(0)
    for _ in range(50):
        indices = sorted(random.choice(40, random.integers(1, 39), replace=False).tolist())
        back = []
        for part in ranges(indices, 40, first).split(", "):
            low, _, high = part.partition("-")
            back += range(int(low), int(high or low) + 1)
        assert [i - first for i in back] == indices
    assert (ranges([], 4, first), ranges(range(4), 4, first)) == ("none", "all 4")


@pytest.fixture
def painted():
    """An image and paint of two classes on xy slices 4 and 17 and xz slice 9, with a defect on the first."""
    image = np.random.default_rng(0).normal(0, 1, (1, *SIZE)).astype(np.float32)
    paint = np.zeros(SIZE, np.uint8)
    for plane in (paint[..., 4], paint[..., 17], paint[:, 9]):
        plane[3:20, 3:20] = 1
        plane[8:15, 8:15] = 2
    paint[10:13, 24:27, 4] = 3
    return image, paint


def test_every_slice_that_a_finding_names_is_named_both_ways(painted):
    image, paint = painted
    found = audit(SIZE, (1, 1, 1), understand_paint(paint), image)
    named = [finding for finding in found if finding.slices]
    assert named
    for finding in named:
        for axis, index in finding.slices:
            assert re.search(rf"\b{index}\b.*\((the )?.*{index + 1}", finding.message), (
                axis,
                finding.message,
            )


@pytest.mark.usefixtures("clean_process")
def test_the_audit_gives_the_painted_slices_from_one_as_well(painted, tmp_path, capsys):
    like = Volume(painted[0], np.eye(4), "um")
    write_volume(tmp_path / "image.tif", painted[0], like)
    write_volume(tmp_path / "paint.tif", painted[1], like)
    main(["audit", str(tmp_path / "image.tif"), str(tmp_path / "paint.tif")])
    said = capsys.readouterr().out
    assert "xy: 4, 17 · xz: 9 · yz: none" in said
    assert "counted from 0. Fiji and ITK-SNAP count from 1: xy: 5, 18 · xz: 10 · yz: none." in said


def test_an_image_has_no_slices_to_count():
    assert understand_paint(np.eye(9, dtype=int)).counted() == ""


@pytest.mark.usefixtures("clean_process")
def test_sparsify_names_what_it_keeps(painted, tmp_path, capsys):
    write_volume(tmp_path / "dense.tif", painted[1], Volume(painted[0], np.eye(4), "um"))
    main(["sparsify", str(tmp_path / "dense.tif"), "--slices", "0,1,2", "-o", str(tmp_path / "sparse.tif")])
    assert f"Kept: y = 14 (the 15th); z = 6, 19 (the 7th, 20th). {COUNTED}" in capsys.readouterr().out


@pytest.mark.usefixtures("clean_process")
def test_info_names_held_out_slices_both_ways(painted, tmp_path, capsys):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "a.tif", painted[1], Volume(painted[0], np.eye(4), "um"))
    (tmp_path / "dataset.json").write_text('{"held_out": {"a": {"z": [4, 17]}}}')
    main(["info", str(tmp_path)])
    assert "held out z = 4, 17 (the 5th, 18th)" in capsys.readouterr().out
    (tmp_path / "dataset.json").write_text('{"held_out": {"a": {"z": "4"}}}')
    assert main(["info", str(tmp_path)]) == 3
    assert "counted from 0" in capsys.readouterr().err


@pytest.mark.slow
def test_densify_names_its_folds_and_paint_both_ways(painted, caplog):
    from volseg.densification import densify

    with caplog.at_level(logging.INFO):
        densify(painted[0], painted[1], method="random-walker", compare=False, force=True)
    assert "Fiji and ITK-SNAP count from 1: xy: 5, 18 · xz: 10" in caplog.text
