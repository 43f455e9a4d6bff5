"""Time: how the minutes are spent, and the progress that is shown.

What cannot be cut short (looking at the image, comparing held-out slices, segmenting all of the image,
writing, the page) is measured or forecast from what was measured, and kept free; learning gets what is left.
A fold that was late shortens those behind it, not the result.

The bar is moved by a thread of its own, so that it goes on while an image is read or a page is drawn.
"""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from volseg.arguments import option
from volseg.runs.stopping import Clock

__all__ = ["Forecast", "Progress", "Timetable", "affordable_folds", "clock", "warn_of_too_little"]

logger = logging.getLogger(__name__)

_FOLDS = 0.5  # share of the time that all folds take together
_FEWEST_FOLDS, _MOST_FOLDS = 3, 8
_FOLD = 30.0  # seconds that a fold is worth having with
_FOLD_PER_VOXEL = 1.5e-5  # the same, where segmenting takes most of it
_MARGIN = 1.1  # on the time that segmenting took before
_LATEST = 1.5  # times as long as asked for, at most, is allowed for
_EARLY = 0.8  # of the time that was asked for, below which learning ended because more is no use
_LEAST = 1.0  # seconds of learning, however short the time is
_SLOWEST = 5.0  # times as long as the processor takes, at most, is allowed for
_FORECAST = 0.05  # share of learning from which on the rest of it is forecast

# Seconds that one processor core takes, measured on volumes of 64³, 128³ and 192³ voxels, with a margin.
_BANK_PER_VOXEL = 8e-7  # and channel
_LOOKING_PER_VOXEL = 1.8e-6  # and stage
_SCORING_PER_VOXEL = 3.5e-7  # and fold
_FEWEST_STEPS = 2.0  # for the fewest steps that a model is trained for
_FEWEST_PER_PAINTED = 2e-6  # the same, for each painted voxel: they are gathered first
_RESULT_PER_VOXEL = 2e-7  # from scores to classes, and the slice to paint next
_PAGE = 2.4  # writing, pictures and page
_PAGE_PER_VOXEL = 6e-7


def affordable_folds(seconds: float, voxels: int) -> int:
    """In how many turns slices are held out: the more, the more like the result the models that are scored.

    With three, a structure that four slices show is looked for by models that saw it on two. With six, most
    saw it on three.
    """
    worth = max(_FOLD, _FOLD_PER_VOXEL * voxels)
    return min(max(int(_FOLDS * seconds / worth), _FEWEST_FOLDS), _MOST_FOLDS)


class Forecast(NamedTuple):
    """Seconds until all is done; whether it may well be less, as nothing of the learning was measured."""

    seconds: float
    is_most: bool = False


class Timetable:
    """When what has to be done.

    Args:
        seconds: all in all.
        folds: how many models are scored; 0 leaves all of the time to the result.
        voxels: of the volume.
        channels: of the image.
        painted: how many of the voxels are.
        page: whether files and a page are written.
        began: when the time began to count, by ``time.monotonic()``; now if None.
        patience: of the learner, :attr:`volseg.learning.Learner.patience`.
    """

    def __init__(
        self,
        seconds: float,
        folds: int,
        voxels: int,
        channels: int = 1,
        *,
        painted: int = 0,
        page: bool = True,
        began: float | None = None,
        patience: float = 1.0,
    ) -> None:
        now = time.monotonic()
        self.clock = Clock(seconds, now if began is None else began)
        self.seconds = seconds
        self.folds = folds
        self._ahead = {  # what cannot be cut short and is not begun, in seconds of a processor
            "looking": _BANK_PER_VOXEL * voxels * channels,
            "scoring": _SCORING_PER_VOXEL * voxels * folds,
            "segmenting": patience * _LOOKING_PER_VOXEL * voxels,
            "ending": _RESULT_PER_VOXEL * voxels + page * (_PAGE + _PAGE_PER_VOXEL * voxels),
        }
        self._ending = self._ahead["ending"]
        self._at_hand = (0.0, now)  # how long it takes, the same, and when it was begun
        self._fewest = patience * (_FEWEST_STEPS + _FEWEST_PER_PAINTED * painted)
        self._testing = self._ahead["segmenting"]  # seconds for all voxels, at the rate of those held out
        self._for_folds: float | None = None  # until when, by the clock, folds may learn
        self._models_left = folds + 1
        self._learning: tuple[float, float, float] | None = None  # asked for, when it began, share done
        self._per_model: float | None = None  # seconds that learning takes, as measured
        self._late = 1.0
        self._early = False  # whether learning ends before its time
        self._wall, self._cpu = now, time.thread_time()

    @property
    def left(self) -> float:
        """Seconds until everything should be done."""
        return self.clock.left

    @property
    def slowness(self) -> float:
        """How many times as long as the processor needs it everything takes, on a machine that is busy."""
        used = time.thread_time() - self._cpu
        wall = time.monotonic() - self._wall
        return min(max(wall / used, 1.0), _SLOWEST) if used > 1 else 1.0

    @property
    def for_ending(self) -> float:
        """Seconds at the end for what comes behind the result."""
        return self.slowness * self._ending

    @property
    def least(self) -> float:
        """Seconds that all of it takes from now on, although every model be trained as briefly as can be."""
        return self._uncut() + self.slowness * self._fewest * self._models_left

    def expected(self) -> Forecast:
        """How long it takes until all is done, as far as that can be known."""
        now = time.monotonic()
        asked, began, share = self._learning or (0.0, now, 1.0)
        gone = now - began
        takes = gone / share if self._learning and share > _FORECAST else self._per_model
        at_hand = max((takes or self._fewest) - gone, 0.0) if self._learning else 0.0
        if takes is not None and (self._early or takes < _EARLY * asked):
            return Forecast(at_hand + self._models_left * takes + self._uncut())
        rest = at_hand + self.least
        return Forecast(max(self.left, rest), takes is None and self.left > rest)

    def count_earlier(self, seconds: float) -> None:
        """Time that an earlier, stopped run spent on a fold that need not be repeated."""
        self.clock.earlier += seconds
        self._models_left = max(self._models_left - 1, 1)
        if self._for_folds is not None:
            self._for_folds -= seconds

    def now(self, what: str) -> None:
        """What is being done from now on: looking, scoring, segmenting or ending."""
        self._at_hand = (self._ahead.pop(what, 0.0), time.monotonic())
        self._learning = None

    def prepared(self, segmenting: float | None = None) -> None:
        """What all of them need is there: the time for it belongs to no fold.

        Args:
            segmenting: seconds that it takes to segment all voxels, as measured on some of them.
        """
        self.now("looking")
        if segmenting is not None:
            self._ahead["segmenting"] = _MARGIN * segmenting / self.slowness
            self._testing = segmenting
        free = max(self.left - self.for_ending, 0.0)
        self._for_folds = time.monotonic() + _FOLDS * free - self.slowness * self._ahead["scoring"]

    def of_fold(self, share: float) -> float:
        """Seconds to learn for in a fold, of which this share of all voxels is segmented."""
        now = time.monotonic()
        until = self._for_folds if self._for_folds is not None else now + _FOLDS * self.left
        slot = (until - now) / max(self._models_left - 1, 1)
        return self._learn(slot - _MARGIN * share * self._testing)

    def of_result(self) -> float:
        """Seconds to learn for the result, from now on."""
        self.now("scoring")
        self._models_left = 1
        return self._learn(self.left - self._uncut())

    def learning(self, share: float) -> None:
        """How much of the learning at hand is done."""
        if self._learning is not None:
            self._learning = (*self._learning[:2], share)

    def learnt(self, asked: float, took: float) -> None:
        """How long learning took instead of what was asked for: the next one may be as late."""
        self._late = min(max(took / asked, 1.0), _LATEST)
        self._early = took < _EARLY * asked
        self._per_model = took
        self.now("")

    @contextmanager
    def testing(self, share: float) -> Iterator[None]:
        """Measures how long it takes to segment what is held out, this share of all voxels."""
        began = time.monotonic()
        yield
        self._testing = (time.monotonic() - began) / share

    def _learn(self, free: float) -> float:
        asked = max(free / self._late, _LEAST)
        self.now("")
        self._models_left = max(self._models_left - 1, 0)
        self._learning = (asked, time.monotonic(), 0.0)
        return asked

    def _uncut(self) -> float:
        """Seconds for what cannot be cut short: the rest of what is at hand, and what is ahead."""
        takes, began = self._at_hand
        at_hand = max(self.slowness * takes - (time.monotonic() - began), 0.0)
        return at_hand + self.slowness * sum(self._ahead.values())


_BAR = 0.5  # seconds between two looks at the bar
_LINES = 20  # about as many, in all, where there is no terminal
_SOONEST = 30.0  # seconds between two lines
_LATE = 1.05  # times as long as asked for, from which on that is said


class Progress:
    """Shown while the block lasts.

    Args:
        seconds: that everything may take; ``None`` where nothing limits it.
        began: when the time began to count, by ``time.monotonic()``.
        listener: gets the share of the time that is gone, if that is known, and :meth:`in_words`.
    """

    def __init__(
        self,
        seconds: float | None,
        began: float | None = None,
        listener: Callable[[float | None, str], object] | None = None,
    ) -> None:
        self.seconds = seconds
        start = time.monotonic() if began is None else began
        self.clock = Clock(seconds, start)
        self.expected: Callable[[], Forecast] | None = None
        self.stage = "starting"
        self._share: float | None = None
        self._listener = listener
        self._over = threading.Event()
        self._reported = start

    @contextlib.contextmanager
    def shown(self) -> Iterator["Progress"]:
        """Begin, and end with the block."""
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        with contextlib.ExitStack() as stack:
            bar = None
            if is_terminal:
                stack.enter_context(logging_redirect_tqdm())
                bar = stack.enter_context(
                    tqdm(total=100, leave=False, bar_format="{desc} |{bar:24}|{postfix}")
                )
                self._draw(bar)
            thread = threading.Thread(target=self._go_on, args=(bar,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                thread.join()

    def now(self, stage: str) -> None:
        """What is being done from now on."""
        self.stage, self._share = stage, None

    def __call__(self, share: float, _: str = "") -> None:
        """How much of this stage is done, from 0 to 1."""
        self._share = share

    @property
    def left(self) -> Forecast | None:
        """Until all is done, as far as that can be known: nothing can while the image is still being read and
        the time is over."""
        if self.seconds is None:
            return None
        if self.expected is not None:
            return self.expected()
        return Forecast(self.clock.left) if self.clock.left >= 0 else None

    @property
    def gone(self) -> float:
        """Seconds since it began."""
        return self.clock.gone

    def in_words(self) -> str:
        """``3:12 of 15:00 minutes, about 4:20 left: learning, fold 2 of 4 (35 % of it)``."""
        stage = self.stage if self._share is None else f"{self.stage} ({self._share:.0%} of it)"
        left, gone = self.left, clock(self.gone)
        if self.seconds is None:
            return f"{gone} minutes: {stage}"
        if left is None:
            return f"{gone} minutes, {clock(self.seconds)} were asked for: {stage}"
        until = f"{'at most' if left.is_most else 'about'} {clock(left.seconds)} left"
        if self.gone + left.seconds > _LATE * self.seconds:
            return f"{gone} minutes, {until}, {clock(self.seconds)} were asked for: {stage}"
        return f"{gone} of {clock(self.seconds)} minutes, {until}: {stage}"

    def _go_on(self, bar: "tqdm[None] | None") -> None:
        every = _SOONEST if self.seconds is None else max(_SOONEST, self.seconds / _LINES)
        while not self._over.wait(_BAR if bar is not None else min(every, 1.0)):
            if self._listener is not None:
                self._listener(self._gone_of_all(), self.in_words())
            if bar is not None:
                self._draw(bar)
            elif time.monotonic() - self._reported >= every:
                self._reported = time.monotonic()
                logger.info("%s.", self.in_words())

    def _gone_of_all(self) -> float | None:
        left = self.left
        return None if left is None else self.gone / max(self.gone + left.seconds, 1e-9)

    def _draw(self, bar: "tqdm[None]") -> None:
        share = self._gone_of_all()
        if share is not None:
            bar.n = 100 * share
        times, _, stage = self.in_words().partition(": ")
        bar.set_description_str(stage, refresh=False)
        bar.set_postfix_str(times, refresh=False)
        bar.refresh()


def warn_of_too_little(timetable: Timetable, fewest: int, *, page: bool) -> None:
    """Before it begins: some things cannot be cut short.

    Args:
        fewest: steps that each model is trained for.
        page: whether there will be one.
    """
    gone, least = timetable.seconds - timetable.left, timetable.least
    if gone + least <= timetable.seconds:
        return
    steps = f"{timetable.folds} folds of {fewest} steps, " if timetable.folds else ""
    fewer = f", {option('folds', 0)} leaves out the score" if timetable.folds else ""
    logger.warning(
        "%s minutes are too few: reading took %s of them, and looking at the image, %ssegmenting it%s "
        "take about %s more on a machine like this. It is not cut short for that%s.",
        clock(timetable.seconds),
        clock(gone),
        steps,
        ", and the page" if page else "",
        clock(least),
        fewer,
    )


def clock(seconds: float) -> str:
    """``3:05``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes}:{rest:02d}"
