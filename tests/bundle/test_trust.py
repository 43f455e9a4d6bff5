"""The list that judges foreign bundles, attacked: what it lets pass evaluates nothing with a side effect.

Each trick is a change of a bundle of this repository that tries to make a canary. It is refused, and where it
is not, MONAI evaluates every entry of it here, and the canary must not be there.
"""

import json
import logging
import random
import string
import subprocess
import sys
import warnings
from contextlib import suppress

import pytest
from monai.bundle import ConfigParser

from volseg.bundle import read_bundle
from volseg.bundle.judging import as_evaluated, is_plain
from volseg.bundle.trust import beyond_the_list

RUN = "__import__('os').system('touch CANARY')"
OPEN = "open('CANARY', 'w')"
F = {"f": 1, "rf": 1, "b": 1}
TRICKS = {
    # references inside texts and comments
    "f-string by reference": {**F, "device": "$'@f {" + RUN.replace("'", '"') + "}'"},
    "raw f-string by reference": {**F, "device": "$'@rf {" + RUN.replace("'", '"') + "}'"},
    "f-string in an argument": {**F, "device": "$torch.device('@f {" + OPEN.replace("'", '"') + "}')"},
    "f-string in a list": {**F, "x": "$['a', '@f {" + OPEN.replace("'", '"') + "}']"},
    "f-string by a nested id": {"a": {"f": 1}, "x": "$'@a#f {" + OPEN.replace("'", '"') + "}'"},
    "f-string by a neighbour": {"a": {"f": 1, "x": "$'@#f {" + OPEN.replace("'", '"') + "}'"}},
    "text closed by a reference": {**F, "x": "$'@f + " + OPEN.replace("'", '"') + " + @f'"},
    "bytes by reference": {**F, "x": "$'@b '"},
    "reference in double quotes": {**F, "x": '$"@f {' + OPEN + '}"'},
    "reference in three quotes": {**F, "x": "$'''@f {" + OPEN.replace("'", '"') + "}'''"},
    # '#' and '::'
    "comment": {"device": "$[1,2][1 #" + RUN + "\n]"},
    "comment behind a reference": {"x": "$[@seed][0 #" + OPEN + "\n]"},
    "comment at the end": {"x": "$1 #" + OPEN},
    "comment in a text": {"x": "$'a#b' + " + OPEN},
    "slice step": {"x": "$[1, 2][0::" + OPEN + "]"},
    "line continued": {"x": "$[1,\\\n" + OPEN + "]"},
    # keys that become code or other ids
    "key with a quote": {"a'] or " + OPEN + " or ['": {"x": "$@#y", "y": 1}},
    "key with a separator": {"a::b": 1},
    "key with a hash": {"p": {"a#b": "/elsewhere"}},
    "key with a plus": {"p": {"+x": 1}},
    "empty key": {"p": {"": {"x": 1}}},
    "key that is a reference": {"p": {"@f": 1}},
    "special key": {"x": {"_target_": "volseg.UNet", "_debug_": True}},
    "another special key": {"x": {"_requires_": "@seed", "_target_": "volseg.UNet"}},
    # expressions
    "walrus": {"x": "$(y := " + OPEN + ")"},
    "lambda": {"x": "$(lambda: " + OPEN + ")()"},
    "generator": {"x": "$list(" + OPEN + " for _ in [1])"},
    "comprehension": {"x": "$[" + OPEN + " for _ in [1]]"},
    "set": {"x": "${" + OPEN + "}"},
    "dictionary": {"x": "${1: " + OPEN + "}"},
    "f-string": {"x": "$f'{" + OPEN.replace("'", '"') + "}'"},
    "f-string, format": {"x": "$f'{1:{" + OPEN.replace("'", '"') + "}}'"},
    "star": {"x": "$max(*[" + OPEN + "])"},
    "two stars": {"x": "$torch.device(**{'type': " + OPEN + "})"},
    "key function": {"d": {"_target_": "volseg.densify", "_mode_": "callable"}, "x": "$max(['a'], key=@d)"},
    "builtins by subclass": {"x": "$().__class__.__base__.__subclasses__()"},
    "globals of a member": {"x": "$@network_def.forward.__globals__"},
    "modules of torch": {"x": "$torch.os.system('touch CANARY')"},
    "modules of numpy": {"x": "$np.f2py.os.system('touch CANARY')"},
    "modules of monai": {"x": "$monai.apps.download_url('a', 'b')"},
    "a bare module": {"x": "$torch"},
    "torch.load": {"x": "$torch.load('CANARY')"},
    "torch.save": {"x": "$torch.save(1, 'CANARY')"},
    "numpy tofile": {"x": "$np.zeros(1).tofile('CANARY')"},
    "tensor to file": {"x": "$torch.ones(1).numpy().tofile('CANARY')"},
    "getattr": {"x": "$getattr(@network_def, 'x')"},
    "eval by name": {"x": "$eval('1')"},
    "import inside": {"x": "$__import__('antigravity')"},
    "import statement behind a blank": {"x": "$ import this"},
    "import with a second line": {"x": "$import volseg\n" + OPEN},
    "import with a semicolon": {"x": "$import volseg; " + OPEN},
    "import as": {"x": "$import os as volseg"},
    "import from": {"x": "$from os import system as len"},
    "assignment": {"x": "$x = " + OPEN},
    "await": {"x": "$await " + OPEN},
    "unicode look-alike": {"x": "$ｏｐｅｎ('CANARY', 'w')"},
    "unicode target": {"x": {"_target_": "ｏｓ.system", "command": "touch CANARY"}},
    "format of a member": {"x": "$'{0.__class__}'.format(@seed)"},
    "method of a path": {"x": "$@cases[0].image.unlink()"},
    "method with arguments": {"x": "$@train#trainer.run(" + OPEN + ")"},
    "method of a text": {"x": "$'a'.join(" + OPEN + ")"},
    "call of what is there": {"x": "$@plan['f']('touch')"},
    "call of a call": {"x": "$torch.device('cpu')(1)"},
    "the references themselves": {"x": "$__local_refs.clear()"},
    "the references by a computed id": {"x": "$__local_refs['se' + 'ed']"},
    # targets and modes
    "target with blanks": {"x": {"_target_": " volseg.UNet"}},
    "target by reference": {"t": "os.system", "x": {"_target_": "@t", "command": "touch CANARY"}},
    "target by expression": {"x": {"_target_": "$torch.device"}},
    "target of a list": {"x": {"_target_": ["os.system"]}},
    "partial": {"x": {"_target_": "functools.partial", "func": "@seed"}},
    "reader of pickles": {"x": {"_target_": "numpy.load", "file": "CANARY", "allow_pickle": True}},
    "loader of MONAI": {"x": {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader"}},
    "writer of MONAI": {"x": {"_target_": "SaveImaged", "keys": "image", "output_dir": "/"}},
    "lambda of MONAI": {"x": {"_target_": "Lambdad", "keys": "image", "func": "@seed"}},
    "hub": {"x": {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"}},
    "download": {"x": {"_target_": "monai.bundle.download", "name": "x"}},
    "callable that writes": {"w": {"_target_": "volseg.find_cases", "_mode_": "callable"}},
    "debug": {"x": {"_target_": "volseg.UNet", "_mode_": "debug"}},
    "mode by expression": {"x": {"_target_": "volseg.UNet", "_mode_": "$'debug'"}},
    "callable with arguments": {
        "d": {"_target_": "volseg.densify", "_mode_": "callable", "output": "runs/a"},
        "x": "$@d('a', 'b', '/c')",
    },
    "callable with keywords": {
        "d": {"_target_": "volseg.densify", "_mode_": "callable", "output": "runs/a"},
        "x": "$@d(output='/c')",
    },
    # folders, schedulers, old results
    "folder by reference": {"o": "/elsewhere", "t": {"_target_": "volseg.trainer", "output_dir": "@o"}},
    "folder by two steps": {"o": "@p", "p": "$'/else' + 'where'", "output_dir": "@o"},
    "folder by a number": {"output_dir": "$@seed + '/../../elsewhere'"},
    "folder by a list": {"o": ["/elsewhere"], "output_dir": "$@o[0]"},
    "folder by %": {"output_dir": "$'%s' % '/elsewhere'"},
    "folder by join of empty": {"output_dir": "$'' + '/elsewhere'"},
    "folder up": {"output_dir": "runs/../../elsewhere"},
    "folder at home": {"output_dir": "~root"},
    "folder in a circle": {"o": "@p", "p": "@o", "output_dir": "@o"},
    "folder of densify": {
        "d": {"_target_": "volseg.densify", "image": "a", "labels": "b", "output": "/elsewhere"},
    },
    "phantom": {"x": {"_target_": "volseg.find_images", "source": "/e", "phantom_dir": "/e"}},
    "phantom of cases": {"x": {"_target_": "volseg.Cases", "dataset_dir": "/e", "phantom_dir": "/e"}},
    "old results": {"overwrite": True},
    "old results by expression": {"overwrite": "$1 == 1"},
    "scheduler": {"scorer": {"_target_": "volseg.predictor", "cluster": "tcp://10.0.0.1:8786"}},
    "scheduler by reference": {
        "c": "$'tcp' + '://10.0.0.1'", "scorer": {"_target_": "volseg.predictor", "cluster": "@c"},
    },
    "macro": {"x": "%/etc/passwd"},
    "macro by an id": {"x": "%seed"},
}  # fmt: skip


@pytest.fixture
def foreign(tmp_path, root):
    """A bundle of this repository with some entries of a stranger, and the canary."""
    canary = tmp_path / "canary"

    def make(entries):
        text = json.dumps(entries).replace("CANARY", str(canary))
        content = json.loads((root / "bundles" / "xenopus.json").read_text(encoding="utf-8"))
        path = tmp_path / "bundle.json"
        path.write_text(json.dumps(content | json.loads(text)))
        return path

    yield make
    assert not canary.exists(), "the trick worked"


@pytest.mark.parametrize("name", TRICKS)
def test_a_trick_is_refused(foreign, name):
    try:
        config = read_bundle([foreign(TRICKS[name])])
    except ValueError:
        return  # it is not even read
    assert beyond_the_list(config), "it passes"


@pytest.mark.parametrize("name", ["f-string by reference", "comment", "slice step"])
def test_the_tricks_work_on_who_does_not_judge(foreign, name, tmp_path):
    parser = ConfigParser(read_bundle([foreign(TRICKS[name])]))
    key = next(key for key in TRICKS[name] if key in ("device", "x"))
    with warnings.catch_warnings(), suppress(RuntimeError):  # of MONAI, once the harm is done
        warnings.simplefilter("ignore")
        parser.get_parsed_content(key)
    (tmp_path / "canary").unlink()


FINE = [
    "$@seed + 1", "$[28] * @network_def#spatial_dims", "$@output_dir + '/model.pt'", "$len(@labels)",
    "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')", "$@plan['channels']", "$-1.5e-3",
    "$volseg.context_of(@network_def)", "$@network.parameters()", "$@train#dataset.counts()",
    "$@cases[0].images",
    "$10 if torch.cuda.is_available() else 15", "$'a' in ['a', 'b'] and not @resume", "$import torch",
    "$torch.tensor([1.0, 2.0])",
]  # fmt: skip


@pytest.mark.parametrize("text", FINE)
def test_what_bundles_need_passes(root, text):
    config = json.loads((root / "bundles" / "xenopus.json").read_text(encoding="utf-8")) | {"x": text}
    assert beyond_the_list(config) == []


def test_what_is_judged_is_what_monai_evaluates(root):
    """Its own parser makes the very text of each expression."""
    config = json.loads((root / "bundles" / "isbi2012.json").read_text(encoding="utf-8"))
    config |= {"a": {"b": 1, "c": "$@#b + @##seed + @a#b", "d": ["$@#1", 2]}}
    from volseg.bundle.files import walk

    entries = dict(walk(config))
    parser = ConfigParser(json.loads(json.dumps(config)))
    parser.parse()
    resolver = parser.ref_resolver
    refs = dict.fromkeys(resolver.items, 0)
    for entry, value in entries.items():
        if isinstance(value, str) and value.startswith("$") and "import" not in value:
            theirs = resolver.update_refs_pattern(resolver.items[entry].get_config(), refs)
            assert as_evaluated(entry, value, entries) == theirs


def test_many_keys_take_no_quadratic_time(tmp_path):
    path = tmp_path / "bundle.json"
    path.write_text(json.dumps({f"key {n}": n for n in range(20_000)}))
    assert len(read_bundle([path])) == 20_000
    path.write_text('{"a": 1, "a": 2, ' + ", ".join(f'"k{n}": 1' for n in range(5000)) + "}")
    with pytest.raises(ValueError, match="a: this key stands twice"):
        read_bundle([path])


PIECES = [
    "@f", "@rf", "@a#f", "@#f", "@##f", "@", "#", "::", "'", '"', "'''", "{", "}", "(", ")", "[", "]",
    " ", "\n",
    "\\", ":", ",", ".", "+", "*", "**", "%", "=", ":=", "$", "f", "rf", "lambda", "for x in [1]",
    "if 1 else",
    "print(1)", "canary()", "__import__('os')", "torch", ".os", "volseg", ".begin", "len", "max",
    "(key=canary)",
    "1", "'a'", ".__class__", "import volseg", "import os", ";", "not", "in", "await ", "yield ",
    "\t", "\x0c",
    "\xa0", "ｃanary()", "!r", "b", "u", "@f {canary()}", "'@f {canary()}'", "#canary()\n",
]  # fmt: skip


def fuzzed(rng):
    """An expression put together at random, half of them around one that is fine."""
    parts = rng.choices(PIECES, k=rng.randint(1, 7))
    text = "".join(parts)
    if rng.random() < 0.5:
        fine = rng.choice(FINE)[1:]
        place = rng.randint(0, len(fine))
        text = fine[:place] + text + fine[place:]
    if rng.random() < 0.1:
        place = rng.randint(0, len(text))
        text = text[:place] + rng.choice(string.printable) + text[place:]
    return "$" + text


def evaluated(entry, text, entries):
    """Whether what passes the judge calls the canary when MONAI's own text of it is evaluated."""
    import numpy
    import torch

    import volseg

    called = []

    def canary(*_):
        called.append(1)
        return 1

    final = as_evaluated(entry, text, entries)
    names = {"torch": torch, "volseg": volseg, "np": numpy, "numpy": numpy, "canary": canary, "print": canary}
    names |= {"__local_refs": dict.fromkeys(entries, 2), "__import__": canary, "open": canary}
    try:
        eval(final[1:], names)
    except Exception as error:  # nonsense that does no harm
        logging.debug(error)
    return bool(called)


@pytest.mark.parametrize("seed", range(4))
def test_what_passes_at_random_does_no_harm(seed):
    rng = random.Random(seed)
    entries = {"f": 1, "rf": 1, "a": {"f": 1}, "a::f": 1, "a::x": None, "seed": 0, "labels": [],
               "output_dir": "a", "resume": False, "plan": {}, "cases": [], "network_def": {},
               "network_def::spatial_dims": 3, "network": {}, "train": {}, "train::dataset": {}}  # fmt: skip
    passed = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2500):
            entry, text = rng.choice(["x", "a::x"]), fuzzed(rng)
            if is_plain(entry, text, entries):
                passed += 1
                assert "volseg.begin" in text or not evaluated(entry, text, entries), text
    assert passed > 10


@pytest.mark.slow
def test_deep_brackets_and_long_numbers_are_refused_in_a_sentence(tmp_path):
    for name, text in {"deep": "[" * 100_000 + "]" * 100_000, "long": "9" * 5000}.items():
        path = tmp_path / f"{name}.json"
        path.write_text('{"a": ' + text + "}")
        done = subprocess.run(
            [sys.executable, "-m", "volseg", "check", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr


SAID = {
    "results into the folder of images": (
        "output_dir",
        "$@dataset_dir + '/x'",
        "dataset_dir",
        "/data/shared",
    ),
    "results where the images are": ("output_dir", "@dataset_dir", "dataset_dir", "/data/shared"),
    "results beside the weights": ("output_dir", "@checkpoint", "checkpoint", "/data/model.pt"),
    "old results replaced by --resume": ("overwrite", "@resume", "resume", "True"),
    "old results replaced by a folder": ("overwrite", "@output_dir", "output_dir", "runs/a"),
    "a scheduler by the weights": ("cluster", "@checkpoint", "checkpoint", "tcp://10.0.0.1:8786"),
    "a scheduler by a folder": ("cluster", "@output_dir", "output_dir", "tcp"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_of_one_thing_is_not_said_of_another(root, name):
    argument, value, said, _ = SAID[name]
    config = json.loads((root / "bundles" / "xenopus.json").read_text(encoding="utf-8"))
    writer = {"_target_": "volseg.predictor", "output_dir": "runs/b"} | {argument: value}
    found = beyond_the_list(config | {"w": writer, "checkpoint": "model.pt"}, [said])
    assert any(text.startswith(f"w#{argument} ") for text in found)


def test_what_is_said_of_the_same_thing_is_taken(root):
    config = json.loads((root / "bundles" / "xenopus.json").read_text(encoding="utf-8"))
    assert beyond_the_list(config, ["output_dir", "overwrite", "dataset_dir", "resume", "checkpoint"]) == []
    writer = {"_target_": "volseg.predictor", "output_dir": "$@output_dir + '/x'", "cluster": "@cluster"}
    more = {"w": writer, "cluster": "tcp://10.0.0.1:1"}
    assert beyond_the_list(config | more, ["output_dir", "cluster"]) == []
    assert beyond_the_list(config | more, ["output_dir"])


FOLDERS = [
    "runs/a", ".", "..", "/tmp", "~", "a", "./b", "", None, "C:/", "@p", "@q#r", "@l#0", "$@p + '/c'",
    "$@q#r + @p", "$'.' + '.'", "$@l#1 + '/d'", "$@p if 1 else 'x'", "$@n + 'x'", "@n", "$'a' + '..' + @p",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_folder_that_passes_lies_below_the_current_one(seed):
    rng = random.Random(seed)
    passed = 0
    for _ in range(400):
        values = {key: rng.choice(FOLDERS) for key in ("p", "r", "0", "1", "n", "w")}
        config = {
            "p": values["p"],
            "q": {"r": values["r"]},
            "l": [values["0"], values["1"]],
            "n": values["n"],
        }
        config["w"] = {"_target_": "volseg.predictor", "output_dir": values["w"]}
        if beyond_the_list(config):
            continue
        try:
            parser = ConfigParser(config | {"w": {"output_dir": values["w"]}})
            found = parser.get_parsed_content("w::output_dir")
        except Exception as error:  # nothing is written
            logging.debug(error)
            continue
        passed += 1
        assert found is None or not (found.startswith(("/", "~")) or ".." in found or ":" in found), config
    assert passed > 20
