"""What is attached to a training: progress bar, scalars and pictures, a stop that saves first.

MONAI's ``StatsHandler`` and TensorBoard handlers log a value at every iteration; here steps that were skipped
do not count, on a GPU losses are known some steps later, and ``progress.csv`` is there without TensorBoard.
"""

import csv
import io
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from volseg.arguments import option
from volseg.io import append_text
from volseg.runs import processes
from volseg.runs.stopping import Budget, Stopping

__all__ = ["Announcement", "ProgressBar", "StopOnSignal", "Tracking", "quiet", "reraise", "taken"]

logger = logging.getLogger(__name__)

_TIMED = (3, 8)  # iterations between which a step is timed; the first ones allocate memory
_RECENT = 50  # steps over which the shown loss is averaged


def quiet(engine: Engine) -> None:
    """Leave talking to us: ignite logs every epoch, and every error twice, once per loop it leaves."""
    engine.logger.setLevel(logging.CRITICAL)


def reraise(_: Engine, error: BaseException) -> None:
    """The last handler of ``EXCEPTION_RAISED``: ignite swallows what its handlers do not raise again."""
    raise error


def taken(engine: Engine) -> list[float]:
    """The losses of the steps that became known at this iteration and moved the weights."""
    return [outcome.loss for outcome in engine.state.output[0]["outcomes"] if outcome.is_taken]


class ProgressBar:
    """A bar with the recent loss and the time left; log lines are printed above it."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.bar: tqdm[Any] | None = None
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self._redirect: Any = None

    def attach(self, engine: Engine) -> None:
        """Follow an engine."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, self._close)

    def _open(self, engine: Engine) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        self._redirect = logging_redirect_tqdm()
        self._redirect.__enter__()
        self.bar = tqdm(total=total, initial=self.start, unit="step", desc="training", dynamic_ncols=True)

    def _step(self, engine: Engine) -> None:
        if self.bar is None:
            return
        self.recent += taken(engine)
        if self.recent:
            self.bar.set_postfix(loss=f"{sum(self.recent) / len(self.recent):.3f}", refresh=False)
        self.bar.update()

    def _close(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self._redirect.__exit__(None, None, None)
            self.bar = None


class Tracking:
    """Scalars, once per epoch, in ``progress.csv`` and for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Follow a trainer."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.writer and self.writer.close())

    def scores(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Note the scores of a validation."""
        for name, value in metrics.items():
            self._note(iteration, name, value)

    def picture(self, iteration: int, name: str, panel: Any) -> None:
        """Note a picture, ``(H, W, 3)`` uint8."""
        if self.writer is not None:
            tag = name.encode("utf-8", "backslashreplace").decode()  # the name of a file may be no UTF-8
            self.writer.add_image(tag, panel, iteration, dataformats="HWC")

    def _open(self, _: Engine) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed in training only

        others = threading.excepthook

        def heard(failed: threading.ExceptHookArgs) -> None:
            """Of a full disk the training says so itself: TensorBoard's thread need not show its code."""
            if not isinstance(failed.exc_value, OSError) or "AsyncWriter" not in type(failed.thread).__name__:
                others(failed)

        threading.excepthook = heard
        try:
            self.writer = SummaryWriter(self.folder / "tensorboard")
        except UnicodeEncodeError:
            logger.warning(
                "%s is not a name in UTF-8, which TensorBoard needs: curves are in progress.csv only.",
                ascii(str(self.folder)),
            )

    def _step(self, engine: Engine) -> None:
        self.losses += taken(engine)

    def _epoch(self, engine: Any) -> None:
        if self.losses:
            self._note(engine.state.iteration, "loss", sum(self.losses) / len(self.losses))
            self.losses.clear()
        self._note(engine.state.iteration, "learning rate", engine.optimizer.param_groups[0]["lr"])
        if "picture" in engine.state.output[0]:
            self.picture(engine.state.iteration, "patch", engine.state.output[0]["picture"])

    def _note(self, iteration: int, name: str, value: float) -> None:
        path = self.folder / "progress.csv"
        text = io.StringIO()
        rows = csv.writer(text)
        if not path.exists():
            rows.writerow(["iteration", "name", "value"])
        rows.writerow([iteration, name, f"{value:.6g}"])
        append_text(path, text.getvalue(), errors="backslashreplace")
        if self.writer is not None:
            self.writer.add_scalar(name, value, iteration)
            self.writer.flush()  # a program that is stopped leaves its curves, too


class Announcement:
    """Says how long the run will take, once a few steps have been timed."""

    def __init__(self, note: str, budget: Budget, start: int) -> None:
        self.note, self.budget = note, budget
        self.iterations = budget.iterations - start
        self._began: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Follow a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)

    def _step(self, _: Engine) -> None:
        began, (first, last) = self._began, _TIMED
        if len(began) == min(last, self.iterations):
            return
        began.append(time.perf_counter())
        if len(began) < min(last, self.iterations):
            return
        per_step = (began[-1] - began[min(first, len(began) - 1)]) / max(1, len(began) - 1 - first)
        seconds, limit = self.iterations * per_step, self.budget.max_minutes
        if limit is not None and limit - self.budget.clock.earlier / 60 < seconds / 60:
            logger.info("%s: up to %d iterations, %g min.", self.note, self.iterations, limit)
            return
        about = f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {max(1, round(seconds))} s"
        logger.info("%s: %d iterations, %s on this machine.", self.note, self.iterations, about)


class StopOnSignal:
    """A signal to end: the step at hand is finished, a checkpoint is written, the program ends with 130.

    A second signal ends the program at once. Of several processes all stop when one is asked to, at the
    same iteration, for which they ask one another every ``every`` iterations.
    """

    def __init__(self, save: Callable[[Engine], None], *, every: int = 1) -> None:
        self.save = save
        self.every = every
        self.stopping = Stopping(patient=True)

    def attach(self, engine: Engine) -> None:
        """Guard an engine while it runs."""
        engine.add_event_handler(Events.STARTED, lambda _: self.stopping.listen())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check)
        for event in (Events.COMPLETED, Events.EXCEPTION_RAISED):
            engine.add_event_handler(event, lambda *_: self.stopping.close())

    def _check(self, engine: Any) -> None:
        asks = processes.count() == 1 or engine.state.iteration % self.every == 0
        if not (asks and processes.any_of(self.stopping.asked, engine.state.device)):
            return
        self.save(engine)
        how = option("resume", True)
        logger.warning("Stopped at iteration %d; saved. Go on with %s.", engine.state.iteration, how)
        raise SystemExit(130)
