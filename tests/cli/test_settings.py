"""One dialect for all commands: switches without a value, dashes or underscores, words in any order."""

import json

import pytest

from volseg.cli import _parser, main
from volseg.cli.settings import entries, set_apart

PARSERS = _parser()[1]


@pytest.fixture(autouse=True)
def bundle(tmp_path, monkeypatch):
    """A folder with a bundle that has switches."""
    monkeypatch.chdir(tmp_path)
    content = {"resume": False, "overwrite": False, "output_dir": "x", "epochs": 1, "tta": True}
    (tmp_path / "b.json").write_text(json.dumps(content))
    return content


def test_options_may_stand_anywhere_between_settings():
    words = [
        "semi",
        "b.json",
        "--epochs",
        "3",
        "-o",
        "out",
        "c.json",
        "--folds=2",
        "--seed=1",
        "--vary",
        "a=1,2",
    ]
    own, settings = set_apart(words, PARSERS["experiment"])
    assert own == ["semi", "b.json", "c.json", "-o", "out", "--folds=2", "--vary", "a=1,2"]
    assert settings == ["--epochs", "3", "--seed=1"]


@pytest.mark.parametrize(
    ("words", "own", "settings"),
    [
        (["--resume", "b.json"], ["b.json"], ["--resume"]),
        (["--resume", "b", "--epochs", "3"], ["b"], ["--resume", "--epochs", "3"]),
        (["b.json", "--resume", "smoke"], ["b.json", "smoke"], ["--resume"]),
        (
            ["b.json", "--tta", "false", "--resume", "True"],
            ["b.json"],
            ["--tta", "false", "--resume", "True"],
        ),
        (["b.json", "--resume", "$x", "--epochs=2"], ["b.json"], ["--resume", "$x", "--epochs=2"]),
        (["b.json", "--output_dir", "b"], ["b.json"], ["--output_dir", "b"]),
        (["--resume", "xenopus"], ["xenopus"], ["--resume"]),
        (["b.json", "--epochs", "3", "4"], ["b.json"], ["--epochs", "3", "4"]),
        (["b.json", "--seed", "-1", "--trust_bundle"], ["b.json", "--trust-bundle"], ["--seed", "-1"]),
    ],
)
@pytest.mark.parametrize("command", ["train", "predict", "check", "experiment"])
def test_a_switch_takes_no_word_but_true_or_false(command, words, own, settings):
    kind = ["sweep"] * (command == "experiment")
    assert set_apart([*kind, *words], PARSERS[command]) == ([*kind, *own], settings)


def test_a_switch_before_the_kind_of_an_experiment_leaves_it_where_it_is():
    words = ["--resume", "semi", "b.json", "--overlay_2d", "a.json", "--folds=2"]
    own, settings = set_apart(words, PARSERS["experiment"])
    assert (own, settings) == (["semi", "b.json", "--overlay-2d", "a.json", "--folds=2"], ["--resume"])


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_bundle_is_left_to_who_reads_it(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    assert set_apart(["b.json", "--resume", "a"], PARSERS["train"]) == (["b.json"], ["--resume", "a"])


def test_dashes_stand_for_underscores_in_entries(bundle):
    assert entries(["--output-dir", "y-z", "--train#trainer#max-epochs=3", "--resume"], bundle) == {
        "output_dir": "y-z",
        "train#trainer#max_epochs": "3",
        "resume": "true",
    }
    assert entries(["--a-b", "1"], {"a-b": 0}) == {"a-b": "1"}


@pytest.mark.parametrize("name", [name for name in PARSERS if name not in ("train", "evaluate", "predict")])
def test_every_option_may_be_spelled_either_way(replace_run, name):
    seen = []
    replace_run(name, lambda given, rest: seen.append((vars(given), rest)))
    parser = PARSERS[name]
    words = [["x", "sweep"][action.dest == "kind"] for action in parser._actions if not action.option_strings]
    for action in parser._actions:
        long = next((string for string in action.option_strings if string.startswith("--")), "--help")
        if "-" not in long[2:] or action.option_strings[0] == "-h":
            continue
        value = [] if action.nargs == 0 else ["1"]
        needed = [
            w for a in parser._actions if a.required and a.option_strings for w in (a.option_strings[0], "1")
        ]
        for spelled in (long, "--" + long[2:].replace("-", "_")):
            main([name, *words, *needed, spelled, *value])
        first, second = seen[-2:]
        assert first == second
        assert first[0][action.dest] != parser.get_default(action.dest)
