"""A run ends by iterations, by minutes or when it no longer improves, and the learning rate ends with it."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from volseg.errors import InputError
from volseg.runs import stopping
from volseg.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("clean_process")

SCHEDULES = {
    "polynomial": lambda optimizer, n: torch.optim.lr_scheduler.PolynomialLR(optimizer, n, power=0.9),
    "one cycle": lambda optimizer, n: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, n),
    "cosine": lambda optimizer, n: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n),
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by what the test says, in minutes."""
    now = SimpleNamespace(minutes=0.0)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: 60 * now.minutes))
    return now


def tick(run, clock, minutes):
    """Every iteration of the run takes so many minutes."""

    def go_on(_):
        clock.minutes += minutes

    run.engine.add_event_handler(Events.ITERATION_STARTED, go_on)


def scheduled(make_run, schedule, *, epochs, epoch_length, **settings):
    """A run whose schedule is as long as the run may be."""
    made = make_run(max_epochs=1)
    lr_scheduler = SCHEDULES[schedule](made.optimizer, epochs * epoch_length)
    parts = {"network": made.network, "optimizer": made.optimizer, "lr_scheduler": lr_scheduler}
    return make_run(max_epochs=epochs, epoch_length=epoch_length, **parts, **settings)


@pytest.fixture
def rates(make_run):
    """Runs a training with a schedule; the learning rates of its iterations."""

    def go(schedule, prepare=lambda _: None, **settings):
        run = scheduled(make_run, schedule, **settings)
        found = []
        run.engine.add_event_handler(
            Events.ITERATION_STARTED, lambda _: found.append(run.optimizer.param_groups[0]["lr"])
        )
        prepare(run)
        run.engine.run()
        return run, found, run.optimizer.param_groups[0]["lr"]

    return go


@pytest.mark.parametrize(("minutes", "stops_at"), [(5, 5), (4.5, 5), (6, 6), (0.1, 1)])
def test_a_run_stops_when_its_minutes_are_used_up(make_run, clock, caplog, minutes, stops_at):
    run = make_run(max_epochs=100, max_minutes=minutes)
    tick(run, clock, 1.0)
    with caplog.at_level(logging.INFO):
        run.engine.run()
    assert run.engine.state.iteration == stops_at
    assert f"Stopped at iteration {stops_at}: the {minutes:g} minutes are used up" in caplog.text
    assert "Trained. The weights are in" in caplog.text
    for name in ("last.pt", "model.pt"):
        assert load_checkpoint(run.folder / name)["iteration"] == stops_at


def test_the_minutes_of_earlier_parts_count(make_run, clock):
    first = make_run(max_epochs=100, max_minutes=3)
    tick(first, clock, 1.0)
    first.engine.run()
    clock.minutes += 1000  # between the parts
    with pytest.raises(
        InputError, match=r"trained for 3.0 minutes, no less than the 3 asked for.*Raise max_minutes"
    ):
        make_run(max_epochs=100, max_minutes=3, resume=True)
    second = make_run(max_epochs=100, max_minutes=7, resume=True)
    tick(second, clock, 1.0)
    second.engine.run()
    assert second.engine.state.iteration == 7


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("minutes", [None, 5], ids=["iterations", "minutes"])
def test_the_learning_rate_ends_with_the_budget_whichever_it_is(rates, clock, schedule, minutes):
    epochs = 5 if minutes is None else 40
    run, found, last = rates(
        schedule, lambda run: tick(run, clock, 0.5), epochs=epochs, epoch_length=2, max_minutes=minutes
    )
    assert run.engine.state.iteration == len(found) == 10
    assert min(found[-1], last) < 0.02 * max(found)
    fitting = rates(schedule, epochs=5, epoch_length=2, overwrite=True)[1]
    for index, rate in enumerate(found):  # the same curve, give or take one step
        near = fitting[max(index - 1, 0) : index + 2]
        assert 0.95 * min(near) <= rate <= 1.05 * max(near)


def test_iterations_end_a_run_that_has_minutes_left(rates, clock):
    prepare = lambda run: tick(run, clock, 0.01)  # noqa: E731
    plain = rates("one cycle", epochs=3, epoch_length=2)[1]
    run, found, _ = rates("one cycle", prepare, epochs=3, epoch_length=2, max_minutes=60, overwrite=True)
    assert found == plain
    assert run.engine.state.iteration == 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_lengthened_run_learns_to_its_new_end(rates, schedule):
    rates(schedule, epochs=2, epoch_length=3)
    run, found, last = rates(schedule, epochs=4, epoch_length=3, resume=True)
    assert run.engine.state.iteration == 12
    assert min(found[1:-1]) > 0.02 * max(found)
    assert min(found[-1], last) < 0.02 * max(found)


def scoring(scores):
    """An evaluator that says what it is told to, one score after the other."""
    engine = Engine(lambda *_: None)
    left = iter(scores)

    def run(_epoch):
        engine.state.metrics, engine.state.pictures = {"mean IoU": next(left)}, {}

    return SimpleNamespace(run=run, state=engine.state)


def test_a_run_that_no_longer_improves_stops(make_run, caplog):
    scores = [0.1, 0.3, 0.2, 0.3, 0.9]
    settings = {"max_epochs": 9, "epoch_length": 1, "patience": 2}
    run = make_run(evaluator=scoring(scores), **settings)
    with caplog.at_level(logging.INFO):
        run.engine.run()
    assert run.engine.state.iteration == 4
    assert "Stopped at iteration 4: 2 validations brought no better score" in caplog.text
    assert load_checkpoint(run.folder / "best.pt")["iteration"] == 2
    with pytest.raises(
        InputError, match=r"2 validations brought no better score, and patience is 2. Raise patience"
    ):
        make_run(evaluator=scoring([]), resume=True, **settings)
    longer = make_run(evaluator=scoring([0.1, 0.1]), resume=True, **settings | {"patience": 4})
    longer.engine.run()
    assert longer.engine.state.iteration == 6


def test_what_is_not_finite_is_no_improvement(make_run):
    run = make_run(evaluator=scoring([math.nan] * 3), max_epochs=9, epoch_length=1, patience=3)
    run.engine.run()
    assert run.engine.state.iteration == 3
    assert not (run.folder / "best.pt").exists()


def test_a_run_that_is_out_of_time_is_validated_first(make_run, clock):
    run = make_run(evaluator=scoring([0.5]), max_epochs=9, val_interval=5, max_minutes=3)
    tick(run, clock, 1.0)
    run.engine.run()
    assert run.engine.state.iteration == 3
    assert load_checkpoint(run.folder / "best.pt")["iteration"] == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_minutes": 0}, "max_minutes = 0 must be a number above 0"),
        ({"max_minutes": math.nan}, "max_minutes = nan must be a number above 0"),
        ({"patience": -1, "evaluator": scoring([])}, "patience = -1 is negative: 0 for never"),
        ({"patience": 3}, "patience = 3 counts validations, but there are none: set val_interval"),
        ({"patience": 3, "evaluator": scoring([]), "val_interval": 0}, "patience = 3 counts validations"),
    ],
)
def test_budgets_that_make_no_sense_are_told(make_run, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_run(**settings)
    assert not (tmp_path / "run").exists()


def test_time_of_earlier_parts_counts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = stopping.Clock(60)
    clock.earlier = 20.0
    assert (clock.gone, clock.left) == (20, 40)
    clock.start()
    now[0] = 150.0
    assert (clock.gone, clock.left) == (70, -10)
    assert stopping.Clock(began=90.0).gone == 60
    assert stopping.Clock(began=90.0).left == math.inf
