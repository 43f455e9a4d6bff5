"""Names that come from other systems: no UTF-8, accents in two letters, links, byte-order marks."""

import json
import os
import sys
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from monai.bundle import ConfigParser

from volseg.cli import main
from volseg.cli.settings import as_typed
from volseg.data import find_cases, find_images
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, digest, read_volume, write_volume
from volseg.labels import LabelScheme
from volseg.report import Report, write_figures, write_report
from volseg.report.picture import save_picture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems compose names themselves")

LATIN = os.fsdecode(b"caf\xe9")
ONE, TWO = normalize("NFC", "café"), normalize("NFD", "café")


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif", ".nrrd", ".mha", ".png", ".ome.zarr"])
@pytest.mark.parametrize("length", [1, 40], ids=["short", "long"])
def test_a_name_that_is_no_utf8_is_written_and_read(tmp_path, suffix, length):
    if "zarr" in suffix:
        pytest.importorskip("zarr")
    array = np.arange(42 if suffix == ".png" else 210, dtype=np.uint8).reshape(
        (6, 7, 5)[: -1 if "png" in suffix else 3]
    )
    path = tmp_path / (LATIN * length + suffix)
    write_volume(path, array, Volume(array[None], np.eye(array.ndim + 1), "mm"))
    np.testing.assert_array_equal(read_volume(path).array[0], array)
    assert len(digest(tmp_path)) == 64
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.usefixtures("clean_process")
def test_a_data_set_whose_names_are_no_utf8_goes_the_whole_way(make_dataset, tmp_path, root, monkeypatch):
    monkeypatch.chdir(root)
    folder = make_dataset(held_out={"z": [5]})
    (folder / "dataset.json").unlink()
    for part in ("images", "labels"):
        rename(folder / part, "a.tif", f"{LATIN}.tif")
    rest = ["bundles/xenopus.json", "configs/smoke.json", "--dataset_dir", str(folder)]
    rest += [
        "--output_dir",
        str(tmp_path / LATIN),
        "--epochs",
        "1",
        "--epoch_length",
        "1",
        "--val_interval",
        "1",
    ]
    for command in ("train", "evaluate", "predict"):
        assert main([command, *rest]) == 0, command
    assert (tmp_path / LATIN / "segmentations" / f"{LATIN}.tif").is_file()
    assert "caf" in (tmp_path / LATIN / "metrics.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_result_whose_name_is_no_utf8_is_drawn_and_shown(tmp_path):
    report = Report(LATIN, np.zeros((1, 9, 8)), LabelScheme(["a", "b"], [0, 1]), np.eye(9, 8, dtype=np.uint8))
    write_figures(tmp_path, report)
    write_report(tmp_path / "report.html", report)
    assert "caf" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(list(tmp_path.glob("*.png"))) > 0


@pytest.mark.parametrize(("image", "label"), [(ONE, TWO), (TWO, ONE)])
def test_image_and_annotation_are_paired_however_accents_are_composed(make_dataset, image, label):
    folder = make_dataset(cases=("a",), size=(6, 6), channels=1, truth=True)
    rename(folder / "images", "a.tif", f"{image}.tif")
    rename(folder / "labels", "a.tif", f"{label}.tif")
    rename(folder / "truth", "a.tif", f"{image}.tif")
    (folder / "dataset.json").write_text(json.dumps({"held_out": {image: {"y": [1]}}}))
    (case,) = find_cases(folder)
    assert (case.name, case.held_out) == (ONE, {"y": [1]})
    assert case.image.is_file()
    assert case.label.is_file()
    assert case.truth.is_file()


def test_a_list_finds_its_files_however_accents_are_composed(make_dataset):
    folder = make_dataset(size=(6, 6), channels=1)
    rename(folder, "images", TWO)
    rename(folder / TWO, "a.tif", f"{TWO}.tif")
    entry = {"image": f"{ONE}/{ONE}.tif", "label": "labels/a.tif"}
    (folder / "dataset.json").write_text(json.dumps({"training": [entry]}))
    (case,) = find_cases(folder)
    assert case.image == folder / TWO / f"{TWO}.tif"
    (image,) = find_images(folder / ONE / f"{ONE}.tif")
    assert image.image == case.image


def test_two_files_that_differ_in_their_accents_only_are_not_guessed_between(make_dataset):
    folder = make_dataset(cases=("a", "b"), size=(6, 6), channels=1)
    third = normalize("NFD", "ế")  # composed in part: neither form of it
    half = normalize("NFC", "ê") + "\u0301"
    rename(folder / "images", "a.tif", f"{third}.tif")
    rename(folder / "images", "b.tif", f"{half}.tif")
    entry = {"image": f"images/{normalize('NFC', third)}.tif", "label": "labels/a.tif"}
    (folder / "dataset.json").write_text(json.dumps({"training": [entry]}))
    with pytest.raises(InputError, match="differ only in how accents are composed: which of them is meant"):
        find_cases(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(InputError, match="share one name: which of them is meant"):
        find_cases(folder)


def test_a_link_is_followed_in_a_list_as_elsewhere(make_dataset, tmp_path):
    folder = make_dataset(size=(6, 6), channels=1)
    (tmp_path / "disk").mkdir()
    (folder / "images" / "a.tif").rename(tmp_path / "disk" / "0815.tif")
    (folder / "images" / "a.tif").symlink_to(tmp_path / "disk" / "0815.tif")
    plain = find_cases(folder)
    listing = {"training": [{"image": "images/a.tif", "label": "labels/a.tif"}]}
    (folder / "dataset.json").write_text(json.dumps(listing))
    assert find_cases(folder) == plain
    (tmp_path / "linked").symlink_to(folder)
    assert [case.name for case in find_cases(tmp_path / "linked")] == ["a"]
    listing["training"][0]["image"] = "images/../../disk/0815.tif"
    (folder / "dataset.json").write_text(json.dumps(listing))
    with pytest.raises(
        RefusedError, match="outside the dataset.*Put the file, or a link to it, into the folder"
    ):
        find_cases(folder)


def test_a_byte_order_mark_changes_nothing(make_dataset):
    folder = make_dataset(size=(6, 6), channels=1)
    text = json.dumps({"held_out": {"a": {"y": [1]}}})
    (folder / "dataset.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (case,) = find_cases(folder)
    assert case.held_out == {"y": [1]}


@pytest.mark.parametrize("title", ["a\udcffb", "a$x_$b", "$\\frac$"])
def test_the_picture_of_an_evaluation_bears_any_name(tmp_path, title):
    save_picture(tmp_path / "a.png", np.zeros((8, 44, 3), np.uint8), LabelScheme(["a"], [0], 255), title)
    assert read_volume(tmp_path / "a.png").spatial_dims == 2


@pytest.mark.parametrize("text", ["a#b.tif", 'im#port/@seed\'s "import" #1', "a\\#x23", "plain", "$1 # one"])
def test_a_path_with_a_number_sign_reaches_the_bundle(text):
    """MONAI turns each '#' into '::'."""
    parser = ConfigParser({"seed": 0, "path": as_typed(text)})
    if not text.startswith("$"):
        assert parser.get_parsed_content("path") == text
    else:
        assert as_typed(text) == text  # an expression is one
