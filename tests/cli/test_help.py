"""The command line explains itself: commands, options, versions, and what came with volseg."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch

import volseg as package
from volseg import cli
from volseg.cli import ending
from volseg.runs.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty folder."""
    monkeypatch.chdir(tmp_path)


def parsers():
    parser, commands = cli._parser()
    return {"": parser, **commands}


@pytest.mark.parametrize("command", parsers())
def test_every_option_of_every_command_has_a_word_of_help(command):
    silent = [a.dest for a in parsers()[command]._actions if not a.help and a.dest != "command"]
    assert not silent, f"volseg {command} --help says nothing about {silent}"


@pytest.mark.parametrize("command", parsers())
def test_help_is_for_people_who_know_neither_monai_nor_markup(volseg, command):
    code, out, _ = volseg(*command.split(), "--help")
    assert code == 0
    assert "``" not in out
    assert "MONAI" not in out.partition("options:")[0]


def test_alone_it_lists_the_commands_and_where_to_start(volseg):
    code, out, err = volseg()
    assert (code, err) == (2, "")
    assert out == volseg("--help")[1]
    assert all(f"    {command}" in out for command in parsers())
    assert "Segment a whole image or volume from a few painted slices" in out
    assert "one volume     volseg densify image.tif painted.tif -o result" in out


def test_the_version_is_told_with_what_it_runs_on(volseg):
    code, out, _ = volseg("--version")
    assert code == 0
    assert out.startswith(f"volseg {package.__version__} (Python {sys.version.split()[0]}, ")
    assert f"torch {torch.__version__}: " in out
    assert ("CPU build" in out) == (torch.version.cuda is None and torch.version.hip is None)


def test_what_is_parsed_holds_only_what_the_command_knows():
    given = cli._parser()[0].parse_args(["densify", "a.tif", "b.tif", "-o", "c"])
    assert "version" not in vars(given)


@pytest.mark.parametrize(
    ("there", "told"), [(True, "GPU found)"), (False, "no GPU found: the CPU build would do)")]
)
def test_a_build_for_gpus_on_a_machine_without_one_is_told(volseg, monkeypatch, there, told):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert volseg("--version")[1].endswith(f"build for CUDA 13.0, {told}\n")


def test_python_m_volseg_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "volseg", "init"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "xenopus" in done.stdout


def test_rooms_are_there_without_an_import_of_their_own():
    code = "import volseg; volseg.metrics; print(volseg.metrics.__name__, 'metrics' in dir(volseg))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["volseg.metrics", "True"], done.stderr
    with pytest.raises(AttributeError, match="module 'volseg' has no attribute 'metrix'"):
        _ = package.metrix


# --- what came with volseg -----------------------------------------------------------------------------


def test_init_lists_copies_and_says_what_to_edit(volseg, tmp_path, root):
    code, out, _ = volseg("init")
    assert code == 0
    assert all(f"\n  {name} " in out for name in ("xenopus", "cells", "smoke"))
    code, out, _ = volseg("init", "medulla")
    assert code == 0
    assert (tmp_path / "medulla.json").read_bytes() == (root / "bundles" / "medulla.json").read_bytes()
    assert 'Edit in it "labels"' in out
    assert "volseg train medulla.json --dataset_dir my_data" in out
    code, _, err = volseg("init", "medulla")
    assert code == 5
    assert "medulla.json exists already; add --overwrite to replace it, or -o" in err
    assert volseg("init", "medulla", "--overwrite")[0] == 0
    assert volseg("init", "smoke", "-o", "my smoke.json")[1] == "my smoke.json: a copy of smoke.\n"


def test_init_gives_the_path_for_monais_own_command(volseg, root):
    assert volseg("init", "axon", "--path")[1] == f"{root / 'bundles' / 'axon.json'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["init", "xenopos"], "Nothing called 'xenopos' came with volseg. There are xenopus, medulla"),
        (["init", "axon", "-o", "axon.yaml"], "-o axon.yaml: a bundle is a JSON file"),
        (["train", "smoke"], "'smoke' is an overlay and stands behind the bundle it is laid over: xenopus"),
        (["train", "xenopos"], "Did you mean xenopus?"),
        (["check", "axon", "--config", "smok"], "Did you mean smoke?"),
        (["train", "axon", "--config", "smok", "--epochs", "1"], "Did you mean smoke?"),
    ],
)
def test_a_slip_in_a_name_is_told(volseg, words, message):
    code, _, err = volseg(*words)
    assert code == 3
    assert message in err.splitlines()[-1]


def test_overlays_by_name_in_either_place(volseg, tmp_path):
    for words in (["xenopus", "smoke"], ["xenopus", "--config", "smoke"], ["--config=smoke", "xenopus"]):
        code, out, err = volseg("check", *words)
        assert code == 0
        assert "xenopus.json" in out
        assert "smoke.json: nothing wrong found" in out
        assert "which came with volseg" in err
    (tmp_path / "xenopus.json").write_text(json.dumps({"a": "@b"}))
    assert volseg("check", "xenopus")[0] == 3


def test_a_bundle_that_came_with_volseg_trains_in_any_folder(volseg, make_dataset, tmp_path):
    settings = ["--dataset_dir", make_dataset(), "--config", "smoke", "--output_dir", "run", "--epochs", 1]
    code, _, err = volseg("train", *settings)
    assert code == 0, err
    assert (tmp_path / "run" / "model.pt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "run"}


# --- letters that the output does not have -----------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp037", "cp437", "utf-16", "utf-8", "shift-jis"])
def test_whatever_the_encoding_everything_can_be_printed(monkeypatch, encoding):
    text = "xy · 3 × 4 µm → ±1 … „é“ \udcff 核 \N{GRINNING FACE}"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    assert ending.to_the_end(lambda: sys.stdout.write(f"{text}\n") * 0) == 0
    shown = raw.getvalue().decode(encoding)
    if encoding == "ascii":
        assert shown == 'xy - 3 x 4 um -> +/-1 ... \\u201e\\xe9" \\xff \\u6838 \\U0001f600\n'
    elif encoding == "utf-8":
        assert shown == text.replace("\udcff", "\\xff") + "\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp037"},
    ],
)
def test_a_training_with_its_bars_in_a_batch_system_without_a_locale(make_dataset, tmp_path, setting):
    folder = make_dataset()
    words = ["train", "xenopus", "smoke", "--dataset_dir", folder, "--output_dir", "Übung"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "volseg", *words],
        cwd=tmp_path, env={**os.environ, **setting}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Logging error" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert "Trained." in (tmp_path / "Übung" / "log.txt").read_text(encoding="utf-8")


def test_info_of_weights_says_what_they_are(volseg, tmp_path):
    save_checkpoint(tmp_path / "bare.pt", {"model": torch.nn.Linear(2, 3).state_dict()})
    code, out, _ = volseg("info", "bare.pt")
    assert code == 0
    assert "None" not in out
    assert "9 numbers in 2 tensors" in out
    learnt = {"stages": 1, "seconds": 90.0, "names": ["nucleus", "rest"], "values": [1, 4], "channels": 2}
    save_checkpoint(tmp_path / "model.pt", {"model": torch.nn.Linear(2, 3).state_dict(), **learnt})
    _, out, _ = volseg("info", "model.pt")
    assert "model.pt: what the per-voxel learner of volseg densify learnt in 1.5 minutes, written 20" in out
    assert "classes 1 = nucleus, 4 = rest\n  for images of 2 channel(s)" in out
    (tmp_path / "config.json").write_text('{"labels": {"names": ["a", "b"]}, "in_channels": 3}')
    save_checkpoint(tmp_path / "last.pt", {"model": torch.nn.Linear(2, 3).state_dict(), "iteration": 7})
    _, out, _ = volseg("info", "last.pt")
    assert "a network's weights after 7 iterations, written" in out
    assert "classes 0 = a, 1 = b\n  for images of 3 channel(s)" in out


def test_a_folder_of_a_run_stands_for_its_model(volseg, tmp_path):
    """As people type it: `info runs/mine`, `export runs/mine`."""
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "model.pt", {"model": {"a": torch.ones(3)}, "iteration": 7})
    code, out, _ = volseg("info", "run")
    assert code == 0
    assert out.startswith("run/model.pt: a network's weights after 7 iterations")
    assert volseg("export", "run", "-o", "a.safetensors")[0] == 0
    assert "3 numbers in 1 tensors" in volseg("info", "a.safetensors")[1]


def test_the_help_waits_for_no_library_nor_for_modules_that_one_command_needs():
    code = "import sys, volseg.cli as cli\ntry: cli.main(['--help'])\nfinally: print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = {*done.stdout.partition("LOADED")[2].split()}
    assert "argparse" in loaded, done.stderr
    assert not loaded & {"numpy", "torch", "monai", "dataclasses", "tempfile", "webbrowser"}
