"""How the minutes are spent: about half on the score, the rest on the result, and all of it in time.

What cannot be cut short (looking at the image, segmenting all of it, writing, the page) is measured or
forecast from what was measured, and kept free; learning gets what is left. A fold that was late shortens
those behind it, not the result.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Timetable", "affordable_folds"]

_FOLDS = 0.5  # share of the time that all folds take together
_FEWEST_FOLDS, _MOST_FOLDS = 3, 8
_FOLD = 30.0  # seconds that a fold is worth having with
_FOLD_PER_VOXEL = 1.5e-5  # the same, where segmenting takes most of it
_MARGIN = 1.1  # on the time that segmenting took before
_LATEST = 1.5  # times as long as asked for, at most, is allowed for
_EARLY = 0.8  # of the time that was asked for, below which learning ended because more is no use
_LEAST = 1.0  # seconds of learning, however short the time is
_SLOWEST = 5.0  # times as long as the processor takes, at most, is allowed for

# Seconds that one processor core took, with a margin; what a machine takes is measured where it matters.
_BANK_PER_VOXEL = 7e-7  # and channel
_LOOKING_PER_VOXEL = 1.7e-6  # and stage
_FEWEST_STEPS = 2.0  # for the fewest steps that a model is trained for
_REPORT = 2.0
_REPORT_PER_VOXEL = 1.2e-6


def affordable_folds(seconds: float, voxels: int) -> int:
    """In how many turns slices are held out: the more, the more like the result the models that are scored.

    With three, a structure that four slices show is looked for by models that saw it on two. With six, most
    saw it on three.
    """
    worth = max(_FOLD, _FOLD_PER_VOXEL * voxels)
    return min(max(int(_FOLDS * seconds / worth), _FEWEST_FOLDS), _MOST_FOLDS)


class Timetable:
    """When what has to be done.

    Args:
        seconds: all in all.
        folds: how many models are scored; 0 leaves all of the time to the result.
        voxels: of the volume.
        channels: of the image.
        began: when the time began to count, by ``time.monotonic()``; now if None.
    """

    def __init__(
        self, seconds: float, folds: int, voxels: int, channels: int = 1, *, began: float | None = None
    ) -> None:
        now = time.monotonic()
        self.seconds = seconds
        self.folds = folds
        self.began = now if began is None else began
        self._voxels = voxels
        self._bank = _BANK_PER_VOXEL * voxels * channels
        self._segmenting = _LOOKING_PER_VOXEL * voxels  # seconds for all voxels
        self._late = 1.0
        self._early = False  # whether learning ended before its time
        self._for_folds: float | None = None  # until when, by the clock, folds may learn
        self._folds_left = folds
        self._fold_began: float | None = None
        self._per_fold: float | None = None  # seconds that the last one took
        self._stage: tuple[float, float] | None = None  # when learning began, and its share that is done
        self._wall, self._cpu = now, time.thread_time()

    @property
    def left(self) -> float:
        """Seconds until everything should be done."""
        return self.seconds - (time.monotonic() - self.began)

    @property
    def slowness(self) -> float:
        """How many times as long as the processor needs it everything takes, on a machine that is busy."""
        used = time.thread_time() - self._cpu
        wall = time.monotonic() - self._wall
        return min(max(wall / used, 1.0), _SLOWEST) if used > 1 else 1.0

    @property
    def for_report(self) -> float:
        """Seconds at the end for what comes behind the result."""
        return min(self.slowness * (_REPORT + _REPORT_PER_VOXEL * self._voxels), self.seconds / 3)

    @property
    def least(self) -> float:
        """Seconds that all of it takes from now on, although every model be trained as briefly as can be."""
        learning = (self.folds + 1) * _FEWEST_STEPS
        report = _REPORT + _REPORT_PER_VOXEL * self._voxels
        return self.slowness * (self._bank + learning + self._segmenting + report)

    def expected(self) -> float:
        """Seconds until all is done, as far as that can be told: learning may end before its time."""
        if self._stage is None:
            return max(self.left, 0.0)
        began, share = self._stage
        gone = time.monotonic() - began
        this = max(gone / share - gone, 0.0) if share > 0.05 else self._per_fold
        if this is None:
            return max(self.left, 0.0)
        rest = self.slowness * self._segmenting + self.for_report
        if not self._early:
            return max(self.left, this + rest)
        per_fold = self._per_fold or (gone + this)
        models = self._folds_left + (self._fold_began is not None or self._folds_left > 0)
        return this + models * per_fold + rest

    def count_earlier(self, seconds: float) -> None:
        """Time that an earlier, stopped run spent on what need not be done again."""
        self.began -= seconds
        self._folds_left = max(self._folds_left - 1, 0)
        if self._for_folds is not None:
            self._for_folds -= seconds

    def prepared(self, segmenting: float | None = None) -> None:
        """What all of them need is there: the time for it is no fold's.

        Args:
            segmenting: seconds that it takes to segment all voxels, as measured on some of them.
        """
        if segmenting is not None:
            self._segmenting = segmenting
        free = max(self.left - self.for_report, 0.0)
        self._for_folds = time.monotonic() + _FOLDS * free

    def of_fold(self, share: float) -> float:
        """Seconds to learn for in a fold, of which this share of all voxels is segmented."""
        now = time.monotonic()
        until = self._for_folds if self._for_folds is not None else now + _FOLDS * self.left
        slot = (until - now) / max(self._folds_left, 1)
        self._folds_left = max(self._folds_left - 1, 0)
        self._fold_began = now
        return max((slot - _MARGIN * share * self._segmenting) / self._late, _LEAST)

    def of_result(self) -> float:
        """Seconds to learn for the result, from now on."""
        self._fold_began = None
        left = self.left - self.for_report - _MARGIN * self._segmenting
        return max(left / self._late, _LEAST)

    def learnt(self, asked: float, took: float) -> None:
        """How long learning took instead of what was asked for: the next one may be as late."""
        self._late = min(max(took / asked, 1.0), _LATEST)
        self._early = took < _EARLY * asked
        self._per_fold = took

    def learning(self, share: float) -> None:
        """How much of the learning at hand is done; 0 when it begins."""
        began = time.monotonic() if self._stage is None or not share else self._stage[0]
        self._stage = (began, share)

    @contextmanager
    def segmenting(self, share: float) -> Iterator[None]:
        """Measures how long it takes to segment this share of all voxels."""
        began = time.monotonic()
        yield
        self._segmenting = (time.monotonic() - began) / share
