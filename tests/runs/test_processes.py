"""Several processes take the step of one process that has all their patches, and only one of them writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from volseg.bundle import check_bundle
from volseg.errors import InputError
from volseg.runs import processes
from volseg.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

ROOT = Path(__file__).resolve().parent.parent.parent

TWO = """
import json, logging, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ignite.engine import Events
from volseg.data import TrainingPatches, WholeVolumes, find_cases
from volseg.engines import evaluator, trainer
from volseg.runs import processes
from volseg.inferers import OverlapTileInferer
from volseg.labels import LabelScheme
from volseg.losses import SparseDiceCE
from volseg.networks import UNet
from volseg.transforms import RandDeformedPatchd
import torch.utils.tensorboard

data, out, port = sys.argv[1:4]
logging.getLogger("volseg").setLevel(logging.INFO)

def train(folder, batch_size):
    torch.manual_seed(7 + processes.rank())  # the weights of the first process are everybody's
    network = UNet(2, 1, 3, channels=[(2, 4), (4, 8)], norm="instance")
    transform = RandDeformedPatchd(patch_size=(24, 24), context=network.context, std=1.0, flip=0.5)
    scheme = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)
    parts = {"labels": scheme, "in_channels": 1, "held_out": 0.2}
    dataset = TrainingPatches(find_cases(data), transform=transform, **parts)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    check = evaluator(device="cpu", dataset=WholeVolumes(find_cases(data), **parts), network=network,
                      inferer=OverlapTileInferer())
    engine = trainer(
        device="cpu", max_epochs=2, epoch_length=2, dataset=dataset, network=network, loss=SparseDiceCE(),
        optimizer=optimizer, output_dir=folder, batch_size=batch_size, evaluator=check, weight_average=0.9,
        lr_scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    )
    found = {"patches": [], "gradients": []}
    def note(engine):
        found["patches"].append(engine.state.batch["image"].double().sum((1, 2, 3)).tolist())
        found["gradients"].append([p.grad.clone() for p in network.parameters()])
    engine.add_event_handler(Events.ITERATION_COMPLETED, note)
    engine.run()
    found["metrics"] = check.state.metrics
    found["model"] = network.state_dict()
    return found

def child(rank, world, folder, batch_size, file):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if world > 1:
            processes.join_processes("cpu")
        torch.save(train(Path(out) / folder, batch_size), Path(out) / file)
        processes.leave_processes()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)

def join(*pids):
    assert all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in pids)

join(child(0, 1, "one", 2, "one.pt"))
join(child(0, 2, "two", 1, "two0.pt"), child(1, 2, "two", 1, "two1.pt"))
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process with two patches a step; and two processes with one each."""
    import numpy as np

    from volseg.io import Volume, write_volume

    folder = tmp_path_factory.mktemp("processes")
    random = np.random.default_rng(0)
    for case in "abc":
        label = np.broadcast_to(np.arange(32)[:, None] * 3 // 32, (32, 32)).astype(np.uint8)
        image = Volume(label[None] + random.normal(0, 0.3, (1, 32, 32)).astype(np.float32), np.eye(3), "um")
        sparse = np.where(random.random((1, 32)) < 0.4, label, 3).astype(np.uint8)
        for part, array in (("images", image.array), ("labels", sparse)):
            (folder / "data" / part).mkdir(parents=True, exist_ok=True)
            write_volume(folder / "data" / part / f"{case}.tif", array, image)
    words = [sys.executable, "-W", "ignore", "-c", TWO, str(folder / "data"), str(folder), str(free_port())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one", "two0", "two1")}
    return folder, found


@pytest.mark.slow
def test_the_averaged_gradient_is_that_of_one_process_with_both_patches(runs):
    _, found = runs
    one, two, other = (found[name]["gradients"] for name in ("one", "two0", "two1"))
    assert len(one) == 4
    for expected, first, second in zip(one, two, other, strict=True):
        assert any(gradient.abs().max() > 1e-3 for gradient in expected)
        for a, b, c in zip(expected, first, second, strict=True):
            torch.testing.assert_close(b, c, rtol=0, atol=0)
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_each_process_has_patches_of_its_own(runs):
    _, found = runs
    both = [a + b for a, b in zip(found["two0"]["patches"], found["two1"]["patches"], strict=True)]
    assert both == found["one"]["patches"]
    assert len({patch for step in both for patch in step}) == 8


@pytest.mark.slow
def test_all_processes_end_with_the_same_weights_and_scores(runs):
    folder, found = runs
    for name, tensor in found["one"]["model"].items():
        torch.testing.assert_close(found["two0"]["model"][name], tensor, rtol=1e-4, atol=1e-5)
        assert torch.equal(found["two0"]["model"][name], found["two1"]["model"][name])
    assert found["two0"]["metrics"] == found["two1"]["metrics"]
    assert found["two0"]["metrics"] == pytest.approx(found["one"]["metrics"], abs=0.02)
    assert load_checkpoint(folder / "two" / "last.pt")["iteration"] == 4


@pytest.mark.slow
def test_one_process_writes(runs):
    folder, _ = runs
    one, two = ({path.name for path in (folder / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert json.loads((folder / "two" / "versions.json").read_text())["processes"] == 2
    logs = [(folder / name / "log.txt").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1])
    rows = [(folder / name / "progress.csv").read_text().splitlines() for name in ("one", "two")]
    assert len(rows[0]) == len(rows[1])
    for name in ("one", "two"):
        assert len(list((folder / name / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_torchrun_trains_a_bundle_with_two_processes(make_dataset, tmp_path):
    out = tmp_path / "run"
    configs = "['bundles/xenopus.json','configs/smoke.json','configs/multi_gpu.json']"
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        free_port(),
    ]
    words += ["-m", "monai.bundle", "run", "training", "--config_file", configs, "--precision", "float32"]
    words += ["--dataset_dir", make_dataset(held_out={"z": [5]}), "--output_dir", out, "--val_interval", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(out / "last.pt")["processes"] == 2
    assert done.stderr.count("Trained. The weights are in") == 1


# --- without other processes ----------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", ["multi_gpu", "fast", "profile"])
@pytest.mark.parametrize("name", ["xenopus", "medulla", "hippocampus", "cells"])
def test_the_overlays_fit_the_bundles(name, overlay, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert check_bundle([f"bundles/{name}.json", f"configs/{overlay}.json"]) == []


def test_a_process_that_was_started_alone_is_told(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match=r"was started alone. Start it by 'torchrun --nproc_per_node N"):
        processes.join_processes("cpu")


def test_statistics_of_all_processes_need_gpus(make_run):
    with pytest.raises(ValueError, match="sync_batch_norm = True needs GPUs"):
        make_run(sync_batch_norm=True)


def test_one_process_alone_is_the_first_and_only(monkeypatch):
    assert (processes.rank(), processes.count()) == (0, 1)
    assert processes.gather({"a": 1}) == [{"a": 1}]
    assert processes.any_of(True, torch.device("cpu")) is True
    assert list(processes.share(3)) == [0, 1, 2]
    assert processes.local_device() == torch.device("cpu") or torch.cuda.is_available()
    monkeypatch.setattr(processes, "count", lambda: 4)
    monkeypatch.setattr(processes, "rank", lambda: 3)
    assert list(processes.share(9)) == [3, 7]
    assert list(processes.share(2)) == [0]
    assert list(processes.share(0)) == []
