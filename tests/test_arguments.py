"""A message names an argument as the user has to write it: in Python, on the command line, in a bundle."""

import ast
import inspect
import json
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import volseg
from volseg import cli
from volseg.arguments import as_entry, come_through, command, conversion, option
from volseg.cli import command as command_module
from volseg.experiments import protocols
from volseg.experiments.sweep import sweep
from volseg.runs.log import report_errors_briefly

ROOT = Path(__file__).resolve().parent.parent


def parsers() -> dict[str, Any]:
    """The parser of each command."""
    return cli._parser()[1]


def door(name: str) -> Any:
    (command,) = (one for one in cli.COMMANDS if one.name == name)
    return command_module.door(parsers()[name], takes_entries=command.takes_entries)


def calls(function: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a function of ``volseg.arguments`` in the package, with where it stands."""
    for path in sorted((ROOT / "volseg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def names_of(call: ast.Call) -> list[str]:
    """What a call of ``option`` may name: texts, none of them only compared with."""
    return [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]


CASES = [
    (("overwrite", True), "overwrite=True", "--overwrite", "--overwrite True"),
    (("unlabelled", 255), "unlabelled=255", "--unlabelled 255", "--unlabelled 255"),
    (("painted_only", True), "painted_only=True", "--painted-only", "--painted_only True"),
    (("output",), "output", "-o", "--output"),
    (("continue_from", Path("a b")), "continue_from='a b'", "--continue 'a b'", "--continue_from 'a b'"),
    (("compare", False), "compare=False", "--no-compare", "--compare False"),
    (("suggest_next", False), "suggest_next=False", "--no-suggest", "--suggest_next False"),
    (("compare", True), "compare=True", "without --no-compare", "--compare True"),
    (("finished", False), "finished=False", "without --finished", "--finished False"),
    (("minutes", 0.0), "minutes=0", "--minutes 0", "--minutes 0"),
    (("minutes", None), "minutes=None", "without --minutes", "--minutes None"),
    (("names", {}), "names={}", "without --names", None),
    (("names", {0: "NAME", 5: "x"}), "names={0: 'NAME', 5: 'x'}", "--names 0=NAME 5=x", None),
    (("axes", "ZYX"), "axes='ZYX'", "axes='ZYX'", None),  # densify has no such option
]


@pytest.mark.parametrize(("given", "python", "line", "entry"), CASES, ids=lambda case: str(case)[:20])
def test_each_door_has_its_own_words(given, python, line, entry):
    assert option(*given) == python
    come_through(door("densify"))
    assert option(*given) == line
    come_through(as_entry)
    assert entry is None or option(*given) == entry


def test_an_entry_that_a_command_sets_needs_no_value_to_be_true():
    come_through(door("train"))
    assert option("resume", True) == "--resume"
    assert option("max_epochs", 3) == "--epochs 3"
    assert option("trust", True) == "--trust-bundle"
    assert option("num_workers", 0) == "--train#trainer#num_workers 0"


def test_who_came_by_the_command_line_stays_there_when_a_bundle_begins(clean_process):
    come_through(door("train"))
    volseg.begin(0)
    assert option("resume", True) == "--resume"


def test_other_threads_use_the_same_words():
    come_through(as_entry)
    found = []
    thread = threading.Thread(target=lambda: found.append(option("resume", True)))
    thread.start()
    thread.join()
    assert found == ["--resume True"]


def test_a_command_leaves_python_as_it_was(volseg, tmp_path):
    (tmp_path / "a.json").write_text("{}")
    code, _, err = volseg("init", "xenopus", "-o", tmp_path / "a.json")
    assert code == 5
    assert "--overwrite" in err
    assert option("overwrite", True) == "overwrite=True"


def test_a_bundle_that_monais_command_runs_names_entries(clean_process):
    report_errors_briefly()
    assert option("overwrite", True) == "--overwrite True"


def test_every_argument_that_is_named_exists():
    """On the command line as an option or as an entry of a bundle that came with volseg; and in Python."""
    options = {action.dest for parser in parsers().values() for action in parser._actions}
    bundles = [
        json.loads(path.read_text())
        for room in ("bundles", "configs")
        for path in (ROOT / room).glob("*.json")
    ]
    entries = {as_entry(name)[2:].partition("#")[0]: name for bundle in bundles for name in bundle}
    functions = [getattr(volseg, name) for name in volseg.__all__]
    functions += [protocols.semi, protocols.budget, protocols.auto, sweep, torch.optim.SGD]
    functions += [volseg.bundle.runnable, volseg.page.serve]
    arguments = {name for f in functions if callable(f) for name in inspect.signature(f).parameters}
    problems = []
    for where, call in calls("option"):
        for name in names_of(call):
            entry = as_entry(name)[2:].partition("#")[0]
            if name not in options and entry not in entries:
                problems.append(f"{where}: {name!r} is neither an option nor an entry of a bundle.")
            if name not in arguments:
                problems.append(f"{where}: {name!r} is not an argument in Python.")
    assert not problems, "\n".join(problems)


def test_every_command_that_is_named_is_understood():
    found = [(where, [], call) for where, call in calls("command")]
    found += [(where, ["convert"], call) for where, call in calls("conversion")]
    assert len(found) > 10
    for where, verbs, call in found:
        verb, *words = [*verbs, *(getattr(node, "value", "x") for node in call.args)]
        flags = {"True": True, "False": True}
        options: dict[str, Any] = {"output": "x"}
        for keyword in call.keywords:
            if keyword.arg is not None:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "x"
                options[keyword.arg] = flags.get(str(value), value)
        parser = parsers()[verb]
        for action in parser._actions:
            if action.nargs == 0 and options.get(action.dest) is not None:
                options[action.dest] = True
            elif isinstance(action.type, type) and issubclass(action.type, int) and action.dest in options:
                options[action.dest] = 1
        line = shlex.split(command(verb, *words, **options))[2:]
        given = vars(parser.parse_args([str(word) for word in line]))
        assert {name for name in options if given.get(name) is None} == set(), where


def test_a_file_is_converted_under_its_own_name_into_its_own_format():
    assert conversion(Path("my d/a.nii.gz"), axes="XYZC") == (
        "volseg convert 'my d/a.nii.gz' --axes XYZC -o NEW.nii.gz"
    )
    for name, new in (("d/a.MHD", "NEW.mha"), ("a.jpg", "NEW.png"), ("b.seg.nrrd", "NEW.seg.nrrd")):
        assert conversion(name).endswith(f" {name} -o {new}")


def test_a_command_is_to_be_copied():
    line = command("convert", "my file.tif", axes="ZYX", labels=True, channel=None, like="", output="NEW.tif")
    assert line == "volseg convert 'my file.tif' --axes ZYX --labels --like '' -o NEW.tif"
    line = command("densify", "a.tif", channels=[], names={1: "a b"}, continue_from="out", folds=0)
    assert line == "volseg densify a.tif --names '1=a b' --continue out --folds 0"
