"""What ends a run: a signal, so many iterations, so many minutes, or that it no longer improves.

Ctrl-C, SIGTERM and a closed terminal end a training after its step, which is kept; all else ends at once. The
learning rate follows the budget: a schedule is made for a number of iterations; where minutes are what limits
a run, it is stepped on faster, so that it comes to its end when the minutes do. The clock is that of
``volseg densify``, too.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

__all__ = ["Budget", "Clock", "Improvement", "Stopping", "advance", "stretch"]

logger = logging.getLogger(__name__)


class Stopping:
    """Listens while the block lasts; ``asked`` is what a training looks at.

    Args:
        patient: whether the first signal is only noted, from the beginning; see :meth:`patient`.
        should_stop: asks for the end as a signal does, where there are no signals: in a thread.
    """

    def __init__(self, *, patient: bool = False, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._asked = False
        self._should_stop = should_stop
        self._patient = patient
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether the end was asked for."""
        return self._asked or self._should_stop()

    def __enter__(self) -> "Stopping":
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listen(self) -> None:
        """From now on signals come here."""
        for number in _numbers():
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread: signals are not ours to handle
                break

    def close(self) -> None:
        """Signals go where they went before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Within, the first signal is only noted; the second ends the program."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._patient or self._asked:
            raise KeyboardInterrupt
        self._asked = True
        logger.warning(
            "Stopping after this step; once more stops at once, without saving what was learnt in it."
        )


def _numbers() -> list[int]:
    """Ctrl-C, SIGTERM, and a terminal that is closed unless that is to be ignored (nohup)."""
    closed = [getattr(signal, "SIGHUP")] if hasattr(signal, "SIGHUP") else []  # noqa: B009 - not on Windows
    heard = [number for number in closed if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGINT, signal.SIGTERM, *heard]


_LENGTH = ("total_iters", "total_steps", "T_max", "_schedule_phases")  # as torch's schedules call it


class Clock:
    """Wall-clock time that is used up, and how much there is of it; changes of the date do not matter.

    Args:
        limit: in seconds; ``None`` for as many as it takes.
        began: when the time began to count, by ``time.monotonic()``; ``None`` for not yet.
    """

    def __init__(self, limit: float | None = None, began: float | None = None) -> None:
        self.limit = limit
        self.began = began
        self.earlier = 0.0
        """Seconds that earlier parts of the same work have used."""

    def start(self) -> None:
        """From now on time is counted."""
        self.began = time.monotonic()

    @property
    def gone(self) -> float:
        """Seconds used so far."""
        return self.earlier + (0.0 if self.began is None else time.monotonic() - self.began)

    @property
    def left(self) -> float:
        """Seconds that are left, below 0 where more were used; infinite without a limit."""
        return math.inf if self.limit is None else self.limit - self.gone


class Budget:
    """Iterations and minutes; of a resumed run, the minutes of earlier parts that had a limit count.

    Args:
        iterations: the most there will be.
        max_minutes: of wall-clock time, validation included; ``None`` for as many as it takes.
    """

    def __init__(self, iterations: int, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not (math.isfinite(max_minutes) and max_minutes > 0):
            raise ValueError(f"max_minutes = {max_minutes!r} must be a number above 0.")
        self.iterations = iterations
        self.max_minutes = max_minutes
        self.clock = Clock(None if max_minutes is None else 60 * max_minutes)

    @property
    def minutes(self) -> float:
        """Used so far."""
        return self.clock.gone / 60

    @property
    def is_spent(self) -> bool:
        """Whether the minutes are used up; iterations are counted by the engine."""
        return self.clock.left <= 0

    def progress(self, iteration: int) -> float:
        """From 0 to 1, in iterations or minutes, whichever is further."""
        minutes = 0.0 if self.max_minutes is None else self.minutes / self.max_minutes
        return min(max(iteration / self.iterations, minutes), 1.0)


class Improvement:
    """The best score so far, and how many validations ago that was.

    Args:
        patience: so many validations without a better score end a run; 0 for never.
    """

    def __init__(self, patience: int = 0) -> None:
        if patience < 0:
            raise ValueError(f"patience = {patience} is negative: 0 for never, or a number of validations.")
        self.patience = patience
        self.score: float | None = None
        self.iteration = 0
        self.since = 0

    def note(self, score: float, iteration: int) -> bool:
        """Whether this is the best score so far; NaN never is."""
        if math.isfinite(score) and (self.score is None or score > self.score):
            self.score, self.iteration, self.since = score, iteration, 0
            return True
        self.since += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self.patience <= self.since

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"score": self.score, "iteration": self.iteration, "since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was."""
        self.score, self.iteration, self.since = state["score"], state["iteration"], state["since"]


def advance(lr_scheduler: Any, budget: Budget, iteration: int) -> None:
    """Step a schedule once, and on to where the minutes have come."""
    lr_scheduler.step()
    if budget.max_minutes is None:
        return
    wanted = min(int(budget.progress(iteration) * budget.iterations), budget.iterations)
    while lr_scheduler.last_epoch < wanted:
        lr_scheduler.step()


def stretch(lr_scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Restore a schedule; if this run is to be longer or shorter than that one was, it is laid out again.

    torch would restore the old length, too, and have nothing left for the iterations beyond it.
    """
    new = {key: getattr(lr_scheduler, key) for key in _LENGTH if hasattr(lr_scheduler, key)}
    lr_scheduler.load_state_dict(saved)
    if all(saved.get(key) == value for key, value in new.items()):
        return
    vars(lr_scheduler).update(new)
    closed_form = getattr(lr_scheduler, "_get_closed_form_lr", None)
    if closed_form is None:
        return
    for group, rate in zip(lr_scheduler.optimizer.param_groups, closed_form(), strict=True):
        group["lr"] = rate
