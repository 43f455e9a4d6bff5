"""A training can be stopped at any step, goes on bit for bit, and never saves weights that are not finite."""

import json
import logging
import math
import os
import re
import signal

import numpy as np
import pytest
import torch
from ignite.engine import Events

from volseg.data import WholeVolumes
from volseg.engines import evaluator, trainer
from volseg.errors import InputError, RefusedError, VolsegError
from volseg.inferers import OverlapTileInferer
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.losses import SparseCrossEntropy
from volseg.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint

SCHEME = LabelScheme(["low", "middle", "high"], [0, 1, 2], 3)

pytestmark = pytest.mark.usefixtures("clean_process")


def assert_equal(one, other):
    """Two checkpoints agree bit for bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    else:
        assert one == other


def everything(folder):
    return load_checkpoint(folder / "last.pt"), load_checkpoint(folder / "model.pt")


def at(iteration, action):
    """A handler that does something when this iteration is done."""

    def handler(engine):
        if engine.state.iteration == iteration:
            action(engine)

    return handler


# --- stop and go on --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("iteration", "number"),
    [(1, signal.SIGINT), (2, signal.SIGTERM), (3, signal.SIGINT)],
    ids=["mid first epoch", "epoch end", "mid epoch"],
)
def test_a_stopped_run_goes_on_bit_for_bit(make_run, iteration, number, caplog):
    whole = make_run("whole")
    whole.engine.run()
    stopped = make_run("stopped")
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    stopped.engine.add_event_handler(
        Events.ITERATION_STARTED, at(iteration, lambda _: os.kill(os.getpid(), number))
    )
    with pytest.raises(SystemExit) as caught:
        stopped.engine.run()
    assert caught.value.code == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert f"Stopped at iteration {iteration}; saved. Go on with resume=True" in caplog.text
    assert load_checkpoint(stopped.folder / "last.pt")["iteration"] == iteration
    resumed = make_run("stopped", resume=True)
    resumed.engine.run()
    assert resumed.engine.state.iteration == 6
    assert_equal(everything(resumed.folder), everything(whole.folder))


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_finished_run_can_be_lengthened(make_run, decay):
    make_run("whole", decay=decay).engine.run()
    make_run("parts", decay=decay, max_epochs=1).engine.run()
    last = make_run("parts", decay=decay, resume=True)
    last.engine.run()
    assert_equal(everything(last.folder), everything(last.folder.with_name("whole")))
    with pytest.raises(InputError, match=r"has 6 iterations, no fewer than the 6 asked for.*Raise max_e"):
        make_run("parts", decay=decay, resume=True)


def test_a_killed_run_goes_on_from_its_last_epoch(make_run):
    make_run("whole").engine.run()
    killed = make_run("killed")

    def die(_):
        raise RuntimeError("out of memory")

    killed.engine.add_event_handler(Events.ITERATION_STARTED, at(4, die))
    with pytest.raises(RuntimeError, match="out of memory"):
        killed.engine.run()
    assert load_checkpoint(killed.folder / "last.pt")["iteration"] == 2
    resumed = make_run("killed", resume=True)
    resumed.engine.run()
    assert_equal(everything(resumed.folder), everything(resumed.folder.with_name("whole")))


def test_a_second_signal_stops_at_once(make_run):
    run = make_run()

    def twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run.engine.add_event_handler(Events.ITERATION_STARTED, at(3, twice))
    with pytest.raises(KeyboardInterrupt):
        run.engine.run()
    assert load_checkpoint(run.folder / "last.pt")["iteration"] == 2


@pytest.mark.slow
def test_workers_change_nothing_and_survive_the_signal(make_run):
    make_run("whole").engine.run()
    run = make_run("workers", num_workers=2)

    def stop_all(_):
        for worker in torch.multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run.engine.add_event_handler(Events.GET_BATCH_STARTED, lambda e: e.state.iteration == 3 and stop_all(e))
    with pytest.raises(SystemExit):
        run.engine.run()
    resumed = make_run("workers", num_workers=2, resume=True)
    resumed.engine.run()
    assert_equal(everything(resumed.folder), everything(resumed.folder.with_name("whole")))


# --- a folder is one run's -------------------------------------------------------------------------


def test_what_exists_is_not_trained_over_unasked(make_run):
    first = make_run(max_epochs=1)
    first.engine.run()
    before = (first.folder / "model.pt").read_bytes()
    with pytest.raises(
        RefusedError, match="a training already, complete or stopped. Go on with it by resume=True"
    ):
        make_run().engine.run()
    assert (first.folder / "model.pt").read_bytes() == before
    again = make_run(max_epochs=1, overwrite=True)
    again.engine.run()
    assert len(list((again.folder / "tensorboard").iterdir())) == 1
    assert load_checkpoint(again.folder / "last.pt")["iteration"] == 2


def test_nothing_to_resume_is_told(make_run):
    with pytest.raises(InputError, match="holds no last.pt: there is nothing to resume"):
        make_run(resume=True)


def test_a_run_resumed_with_another_network_is_refused_and_left_as_it_is(make_run):
    first = make_run(max_epochs=1)
    first.engine.run()
    before = {path.name: path.read_bytes() for path in first.folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="belongs to a run with another network or optimiser"):
        make_run(resume=True, channels=((2, 4), (4, 6)))
    with pytest.raises(InputError, match="belongs to a run with another network or optimiser"):
        make_run(resume=True, lr_scheduler=torch.optim.lr_scheduler.ConstantLR)
    assert {path.name: path.read_bytes() for path in first.folder.iterdir() if path.is_file()} == before


def test_a_run_leaves_what_one_wants_to_know_later(make_run):
    run = make_run()
    run.engine.run()
    names = {"last.pt", "last_1.pt", "log.txt", "model.pt", "progress.csv", "tensorboard"}
    names |= {"data.json", "versions.json"}
    assert {path.name for path in run.folder.iterdir()} == names
    assert json.loads((run.folder / "versions.json").read_text())["torch"] == torch.__version__
    log = (run.folder / "log.txt").read_text()
    assert re.search(r"Training: 6 iterations, about \d+ s on this machine\.", log)  # not "1 min" for these
    assert f"Trained. The weights are in {run.folder / 'model.pt'}." in log
    rows = (run.folder / "progress.csv").read_text().splitlines()
    assert rows[0] == "iteration,name,value"
    assert [row.split(",")[:2] for row in rows[1:]] == [
        [str(iteration), name] for iteration in (2, 4, 6) for name in ("loss", "learning rate")
    ]


def test_the_checkpoint_remembers_what_was_held_out(make_run):
    run = make_run(max_epochs=1)
    run.engine.run()
    assert load_checkpoint(run.folder / "model.pt")["trained_on"] == run.dataset.trained_on()
    assert all(entry["held_out"]["y"] for entry in run.dataset.trained_on().values())


# --- bad numbers and blank patches -------------------------------------------------------------------


class Faulty(SparseCrossEntropy):
    """A loss that is not finite at some steps."""

    def __init__(self, bad):
        super().__init__()
        self.bad, self.step = bad, 0

    def forward(self, logits, target, weight=None):
        self.step += 1
        return super().forward(logits, target, weight) * (math.nan if self.step in self.bad else 1.0)


def test_three_bad_steps_in_a_row_end_the_run(make_run, caplog):
    run = make_run(loss=Faulty({3, 4, 5}))
    with pytest.raises(VolsegError, match=r"not finite in 3 steps in a row, the last at iteration 5.*precis"):
        run.engine.run()
    assert run.engine.state.iteration == 5
    assert caplog.text.count("is not finite; skipped") == 3
    assert "ERROR" not in caplog.text
    last = load_checkpoint(run.folder / "last.pt")
    assert last["iteration"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in last["model"].values())


def test_single_bad_steps_are_skipped_and_counted(make_run, caplog):
    run = make_run(loss=Faulty({1, 2, 4, 6}))
    with caplog.at_level(logging.INFO):
        run.engine.run()
    assert "4 step(s) had a loss or gradient that is not finite and were skipped" in caplog.text
    assert run.lr_scheduler.last_epoch == 2


def test_a_bad_image_leaves_no_trace_in_the_statistics(make_run):
    run = make_run(max_epochs=1, epoch_length=3)
    before = {}

    def spoil(engine):
        engine.state.batch["image"] = torch.full_like(engine.state.batch["image"], math.nan)
        before.update({name: tensor.clone() for name, tensor in run.network.state_dict().items()})

    run.engine.add_event_handler(Events.ITERATION_STARTED, at(2, spoil))
    run.engine.add_event_handler(
        Events.ITERATION_COMPLETED, at(2, lambda _: assert_equal(dict(run.network.state_dict()), before))
    )
    run.engine.run()
    assert before
    assert all(torch.isfinite(t).all() for t in load_checkpoint(run.folder / "model.pt")["model"].values())


def test_a_patch_without_annotation_changes_nothing(make_run, caplog):
    run = make_run(decay=0.9, max_epochs=1, epoch_length=3)
    before = {}

    def state():
        return {"model": run.network.state_dict(), "optimizer": run.optimizer.state_dict()}

    def blank(engine):
        engine.state.batch["label"] = torch.full_like(engine.state.batch["label"], IGNORE_INDEX)
        before.update(json.loads(json.dumps(state(), default=lambda tensor: tensor.tolist())))

    def compare(_):
        assert json.loads(json.dumps(state(), default=lambda tensor: tensor.tolist())) == before
        assert run.lr_scheduler.last_epoch == 1

    run.engine.add_event_handler(Events.ITERATION_STARTED, at(2, blank))
    run.engine.add_event_handler(Events.ITERATION_COMPLETED, at(2, compare))
    run.engine.run()
    assert before
    assert "1 step(s) had no annotation and were skipped" in caplog.text


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    path = tmp_path / "model.pt"
    save_checkpoint(path, {"model": {"weight": torch.ones(2), "count": torch.tensor(1)}})
    with pytest.raises(ValueError, match="weight holds values that are not finite: model.pt is not written"):
        save_checkpoint(path, {"model": {"weight": torch.tensor([1.0, math.inf])}})
    assert load_checkpoint(path)["model"]["weight"].tolist() == [1, 1]


# --- settings and checkpoints that make no sense -----------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, "weight_average = 1.0 is not a decay: 0 for none"),
        ({"decay": -0.1}, "weight_average = -0.1 is not a decay"),
        ({"max_epochs": 0}, "0 epochs of 2 iterations: both must be 1 or more"),
        ({"epoch_length": 0}, "3 epochs of 0 iterations: both must be 1 or more"),
    ],
)
def test_senseless_settings_are_told_before_anything_is_written(make_run, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_run(**settings)
    assert not (tmp_path / "run").exists()


def test_making_a_trainer_writes_nothing(make_run, tmp_path):
    make_run()
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_checkpoint_is_told(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(InputError, match="There is no checkpoint at .* Train first, or name the folder"):
        load_checkpoint(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="is not a checkpoint of volseg: it holds no 'model'"):
        load_checkpoint(path)
    torch.save({"model": {"weight": np.ones(1)}}, path)  # needs code to be run: refused
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_weights_of_another_network_are_told(tmp_path):
    save_checkpoint(tmp_path / "model.pt", {"model": torch.nn.Linear(2, 3).state_dict(), "iteration": 1})
    assert load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt")["iteration"] == 1
    with pytest.raises(InputError, match=r"another network \(size mismatch for weight.*config.json"):
        load_weights(torch.nn.Linear(3, 3), tmp_path / "model.pt")


# --- validation during training ----------------------------------------------------------------------


def test_validation_uses_the_averaged_weights_and_notes_its_scores(make_run, tmp_path):
    seen = []

    class Watching(OverlapTileInferer):
        def __call__(self, inputs, network, *args, **kwargs):
            seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            return super().__call__(inputs, network, *args, **kwargs)

    base = make_run("base")
    whole = WholeVolumes(base.cases, labels=SCHEME, in_channels=1, held_out=0.2)
    validation = evaluator(device="cpu", dataset=whole, network=base.network, inferer=Watching())
    folder = tmp_path / "validated"
    engine = trainer(
        **{
            **{k: v for k, v in vars(base).items() if k not in ("engine", "folder", "cases")},
            "output_dir": folder,
            "evaluator": validation,
            "val_interval": 2,
        }
    )
    pictures = []
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: pictures.append(getattr(validation.state, "pictures", {}))
    )
    engine.run()
    assert len(seen) == 4  # two volumes, after the second epoch and the last
    assert_equal(seen[-1], load_checkpoint(folder / "model.pt")["model"])
    last = load_checkpoint(folder / "last.pt")["model"]
    assert not torch.equal(seen[-1]["head.weight"], last["head.weight"])
    assert pictures[0] == {}
    assert len(pictures[1]) == len(pictures[2]) == 1
    assert pictures[1] is not pictures[2]
    rows = (folder / "progress.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows if "mean IoU" in row] == ["4", "6"]
