"""The bundles of this repository, as MONAI runs them."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as run_bundle

from volseg.bundle import check_bundle
from volseg.data import write_phantom
from volseg.io import read_volume
from volseg.runs.checkpoint import load_checkpoint

VOLUME, IMAGE = (24, 24, 24), (24, 24)
BUNDLES = {
    "xenopus.json": {},
    "medulla.json": {"channels": 1, "values": (0, 1), "unlabelled": 255},
    "hippocampus.json": {
        "channels": 1,
        "unlabelled": 255,
        "suffix": ".nii.gz",
        "folders": ("imagesTr", "labelsTr"),
    },
    "isbi2012.json": {"size": IMAGE, "channels": 1, "values": (0, 255), "unlabelled": 128},
    "cells.json": {"size": IMAGE, "channels": 1, "values": (0, 1, 2), "unlabelled": 0},
    "hela.json": {"size": IMAGE, "channels": 1, "values": (0, 1), "unlabelled": 255},
    "axon.json": {"size": IMAGE, "channels": 1, "unlabelled": 255},
    "brain_mri.json": {"size": IMAGE, "channels": 1, "values": (0, 1), "unlabelled": 255},
}
SMOKE = "configs/smoke.json"

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture(autouse=True)
def at_the_root(root, monkeypatch):
    monkeypatch.chdir(root)


def test_every_bundle_is_run_here(root):
    names = {path.name for path in (root / "bundles").glob("*.json")} - {"metadata.json"}
    assert names == BUNDLES.keys() | {"densify.json"}  # see densification/test_command.py


def laid_out(value, indent=0, before=0, width=110):
    """JSON with an object or list on one line where it fits, comma included, else with an entry a line."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or indent + before + len(line) < width:
        return line
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    values = value.values() if isinstance(value, dict) else value
    inside = " " * (indent + 4)
    rows = [f"{inside}{k}{laid_out(v, indent + 4, len(k))}" for k, v in zip(keys, values, strict=True)]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([first, ",\n".join(rows), " " * indent + last])


LINES = {
    "xenopus.json": 164, "medulla.json": 160, "hippocampus.json": 155, "isbi2012.json": 184,
    "cells.json": 180, "hela.json": 172, "axon.json": 171, "brain_mri.json": 167, "densify.json": 59,
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_bundle_of_this_repository_is_laid_out_plainly_and_grows_no_longer(name):
    text = Path(f"bundles/{name}").read_text(encoding="utf-8")
    assert text == laid_out(json.loads(text)) + "\n"
    assert text.count("\n") <= LINES[name]
    assert "lambda" not in text
    assert '"%' not in text


def test_a_layout_breaks_what_does_not_fit_and_nothing_else():
    assert laid_out({"a": [1, 2], "b": {}}) == '{"a": [1, 2], "b": {}}'
    fits, breaks = (laid_out({"a": {"b": "x" * n}, "c": "y" * 99}).splitlines() for n in (91, 92))
    assert (len(fits), len(fits[1])) == (4, 110)
    assert breaks[1:4] == ['    "a": {', f'        "b": "{"x" * 92}"', "    },"]


@pytest.mark.parametrize("name", BUNDLES)
def test_the_smoke_overlay_fits_every_bundle(name):
    assert check_bundle([f"bundles/{name}", SMOKE]) == []


@pytest.mark.parametrize("workflow_type", ["train", "infer"])
def test_monai_finds_every_property_it_looks_for(make_dataset, tmp_path, workflow_type, caplog):
    workflow = ConfigWorkflow(
        ["bundles/xenopus.json", SMOKE],
        meta_file="bundles/metadata.json",
        logging_file=False,
        workflow_type=workflow_type,
        dataset_dir=str(make_dataset()),
        output_dir=str(tmp_path / "run"),
    )
    workflow.initialize()
    caplog.clear()  # of what it says about the overlay lying in another folder
    with caplog.at_level(logging.WARNING):
        assert workflow.check_properties() == []
    assert caplog.text == ""
    assert not (tmp_path / "run").exists()  # looking writes nothing


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_trains_evaluates_and_segments(make_dataset, tmp_path, name):
    settings = {"size": VOLUME, "values": (0, 1, 2)} | BUNDLES[name]
    is_volume = settings["size"] == VOLUME
    folder = make_dataset(cases="a" if is_volume else "ab", truth=True, **settings)
    held_out = {"a": {"z": [5, 13]}} if is_volume else {"b": "all"}
    (folder / "dataset.json").write_text(json.dumps({"held_out": held_out}))
    out = tmp_path / "run"
    given = {
        "config_file": [f"bundles/{name}", SMOKE],
        "dataset_dir": str(folder),
        "output_dir": str(out),
        "logging_file": False,
    }
    run_bundle(run_id="training", **given)
    assert load_checkpoint(out / "last.pt")["iteration"] == 4
    run_bundle(run_id="evaluating", **given)
    report = json.loads((out / "metrics.json").read_text())
    assert report["iteration"] == 4
    held_out = 2 * 24 * 24 if is_volume else 24 * (24 if name == "cells.json" else 6)  # cells: all have an id
    assert report["held out"]["voxels"] == held_out
    if name != "cells.json":
        assert report["never annotated"]["voxels"] == (18 * 24 * 24 if is_volume else 2 * 18 * 24)
    run_bundle(run_id="predicting", **given)
    suffix = settings.get("suffix", ".tif")
    result = read_volume(out / "segmentations" / f"a{suffix}", labels=True)
    assert result.spatial_shape == settings["size"]
    if name != "cells.json":
        assert set(np.unique(result.array)) <= set(settings["values"])
    config = json.loads((out / "config.json").read_text())
    assert (config["epochs"], config["dataset_dir"]) == (2, str(folder))


@pytest.mark.parametrize("name", ["xenopus.json", "isbi2012.json", "cells.json", "brain_mri.json"])
def test_without_data_a_bundle_makes_its_phantom(tmp_path, name, monkeypatch):
    size = BUNDLES[name].get("size", VOLUME)
    monkeypatch.setattr(
        "volseg.data.phantoms.write_phantom",
        lambda folder, kind: write_phantom(folder, kind, sizes=[tuple(2 * n for n in size)] * 5),
    )
    phantom = tmp_path / "phantom"
    run_bundle(
        run_id="training",
        config_file=[f"bundles/{name}", SMOKE],
        phantom_dir=str(phantom),
        output_dir=str(tmp_path / "run"),
        logging_file=False,
    )
    assert (phantom / "dataset.json").is_file()
    assert load_checkpoint(tmp_path / "run" / "model.pt")["iteration"] == 4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("xenopus.json", 19_069_955 + 4_672), ("isbi2012.json", 31_030_658), ("cells.json", 31_030_658)],
)
def test_at_the_papers_scale_the_network_is_the_papers(name, parameters):
    parser = ConfigParser(json.loads(Path(f"bundles/{name}").read_text()))
    parser.update({"scale": "paper"})
    network = parser.get_parsed_content("network_def")
    count = sum(parameter.numel() for parameter in network.parameters())
    released_biases = 512 + 256 + 128 if name == "xenopus.json" else 0  # the up-convolutions have none there
    assert count - released_biases == parameters
    size = parser.get_parsed_content("patch_size")
    assert tuple(network.output_size(size)) == ((388, 388) if len(size) == 2 else (44, 44, 28))


# --- from outside ----------------------------------------------------------------------------------------


def monai_run(run_id, folder, out, *words):
    """The documented command, made small, and an environment without this process's warning filters."""
    small = json.loads(Path(SMOKE).read_text())
    settings = {**small, "dataset_dir": folder, "output_dir": out}
    given = [word for key, value in settings.items() for word in (f"--{key}", value)]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", "bundles/xenopus.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    return [str(word) for word in (*command, *given, *words)], environment


@pytest.mark.slow
def test_a_normal_run_prints_no_error_and_no_warning_but_monais_notice(make_dataset, tmp_path):
    folder = make_dataset(truth=True, held_out={"z": [5]})
    for run_id in ("training", "evaluating", "predicting"):
        words, environment = monai_run(run_id, folder, tmp_path / "run")
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
        assert "Traceback" not in text
        # Where ITK is installed, MONAI imports it, and warnings lose the place where they arose.
        rest = re.sub(r"(\S+ UserWarning: )?parsing config_file .*\n(  .*\n)?", "", text)
        assert rest != text
        assert not re.search(r"error|warning", rest, re.IGNORECASE), rest


@pytest.mark.slow
def test_bad_input_is_told_in_one_sentence_instead_of_monais_traceback(make_dataset, tmp_path):
    folder = make_dataset(channels=1)
    words, environment = monai_run("training", folder, tmp_path / "run")
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    text = done.stdout + done.stderr
    assert done.returncode == 3
    assert "Traceback" not in text
    assert "Failed to instantiate" not in text
    message = "has 1 channel(s), but the bundle expects 3. Set in_channels"
    assert done.stderr.strip().splitlines()[-1].count(message) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(make_dataset, tmp_path, number):
    folder, out = make_dataset(), tmp_path / "run"
    words, environment = monai_run("training", folder, out, "--epochs", 1000)
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    try:
        until = time.monotonic() + 200
        while not (out / "last.pt").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, err.decode()
    assert b"saved. Go on with --resume True" in err
    assert b"Traceback" not in err
    iteration = load_checkpoint(out / "last.pt")["iteration"]
    epochs = iteration // 2 + 1
    words, environment = monai_run("training", folder, out, "--epochs", epochs, "--resume", "True")
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"Resuming at iteration {iteration}." in done.stderr
    assert load_checkpoint(out / "model.pt")["iteration"] == 2 * epochs
