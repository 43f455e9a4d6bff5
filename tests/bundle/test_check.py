"""A slip in a bundle is found before anything runs, and the message says what was meant."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from volseg.bundle import check_bundle, check_overrides, nearest, read_bundle
from volseg.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent

GOOD: dict[str, Any] = {
    "_meta_": {"version": "0.1", "monai_version": "1.6.1", "pytorch_version": "2.13", "numpy_version": "2.4"},
    "imports": ["$import json", "$from pathlib import Path as Folder"],
    "bundle_root": ".",
    "dataset_dir": "$str(Folder(@bundle_root) / 'data')",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "epochs": 2,
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    },
    "network": "$@network_def.to(@device)",
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.01},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss", "_desc_": "50 % # anything goes here"},
    "inferer": {"_target_": "SimpleInferer"},
    "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "EnsureTyped", "keys": "image"}]},
    "dataset": {"_target_": "Dataset", "data": ["$n for n in range(3)"][:0], "transform": "@preprocessing"},
    "loader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "handlers": [{"_target_": "StatsHandler", "_mode_": "default"}],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@loader",
        "network": "@network",
        "inferer": "@inferer",
        "val_handlers": "@handlers",
    },
    "train": {
        "dataset": "@dataset",
        "inferer": "@inferer",
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": "@epochs",
            "train_data_loader": "@loader",
            "network": "@network",
            "optimizer": "@optimizer",
            "loss_function": "@loss",
            "inferer": "@train#inferer",
            "prepare_batch": {"_target_": "monai.engines.default_prepare_batch", "_mode_": "callable"},
        },
    },
    "initialize": ["$monai.utils.set_determinism(seed=0)"],
    "training": ["$print([name for name in 'ab'])", "$@train#trainer.run()"],
    "evaluating": ["$@evaluator.run()"],
}


@pytest.fixture
def write(tmp_path):
    """Writes a configuration to a file of this name and gives its path."""

    def to_file(config: Any, name: str = "bundle.json") -> Path:
        path = tmp_path / name
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    return to_file


def changed(**entries: Any) -> dict[str, Any]:
    """The good bundle with some entries set by id, ``__`` for ``#``; ``...`` deletes one."""
    config = copy.deepcopy(GOOD)
    for key, value in entries.items():
        *parents, last = key.split("__")
        place: Any = config
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        if value is ...:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return config


def only_problem(paths: list[Path]) -> str:
    problems = check_bundle(paths)
    assert len(problems) == 1, problems
    return problems[0]


def test_a_good_bundle_has_no_problems_and_monai_agrees(write):
    path = write(GOOD)
    assert check_bundle([path]) == []
    write(GOOD["_meta_"], "metadata.json")
    for workflow in ("train", "infer"):
        theirs = ConfigWorkflow(path, logging_file=False, workflow_type=workflow)
        theirs.initialize()
        assert theirs.check_properties() == []


def test_metadata_beside_the_bundle_counts_as_in_monai(write):
    path = write(changed(_meta_={}))
    assert any("_meta_#version: missing" in problem for problem in check_bundle([path]))
    write(GOOD["_meta_"], "metadata.json")
    assert check_bundle([path]) == []
    write('{"version": 1,}', "metadata.json")
    assert any("metadata.json: line 1" in problem for problem in check_bundle([path]))


def test_a_module_that_fails_to_import_says_why(write, tmp_path, monkeypatch):
    (tmp_path / "broken_room.py").write_text("raise RuntimeError('no licence')")
    monkeypatch.syspath_prepend(tmp_path)
    problem = only_problem([write(changed(loss={"_target_": "broken_room.Loss"}))])
    assert "importing 'broken_room.Loss' fails: no licence" in problem


@pytest.mark.parametrize(
    ("entries", "where", "what"),
    [
        # references
        (
            {"train__trainer__max_epochs": "@epoch"},
            "train#trainer#max_epochs",
            "'@epoch', which is not there; did you mean 'epochs'?",
        ),
        (
            {"train__trainer__loss_function": "$@train#trainr"},
            "train#trainer#loss_function",
            "did you mean 'train#trainer'?",
        ),
        (
            {"train__trainer__network": "$@train::infer"},
            "train#trainer#network",
            "did you mean 'train#inferer'?",
        ),
        (
            {"train__trainer__inferer": "@##infererr"},
            "train#trainer#inferer",
            "did you mean 'train#inferer'?",
        ),
        (
            {"train__trainer__max_epochs": "@max_epochs"},
            "train#trainer#max_epochs",
            "did you mean 'train#trainer#max_epochs'?",
        ),
        ({"network": "$@network_def @ @loss"}, "network", "refers to '@', which is not there"),
        ({"network": "@network-def"}, "network", "stays plain text"),
        ({"dataset_dir": "sample#1"}, "dataset_dir", "every '#' in 'sample#1' into '::'"),
        ({"dataset_dir": "$'#ff0000'"}, "dataset_dir", "into '::'"),
        ({"dataset_dir": "%other.json#x"}, "dataset_dir", "a '%' macro"),
        # targets and their arguments
        (
            {"inferer___target_": "SimpleInfererr"},
            "inferer",
            "cannot locate 'SimpleInfererr'; did you mean 'SimpleInferer'?",
        ),
        ({"optimizer___target_": "torch.optim.SDG"}, "optimizer", "did you mean 'torch.optim.SGD'?"),
        ({"optimizer___target_": "torch.optm.SGD"}, "optimizer", "did you mean 'torch.optim'?"),
        ({"optimizer___target_": "nowhere.SGD"}, "optimizer", "cannot locate 'nowhere.SGD'."),
        (
            {"inferer___target_": "torch.optim"},
            "inferer",
            "'torch.optim' is a module, neither class nor function",
        ),
        ({"inferer___target_": "DenseBlock"}, "inferer", "several of MONAI's modules"),
        ({"inferer___target_": 3}, "inferer", "_target_ is a name, not 3"),
        ({"optimizer__learning_rat": 1}, "optimizer", "torch.optim.SGD takes no argument 'learning_rat'"),
        (
            {"train__trainer__max_epoch": 1},
            "train#trainer",
            "no argument 'max_epoch'; did you mean 'max_epochs'?",
        ),
        ({"optimizer__params": ...}, "optimizer", "missing a required argument: 'params'"),
        ({"preprocessing__transforms__0__key": 1}, "preprocessing#transforms#0", "takes no argument 'key'"),
        (
            {"inferer___disable_": True},
            "inferer#_disable_",
            "no special key '_disable_'; did you mean '_disabled_'?",
        ),
        ({"inferer___mode_": "calable"}, "inferer", "did you mean 'callable'?"),
        # expressions
        ({"network": "$@network_def.to(@device"}, "network", "is not an expression: "),
        ({"network": "$ @network_def"}, "network", "is not an expression: unexpected indent"),
        ({"epochs": "$1 + 1  # two"}, "epochs", "every '#'"),
        ({"epochs": "$"}, "epochs", "is not an expression"),
        ({"network": "$(lambda n: n)(@network_def)"}, "network", "no lambda"),
        ({"device": "$troch.device('cpu')"}, "device", "nothing is called 'troch'"),
        ({"device": "$torch.devise('cpu')"}, "device", "torch has no 'devise'; did you mean 'device'?"),
        (
            {"initialize": ["$monai.utils.set_determinism(sed=0)"]},
            "initialize#0",
            "set_determinism takes no argument 'sed'; did you mean 'seed'?",
        ),
        (
            {"initialize": ["$monai.utils.set_determinism(0, 1, 2, 3)"]},
            "initialize#0",
            "too many positional arguments",
        ),
        (
            {"imports": ["$import jsn", "$from pathlib import Path as Folder"]},
            "imports#0",
            "the import fails: No module named 'jsn'",
        ),
        ({"imports__0": "$from json import lod"}, "imports#0", "the import fails"),
        ({"imports__0": "$import json, os"}, "imports#0", "only the first of several"),
        (
            {"imports__0": "$import xml.dom"},
            "imports#0",
            "no expression can use 'xml.dom'; add '$import xml'",
        ),
        ({"importance": 1, "network": "$@network_def.to(@importance)"}, "network", "with 'import' in it"),
        # circles, run lists, properties
        (
            {"network_def__dropout": "$@network.training"},
            "network_def",
            "refers to itself: 'network_def' -> 'network_def#dropout' -> 'network'",
        ),
        ({"evaluating": ["@evaluator", "evaluator.run()"]}, "evaluating#1", "does nothing when run"),
        ({"evaluating": "evaluator.run()"}, "evaluating", "does nothing when run"),
        (
            {"dataset_dir": ...},
            "dataset_dir",
            "missing: MONAI's tools look here for the directory path of the dataset",
        ),
        ({"train__trainer__max_epochs": ...}, "train#trainer", "missing a required argument: 'max_epochs'"),
        ({"evaluator__val_handlers": []}, "evaluator#val_handlers", "MONAI's tools expect '@handlers' here"),
        (
            {"_meta_": {"version": "0.1", "pytorch_version": "2", "numpy_version": "2"}},
            "_meta_#monai_version",
            "missing",
        ),
    ],
)
def test_a_slip_is_found_where_it_is(write, entries, where, what):
    path = write(changed(**entries))
    problems = check_bundle([path])
    assert problems
    assert any(problem.startswith(f"{path}: {where}: ") and what in problem for problem in problems), problems


def test_one_slip_gives_one_message(write):
    assert "did you mean 'epochs'?" in only_problem([write(changed(train__trainer__max_epochs="@epoch"))])
    assert "takes no argument 'lrr'" in only_problem([write(changed(optimizer__lrr=1))])
    assert "no 'devise'" in only_problem([write(changed(device="$torch.devise('cpu')"))])
    assert "refers to itself" in only_problem([write(changed(network_def__dropout="$@network.training"))])


def test_what_monai_accepts_is_accepted(write):
    fine = changed(
        train__trainer__prepare_batch={"_target_": "functools.partial", "_mode_": "callable"},
        inferer___disabled_="$not torch.cuda.is_available()",
        loss={"_target_": "$torch.nn.CrossEntropyLoss", "anything": 1},
        handlers=[{"_target_": "StatsHandler", "_requires_": "@network", "tag_name": "me@nope.org"}],
        state={"model": "@network", "text": "a::b"},
        training=[
            "$@state['model'].train()",
            "$[n * m for n in range(3) for m in [n]]",
            {"_target_": "print"},
        ],
    )
    assert check_bundle([write(fine)]) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1,\n "b": {"lr": 1,\n "lr": 2}}', "lr: this key stands twice in one object (lines 2, 3)"),
        ('{"a": 1,}', "line 1, column"),
        ('{\n// note\n"a": 1}', "line 2, column 1: not JSON: .* JSON knows no comments"),
        ("", "line 1, column 1: not JSON"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[1]", "a bundle is a JSON object {...}, this is a list"),
        ("{}", "the bundle is empty"),
    ],
)
def test_a_file_is_read_strictly(write, text, what):
    path = write(text)
    pattern = what if ".*" in what else re.escape(what)
    assert any(re.match(re.escape(f"{path}: ") + pattern, problem) for problem in check_bundle([path]))


def test_a_file_that_is_not_there_or_not_json_is_named(write):
    path = write(GOOD, "xenopus.json")
    assert "no such file; did you mean 'xenopus.json'?" in only_problem([path.with_name("xenopsu.json")])
    assert "only JSON is read" in only_problem([write("a: 1", "bundle.yaml")])
    path.write_bytes(b'{"a": "\xff"}')
    assert "cannot be read as UTF-8" in only_problem([path])
    with pytest.raises(ValueError, match="No bundle given"):
        check_bundle([])


def test_an_overlay_is_checked_over_its_bundle(write):
    bundle = write(GOOD)
    overlay = {
        "epochs": 1,
        "train#trainer#max_epochs": "@rounds",
        "rounds": 3,
        "optimizer::weight_decay": 0.1,
        "+handlers": [{"_target_": "StatsHandler"}],
        "+loss": {"label_smoothing": 0.1},
        "finalize": ["$print('done')"],
        "inferring": "$@evaluator.run()",
    }
    assert check_bundle([bundle, write(overlay, "overlay.json")]) == []


@pytest.mark.parametrize(
    ("overlay", "where", "what"),
    [
        ({"epoch": 1}, "epoch", "the bundle has no such entry and nothing reads it; did you mean 'epochs'?"),
        ({"train#datasets": "@dataset"}, "train#datasets", "did you mean 'train#dataset'?"),
        ({"+train": {"datasets": 1}}, "train#datasets", "nothing reads it"),
        (
            {"traner#max_epochs": 1},
            "traner#max_epochs",
            "there is no 'traner' to set this in; did you mean 'train'?",
        ),
        ({"handlers#7": 1}, "handlers#7", "there is no 'handlers'"),
        ({"+handler": []}, "+handler", "no such entry to extend; did you mean 'handlers'?"),
        ({"+handlers": {}}, "+handlers", "not an object to a list"),
        ({"+epochs": 1}, "+epochs", "not a number to a number"),
        ({"optimizer#lrr": 1}, "optimizer", "takes no argument 'lrr'"),
        ({"+loss": {"lable_smoothing": 0.1}}, "loss", "did you mean 'label_smoothing'?"),
        (
            {"+handlers": [{"_target_": "StatsHandler", "tagname": 1}]},
            "handlers#1",
            "did you mean 'tag_name'?",
        ),
        ({"network": "@network_deff"}, "network", "did you mean 'network_def'?"),
    ],
)
def test_a_slip_in_an_overlay_is_found(write, overlay, where, what):
    bundle, over = write(GOOD), write(overlay, "overlay.json")
    problem = only_problem([bundle, over])
    assert f": {where}: " in problem
    assert what in problem
    if where not in ("optimizer", "loss"):  # there the component is the bundle's, the argument the overlay's
        assert problem.startswith(str(over))


def test_overlays_are_merged_as_monai_merges_them(write):
    first = {"optimizer#lr": 1, "+handlers": [{"_target_": "StatsHandler"}], "new": {"a": 1}}
    second = {"new::a": 2, "+train": {"dataset": None}, "training": []}
    paths = [write(GOOD), write(first, "first.json"), write(second, "second.json")]
    assert read_bundle(paths) == ConfigParser.load_config_files([str(path) for path in paths])


def test_reading_an_unfit_bundle_fails_with_the_first_problem(write):
    with pytest.raises(InputError, match=r"no 'nope' to set this in\. \(1 more problem\)"):
        read_bundle([write(GOOD), write({"nope#x": 1, "+no": []}, "overlay.json")])


@pytest.mark.parametrize(
    "key", ["epochs", "train#trainer#max_epochs", "train::trainer::max_epochs", "handlers#0"]
)
def test_an_override_of_an_entry_passes(key):
    check_overrides(GOOD, {key: 3})


def test_an_override_may_add_an_argument_that_the_component_takes():
    check_overrides(GOOD, {"optimizer#momentum": 0.9})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("epoch", "; did you mean 'epochs'?"),
        ("max_epochs", "; did you mean 'train#trainer#max_epochs'?"),
        ("train#trainer#max_epoch", "; did you mean 'train#trainer#max_epochs'?"),
        ("traner::trainer::max_epochs", "; did you mean 'train#trainer#max_epochs'?"),
        ("optimizer#momentun", "; did you mean 'optimizer#momentum'?"),
        ("qqqq", "."),
    ],
)
def test_an_override_of_nothing_is_refused(key, hint):
    with pytest.raises(
        ValueError, match="There is no .* in the bundle: setting it would change nothing"
    ) as caught:
        check_overrides(GOOD, {key: 3})
    assert str(caught.value).endswith(hint)


def test_nearest_finds_what_was_meant():
    assert nearest("Epoch", ["epochs", "seed"]) == "epochs"
    assert nearest("simpleinferer", ["SimpleInferer"]) == "SimpleInferer"
    assert nearest("qqqq", ["epochs", "seed"]) is None


def bundles() -> list[Path]:
    return sorted(path for path in (ROOT / "bundles").glob("*.json") if path.name != "metadata.json")


@pytest.mark.parametrize("path", bundles(), ids=lambda path: path.name)
def test_every_bundle_of_this_repository_is_sound(path):
    assert check_bundle([path]) == []


@pytest.mark.parametrize("overlay", sorted((ROOT / "configs").glob("*.json")), ids=lambda path: path.name)
def test_every_overlay_of_this_repository_fits_a_bundle(overlay):
    assert check_bundle([ROOT / "bundles" / "xenopus.json", overlay]) == []
