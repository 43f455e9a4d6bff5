"""How the minutes are spent: about half on the score, the rest on the result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["Timetable", "affordable_folds"]

_FOLDS = 0.5  # share of the time that all folds take together
_FEWEST_FOLDS, _MOST_FOLDS = 3, 8
_FOLD = 30.0  # seconds that a fold is worth having with
_FOLD_PER_VOXEL = 1.5e-5  # the same, where segmenting takes most of it
_FIRST_GUESS = 6e-6  # seconds per voxel for segmenting, until it was measured
_AT_MOST = 0.25  # of the time it is part of, for the same
_MARGIN = 1.1  # on the time that segmenting took before
_LATEST = 1.5  # times as long as asked for, at most, is allowed for
_LEAST = 1.0  # seconds of learning, however short the time is
_REPORT = 3.0  # seconds
_REPORT_PER_VOXEL = 1.5e-6  # seconds


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
        voxels: of the volume, which the report takes time for.

    Attributes:
        for_report: seconds at the end for what comes behind the result.
    """

    def __init__(self, seconds: float, folds: int, voxels: int) -> None:
        self.seconds = seconds
        self.folds = folds
        self.began = time.monotonic()
        self.for_report = min(_REPORT + _REPORT_PER_VOXEL * voxels, seconds / 5)
        self._least = _LEAST
        self._late = 1.0
        self._before = 0.0
        self._guess = _FIRST_GUESS * voxels
        self._segmenting: float | None = None  # seconds for all voxels

    @property
    def left(self) -> float:
        """Seconds until everything should be done."""
        return self.seconds - (time.monotonic() - self.began)

    def count_earlier(self, seconds: float) -> None:
        """Time that an earlier, stopped run spent on what need not be done again."""
        self.began -= seconds

    def prepared(self) -> None:
        """What all of them need is there: the time for it is no fold's."""
        self._before = min(time.monotonic() - self.began, self.seconds)

    def of_fold(self, share: float) -> float:
        """Seconds to learn for in a fold, of which this share of all voxels is segmented."""
        slot = _FOLDS * (self.seconds - self._before) / max(self.folds, 1)
        self._least = max((slot - self._for_segmenting(share, slot)) / self._late, _LEAST)
        return self._least

    def of_result(self) -> float:
        """Seconds to learn for the result, from now on; as long as for a fold, although it be late."""
        left = self.left - self.for_report
        return max((left - self._for_segmenting(1.0, left)) / self._late, self._least)

    def learnt(self, asked: float, took: float) -> None:
        """How long learning took instead of what was asked for: the next one may be as late."""
        self._late = min(max(took / asked, 1.0), _LATEST)

    def _for_segmenting(self, share: float, slot: float) -> float:
        if self._segmenting is None:
            return min(share * self._guess, _AT_MOST * slot)
        return _MARGIN * share * self._segmenting

    @contextmanager
    def segmenting(self, share: float) -> Iterator[None]:
        """Measures how long it takes to segment this share of all voxels."""
        began = time.monotonic()
        yield
        self._segmenting = (time.monotonic() - began) / share

    @contextmanager
    def bar(self, name: str) -> "Iterator[Bar]":
        """A bar for one stage, with the time left for everything."""
        with tqdm(
            total=100,
            desc=name,
            leave=False,
            disable=None,
            bar_format="{desc} {percentage:3.0f}%|{bar:30}|{postfix}",
        ) as drawn:
            yield Bar(drawn, self)


class Bar:
    """What a stage tells how far it is."""

    def __init__(self, drawn: "tqdm[None]", timetable: Timetable) -> None:
        self._drawn = drawn
        self._timetable = timetable

    def __call__(self, share: float, _: str = "") -> None:
        """From 0 to 1."""
        minutes, seconds = divmod(max(int(self._timetable.left), 0), 60)
        self._drawn.set_postfix_str(f"{minutes}:{seconds:02d} left in all", refresh=False)
        self._drawn.update(max(100 * min(share, 1.0) - self._drawn.n, 0))
