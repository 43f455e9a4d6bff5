"""Experiments as they run: what is run again and what is not, what is refused, what the tables say."""

import csv
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from volseg.annotation import keep_slices
from volseg.bundle import read_bundle
from volseg.cli import main
from volseg.errors import InputError, RefusedError, VolsegError
from volseg.experiments import campaign, comparison, protocols
from volseg.experiments.campaign import run_bundle
from volseg.experiments.protocols import auto, budget, semi
from volseg.experiments.sweep import sweep
from volseg.io import read_volume, write_volume
from volseg.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

TINY = {
    "channels": [[4, 4], [4, 4]],
    "patch_size": [20, 20, 20],
    "epochs": 2,
    "epoch_length": 1,
    "device": "cpu",
}
CASES = ("a", "b")


@pytest.fixture
def files(root):
    return [root / "bundles" / "xenopus.json"]


@pytest.fixture
def files_2d(root, files, tmp_path):
    small = tmp_path / "small_2d.json"
    small.write_text('{"patch_size": [20, 20], "train#trainer#batch_size": 2}')
    return [*files, root / "configs" / "slices_2d.json", small]


@pytest.fixture
def settings(make_dataset):
    """A dataset of two cases with three slices in each direction, and a network that is small."""
    folder = make_dataset(cases=CASES, size=(14, 13, 12), truth=True, held_out={"z": [2]})
    for case in CASES:
        truth = read_volume(folder / "truth" / f"{case}.tif", labels=True)
        sparse = keep_slices(truth.array[0], (3, 3, 3), ignore_index=3)
        write_volume(folder / "labels" / f"{case}.tif", sparse, truth, overwrite=True)
    return {**TINY, "dataset_dir": str(folder)}


class Runs:
    """Stands in for running a bundle: notes what was run, and leaves the figures of an evaluation."""

    def __init__(self):
        self.done = []
        self.stop_at = None  # the number of a run that is interrupted, before it leaves anything
        self.error = {}  # by name of the cell, what its training ends with

    def __call__(self, run_id, files, settings):
        folder = Path(settings["output_dir"])
        self.done.append((run_id, folder.name))
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt
        if run_id == "training" and folder.name in self.error:
            raise RuntimeError("Failed to instantiate") from self.error[folder.name]
        folder.mkdir(parents=True, exist_ok=True)
        if run_id == "evaluating":
            score = round(0.5 + 0.4 * int.from_bytes(folder.name.encode()[-4:]) % 97 / 97, 5)
            found = {"mean IoU": score, "IoU": {"tubule": score - 0.1}, "voxels": 100}
            metrics = {"iteration": 4, "held out": found, "never annotated": {**found, "voxels": 200}}
            (folder / "metrics.json").write_text(json.dumps(metrics))

    @property
    def trainings(self):
        return [name for run_id, name in self.done if run_id == "training"]


@pytest.fixture
def runs(monkeypatch):
    stand_in = Runs()
    monkeypatch.setattr(campaign, "run_bundle", stand_in)
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: path.touch())  # drawing takes long
    return stand_in


def column(path, name):
    """One column of a CSV file, by cell."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["cell"]: row[name] for row in csv.DictReader(file)}


def score_of(out, cell):
    return json.loads((out / "runs" / cell / "metrics.json").read_text())["held out"]["mean IoU"]


# --- resuming -----------------------------------------------------------------------------------------


def test_a_finished_cell_is_not_run_again_and_the_table_has_its_figures(
    files, files_2d, settings, tmp_path, runs
):
    out = tmp_path / "out"
    runs.stop_at = 6  # the evaluation of the third cell
    with pytest.raises(KeyboardInterrupt):
        semi(files, settings, out, folds=2, files_2d=files_2d)
    assert runs.trainings == ["3d_fold1", "3d-bn_fold1", "2d-bn_fold1"]
    first = f"| 1 | {score_of(out, '3d_fold1'):.3f} | {score_of(out, '3d-bn_fold1'):.3f} | – |"
    assert first in (out / "table.md").read_text()
    assert "| mean | – | – | – |" in (out / "table.md").read_text()
    assert (out / "plot.png").exists()
    runs.stop_at = None
    runs.done.clear()
    semi(files, settings, out, folds=2, files_2d=files_2d)
    assert runs.done[0] == ("evaluating", "2d-bn_fold1")  # it was trained before
    assert runs.trainings == ["3d_fold2", "3d-bn_fold2", "2d-bn_fold2"]
    scores = {cell: float(score) for cell, score in column(out / "table.csv", "mean IoU, held out").items()}
    assert scores == {cell: score_of(out, cell) for cell in scores}
    assert len(scores) == 6
    means = [(scores[f"{v}_fold1"] + scores[f"{v}_fold2"]) / 2 for v in ("3d", "3d-bn", "2d-bn")]
    assert f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} |" in (out / "table.md").read_text()
    runs.done.clear()
    semi(files, settings, out, folds=2, files_2d=files_2d)
    assert runs.done == []


def test_the_variants_differ_in_norm_and_dimension_only(
    files, files_2d, settings, tmp_path, runs, monkeypatch
):
    given = []
    monkeypatch.setattr(campaign, "run_bundle", lambda *a: (given.append(a), runs(*a)))
    auto(files, settings, tmp_path / "out", cases=["b"], files_2d=files_2d)
    trained = [(read, {**sets}) for run_id, read, sets in given if run_id == "training"]
    assert [sets.pop("network_def#norm") for _, sets in trained] == [None, "batch", "batch"]
    assert [tuple(read) for read, _ in trained] == [tuple(files), tuple(files), tuple(files_2d)]
    assert trained[2][1].pop("dataset_dir").endswith("without_b/2d_train")
    assert trained[0][1].pop("patch_size") == [20, 20, 20]  # three numbers hold for volumes
    assert "patch_size" not in trained[2][1]
    for _, sets in trained:
        assert sets["held_out"] == 0
        assert sets["val_interval"] == 0


def test_variants_may_be_added_later_and_keep_what_is_there(files, files_2d, settings, tmp_path, runs):
    out = tmp_path / "out"
    semi(files, settings, out, folds=2, variants=["3d-bn"])
    semi(files, settings, out, folds=2, variants=["2d-bn"], files_2d=files_2d)
    runs.done.clear()
    semi(files, settings, out, folds=2, files_2d=files_2d)
    assert runs.trainings == ["3d_fold1", "3d_fold2"]


def change_a_label(settings):
    path = Path(settings["dataset_dir"]) / "labels" / "b.tif"
    label = read_volume(path, labels=True)
    write_volume(path, np.where(label.array == 0, 1, label.array), label, overwrite=True)


CHANGES = {
    "a setting": (lambda s: s.update(learning_rate=0.5), {}, "learning_rate was .*plan.*, now 0.5"),
    "the folds": (lambda s: None, {"folds": 3}, "folds was 2, now 3"),
    "the data": (change_a_label, {}, "data#b#label was"),
    "several": (
        lambda s: s.update(epochs=3, seed=1),
        {},
        r"epochs was 2, now 3 \(and 1 more\)|seed .*1 more",
    ),
}


@pytest.mark.parametrize(("change", "options", "message"), CHANGES.values(), ids=CHANGES)
def test_other_settings_are_refused_in_the_same_folder(
    files, settings, tmp_path, runs, change, options, message
):
    out = tmp_path / "out"
    semi(files, settings, out, folds=2, variants=["3d-bn"])
    before = (out / "experiment.json").read_text()
    assert len(json.loads(before)["hash"]) == 64
    runs.done.clear()
    change(settings)
    with pytest.raises(RefusedError, match=f"holds an experiment with other settings: ({message})"):
        semi(files, settings, out, **{"folds": 2, "variants": ["3d-bn"], **options})
    assert runs.done == []
    assert (out / "experiment.json").read_text() == before


def test_data_that_only_moved_are_the_same(files, settings, tmp_path, runs):
    out = tmp_path / "out"
    budget(files, settings, out, budgets=[(1, 1, 1)])
    runs.done.clear()
    moved = Path(settings["dataset_dir"]).rename(tmp_path / "elsewhere")
    budget(files, {**settings, "dataset_dir": str(moved)}, out, budgets=[(1, 1, 1)])
    assert runs.done == []


def test_a_folder_with_something_else_is_refused(files, settings, tmp_path, runs):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("precious")
    with pytest.raises(RefusedError, match="notes exists and holds no experiment"):
        budget(files, settings, tmp_path / "notes", budgets=[(1, 1, 1)])


def test_a_training_that_went_astray_is_a_result_and_a_wrong_file_is_not(files, settings, tmp_path, runs):
    out = tmp_path / "out"
    runs.error = {"a_1-1-1": VolsegError("Loss or gradient were not finite.")}
    budget(files, settings, out, budgets=[(1, 1, 1), (2, 2, 2)])
    assert column(out / "table.csv", "trouble")["a_1-1-1"] == "Loss or gradient were not finite."
    assert "not finite" in (out / "table.md").read_text()
    assert "| 1,1,1 | " in (out / "table.md").read_text()
    runs.done.clear()
    budget(files, settings, out, budgets=[(1, 1, 1), (2, 2, 2)])
    assert runs.done == []
    runs.error = {"b_1-1-1": InputError("fix me")}
    with pytest.raises(RuntimeError, match="Failed to instantiate"):
        budget(files, settings, tmp_path / "other", budgets=[(1, 1, 1)])


def test_progress_says_which_cell_and_how_long(files, settings, tmp_path, runs, caplog):
    caplog.set_level(logging.INFO, "volseg")
    budget(files, settings, tmp_path / "out", budgets=[(1, 1, 1), (2, 2, 2)], cases=["b"])
    text = caplog.text
    assert re.search(r"Cell 1 of 2: b, 1,1,1 slices, \S+% of the voxels labelled\.", text)
    assert re.search(r"Cell 2 of 2: b, 2,2,2 slices.*, 0 s left\.", text)
    assert "All 2 cells are finished" in text


# --- what is refused before anything runs -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "extra", "kind", "message"),
    [
        ({"variants": ["4d"]}, {}, ValueError, "variants 4d: each must be one of 3d, 3d-bn, 2d-bn"),
        ({}, {"network_def#norm": "batch"}, ValueError, "it is what the variants differ in"),
        ({}, {"output_dir": "x"}, ValueError, "output_dir is set by the experiment for each of its cells"),
        ({}, {"epoch": 3}, ValueError, "There is no 'epoch' in the bundle"),
        ({}, {"patch_size": [21, 20, 20]}, ValueError, "= 21 is not a legal input size"),
        ({"folds": 99}, {}, InputError, "99 folds of 18 annotated slice"),
        ({"cases": ["c"]}, {}, InputError, "There is no case 'c'. There are: a, b"),
    ],
)
def test_slips_are_told_before_anything_is_trained(
    files, settings, tmp_path, runs, options, extra, kind, message
):
    run = auto if "cases" in options else semi
    with pytest.raises(kind, match=message):
        run(files, {**settings, **extra}, tmp_path / "out", **{"variants": ["3d-bn"], **options})
    assert runs.done == []
    assert not (tmp_path / "out").exists()


def test_one_case_cannot_be_left_out(files, make_dataset, tmp_path):
    with pytest.raises(InputError, match="There is only one case, a: none is left to train on"):
        auto(files, {**TINY, "dataset_dir": str(make_dataset())}, tmp_path / "out", variants=["3d"])


def test_images_cannot_be_cut_into_slices(files_2d, make_dataset, tmp_path):
    folder = make_dataset(size=(24, 24))
    given = {**TINY, "patch_size": [20, 20], "dataset_dir": str(folder)}
    with pytest.raises(InputError, match="The images are 2D already"):
        semi(files_2d, given, tmp_path / "out", variants=["2d-bn"], files_2d=files_2d)


def test_the_command_line_hands_everything_on(root, tmp_path, monkeypatch):
    seen = {}

    def take(files, settings, folder, **options):
        seen.update(bundle=read_bundle(files), settings=settings, folder=folder, **options)

    monkeypatch.setattr(protocols, "budget", take)
    bundle = [str(root / "bundles" / "xenopus.json"), str(root / "configs" / "smoke.json")]
    words = ["experiment", "budget", bundle[0], "--epochs", "3", bundle[1], "--cases=a,b"]
    words += ["--dataset_dir", "2016"]
    assert main([*words, "--budgets", "1,1,1 2,2,2"]) == 0
    assert seen["bundle"]["channels"] == [[4, 8], [8, 16]]
    assert seen["settings"] == {"epochs": 3, "dataset_dir": "2016"}
    assert seen["folder"] == Path("runs", "budget")
    assert seen["budgets"] == [(1, 1, 1), (2, 2, 2)]
    assert seen["cases"] == ["a", "b"]


def test_an_overlay_for_slices_that_runs_code_is_not_run(root, tmp_path, capsys):
    bad = tmp_path / "bad.json"
    bad.write_text('{"patch_size": "$__import__(\'os\').getcwd()"}')
    bundle = str(root / "bundles" / "xenopus.json")
    words = ["experiment", "semi", bundle, "-o", str(tmp_path / "out"), "--overlay_2d", str(bad)]
    assert main(words) == 5
    assert "is not run, because it could do anything: patch_size evaluates" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- with real trainings ------------------------------------------------------------------------------


def test_cells_are_trained_and_scored_for_real_and_each_starts_clean(files, settings, tmp_path, caplog):
    """Two budgets of one case; the second cell comes out as if it were alone."""
    before = sys.excepthook, sys.path[:], logging.getLogger("volseg").handlers[:]
    budget(files, settings, tmp_path / "both", budgets=[(1, 1, 1), (2, 2, 2)], cases=["a"])
    assert (sys.excepthook, sys.path, logging.getLogger("volseg").handlers) == before
    out = tmp_path / "both"
    scores = column(out / "table.csv", "mean IoU, held out")
    assert {cell: float(score) for cell, score in scores.items()} == {c: score_of(out, c) for c in scores}
    assert len(set(column(out / "table.csv", "voxels, held out").values())) == 1
    assert len(set(column(out / "table.csv", "voxels, never annotated").values())) == 1
    assert {"last.pt", "model.pt", "metrics.json", "picture.png", "log.txt", "progress.csv"} <= {
        path.name for path in (out / "runs" / "a_2-2-2").iterdir()
    }
    assert (out / "plot.png").stat().st_size > 5000
    assert "a_1-1-1" not in (out / "runs" / "a_2-2-2" / "log.txt").read_text()
    alone = tmp_path / "alone"
    on = {"dataset_dir": str(out / "datasets" / "a" / "2-2-2"), "output_dir": str(alone), "held_out": 0}
    run_bundle("training", files, {**settings, **on})
    weights = [load_checkpoint(folder / "model.pt")["model"] for folder in (alone, out / "runs" / "a_2-2-2")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=0)


@pytest.mark.slow
def test_an_unfinished_training_is_gone_on_with(files, settings, tmp_path, monkeypatch):
    out = tmp_path / "out"
    trained = []

    def stop_half_way(run_id, read, given):
        trained.append((run_id, given.get("resume")))
        run_bundle(run_id, read, {**given, "epochs": 1})
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run_bundle", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        budget(files, settings, out, budgets=[(1, 1, 1)], cases=["a"])
    monkeypatch.setattr(
        campaign, "run_bundle", lambda *a: (trained.append((a[0], a[2].get("resume"))), run_bundle(*a))
    )
    budget(files, settings, out, budgets=[(1, 1, 1)], cases=["a"])
    assert trained == [("training", False), ("training", True), ("evaluating", None)]
    assert "Resuming at iteration 1" in (out / "runs" / "a_1-1-1" / "log.txt").read_text()
    assert column(out / "table.csv", "iterations") == {"a_1-1-1": "2"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["semi", "auto"])
def test_2d_and_3d_from_the_command_line(root, settings, files_2d, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(root)
    out = tmp_path / "out"
    overlay = tmp_path / "overlay_2d.json"
    overlay.write_text('{"network_def#spatial_dims": 2, "patch_size": [20, 20]}')
    words = ["experiment", kind, "bundles/xenopus.json", "-o", out, "--overlay_2d", overlay]
    words += ["--folds", 2] if kind == "semi" else ["--cases", "a"]
    for key, value in settings.items():
        words += [f"--{key}", value]
    assert main([str(word) for word in words]) == 0
    voxels = column(out / "table.csv", "voxels, held out")
    assert len(voxels) == {"semi": 6, "auto": 3}[kind]
    by_row = {}
    for cell, number in voxels.items():
        by_row.setdefault(cell.partition("_")[2], set()).add(number)
    assert all(len(numbers) == 1 for numbers in by_row.values())  # 2D and 3D scored on as many voxels
    assert "What differs: our data (dataset) are not the paper's" in (out / "table.md").read_text()
    for cell in voxels:  # configs/without_norm.json is laid over the one variant that needs it
        config = json.loads((out / "runs" / cell / "config.json").read_text())
        assert (config["learning_rate"] == 0.01) == cell.startswith("3d_")


# --- sweep --------------------------------------------------------------------------------------------


def states(out):
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{out / 'study.db'}")
    return [(trial.params["epochs"], trial.state.name, trial.value) for trial in study.trials]


def test_a_sweep_goes_on_where_its_store_says(files, settings, tmp_path, runs):
    out = tmp_path / "out"
    given = {key: value for key, value in settings.items() if key != "epochs"}
    runs.stop_at = 3  # the second training
    with pytest.raises(KeyboardInterrupt):
        sweep(files, given, out, vary={"epochs": [1, 2, 3]}, examples=0)
    first = score_of(out, "epochs=1")
    assert states(out) == [("1", "COMPLETE", first), ("2", "RUNNING", None)]
    runs.stop_at = None
    sweep(files, given, out, vary={"epochs": [1, 2, 3]}, examples=0)
    assert runs.trainings == ["epochs=1", "epochs=2", "epochs=2", "epochs=3"]
    scores = [score_of(out, f"epochs={n}") for n in (1, 2, 3)]
    assert states(out) == [(str(n), "COMPLETE", score) for n, score in zip((1, 2, 3), scores, strict=True)]
    (out / "study.db").unlink()  # the runs are all that is needed to write it again
    sweep(files, given, out, vary={"epochs": [1, 2, 3]}, examples=0)
    assert len(runs.trainings) == 4
    assert [value for _, _, value in states(out)] == scores
    best = f"**{max(scores):.3f}**"
    assert (out / "table.md").read_text().count("**") == 2
    assert best in (out / "table.md").read_text()
    with pytest.raises(RefusedError, match="vary#epochs was"):
        sweep(files, given, out, vary={"epochs": [1, 2]}, examples=0)


def test_a_cell_that_failed_is_noted_and_not_the_best(files, settings, tmp_path, runs):
    out = tmp_path / "out"
    runs.error = {"epochs=2": VolsegError("Loss or gradient were not finite.")}
    given = {key: value for key, value in settings.items() if key != "epochs"}
    sweep(files, given, out, vary={"epochs": [2, 3]}, examples=0)
    assert [state for _, state, _ in states(out)] == ["FAIL", "COMPLETE"]
    assert "epochs 2 failed: Loss or gradient were not finite." in (out / "table.md").read_text()


def test_without_optuna_a_sweep_says_how_to_get_it(files, settings, tmp_path, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(VolsegError, match=r"Optuna, which is not installed. .*pip install optuna"):
        sweep(files, settings, tmp_path / "out", vary={"learning_rate": [0.1]})
    assert runs.done == []


@pytest.mark.slow
def test_a_sweep_ends_in_a_table_curves_and_predictions(root, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    out = tmp_path / "out"
    words = ["experiment", "sweep", "bundles/xenopus.json", "-o", out, "--vary", "optimizer=SGD,AdamW"]
    for key, value in {**settings, "val_interval": 1}.items():
        words += [f"--{key}", value]
    assert main([str(word) for word in words]) == 0
    optimisers = [
        json.loads((out / "runs" / f"optimizer={name}" / "config.json").read_text())["optimizer"]
        for name in ("SGD", "AdamW")
    ]
    assert [found["_target_"] for found in optimisers] == ["torch.optim.SGD", "torch.optim.AdamW"]
    assert ["momentum" in found for found in optimisers] == [True, False]
    scores = column(out / "table.csv", "mean IoU, held out")
    assert {cell: float(score) for cell, score in scores.items()} == {c: score_of(out, c) for c in scores}
    assert (out / "runs" / "optimizer=SGD" / "segmentations" / "a.tif").exists()
    assert all((out / name).stat().st_size > 5000 for name in ("plot.png", "predictions.png"))
