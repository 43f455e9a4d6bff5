"""The command line: each command does what its help says, and bad input gets one sentence."""

import re
import shlex

import numpy as np
import pytest
import torch

from volseg import cli
from volseg.cli import main
from volseg.errors import InputError, RefusedError, ResourceError, cause
from volseg.io import Volume, read_volume, write_volume
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

COMMANDS = {command.name: command for command in cli.COMMANDS}


@pytest.fixture(autouse=True)
def at_the_root(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.fixture
def train(volseg, tmp_path):
    """Runs the xenopus bundle, made small, on a folder."""

    def run(folder, *words):
        return volseg(
            "train", "bundles/xenopus.json", "configs/smoke.json",
            "--dataset_dir", folder, "--output_dir", tmp_path / "run", *words,
        )  # fmt: skip

    return run


def assert_one_sentence(code, err, expected, message):
    """The last line of the output is the message, there is no traceback, and nothing was trained."""
    assert code == expected
    assert "Traceback" not in err
    assert "step/s" not in err
    last = err.strip().splitlines()[-1]
    assert re.search(message, last), last


# --- help ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_each_help_shows_an_example(volseg, command):
    code, out, _ = volseg(command, "--help")
    assert code == 0
    assert f"example:\n  volseg {command} " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_example_is_understood(replace_run, command):
    seen = []
    replace_run(command, lambda given, rest: seen.append((given, rest)))
    words = shlex.split(COMMANDS[command].example)
    assert words[:2] == ["volseg", command]
    assert main(words[1:]) == 0
    assert len(seen) == 1


def test_help_and_debug_may_stand_anywhere(volseg, tmp_path):
    assert volseg("train", "bundles/xenopus.json", "--epochs", 3, "--help")[0] == 0
    with pytest.raises(InputError, match="there is no such file"):
        main(["train", str(tmp_path / "none.json"), "--epochs", "3", "--debug"])


def test_the_general_help_names_every_command(volseg):
    code, out, _ = volseg("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert volseg()[0] == 2


# --- exit codes ---------------------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch's own, which needs a GPU to be raised."""


TROUBLE = {
    "input": (InputError("a.nii is empty. Export it again."), 3, "a.nii is empty. Export it again."),
    "resources": (ResourceError("no room. Free some."), 4, "no room"),
    "refused": (RefusedError("no. Never."), 5, "no. Never."),
    "interrupted": (KeyboardInterrupt(), 130, "interrupted"),
    "memory": (MemoryError(), 4, "memory does not suffice"),
    "memory of a GPU": (OutOfMemoryError("CUDA"), 4, "memory does not suffice"),
    "memory for torch": (RuntimeError("[enforce fail] can't allocate memory"), 4, "memory does not suffice"),
    "rights": (PermissionError(13, "Permission denied", "/data"), 4, "/data: Permission denied. Check"),
    "full": (OSError(28, "No space left on device"), 4, "No space left on device. Check the disk"),
    "a fault of ours": (KeyError("x"), 1, "KeyError: 'x'. This is a fault of volseg, not of your data"),
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "wrapped"])
@pytest.mark.parametrize(("error", "code", "message"), TROUBLE.values(), ids=TROUBLE)
def test_every_trouble_has_its_exit_code_and_a_traceback_with_debug_only(
    replace_run, volseg, error, code, message, wrapped
):
    def run(given, rest):
        if wrapped and not isinstance(error, KeyboardInterrupt):  # as MONAI does
            raise RuntimeError("Failed to instantiate") from error
        raise error

    replace_run("info", run)
    got, out, err = volseg("info", "x")
    assert (got, out) == (code, "")
    assert_one_sentence(got, err, code, re.escape(message))
    assert len(err.splitlines()) == 1
    with pytest.raises((type(error), RuntimeError)):
        main(["--debug", "info", "x"])


def test_a_command_that_is_not_understood_ends_with_2(volseg):
    for words in (["no such command"], ["info"], ["info", "a", "b"], ["sparsify", "a", "--slices", "1,1"]):
        code, _, err = volseg(*words)
        assert code == 2
        assert "usage: volseg" in err


# --- settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--epoch", 3], 3, "There is no 'epoch' in the bundle.*did you mean 'epochs'"),
        (["--scale", "papr"], 3, "scale = 'papr' is not one of: auto, paper, quick"),
        (["--held_out", 1.5], 3, "fraction = 1.5 leaves nothing to train or to test on"),
        (["--epochs"], 3, "--epochs has no value: settings are given as --ENTRY VALUE"),
        (["--epochs", "--resume"], 3, "--epochs has no value: settings are given as --ENTRY VALUE"),
        (["--resume"], 3, "nothing to resume"),
        (["--epochs", 3, "4"], 3, "'4' stands alone: settings are given as --ENTRY VALUE"),
    ],
)
def test_a_slip_in_a_setting_is_told(make_dataset, train, tmp_path, words, code, message):
    got, _, err = train(make_dataset(), *words)
    assert_one_sentence(got, err, code, message)
    assert not (tmp_path / "run" / "model.pt").exists()


def test_a_bundle_that_is_not_there_or_none_is_told(volseg):
    code, _, err = volseg("train", "bundles/xenopos.json")
    assert_one_sentence(code, err, 3, "no such file; did you mean 'xenopus.json'")
    code, _, err = volseg("train", "my_data")
    assert_one_sentence(code, err, 3, "'my_data' is not a bundle: bundles end in .json")


# --- bad input --------------------------------------------------------------------------------------------


def other_shape(folder):
    label = read_volume(folder / "labels" / "a.tif", labels=True)
    part = Volume(label.array[:, 1:], label.affine, label.unit)
    write_volume(folder / "labels" / "a.tif", part.array, part, overwrite=True)


def other_place(folder):
    label = read_volume(folder / "labels" / "a.tif", labels=True)
    coarser = Volume(label.array, np.diag([1.0, 0.5, 0.5, 1.0]), label.unit)
    write_volume(folder / "labels" / "a.tif", coarser.array, coarser, overwrite=True)


def no_image(folder):
    (folder / "images" / "a.tif").unlink()


def cut_image(folder):
    path = folder / "images" / "a.tif"
    path.write_bytes(path.read_bytes()[:-5000])


BAD = {
    "missing file": ({}, no_image, "has no image in"),
    "truncated file": ({}, cut_image, r"a\.tif"),
    "other shape": ({}, other_shape, "has 24 x 24 x 24 voxels, the label .* has 23 x 24 x 24"),
    "other position": ({}, other_place, "corners lie up to .* voxels from those of"),
    "unknown value": ({"values": (0, 1, 7)}, None, "holds 7 .* the label scheme knows 0 = inside tubule"),
    "channels": ({"channels": 1}, None, r"has 1 channel\(s\), but the bundle expects 3"),
    "no annotation": ({"values": (3, 3, 3)}, None, "has an annotated voxel to train on"),
}


@pytest.mark.parametrize(("made", "spoil", "message"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_sentence_and_no_training(make_dataset, train, tmp_path, made, spoil, message):
    folder = make_dataset(**made)
    if spoil:
        spoil(folder)
    code, _, err = train(folder)
    assert_one_sentence(code, err, 3, f"^volseg train: .*{message}")
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_gets_one_sentence(train, tmp_path):
    code, _, err = train(tmp_path / "nowhere")
    assert_one_sentence(code, err, 3, "nowhere is not a folder. It should hold images/ and labels/")


def test_an_existing_run_is_not_trained_over(make_dataset, train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.pt").write_bytes(b"precious")
    code, _, err = train(make_dataset())
    assert_one_sentence(code, err, 5, "complete or stopped. Go on with it by --resume, ")
    assert (tmp_path / "run" / "model.pt").read_bytes() == b"precious"


def test_a_bug_is_not_passed_off_as_bad_input():
    def bug():
        raise ValueError("not raised by volseg")

    for error in (KeyError("x"), ValueError("x")):
        assert cause(error) is None
    with pytest.raises(ValueError, match="not raised by volseg") as caught:
        bug()
    assert cause(caught.value) is None
    wrapped = RuntimeError("Failed to instantiate")
    wrapped.__cause__ = InputError("mend me")
    assert cause(wrapped) is wrapped.__cause__


# --- the chain, as typed --------------------------------------------------------------------------------


def test_train_evaluate_predict_and_look_at_it(make_dataset, train, volseg, tmp_path):
    folder, run = make_dataset(truth=True, held_out={"z": [5]}), tmp_path / "run"
    code, out, err = train(folder, "--device", "cpu", "--val_interval", 2)
    assert (code, out) == (0, "")
    assert not re.search("error|warning", err, re.IGNORECASE), err
    assert "training: 100%" in err
    assert "loss=" in err
    assert f"Trained. The weights are in {run / 'model.pt'}" in err
    rest = ["bundles/xenopus.json", "configs/smoke.json", "--dataset_dir", folder, f"--output_dir={run}"]
    code, out, err = volseg("evaluate", *rest)
    assert (code, out) == (0, "")
    assert "Voxels held out (576): mean IoU over" in err
    assert {"metrics.json", "metrics.csv", "picture.png"} <= {path.name for path in run.iterdir()}
    code, _, err = volseg(
        "predict", *rest, "--images", folder / "images" / "a.tif", "--probabilities", "true"
    )
    assert code == 0, err
    assert read_volume(run / "segmentations" / "a.tif", labels=True).spatial_shape == (24, 24, 24)
    assert read_volume(run / "segmentations" / "a_probabilities.tif").channels == 3
    code, _, err = volseg("predict", *rest)
    assert_one_sentence(code, err, 5, "a.tif exists already and is not overwritten")
    segmented = (run / "segmentations" / "a.tif").read_bytes()
    assert volseg("export", run / "model.pt", "-o", run / "w.safetensors")[0] == 0
    code, _, err = volseg("predict", *rest, "--checkpoint", run / "w.safetensors", "--overwrite", "true")
    assert code == 0, err
    assert (run / "segmentations" / "a.tif").read_bytes() == segmented
    code, out, _ = volseg("info", run / "model.pt")
    assert code == 0
    assert "weights after 4 iterations, written" in out
    assert "trained on a, held out z = 5 (the 6th)" in out
    config = (run / "config.json").read_text()
    assert f'"dataset_dir": "{folder}"' in config
    assert '"epochs": 2' in config


def test_a_number_is_a_good_name_for_a_folder_and_none_is_a_setting(
    make_dataset, volseg, tmp_path, monkeypatch, root
):
    make_dataset("2016")
    monkeypatch.chdir(tmp_path)
    bundle = [root / "bundles" / "xenopus.json", root / "configs" / "smoke.json"]
    settings = ("--dataset_dir", 2016, "--output_dir", 7, "--network_def#norm", "none")
    code, _, err = volseg("train", *bundle, *settings)
    assert code == 0, err
    weights = load_checkpoint(tmp_path / "7" / "model.pt")["model"]
    assert not any("running_mean" in name for name in weights)  # MONAI's run() takes no None


# --- small commands -------------------------------------------------------------------------------------


def test_info_tells_what_there_is(make_dataset, volseg, tmp_path):
    folder = make_dataset(held_out={"z": [5]})
    code, out, _ = volseg("info", folder / "images" / "a.tif")
    assert code == 0
    assert "3 channel(s) of (24, 24, 24) voxels, float32" in out
    assert "um" in out
    code, out, _ = volseg("info", folder)
    assert code == 0
    assert "held out z = 5 (the 6th)" in out
    save_checkpoint(tmp_path / "model.pt", {"model": torch.nn.Linear(2, 3).state_dict(), "iteration": 1})
    assert "9 numbers in 2 tensors" in volseg("info", tmp_path / "model.pt")[1]
    code, _, err = volseg("info", tmp_path / "none.nii")
    assert_one_sentence(code, err, 3, "none.nii")


def test_phantom_makes_a_dataset_once(volseg, tmp_path, monkeypatch):
    from volseg.data.phantoms import write_phantom

    monkeypatch.setattr(
        "volseg.data.write_phantom", lambda folder, kind: write_phantom(folder, kind, sizes=[(24, 24, 16)])
    )
    code, out, _ = volseg("phantom", tmp_path / "train")  # a name that is a command, too
    assert code == 0
    assert "a synthetic kidney, nothing real" in out
    assert (tmp_path / "train" / "truth" / "kidney_1.tif").exists()
    code, _, err = volseg("phantom", tmp_path / "train")
    assert_one_sentence(code, err, 5, "exists already and is not overwritten")


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz"])
def test_sparsify_keeps_slices_and_marks_the_rest(volseg, tmp_path, suffix):
    dense = np.random.default_rng(0).integers(0, 3, (12, 11, 10)).astype(np.uint8)
    source, target = tmp_path / f"dense{suffix}", tmp_path / f"sparse{suffix}"
    write_volume(source, dense, Volume(dense[None], np.diag([0.5, 0.5, 2.0, 1.0]), "mm"))
    words = ["sparsify", source, "--slices", "2,1,0", "--unlabelled", 9, "-o", target]
    code, out, _ = volseg(*words)
    assert code == 0
    sparse = read_volume(target, labels=True)
    kept = sparse.array[0] != 9
    expected = np.zeros_like(kept)
    expected[[3, 9]] = True
    expected[:, 5] = True
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(sparse.array[0][kept], dense[kept])
    assert sparse.spacing == pytest.approx((0.5, 0.5, 2.0))
    assert f"{kept.mean():.1%} of the voxels annotated, the rest 9" in out
    code, _, err = volseg(*words)
    assert_one_sentence(code, err, 5, "exists already; add --overwrite")
    assert volseg(*words, "--overwrite")[0] == 0
    code, _, err = volseg("sparsify", source, "--slices", "2,x", "-o", tmp_path / "other.tif")
    assert_one_sentence(code, err, 3, "--slices 2,x is not a list of numbers such as 7,5,21")
    code, _, err = volseg("sparsify", source, "--slices", "2,1", "-o", tmp_path / "other.tif")
    assert_one_sentence(code, err, 3, "one count per axis is needed")


def test_check_tells_what_is_wrong(volseg, tmp_path):
    code, out, _ = volseg("check", "bundles/xenopus.json", "configs/smoke.json")
    assert code == 0
    assert "nothing wrong found" in out
    (tmp_path / "slip.json").write_text('{"epoch": 1}')
    code, out, err = volseg("check", "bundles/xenopus.json", tmp_path / "slip.json")
    assert (code, out) == (3, "")
    assert "did you mean 'epochs'?" in err
