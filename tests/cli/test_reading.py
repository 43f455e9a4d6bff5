"""``--spacing`` and ``--colours`` reach the files, on every command that reads."""

import json

import numpy as np
import pytest
import tifffile

from volseg.bundle import read_bundle
from volseg.cli import main, running
from volseg.data import find_cases, find_images, load_case
from volseg.installation import shipped
from volseg.io import read_volume
from volseg.labels import LabelScheme

pytestmark = pytest.mark.usefixtures("clean_process")

TABLE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
COLOURS = "000000=0,ff0000=1,00ff00=2"
SPACING = "0.5,0.25,3um"


@pytest.fixture
def folder(tmp_path):
    """A data set of one stack without a voxel size and one label in colours, on three slices."""
    rng = np.random.default_rng(0)
    labels = np.zeros((9, 12, 10), np.uint8)
    labels[[2, 4, 7], 3:9, 2:8] = 1
    labels[[2, 4, 7], 5:7, 4:6] = 2
    for name, array in {
        "images": rng.integers(1, 99, labels.shape, np.uint8) + 70 * labels,
        "labels": TABLE[labels],
    }.items():
        (tmp_path / name).mkdir()
        kind = "rgb" if array.ndim == 4 else "minisblack"
        tifffile.imwrite(tmp_path / name / "a.tif", array, photometric=kind)
    return tmp_path


def files(folder):
    return str(folder / "images/a.tif"), str(folder / "labels/a.tif")


def test_audit(folder, capsys):
    assert main(["audit", *files(folder), "--spacing", SPACING]) == 3
    assert f"--colours {COLOURS}" in capsys.readouterr().err
    assert main(["audit", *files(folder), "--spacing", SPACING, "--colours", COLOURS]) == 0
    said = capsys.readouterr()
    assert "xy: 2, 4, 7 · xz: none · yz: none; classes 1, 2" in said.out
    assert "no distance between" not in said.err


def test_info(folder, capsys):
    assert main(["info", files(folder)[0], "--spacing", SPACING]) == 0
    assert "voxel (0.5, 0.25, 3.0) um" in capsys.readouterr().out


def test_sparsify(folder, tmp_path):
    target = tmp_path / "few.tif"
    words = ["sparsify", files(folder)[1], "--slices", "0,0,2", "-o", str(target)]
    assert main([*words, "--spacing", SPACING, "--colours", COLOURS]) == 0
    few = read_volume(target, labels=True)
    assert few.spacing == pytest.approx((0.5, 0.25, 3.0))
    assert few.array.shape[0] == 1


def test_verify(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert main(["verify", folder.name]) == 3
    said = capsys.readouterr()
    assert f"'volseg convert {folder.name}/labels/a.tif --labels " in " ".join(said.out.split())
    assert "verifying" not in said.err  # no bar where nobody looks on
    assert "1 case(s)" in said.out
    assert main(["verify", str(folder), "--spacing", SPACING, "--colours", COLOURS]) == 0
    (folder / "dataset.json").write_text(json.dumps({"spacing": SPACING, "colours": COLOURS}))
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize("told", ["argument", "dataset.json"])
def test_cases_and_images(folder, told):
    spacing, colours = (SPACING, COLOURS) if told == "argument" else (None, None)
    if told == "dataset.json":
        (folder / "dataset.json").write_text(json.dumps({"spacing": SPACING, "colours": COLOURS}))
    (case,) = find_cases(folder, spacing=spacing, colours=colours)
    item = load_case(case, labels=LabelScheme(["rest", "a", "b"], (0, 1, 2)), in_channels=1)
    assert item["spacing"] == pytest.approx((0.5, 0.25, 3.0))
    (image,) = find_images(folder, spacing=spacing)
    assert image.spacing == SPACING
    assert find_images(folder / "images/a.tif", spacing=SPACING)[0].spacing == SPACING


@pytest.mark.parametrize(
    ("command", "entry"),
    [("predict", "dataset#data#spacing"), ("train", "cases#spacing"), ("evaluate", "cases#spacing")],
)
def test_commands_that_run_a_bundle(command, entry, monkeypatch, root):
    seen = {}
    monkeypatch.setattr("monai.bundle.run", lambda **settings: seen.update(settings))
    earlier = str(root / "tests" / "stored" / "bundle.json")
    for bundle, place in (("hippocampus", "cases#spacing"), (earlier, entry)):
        seen.clear()
        assert main([command, bundle, "--spacing", "0.5,0.25,3"]) == 0
        assert seen[place] == "0.5,0.25,3"
        assert "spacing" not in seen


def test_a_bundle_with_an_entry_of_that_name_keeps_it():
    bundle = {**read_bundle([shipped("hippocampus")]), "spacing": [1, 1, 1]}
    assert running._reading({"spacing": "2"}, bundle, "train") == {"spacing": "2"}


@pytest.mark.parametrize("command", ["audit", "densify"])
def test_negative_values_have_names_as_messages_say(command):
    from volseg.cli import _parser

    given = _parser()[0].parse_args([command, "a", "b", "--names", "-1=rest", "0=bone", "--unlabelled", "-2"])
    assert (given.names, given.unlabelled) == (["-1=rest", "0=bone"], -2)
