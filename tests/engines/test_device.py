"""What is done so that a GPU never waits for the program: shown on a CPU, where the same code can run."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from volseg.bspline import SplineMap, sampling
from volseg.engines import scale
from volseg.engines.step import can_wait
from volseg.errors import VolsegError
from volseg.labels import IGNORE_INDEX
from volseg.losses import SparseCrossEntropy
from volseg.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

training = sys.modules["volseg.engines.trainer"]  # the name in the package is the function

OPTIMISERS = {
    "SGD": lambda network: torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9),
    "AdamW": lambda network: torch.optim.AdamW(network.parameters(), lr=0.01),
}


class Bad(SparseCrossEntropy):
    """A loss that is not finite where it is told to, in value and gradient."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.step = bad, 0

    def forward(self, logits, target, weight=None):
        self.step += 1
        return super().forward(logits, target, weight) * (float("nan") if self.step in self.bad else 1.0)


@pytest.fixture
def looking_late(monkeypatch):
    """Runs look at what became of their steps every fourth iteration, as on a GPU."""

    def steps(_device, optimizer):
        assert can_wait(optimizer)
        return 4

    monkeypatch.setattr(training, "_steps_between_looks", steps)


def parts(make_run, name, **settings):
    network = make_run("parts").network
    return {"network": network, "optimizer": OPTIMISERS[name](network), "lr_scheduler": None, **settings}


def state(run):
    tensors = {f"network {key}": value.clone() for key, value in run.network.state_dict().items()}
    for number, entries in run.optimizer.state_dict()["state"].items():
        tensors |= {f"{number} {key}": torch.as_tensor(value).clone() for key, value in entries.items()}
    return tensors


def watch(run, spoil=lambda *_: None):
    """State of weights and optimiser before each iteration, and after the last."""
    states = []

    def before(engine):
        spoil(engine)
        states.append(state(run))

    run.engine.add_event_handler(training.Events.ITERATION_STARTED, before)
    run.engine.run()
    return [*states, state(run)]


def same(one, other):
    return {key for key, value in one.items() if not torch.equal(value, other.get(key, value))} == set()


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("trouble", ["first loss", "loss", "image", "blank"])
def test_a_step_that_is_not_to_be_taken_leaves_no_trace_without_being_looked_at(
    make_run, looking_late, name, trouble, caplog
):
    at = 1 if trouble == "first loss" else 3

    def spoil(engine):
        if engine.state.iteration == at and trouble == "image":
            engine.state.batch["image"] = torch.full_like(engine.state.batch["image"], torch.nan)
        if engine.state.iteration == at and trouble == "blank":
            engine.state.batch["label"] = torch.full_like(engine.state.batch["label"], IGNORE_INDEX)

    loss = Bad({at} if "loss" in trouble else set())
    run = make_run("late", **parts(make_run, name, loss=loss, max_epochs=1, epoch_length=6))
    states = watch(run, spoil)
    moved = [not same(a, b) for a, b in pairwise(states)]
    assert moved == [iteration != at for iteration in range(1, 7)]
    assert all(torch.isfinite(tensor).all() for tensor in states[-1].values())
    average = load_checkpoint(run.folder / "model.pt")["model"]
    assert all(torch.isfinite(tensor).all() for tensor in average.values() if tensor.is_floating_point())
    what = "had no annotation" if trouble == "blank" else "had a loss or gradient that is not finite"
    assert f"1 step(s) {what} and were skipped" in caplog.text


@pytest.mark.parametrize("name", OPTIMISERS)
def test_looking_late_changes_nothing_else(make_run, monkeypatch, name):
    monkeypatch.setattr(
        training, "_steps_between_looks", lambda _, optimizer: 1 if can_wait(optimizer) else 0
    )
    at_once = make_run("at once", **parts(make_run, name, epoch_length=5, max_epochs=2))
    at_once.engine.run()
    monkeypatch.setattr(
        training, "_steps_between_looks", lambda _, optimizer: 4 if can_wait(optimizer) else 0
    )
    late = make_run("late", **parts(make_run, name, epoch_length=5, max_epochs=2))
    late.engine.run()
    assert same(state(at_once), state(late))
    rows = [(run.folder / "progress.csv").read_text() for run in (at_once, late)]
    assert rows[0] == rows[1]


def test_bad_steps_end_a_run_when_they_are_seen(make_run, looking_late):
    run = make_run(**parts(make_run, "SGD", loss=Bad({3, 4, 5}), epoch_length=20))
    with pytest.raises(VolsegError, match=r"not finite in 3 steps in a row, the last at iteration 5"):
        run.engine.run()
    assert run.engine.state.iteration == 8


def test_an_optimiser_that_cannot_wait_is_looked_at():
    network = torch.nn.Linear(2, 2)
    assert not can_wait(torch.optim.RMSprop(network.parameters(), lr=0.1))
    assert training._steps_between_looks(torch.device("cpu"), OPTIMISERS["SGD"](network)) == 1
    assert training._steps_between_looks(torch.device("cuda"), OPTIMISERS["SGD"](network)) > 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("outside", ["mirror", 7])
def test_patches_are_the_same_if_nobody_asks_the_device_how_far_they_reach(monkeypatch, dims, mode, outside):
    random = np.random.default_rng(0)
    for trial in range(8):
        shape = tuple(random.integers(5, 24, dims))
        image = torch.from_numpy(random.normal(size=(2, *shape)).astype(np.float32))
        matrix = np.eye(dims) * random.choice([-1, 1], dims) + random.normal(0, 0.2, (dims, dims))
        vectors = random.normal(0, 2, (dims, *[5] * dims))
        shift = random.uniform(-20, 20, dims) if trial % 2 else random.uniform(0, 8, dims)
        mapping = SplineMap(matrix, shift, vectors, (8.0,) * dims)
        given = {"mode": mode, "outside": outside, "use_kernel": False}
        expected = sampling.sample_map(image, mapping, (0,) * dims, (9,) * dims, **given)
        warp = sampling._warp

        def by_hull(image, coordinates, origin, mode, outside, limits=None, *, warp=warp, mapping=mapping):
            control, _ = mapping.composed_control((0,) * len(origin), (9,) * len(origin))
            local = control - np.reshape(origin, (-1, *(1,) * len(origin)))
            hull = sampling._hull(local.astype(np.float32))
            for (low, high), axis in zip(hull, coordinates, strict=True):
                assert low - 1e-4 <= float(axis.min()) <= float(axis.max()) <= high + 1e-4
            return warp(image, coordinates, origin, mode, outside, hull)

        with monkeypatch.context() as patch:
            patch.setattr(sampling, "_warp", by_hull)
            found = sampling.sample_map(image, mapping, (0,) * dims, (9,) * dims, **given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# --- volumes on the device --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "room", "moves"),
    [("auto", 10**9, True), ("auto", 10, False), ("device", 10, True), ("host", 10**9, False)],
)
def test_volumes_are_kept_on_the_device_if_they_fit(make_run, monkeypatch, cache, room, moves):
    dataset = make_run().dataset
    monkeypatch.setattr(scale, "free_memory", lambda _: room)
    held = dataset.cases[0]["held"]
    assert scale.keep_on_device(dataset, torch.device("meta"), cache) is moves
    for item in dataset.cases:
        assert (item["image"].device.type == item["label"].device.type == "meta") is moves
    assert dataset.cases[0]["held"] is held


def test_on_a_cpu_they_are_there_already(make_run):
    dataset = make_run().dataset
    assert scale.keep_on_device(dataset, torch.device("cpu"), "device") is False
    with pytest.raises(ValueError, match="cache = 'disk' is not one of: auto, device, host"):
        make_run(cache="disk")


def test_patches_of_volumes_on_the_device_are_drawn_by_the_program_itself(make_run, monkeypatch):
    monkeypatch.setattr(training, "keep_on_device", lambda *_: True)
    assert make_run(num_workers=2).engine.data_loader.num_workers == 0
    monkeypatch.undo()
    assert make_run(num_workers=2).engine.data_loader.num_workers == 2


def test_device_and_workers_that_are_not_named_follow_the_network_and_the_processors(make_run, monkeypatch):
    engine = make_run(device=None).engine
    assert (engine.state.device.type, engine.data_loader.num_workers) == ("cpu", 0)
    for processors, workers in ((3, 3), (64, 8)):
        monkeypatch.setattr(training, "allowed_processors", lambda count=processors: count)
        assert training._workers(torch.device("cuda")) == workers
    assert scale.device_of(torch.nn.Linear(1, 1, device="meta")).type == "meta"
    assert scale.device_of(torch.nn.Identity(), "meta").type == "meta"
    assert scale.device_of(torch.nn.Identity()).type == "cpu"


# --- faster, and how fast -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch, of itself
def test_a_compiled_network_learns_the_same(make_run):
    plain = make_run("plain", max_epochs=1)
    plain.engine.run()
    compiled = make_run("compiled", max_epochs=1, compiled="eager")
    compiled.engine.run()
    for name, tensor in plain.network.state_dict().items():
        torch.testing.assert_close(compiled.network.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_profile_says_where_the_time_goes_and_changes_nothing(make_run, caplog):
    plain = make_run("plain", epoch_length=8, max_epochs=2)
    plain.engine.run()
    caplog.clear()
    with caplog.at_level("INFO"):
        run = make_run("profiled", epoch_length=8, max_epochs=2, profile=True, num_workers=2)
        transform = run.dataset.transform
        run.engine.run()
    assert run.dataset.transform is transform
    assert same(state(plain), state(run))
    lines = [record.getMessage() for record in caplog.records]
    first = next(i for i, line in enumerate(lines) if line.startswith("A step takes"))
    assert "the median of 10 steps" in lines[first]
    table = [line.split() for line in lines[first + 1 : first + 8]]
    assert [row[0] for row in table] == [
        "sampling",
        "augmentation",
        "collating",
        "forward",
        "backward",
        "optimiser",
        "logging",
    ]
    assert sum(float(row[-1][:-1]) for row in table) == pytest.approx(100, abs=0.5)
    times = {row[0]: float(row[1]) for row in table}
    assert times["augmentation"] == 0  # this dataset has one transform only
    assert min(times[part] for part in ("sampling", "forward", "backward")) > 0
    assert "GFLOP/s of a large matrix product in float32" in lines[first + 8]
