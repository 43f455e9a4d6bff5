"""At any moment there is a checkpoint that can be read, it holds what was written, and resuming finds it."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from volseg.errors import InputError, ResourceError
from volseg.runs.checkpoint import load_checkpoint, load_newest, past_checkpoints, save_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")


def content(iteration=1):
    generator = torch.Generator().manual_seed(iteration)
    weight = torch.randn(3, 4, 5, 6, generator=generator).to(memory_format=torch.channels_last)
    model = {"weight": weight, "half": weight.to(torch.bfloat16), "count": torch.tensor(7)}
    return {
        "model": model,
        "iteration": iteration,
        "optimizer": {"state": {0: [1.5, None, True]}, "name": "é"},
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "last.pt", content())
    return tmp_path / "last.pt"


def test_what_is_saved_is_loaded_by_torch_alone_without_running_code(saved):
    plain = torch.load(saved, weights_only=True)
    assert len(plain.pop("sha256")) == 64
    assert same(plain, content())
    assert same(load_checkpoint(saved), content())


def test_no_flipped_bit_goes_unnoticed(saved):
    whole, numbers = saved.read_bytes(), random.Random(0)
    noticed = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[numbers.randrange(len(whole))] ^= 1 << numbers.randrange(8)
        saved.write_bytes(damaged)
        try:
            assert same(load_checkpoint(saved), content())  # padding between the parts of the file
        except InputError:
            noticed += 1
    assert noticed > 20


def test_a_flipped_weight_is_told_as_damage(saved):
    whole = saved.read_bytes()
    place = whole.index(content()["model"]["weight"].permute(0, 2, 3, 1).numpy().tobytes()[:16])
    saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(InputError, match=r"last.pt is damaged: its content does not have the SHA-256"):
        load_checkpoint(saved)


def test_a_file_cut_short_is_never_read(saved):
    whole = saved.read_bytes()
    for part in range(20):
        saved.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            load_checkpoint(saved)


def test_a_checkpoint_that_cannot_be_read_back_replaces_nothing(saved, monkeypatch):
    save = torch.save

    def careless(value, path):
        save({**value, "model": {"weight": torch.zeros(2)}}, path)

    monkeypatch.setattr(torch, "save", careless)
    with pytest.raises(ResourceError, match=r"last.pt was written but cannot be read back.*Check the disk"):
        save_checkpoint(saved, content(2), keep=3)
    assert load_checkpoint(saved)["iteration"] == 1
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_the_last_few_are_kept(tmp_path, monkeypatch, links):
    def refuse(*_):
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "last.pt"
    for iteration in range(1, 6):
        save_checkpoint(path, content(iteration), keep=3)
        found = [load_checkpoint(old)["iteration"] for old in past_checkpoints(path)]
        assert found == list(range(iteration, 0, -1))[:3]
    assert {p.name for p in tmp_path.iterdir()} == {"last.pt", "last_1.pt", "last_2.pt"}
    save_checkpoint(path, content(6), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_there_is_a_newest_one_at_any_moment(saved, monkeypatch):
    """Where one file takes the place of another, all that are there can be read, the newest one included."""
    replace, link, looks = os.replace, os.link, []

    def look():
        looks.append(load_newest(saved)[0].name)

    def watched(action):
        def act(*paths):
            look()
            action(*paths)
            look()

        return act

    monkeypatch.setattr(os, "replace", watched(replace))
    monkeypatch.setattr(os, "link", watched(link))
    for iteration in (2, 3, 4):
        save_checkpoint(saved, content(iteration), keep=3)
    assert set(looks) == {"last.pt"}
    assert len(looks) > 10


def test_of_damaged_checkpoints_the_one_before_is_taken_and_said(tmp_path, caplog):
    path = tmp_path / "last.pt"
    for iteration in (1, 2, 3):
        save_checkpoint(path, content(iteration), keep=3)
    assert load_newest(path)[1]["iteration"] == 3
    assert caplog.text == ""
    path.write_bytes(b"")
    assert load_newest(path)[1]["iteration"] == 2
    assert "last.pt cannot be read as a checkpoint" in caplog.text
    assert f"Going on from {tmp_path / 'last_1.pt'} instead, of iteration 2" in caplog.text
    caplog.clear()
    path.unlink()
    assert load_newest(path)[1]["iteration"] == 2
    assert "last_1.pt instead" in caplog.text
    for old in past_checkpoints(path):
        old.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"None of the 2 checkpoint\(s\) in .* can be read: train again"):
        load_newest(path)


# --- in a training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(make_run, caplog, damage):
    make_run("whole").engine.run()
    make_run("parts", max_epochs=2).engine.run()
    folder = make_run("parts").folder
    if damage == "cut":
        with (folder / "last.pt").open("r+b") as file:
            file.truncate(1000)
    else:
        (folder / "last.pt").unlink()
    resumed = make_run("parts", resume=True)
    assert resumed.engine.state.iteration == 2
    assert f"Going on from {folder / 'last_1.pt'} instead, of iteration 2" in caplog.text
    resumed.engine.run()
    for name in ("last.pt", "model.pt"):
        assert same(load_checkpoint(folder / name), load_checkpoint(folder.with_name("whole") / name))


def test_as_many_checkpoints_are_kept_as_one_asks_for(make_run):
    run = make_run(max_epochs=5, epoch_length=1, keep_last=3)
    run.engine.run()
    found = [load_checkpoint(path)["iteration"] for path in past_checkpoints(run.folder / "last.pt")]
    assert found == [5, 4, 3]
    make_run(max_epochs=1, overwrite=True).engine.run()
    assert len(past_checkpoints(run.folder / "last.pt")) == 1
    with pytest.raises(ValueError, match="keep_last = 0 keeps no checkpoint: 1 is the least"):
        make_run(keep_last=0)


def scoring(scores):
    """An evaluator that says what it is told to, one score after the other."""
    engine = Engine(lambda *_: None)
    left = iter(scores)

    def run(_epoch):
        engine.state.metrics, engine.state.pictures = {"mean IoU": next(left), "other": 1.0}, {}

    return SimpleNamespace(run=run, state=engine.state)


def test_the_best_weights_are_kept_and_a_resumed_run_does_not_replace_them_by_worse(make_run):
    scores = [math.nan, 0.6, 0.5]
    run = make_run(evaluator=scoring(scores), epoch_length=1)
    weights = {}
    run.engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: weights.update(
            {engine.state.iteration: load_checkpoint(run.folder / "model.pt")["model"]}
        ),
    )
    run.engine.run()
    best = load_checkpoint(run.folder / "best.pt")
    assert best["iteration"] == 2
    assert same(best["model"], weights[2])
    assert best["trained_on"] == run.dataset.trained_on()
    log = (run.folder / "log.txt").read_text()
    assert (
        f"The best validation, 0.6000, was at iteration 2; its weights are in {run.folder / 'best.pt'}" in log
    )
    more = make_run(evaluator=scoring([0.55, 0.7]), epoch_length=1, max_epochs=5, resume=True)
    more.engine.add_event_handler(
        Events.EPOCH_COMPLETED(once=4),
        lambda _: weights.update(then=load_checkpoint(run.folder / "best.pt")["iteration"]),
    )
    more.engine.run()
    assert weights["then"] == 2
    assert load_checkpoint(run.folder / "best.pt")["iteration"] == 5


# --- kill -9 ------------------------------------------------------------------------------------------

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from volseg.data import TrainingPatches, find_cases
from volseg.engines import trainer
from volseg.runs.checkpoint import load_checkpoint, past_checkpoints
from volseg.labels import LabelScheme
from volseg.losses import SparseCrossEntropy
from volseg.networks import UNet
from volseg.transforms import RandDeformedPatchd
import torch.utils.tensorboard

data, out = map(Path, sys.argv[1:3])

def train(folder):
    torch.manual_seed(7)
    network = UNet(2, 1, 3, channels=[(2, 4)], norm="batch", dropout=0.2)
    transform = RandDeformedPatchd(patch_size=(12, 12), context=network.context, std=1.0, flip=0.5)
    scheme = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
    dataset = TrainingPatches(find_cases(data), labels=scheme, in_channels=1, transform=transform)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    trainer(
        device="cpu", max_epochs=40, epoch_length=1, dataset=dataset, network=network, keep_last=3,
        loss=SparseCrossEntropy(), optimizer=optimizer, weight_average=0.9, output_dir=folder,
        lr_scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, 40),
        resume=(folder / "last.pt").exists(), overwrite=True,
    ).run()

def child(folder):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        train(folder)
        code = 0
    except ValueError as error:
        code = 3 if "nothing to resume" in str(error) else 1
    finally:
        os._exit(code)

began = time.monotonic()
assert os.waitpid(child(out / "whole"), 0)[1] == 0
length = time.monotonic() - began
numbers = random.Random(int(sys.argv[3]))
kills, unreadable, lost = 0, 0, 0
while kills < 20:
    pid = child(out / "killed")
    time.sleep(numbers.uniform(0.05, 0.2) * length)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status):  # it had come to its end: once more from the start
        assert os.WEXITSTATUS(status) in (0, 3), status
        for path in (out / "killed").glob("*.pt"):
            path.unlink()
        continue
    kills += 1
    for path in (out / "killed").glob("*.pt"):
        try:
            load_checkpoint(path)
        except ValueError:
            unreadable += 1
    found = past_checkpoints(out / "killed" / "last.pt")
    lost += (out / "killed" / "last_1.pt").exists() and found[0].name != "last.pt"
status = os.waitpid(child(out / "killed"), 0)[1]
assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 3), status
print(kills, unreadable, lost)
"""


@pytest.mark.slow
def test_twenty_kills_cost_no_checkpoint_and_change_nothing(make_dataset, tmp_path):
    folder = make_dataset(size=(24, 24), channels=1)
    words = [sys.executable, "-c", KILLED, str(folder), str(tmp_path), "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["20", "0", "0"]
    for name in ("last.pt", "model.pt"):
        killed, whole = (load_checkpoint(tmp_path / run / name) for run in ("killed", "whole"))
        assert killed["iteration"] == 40
        assert same(killed, whole)
    assert not [p.name for p in (tmp_path / "killed").iterdir() if ".partial" in p.name]


@pytest.mark.slow
def test_sigterm_to_a_real_run_saves_within_ten_seconds(make_dataset, tmp_path, root):
    """As a queueing system does before it ends a job: SIGTERM, and some seconds later SIGKILL."""
    folder = tmp_path / "run"
    code = "import sys; from volseg.cli import main; sys.exit(main())"
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        code,
        "train",
        "bundles/xenopus.json",
        "configs/smoke.json",
    ]
    words += ["--dataset_dir", str(make_dataset()), "--output_dir", str(folder)]
    words += ["--epochs", "100000", "--max_minutes", "20", "--precision", "float32"]
    run = subprocess.Popen(words, cwd=root, stderr=subprocess.PIPE, text=True)
    try:
        waited = time.monotonic() + 200
        while not (folder / "last.pt").exists() and run.poll() is None and time.monotonic() < waited:
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        began = time.monotonic()
        said = run.communicate(timeout=60)[1]
        took = time.monotonic() - began
    finally:
        run.kill()
    assert run.returncode == 130, said
    assert took < 10
    iteration = load_checkpoint(folder / "last.pt")["iteration"]
    assert f"Stopped at iteration {iteration}; saved. Go on with --resume." in said


# --- checkpoints that ask for more than they hold ------------------------------------------------------


@pytest.mark.parametrize("place", ["model", "elsewhere"])
def test_a_number_that_is_shown_many_times_asks_for_no_memory(tmp_path, place):
    """1.6 kB that would be 32 GiB."""
    many = torch.zeros(1).expand(1 << 33)
    content = {"model": {"w": torch.zeros(2)}, "sha256": "0" * 64}
    content |= {"model": {"w": many}} if place == "model" else {"more": [{"w": (many,)}]}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(
        InputError, match=r"tensor of shape \(8589934592,\) whose numbers are not all in the file"
    ):
        load_checkpoint(tmp_path / "a.pt")


def test_a_part_of_a_stored_tensor_is_read(tmp_path):
    content = {
        "model": {"w": torch.arange(12.0).reshape(3, 4)[:, 1:3], "t": torch.arange(6.0).reshape(2, 3).T}
    }
    torch.save(content, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")["model"]
    assert all(torch.equal(found[name], content["model"][name]) for name in ("w", "t"))


def test_a_sparse_tensor_or_one_without_numbers_is_no_weight(tmp_path):
    for tensor in (torch.eye(3).to_sparse(), torch.empty(1 << 40, device="meta")):
        torch.save({"model": {"w": tensor}}, tmp_path / "a.pt")
        with pytest.raises(InputError, match="whose numbers are not all in the file"):
            load_checkpoint(tmp_path / "a.pt")
