"""What a training would fail at is found by ``volseg check``, with the entry to change."""

import copy
import json
import random
import re
from importlib.util import find_spec

import pytest
from monai.bundle import run as run_bundle

from volseg.bundle import check_bundle
from volseg.bundle.files import SEP, walk
from volseg.bundle.judging import TARGETS
from volseg.cli import main
from volseg.engines.trial import try_bundle
from volseg.errors import in_words

UNET = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": "@in_channels",
    "out_channels": "$len(@labels)", "channels": [4, 8, 8], "strides": [2, 2], "norm": "batch",
}  # fmt: skip
CROP = "train__preprocessing__0__"

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture
def mine(root):
    """A bundle of this repository with a network and a loss of MONAI, made small; and a way to edit it."""
    whole = json.loads((root / "bundles" / "hela.json").read_text(encoding="utf-8"))
    whole |= {
        "network_def": UNET, "patch_size": [32, 32], "epochs": 1, "epoch_length": 2, "val_interval": 0,
        "loss": {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True},
        "weight_map": None,
    }  # fmt: skip

    def edited(**entries):
        config = copy.deepcopy(whole)
        for key, value in entries.items():
            *parents, last = key.split("__")
            place = config
            for parent in parents:
                place = place[int(parent) if isinstance(place, list) else parent]
            if value is ...:
                del place[int(last) if isinstance(place, list) else last]
            else:
                place[int(last) if isinstance(place, list) else last] = value
        return config

    return edited


def test_a_bundle_with_network_and_loss_of_monai_has_no_problems(mine):
    problems, notes = try_bundle(mine())
    assert problems == []
    assert notes == ["data/hela is not there: name your data with dataset_dir (or source)."]


SLIPS = {
    "a patch": ({"patch_size": [30, 32]}, "patch_size: UNet does not take", r"\[28, 32\] or \[32, 32\]"),
    "an old context": (
        {CROP + "context": "$@network_def.context"},
        "train#preprocessing#0#context: AttributeError",
        r'Write "\$volseg.context_of\(@network_def\)" there',
    ),
    "a wrong context": ({CROP + "context": 2}, "train#preprocessing: gives labels", r"has to be \[0, 0\]"),
    "classes": ({"network_def__out_channels": 3}, "network_def: returns 3 classes, but labels names 2", ""),
    "channels": ({"network_def__in_channels": 2}, "network_def: takes 2 channel", "in_channels is 1"),
    "axes": ({"network_def__spatial_dims": 3}, "train#preprocessing#0: ", "holds 3 numbers"),
    "softmax": ({"loss__softmax": False}, "loss: DiceCELoss", 'set "softmax": true'),
    "neighbours": (
        {"loss": {"_target_": "monai.losses.HausdorffDTLoss", "softmax": True}},
        "loss: Hausdorff", "neighbours",
    ),
    "a class weight": (
        {"loss": {"_target_": "torch.nn.CrossEntropyLoss", "weight": "$torch.tensor([1.0, 1.0, 1.0])"}},
        "loss: RuntimeError", "weight tensor",
    ),
    "a class that is ignored": (
        {"loss": {"_target_": "torch.nn.CrossEntropyLoss", "ignore_index": 0}},
        "loss: CrossEntropyLoss has ignore_index = 0, which is a class here", "Leave ignore_index out",
    ),
    "a learning rate": ({"optimizer__lr": "fast"}, "optimizer: TypeError", ""),
    "a schedule": (
        {"lr_scheduler": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "optimizer": "@optimizer",
                          "max_lr": 0.1, "total_steps": 1}},
        "lr_scheduler: ValueError", "Tried to step",
    ),
    "another grid": (
        {"preprocessing": {"_target_": "monai.transforms.Spacingd", "keys": "image", "pixdim": [2, 2]}},
        "train#dataset: preprocessing turns", "may change grey values only",
    ),
    "labels between classes": (
        {"train__preprocessing__1": {"_target_": "monai.transforms.RandZoomd", "prob": 1.0,
                                                 "keys": ["image", "label"], "min_zoom": 1.3,
                                                 "max_zoom": 1.4}},
        "train#preprocessing: makes", "interpolate labels by 'nearest'",
    ),
    "a window": (
        {"inferer": {"_target_": "monai.inferers.SlidingWindowInferer", "roi_size": [30, 32]}},
        "inferer: ", "",
    ),
    "a window for a network that returns less": (
        {"network_def": {"_target_": "volseg.UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2,
                         "channels": [[4, 4], [4, 4]], "padding": "valid"},
         "patch_size": [44, 44],
         "inferer": {"_target_": "monai.inferers.SlidingWindowInferer", "roi_size": [44, 44]}},
        "inferer: ", "take volseg.OverlapTileInferer",
    ),
    "a rate that is far too high": (
        {"optimizer__lr": 1e30}, "optimizer: after 1 step(s) the loss is not finite any more", "lower lr",
    ),
    "a resumed run that is not there": (
        {"resume": True, "output_dir": "nowhere"},
        "train#trainer#resume: is set, but nowhere holds no last.pt", "nothing to resume",
    ),
    "one voxel at the coarsest level": (
        {"network_def": UNET | {"channels": [4, 4, 4, 4, 4, 4], "strides": [2] * 5}, "patch_size": [32, 32],
         "train__trainer__batch_size": 1},
        "patch_size: of [32, 32] UNet leaves one voxel at its coarsest level", "batch_size of 2",
    ),
    "a network that does not segment": (
        {"network_def": {"_target_": "monai.networks.nets.DenseNet121", "spatial_dims": 2, "in_channels": 1,
                         "out_channels": 2}},
        "network_def: DenseNet121 took no input", r"returned shape \(1, 2\) where logits",
    ),
    "a list for a tensor": (
        {"loss": {"_target_": "monai.losses.GeneralizedWassersteinDiceLoss",
                  "dist_matrix": [[0.0, 1.0], [1.0, 0.0]]}},
        "loss: AttributeError", r'write "\$torch.tensor\(\[...\]\)"',
    ),
    "labels": ({"labels__values": [0, 0]}, "labels: values holds 0 more than once", ""),
    "no network": ({"network_def": 3}, "network", ""),
    "epochs": ({"epochs": "many"}, "", "TypeError"),
    "batch": ({"train__trainer__batch_size": -1}, "train#trainer: batch_size = -1 is too small", ""),
    "a schedule that does not step": (
        {"train__trainer__lr_scheduler": -1}, "train#trainer: lr_scheduler = -1 has no step()", "or None",
    ),
    "workers": ({"train__trainer__num_workers": -1}, "train#trainer: num_workers = -1 is too small", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_told_with_the_entry_to_change(mine, name):
    edits, start, rest = SLIPS[name]
    problems, _ = try_bundle(mine(**edits))
    assert len(problems) == 1, problems
    assert problems[0].startswith(start)
    assert re.search(rest, problems[0])


@pytest.mark.skipif(find_spec("einops") is not None, reason="einops is installed")
@pytest.mark.parametrize("name", ["UNETR", "SwinUNETR"])
def test_a_package_that_a_network_needs_is_named_with_the_line_that_installs_it(mine, name):
    """Some of MONAI's networks import einops when they are built, some when they run."""
    network = {
        "_target_": f"monai.networks.nets.{name}",
        "in_channels": 1,
        "out_channels": 2,
        "spatial_dims": 2,
    }
    problems, _ = try_bundle(mine(network_def=network | ({"img_size": [32, 32]} if name == "UNETR" else {})))
    assert len(problems) == 1
    assert problems[0].startswith("network_def: ")
    assert "it needs the package einops: pip install einops" in problems[0]


@pytest.mark.slow
def test_a_trained_folder_is_noted_and_a_patch_too_large_for_a_trial_is_cut(mine, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    wide = UNET | {"channels": [512, 512, 512]}
    problems, notes = try_bundle(mine(output_dir=str(tmp_path), network_def=wide, patch_size=[512, 512]))
    assert problems == []
    assert any("holds a training already, complete or stopped" in note for note in notes)
    (dear,) = [note for note in notes if "large for a trial" in note]
    assert re.search(r"patches of \[512, 512\]: steps were taken on patches of \[\d+, \d+\]", dear)


def test_a_network_with_linear_layers_trains_in_either_dimension(mine):
    """MONAI's SegResNetVAE lays voxels in a row by ``view``, which channels-last memory does not allow."""
    network = {
        "_target_": "monai.networks.nets.SegResNetVAE", "spatial_dims": 2, "in_channels": 1,
        "out_channels": 2, "init_filters": 8, "input_image_size": [32, 32],
    }  # fmt: skip
    assert try_bundle(mine(network_def=network))[0] == []


def test_check_says_it_in_a_line_and_ends_with_3(mine, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text(json.dumps(mine(patch_size=[30, 30]), indent=4))
    assert main(["check", "mine.json"]) == 3
    assert capsys.readouterr().err.startswith("mine.json: patch_size: UNet does not take patches of [30, 30]")
    assert main(["check", "mine.json", "--patch_size", "[32, 32]"]) == 0
    assert "mine.json: nothing wrong found" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"mine.json"}  # nothing is left behind


def test_a_bundle_beyond_the_list_is_not_built_by_check(mine, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(mine(x={"_target_": "builtins.print", "sep": ""})))
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr()
    assert "calls 'builtins.print'" in said.err
    assert said.out.splitlines()[-1] == (
        f"{path}: nothing wrong found in its names, which is all that was checked: nothing was built, and "
        "neither loss nor patches nor a step of training were tried"
    )
    assert main(["check", str(path), "--trust-bundle"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["an old context", "a learning rate", "another grid", "a patch", "a class weight"]
)
def test_without_a_check_training_blames_the_bundle_not_volseg(mine, name, make_dataset, tmp_path):
    folder = make_dataset(size=(32, 32), channels=1, values=(0, 1), unlabelled=255, cases="ab")
    path = tmp_path / "mine.json"
    edits = SLIPS[name][0]
    path.write_text(json.dumps(mine(dataset_dir=str(folder), output_dir=str(tmp_path / "run"), **edits)))
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_bundle(run_id="training", config_file=str(path), logging_file=False)
    said, code = in_words(caught.value)
    assert code == 3, said
    assert "fault of volseg" not in said


def mutants(config):
    """Each entry removed, and set to something of another kind."""
    for entry, value in walk(config):
        top, _, below = entry.partition(SEP)
        if top in ("_meta_", "bundle_root", "dataset_dir", "output_dir", "images") or below.startswith(
            "values"
        ):
            continue
        for other in ("...", None, -1, "nonsense", [], {"a": 1}):
            if other != value:
                yield entry, other


def mutated(config, entry, other):
    config = copy.deepcopy(config)
    *parents, last = entry.split(SEP)
    place = config
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    key = int(last) if isinstance(place, list) else last
    if other == "...":
        del place[key]
    else:
        place[key] = other
    return config


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_what_passes_the_check_starts_to_train_and_nothing_is_called_a_fault_of_volseg(
    mine, make_dataset, tmp_path, seed
):
    folder = make_dataset(size=(32, 32), channels=1, values=(0, 1), unlabelled=255, cases="ab")
    whole = mine(dataset_dir=str(folder), epoch_length=1, max_minutes=0.05)
    tries = random.Random(seed).sample(list(mutants(whole)), 12)
    for number, (entry, other) in enumerate(tries):
        config = mutated(whole, entry, other)
        config["output_dir"] = str(tmp_path / f"run {number}")
        path = tmp_path / "mutant.json"
        path.write_text(json.dumps(config))
        problems = check_bundle([path]) or try_bundle(config)[0]
        assert not any("fault of volseg" in problem for problem in problems), (entry, other, problems)
        if problems:
            continue
        try:
            run_bundle(run_id="training", config_file=str(path), logging_file=False)
        except Exception as error:
            error.add_note(f"{entry} = {other!r}")
            raise


def test_the_example_of_the_docs_passes_the_check(root):
    text = (
        (root / "docs" / "bundles.md").read_text(encoding="utf-8").partition("## Your own network or loss")[2]
    )
    example = json.loads("{" + text.partition("```json")[2].partition("```")[0].strip().rstrip(",") + "}")
    assert {"network_def", "loss", "patch_size"} == example.keys()
    bundle = json.loads((root / "bundles" / "hippocampus.json").read_text(encoding="utf-8"))
    assert try_bundle(bundle | example)[0] == []
    for name in ("DynUNet", "VNet", "DiceFocalLoss", "GeneralizedDiceFocalLoss"):
        assert name in text
        assert name in TARGETS
