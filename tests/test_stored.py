"""What was stored by volseg before modules moved (commit 2f2c633) still runs, is resumed and continued.

``tests/stored`` was written by that commit, from seeded numbers: a result of ``volseg densify``, a run of a
bundle with its checkpoints, the bundle itself as a user would keep it, and weights that were exported.
"""

import shutil

import numpy as np
import pytest
import tifffile

from volseg.cli import main
from volseg.runs.checkpoint import load_checkpoint

SIZES = {"a.tif": (48, 56), "b.tif": (48, 56)}


@pytest.fixture
def stored(root, tmp_path, monkeypatch):
    """A copy, in which the current folder is."""
    copy = tmp_path / "stored"
    shutil.copytree(root / "tests" / "stored", copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.slow
def test_a_result_of_densify_is_continued_with_every_fold(stored, clean_process):
    words = ["image.tif", "painted.tif", "-o", "more", "--continue", "densified", "--minutes", "0.05"]
    assert main(["densify", *words]) == 0
    made = tifffile.imread(stored / "more" / "image_segmentation.tif")
    before = tifffile.imread(stored / "densified" / "image_segmentation.tif")
    assert np.mean(made == before) > 0.9
    folds = {path.name for path in (stored / "densified" / "folds").iterdir()}
    assert {path.name for path in (stored / "more" / "folds").iterdir()} == folds


@pytest.mark.slow
def test_a_result_of_densify_is_applied_to_another_image(stored, clean_process):
    other = tifffile.imread("image.tif")[::-1, :, ::-1]
    tifffile.imwrite("other.tif", other, imagej=True, metadata={"axes": "ZYX"})
    assert main(["densify", "other.tif", "--apply", "densified", "-o", "applied"]) == 0
    made = tifffile.imread(stored / "applied" / "other_segmentation.tif")
    before = tifffile.imread(stored / "densified" / "image_segmentation.tif")[::-1, :, ::-1]
    assert np.mean(made == before) > 0.8


@pytest.mark.slow
def test_a_run_is_resumed_in_its_folder(stored, clean_process):
    assert load_checkpoint(stored / "run" / "last.pt")["iteration"] == 4
    words = ["run/config.json", "--resume", "True", "--epochs", "3", "--output_dir", "run"]
    assert main(["train", *words, "--dataset_dir", "cases"]) == 0
    assert load_checkpoint(stored / "run" / "model.pt")["iteration"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["run/model.pt", "weights.safetensors"])
def test_a_network_that_was_trained_segments(stored, clean_process, weights):
    words = ["run/config.json", "--images", "cases/images", "--checkpoint", weights, "--output_dir", "made"]
    assert main(["predict", *words]) == 0
    for name, size in SIZES.items():
        assert tifffile.imread(next(stored.glob(f"made/**/{name}"))).shape == size


def test_a_bundle_that_a_user_keeps_is_read_and_checked(stored, capsys):
    from volseg.bundle import check_bundle, read_bundle

    assert read_bundle([stored / "bundle.json"])["network_def"]["_target_"] == "volseg.UNet"
    assert check_bundle([stored / "bundle.json"]) == []


@pytest.mark.parametrize("path", ["run/model.pt", "weights.safetensors", "densified/model.pt"])
def test_what_was_learnt_is_described(stored, capsys, path):
    assert main(["info", path]) == 0
    assert "numbers in" in capsys.readouterr().out
