"""Whole runs, killed, robbed of their disk or their image at random moments: every end was promised.

Each sweep runs the commands themselves, in children forked from a process that has imported everything, so
that a kill falls into the work. A few tries here; many with
``VOLSEG_SWEEP=25 python -m pytest -m slow tests/engines/test_sweeps.py``.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

TRIES = int(os.environ.get("VOLSEG_SWEEP", "3"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked"),
]

COMMON = """
import json, logging, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np, torch
import monai.bundle, torch.utils.tensorboard, volseg, tqdm
from volseg.cli import main
from volseg.runs.checkpoint import load_checkpoint, load_newest
from volseg.io import Volume, read_volume, write_volume
torch.set_num_threads(1)
root, top, tries = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
os.chdir(root)
draw = random.Random(tries)
SMOKE = ["bundles/xenopus.json", "configs/smoke.json", "--seed", "3"]

def child(*words, after=None, number=signal.SIGKILL, meanwhile=None):
    "Run a command; its exit code, and minus the number of the signal that ended it."
    pid = os.fork()
    if pid == 0:
        log = os.open(top / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        os._exit(code)
    if after is not None:
        time.sleep(after)
        if meanwhile is None:
            os.kill(pid, number)
        else:
            meanwhile()
    status = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

def said():
    return (top / "log.txt").read_text(errors="replace")

def timed(*words):
    began = time.monotonic()
    code = child(*words)
    assert code == 0, said()
    return time.monotonic() - began

def image(path, seed, size=(40, 36, 32)):
    array = np.random.default_rng(seed).normal(size=(3, *size)).astype(np.float32)
    write_volume(path, array, Volume(array, np.diag([0.5, 0.5, 0.5, 1]), "um"), overwrite=True)

def dataset(folder):
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    image(folder / "images" / "a.tif", 0, (24, 24, 24))
    label = np.full((24, 24, 24), 3, np.uint8)
    label[..., 1::4] = np.arange(24)[:, None, None] // 8
    write_volume(folder / "labels" / "a.tif", label, read_volume(folder / "images" / "a.tif"))
    return folder

def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

def equal(folder, other):
    names = ("model.pt", "last.pt")
    return all(same(load_checkpoint(folder / name), load_checkpoint(other / name)) for name in names)

def content(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()] if folder.exists() else []
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
"""

TRAIN = (
    COMMON
    + """
words = ["train", *SMOKE, "--dataset_dir", dataset(top / "data"), "--epochs", 4, "--epoch_length", 2]
seconds = timed(*words, "--output_dir", top / "whole")
found = {"tries": 0, "hit": 0, "parts": 0, "wrong": []}
for number in range(tries):
    out = top / f"run{number}"
    if number % 3 == 2:  # over an earlier result
        assert child("train", *SMOKE, "--dataset_dir", top / "data", "--output_dir", out, "--epochs", 1) == 0
    old = content(out)
    how = signal.SIGKILL if number % 2 else signal.SIGTERM
    first = ["--overwrite", "True"] if old else []
    code = child(*words, "--output_dir", out, *first, after=draw.uniform(0.05, 1.0) * seconds, number=how)
    found["tries"] += 1
    found["hit"] += code != 0
    if code not in (0, -9 if how == signal.SIGKILL else 130):
        found["wrong"].append(f"{number}: {code} {said()[-300:]}")
    if old and code != 0 and not (out / "unfinished" / "complete").exists():
        kept = {name: (out / name).read_bytes() for name in ("model.pt", "last.pt")}
        if any(old[name] != kept[name] for name in kept):
            found["wrong"].append(f"{number}: the earlier result was not kept")
    while code != 0:
        found["parts"] += 1
        begun = (out / "unfinished").exists() if old else any(out.glob("last*.pt"))
        code = child(*words, "--output_dir", out, *(["--resume", "True"] if begun else first))
        if code == 3 and "no checkpoint yet" in said():
            code = child(*words, "--output_dir", out, *first)
        if code == 3 and "nothing to resume" in said():
            code = 0  # it was killed when all was done
        if code != 0:
            found["wrong"].append(f"{number}: then {code} {said()[-300:]}")
            break
    if code == 0 and not equal(out, top / "whole"):
        found["wrong"].append(f"{number}: other weights")
    left = [name for name in content(out) if "partial" in name or "unfinished" in name]
    if left:
        found["wrong"].append(f"{number}: {left} left")
    shutil.rmtree(out)
print(json.dumps(found))
"""
)

PREDICT = (
    COMMON
    + """
run = top / "run"
assert child("train", *SMOKE, "--dataset_dir", dataset(top / "data"), "--output_dir", run, "--epochs", 1) == 0
(top / "images").mkdir()
for number, name in enumerate(("a.tif", "b.nii", "c.nii.gz")):
    image(top / "images" / name, number)
found = {"tries": 0, "hit": 0, "wrong": []}
for blockwise in (False, True):
    words = ["predict", *SMOKE, "--images", top / "images", "--checkpoint", run / "model.pt"]
    words += ["--probabilities", "True", "--evaluator#blockwise", str(blockwise), "--inferer#tile", 8]
    seconds = timed(*words, "--output_dir", top / f"whole{blockwise}")
    whole = content(top / f"whole{blockwise}" / "segmentations")
    for number in range(tries):
        out = top / f"out{number}"
        how = signal.SIGKILL if number % 2 else signal.SIGTERM
        code = child(*words, "--output_dir", out, after=draw.uniform(0.05, 1.0) * seconds, number=how)
        found["tries"] += 1
        found["hit"] += code != 0
        if code not in (0, -9 if how == signal.SIGKILL else 130):
            found["wrong"].append(f"{blockwise} {number}: {code} {said()[-300:]}")
        if code != 0 and (again := child(*words, "--output_dir", out)) != 0:
            found["wrong"].append(f"{blockwise} {number}: then {again} {said()[-300:]}")
        if content(out / "segmentations") != whole:
            found["wrong"].append(f"{blockwise} {number}: {sorted(content(out / 'segmentations'))}")
        shutil.rmtree(out)
print(json.dumps(found))
"""
)

CHANGED = (
    COMMON
    + """
run = top / "run"
assert child("train", *SMOKE, "--dataset_dir", dataset(top / "data"), "--output_dir", run, "--epochs", 1) == 0
words = ["predict", *SMOKE, "--checkpoint", run / "model.pt", "--evaluator#blockwise", "True"]
words += ["--inferer#tile", 8]
found = {"tries": 0, "refused": 0, "old": 0, "new": 0, "wrong": []}
for suffix in (".nii", ".tif", ".nii.gz"):
    for seed in (0, 1):
        image(top / f"{seed}{suffix}", seed)
    results, seconds = [], 0.0
    for seed in (0, 1):
        shutil.copy(top / f"{seed}{suffix}", top / f"x{suffix}")
        shutil.rmtree(top / "out", ignore_errors=True)
        seconds = timed(*words, "--images", top / f"x{suffix}", "--output_dir", top / "out")
        results.append(content(top / "out"))
    for number in range(tries):
        target = top / f"x{suffix}"
        shutil.copy(top / f"0{suffix}", target)
        shutil.rmtree(top / "out")

        def replaced():
            shutil.copy(top / f"1{suffix}", top / f"y{suffix}")
            os.replace(top / f"y{suffix}", target)

        def in_place():
            content = (top / f"1{suffix}").read_bytes()
            with target.open("r+b") as file:
                file.write(content)
                file.truncate()

        def cut():
            os.truncate(target, target.stat().st_size // 2)

        change = (replaced, in_place, cut)[number % 3]
        at = draw.uniform(0.05, 1.0) * seconds
        code = child(*words, "--images", target, "--output_dir", top / "out", after=at, meanwhile=change)
        found["tries"] += 1
        made = {name: data for name, data in content(top / "out").items() if "/.predict" not in name}
        if code == 0 and made in results:
            found["old" if made == results[0] else "new"] += 1
        elif code == 3 and made == {} and "Traceback" not in said() and "fault of volseg" not in said():
            found["refused"] += 1
        else:
            found["wrong"].append(f"{suffix} {number}: {code} {sorted(made)} {said()[-300:]}")
print(json.dumps(found))
"""
)

# Outputs lie in a folder that may only be read; in a name space of its own, so that root is held to it, too.
LOCKED = (
    COMMON
    + """
import subprocess
run, locked = top / "run", top / "locked"
data = dataset(top / "data")
train = ["train", *SMOKE, "--dataset_dir", data, "--output_dir"]
assert child(*train, run, "--epochs", 1) == 0
(locked / "data").mkdir(parents=True)
shutil.copytree(run, locked / "run")
subprocess.run(["mount", "--bind", locked, locked], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", locked], check=True)
image_, label = data / "images" / "a.tif", data / "labels" / "a.tif"
commands = {
    "train": [*train, locked / "new"],
    "train resume": [*train, locked / "run", "--epochs", 3, "--resume", "True"],
    "train overwrite": [*train, locked / "run", "--overwrite", "True"],
    "evaluate": ["evaluate", *SMOKE, "--dataset_dir", data, "--output_dir", locked / "run"],
    "predict": ["predict", *SMOKE, "--images", image_, "--output_dir", locked / "run"],
    "predict blocks": ["predict", *SMOKE, "--images", image_, "--output_dir", locked / "run",
                       "--evaluator#blockwise", "True"],
    "convert": ["convert", image_, "-o", locked / "a.nii"],
    "sparsify": ["sparsify", label, "--unlabelled", 3, "--slices", "1,1,1", "-o", locked / "s.tif"],
    "phantom": ["phantom", locked / "phantom", "--kind", "cells"],
    "export": ["export", run / "model.pt", "-o", locked / "w.safetensors"],
    "experiment": ["experiment", "sweep", *SMOKE[:2], "--vary", "seed=1,2", "-o", locked / "e",
                   "--dataset_dir", data],
    "densify": ["densify", image_, label, "--unlabelled", 3, "-o", locked / "d", "--minutes", "0.1"],
}
found = {}
for name, words in commands.items():
    code = child(*words)
    last = said().strip().splitlines()[-1]
    found[name] = [code, "Traceback" not in said() and str(locked) in last, last]
print(json.dumps(found))
"""
)

# A disk that is full while an earlier result lies on it.
FULL = (
    COMMON
    + """
data, disk = dataset(top / "data"), top / "disk"
run = disk / "run"
train = ["train", *SMOKE, "--dataset_dir", data, "--output_dir", run]
(top / "images").mkdir()
image(top / "images" / "a.nii", 0), image(top / "images" / "b.nii", 1)
predict = ["predict", *SMOKE, "--images", top / "images", "--output_dir", run, "--probabilities", "True"]
assert child(*train, "--epochs", 1) == 0
assert child(*predict) == 0
found = {"tries": 0, "full": 0, "wrong": []}
predict += ["--overwrite", "True"]
commands = [[*train, "--epochs", 3, "--overwrite", "True"], [*train, "--epochs", 3, "--resume", "True"],
            predict, [*predict, "--evaluator#blockwise", "True"]]
for number in range(tries * len(commands)):
    words = commands[number % len(commands)]
    shutil.copytree(run, top / "before")
    room = draw.choice([0, 8, 40, 150, 400, 1000]) * 1024
    with open(disk / ".ballast", "wb", buffering=0) as file:
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize > room and file.write(bytes(4096)) == 4096:
            pass
    code = child(*words)
    found["tries"] += 1
    found["full"] += code == 4
    old, new = content(top / "before"), content(run)
    if code not in (0, 4) or "Traceback" in said():
        found["wrong"].append(f"{number}: {code} {said()[-400:]}")
    if code == 4:
        own = ("model.pt", "last.pt", "progress.csv") if words[0] == "train" else ()
        keep = [name for name in old if name in own or name.startswith("segmentations")]
        for name in keep:
            resumed = "--resume" in words and name in new
            if words[0] == "train" and not resumed and new.get(name) != old[name]:
                found["wrong"].append(f"{number}: {name} is not the old one")
            elif name not in new:
                found["wrong"].append(f"{number}: {name} is gone")
        load_newest(run / "last.pt"), load_checkpoint(run / "model.pt")
        for name in new:
            if name.startswith("segmentations/") and "/." not in name:
                read_volume(run / name)
    os.unlink(disk / ".ballast")
    shutil.rmtree(run), shutil.copytree(top / "before", run), shutil.rmtree(top / "before")
print(json.dumps(found))
"""
)


def sweep(script, root, tmp_path, *, before=()):
    command = [*before, sys.executable, "-W", "ignore", "-c", script, str(root), str(tmp_path), str(TRIES)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def apart(command):
    """What to put before a command so that it may mount."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("this system lets nobody mount anything")
    return ("unshare", "-rm", "sh", "-c", f'{command} && exec "$@"', "sh")


def test_a_training_killed_among_its_steps_ends_in_the_same_weights(root, tmp_path, figure):
    found = sweep(TRAIN, root, tmp_path)
    assert found.pop("wrong") == []
    figure(f"train killed (kill -9, SIGTERM): {found}")


def test_a_batch_that_was_killed_ends_in_the_same_bytes(root, tmp_path, figure):
    found = sweep(PREDICT, root, tmp_path)
    assert found.pop("wrong") == []
    figure(f"predict of three images killed (kill -9, SIGTERM): {found}")


def test_of_an_image_that_changes_at_any_moment_there_is_no_mixture(root, tmp_path, figure):
    found = sweep(CHANGED, root, tmp_path)
    assert found.pop("wrong") == []
    figure(f"image replaced, overwritten, cut while predict runs: {found}")


def test_every_command_says_where_it_may_not_write(root, tmp_path):
    found = sweep(LOCKED, root, tmp_path, before=apart("true"))
    assert {name: code for name, (code, _, _) in found.items()} == dict.fromkeys(found, 4), found
    assert all(good for _, good, _ in found.values()), found


def test_a_full_disk_leaves_an_earlier_result_whole(root, tmp_path, figure):
    (tmp_path / "disk").mkdir()
    found = sweep(FULL, root, tmp_path, before=apart(f"mount -t tmpfs -o size=24m none '{tmp_path}/disk'"))
    assert found.pop("wrong") == []
    assert found["full"] > 0
    figure(f"disk full over an earlier result (train, predict): {found}")
