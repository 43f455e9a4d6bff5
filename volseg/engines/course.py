"""What a training does beside its steps: open its folder, validate, save, watch the clock, end.

MONAI's ``CheckpointSaver``, ``ValidationHandler`` and ``EarlyStopHandler`` do not serve here: a run has to be
resumed to the bit, a checkpoint is written in one step and read back before it counts, minutes limit a run
as iterations do, and what is done by one of several processes is waited for by all.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from volseg.annotation.record import Record
from volseg.data import listed
from volseg.engines.handlers import StopOnSignal, Tracking, taken
from volseg.engines.state import RunState
from volseg.errors import theirs
from volseg.runs import processes
from volseg.runs.checkpoint import save_checkpoint
from volseg.runs.folder import RunFolder, say_what_is_older
from volseg.runs.log import close_log
from volseg.runs.stopping import advance

__all__ = ["Course", "Validation"]

logger = logging.getLogger(__name__)


@dataclass
class Validation:
    """The evaluator that scores the network, and how often.

    Args:
        interval: in epochs.
    """

    evaluator: SupervisedEvaluator
    interval: int

    def run(self, epoch: int, trained_on: Record) -> Mapping[str, float]:
        """The scores of the network as it is, the one that ``best.pt`` goes by first."""
        self.evaluator.state.trained_on = trained_on  # what it has learnt from is not scored
        self.evaluator.run(max(1, epoch))
        metrics: Mapping[str, float] = self.evaluator.state.metrics
        return metrics

    @property
    def pictures(self) -> Mapping[str, npt.NDArray[np.uint8]]:
        """Of the last validation, by the name of the case, ``(H, W, 3)`` uint8."""
        pictures: Mapping[str, npt.NDArray[np.uint8]] = self.evaluator.state.pictures
        return pictures


@dataclass
class Course:
    """From the first iteration of a training to its end.

    Args:
        start: the iteration that it begins with, not 0 if it is resumed.
        validation: ``None`` for none.
        keep_last: how many checkpoints to resume from are kept.
    """

    state: RunState
    folder: RunFolder
    device: torch.device
    start: int
    max_epochs: int
    validation: Validation | None
    keep_last: int
    tracking: Tracking = field(init=False)
    _describe: Callable[[], None] | None = (
        None  # the description of this part of the run, until it is written
    )

    def __post_init__(self) -> None:
        self.tracking = Tracking(self.folder.stage)

    def attach_opening(self, engine: Engine) -> None:
        """Before everything else that is attached: the folder is checked, opened and described."""
        engine.add_event_handler(Events.STARTED, self._open)

    def attach(self, engine: Engine) -> None:
        """After what shows the steps: schedule, validation, checkpoints, the ends of the run."""
        if self.state.lr_scheduler is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance_schedule)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._close_epoch)
        if self.state.budget.max_minutes is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._watch_the_clock)
        StopOnSignal(partial(self._save, done=False), every=self.state.step.every).attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._end)
        for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, lambda *_: self.folder.release())

    def _open(self, _: Engine) -> None:
        self.folder.check()
        processes.wait()
        if processes.rank() == 0:
            data = [listed(case) for case in self.state.dataset.data]
            self._describe = self.folder.open(data, self.state.facts(self.device))
        processes.wait()
        if self.folder.resume:
            logger.info("Resuming at iteration %d.", self.start)
        self.state.budget.clock.start()

    def _advance_schedule(self, engine: Engine) -> None:
        schedule = self.state.lr_scheduler
        if self.state.step.every > 1 or taken(engine):  # on a GPU what became of the step is not known yet
            with theirs("lr_scheduler", schedule, "failed"):
                advance(schedule, self.state.budget, engine.state.iteration)

    def _close_epoch(self, engine: Engine) -> None:
        epoch, best = engine.state.epoch, self.state.best
        is_spent, is_last = self._is_spent(), epoch == self.max_epochs
        if self.validation and (is_spent or is_last or epoch % self.validation.interval == 0):
            self._validate(engine, self.validation)
        self._save(engine, done=is_spent or best.is_over or is_last)
        if is_spent or best.is_over:
            engine.terminate()

    def _watch_the_clock(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        if iteration % engine.state.epoch_length == 0 or iteration % self.state.step.every:
            return
        if self._is_spent():
            if self.validation:
                self._validate(engine, self.validation)
            self._save(engine, done=True)
            engine.terminate()

    def _is_spent(self) -> bool:
        return processes.any_of(self.state.budget.is_spent, self.device)

    def _validate(self, engine: Engine, validation: Validation) -> None:
        state, iteration = self.state, engine.state.iteration
        with state.in_use(done=True), processes.alone(state.network):
            metrics = validation.run(engine.state.epoch, state.trained_on)
        is_best = state.best.note(next(iter(metrics.values()), math.nan), iteration)
        if processes.rank() > 0:
            return
        if is_best:
            save_checkpoint(self.folder.stage / "best.pt", state.weights(iteration, done=True))
        self.tracking.scores(iteration, metrics)
        for name, picture in validation.pictures.items():
            self.tracking.picture(iteration, name, picture)

    def _save(self, engine: Engine, *, done: bool) -> None:
        if processes.rank() == 0:
            stage, iteration = self.folder.stage, engine.state.iteration
            save_checkpoint(stage / "model.pt", self.state.weights(iteration, done=done))
            save_checkpoint(stage / "last.pt", self.state.content(iteration), keep=self.keep_last)
            if self._describe is not None:
                self._describe()
                self._describe = None
        processes.wait()

    def _end(self, engine: Engine) -> None:
        self.state.step.read()
        self._say_done(engine.state.iteration)
        close_log()
        if processes.rank() == 0:
            self.folder.complete()
            say_what_is_older(self.folder.home, engine.state.iteration)

    def _say_done(self, iteration: int) -> None:
        step, budget, best = self.state.step, self.state.budget, self.state.best
        for count, what in (
            (step.blank, "had no annotation"),
            (step.bad, "had a loss or gradient that is not finite"),
        ):
            if count:
                logger.warning("%d step(s) %s and were skipped.", count, what)
        if best.is_over:
            logger.info(
                "Stopped at iteration %d: %d validations brought no better score.", iteration, best.since
            )
        elif budget.is_spent and iteration < budget.iterations:
            logger.info("Stopped at iteration %d: the %g minutes are used up.", iteration, budget.max_minutes)
        home = self.folder.home
        if best.score is not None:
            logger.info(
                "The best validation, %.4f, was at iteration %d; its weights are in %s.",
                best.score,
                best.iteration,
                home / "best.pt",
            )
        logger.info("Trained. The weights are in %s.", home / "model.pt")
