"""How good each method is on slices that it did not learn from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation import hold_out
from volseg.annotation.strokes import Strokes, are_strokes, strokes_of
from volseg.densification.calibration import Calibrator, calibrate, held_out_sample
from volseg.densification.folds import Fold
from volseg.densification.intervals import Estimate, Score, SliceConfusion, estimate, slice_confusions
from volseg.densification.nearness import Support, measure_nearness
from volseg.densification.strokes import Compared, agreement
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import Headline, surface_faces
from volseg.report import ClassScore, MethodScores

__all__ = ["Measured", "Scorer", "Tested", "lines", "slice_surfaces", "tested"]


@dataclass(frozen=True, eq=False)
class Tested:
    """What a model said of the voxels that were held out from it.

    Attributes:
        scores: ``(C, N)``, of the voxels of ``test`` that hold a class, in C order.
        elsewhere: the same of unpainted voxels that models are compared on, where strokes are held out.
    """

    fold: Fold
    test: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    elsewhere: npt.NDArray[np.float32] | None = None

    @property
    def where(self) -> npt.NDArray[np.bool_]:
        return self.test != IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class Measured:
    """The figures of one method, and what makes its confidence honest.

    Attributes:
        headline: what ``estimate.foreground_iou`` is the mean of.
        support: which held-out voxels stand for unlabelled ones.
        strokes: that were held out by place; ``None`` where slices were.
    """

    method: str
    estimate: Estimate
    calibrator: Calibrator
    folds: int
    headline: Headline
    support: Support
    strokes: Strokes | None = None

    def in_words(self) -> str:
        """The one figure, its name, its interval, and what it is with background."""
        main = self.estimate.foreground_iou
        return self.headline.in_words(main.value, _interval(main), self.estimate.mean_iou.value)

    def as_scores(self) -> MethodScores:
        """For the report."""
        one = self.estimate
        return MethodScores(
            self.method,
            [_class_score(*scores) for scores in zip(one.iou, one.dice, one.surface, strict=True)],
            _class_score(one.mean_iou, one.mean_dice, one.mean_surface),
            _class_score(one.foreground_iou, one.foreground_dice, one.foreground_surface),
        )


def tested(fold: Fold, test: npt.NDArray[np.uint8], scores: npt.NDArray[Any]) -> Tested:
    """Keep of the scores of a whole volume those that are tested."""
    return Tested(fold, test, scores[:, test != IGNORE_INDEX].astype(np.float32, copy=False))


class Scorer:
    """Scores methods on held-out slices as if these were what is unlabelled; see :mod:`.nearness`.

    Args:
        labels: all paint, class indices, 255 elsewhere.
        headline: which classes the one figure is the mean of.
    """

    def __init__(self, labels: npt.NDArray[np.uint8], spacing: Sequence[float], headline: Headline) -> None:
        self._labels = labels
        self._headline = headline
        self._spacing = tuple(float(size) for size in spacing)
        self._strokes = strokes_of(labels, spacing) if are_strokes(labels) else None
        self._nearness = measure_nearness(labels, spacing)
        self._places: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]] = {}

    def measure(self, method: str, parts: Sequence[Tested]) -> Measured:
        """All folds together."""
        estimated, support = self.estimate(parts)
        samples = [held_out_sample(part.scores, part.test[part.where]) for part in parts]
        calibrator = calibrate(samples)
        return Measured(method, estimated, calibrator, len(parts), self._headline, support, self._strokes)

    def estimate(self, parts: Sequence[Tested]) -> tuple[Estimate, Support]:
        """The figures alone, and which held-out voxels stand for unlabelled ones."""
        if self._strokes is not None:
            return self._agreement(parts, self._strokes), Support(())
        classes, folds = len(parts[0].scores), [part.fold for part in parts]
        num_bins = len(self._nearness.shares)
        found: dict[tuple[str, tuple[int, ...]], SliceConfusion] = {}
        places, surfaces = np.zeros((2, num_bins)), np.zeros((num_bins, classes, 2))
        for part in parts:
            where = part.where
            prediction = np.zeros(part.test.shape, np.uint8)
            prediction[where] = part.scores.argmax(0)
            bins, place = self._place(part)
            places += place
            for slices, test in _on_slices(part, folds):
                for one in slice_confusions(prediction, test, slices, classes, bins=bins, num_bins=num_bins):
                    key = one.axis, one.indices
                    found[key] = one if key not in found else found[key].joined(one)
                surfaces += slice_surfaces(
                    prediction, test, slices, classes, spacing=self._spacing, bins=bins, num_bins=num_bins
                )
        support = Support(self._nearness.shares)
        if len({axis for fold in folds for axis in fold.slices}) == 1:  # else they cross, close to paint
            counts, sums = places
            support = self._nearness.support(counts, sums / np.maximum(counts, 1))
        estimated = estimate(
            list(found.values()),
            classes,
            shares=support.shares,
            folds=len(parts),
            foreground=self._headline.classes,
            unseen=support.nearer,
            surfaces=surfaces,
        )
        return estimated, support

    def _agreement(self, parts: Sequence[Tested], strokes: Strokes) -> Estimate:
        """The figures where strokes are held out; see :mod:`.strokes`."""
        models = [
            Compared(part.scores, part.test[part.where], part.elsewhere)
            for part in parts
            if part.elsewhere is not None
        ]
        return agreement(models, strokes, foreground=self._headline.classes)

    def _place(self, part: Tested) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        """The bin of every voxel; and how many are tested in each, and the sum of their distances."""
        key = str(part.fold.slices)
        if key not in self._places:
            distances = self._nearness.distances(part.fold.known(part.fold.split(self._labels)[0]))
            bins, where = self._nearness.bins_of(distances), part.where
            n = len(self._nearness.shares)
            sums = [np.bincount(bins[where], w, n) for w in (None, distances[where])]
            self._places[key] = bins, np.array(sums, float)
        return self._places[key]


def slice_surfaces(
    prediction: npt.NDArray[Any],
    test: npt.NDArray[np.uint8],
    slices: Mapping[str, Sequence[int]],
    num_classes: int,
    *,
    spacing: Sequence[float],
    bins: npt.NDArray[np.uint8],
    num_bins: int,
) -> npt.NDArray[np.float64]:
    """Areas of the borders of each class, slice by slice: each in its plane, at one voxel of that plane.

    The lines that an image is painted on lie in one plane, the image.

    Args:
        prediction, test, slices, bins: as in :func:`slice_confusions
            <volseg.densification.intervals.slice_confusions>`.
        spacing: voxel size along each axis.

    Returns:
        ``(num_bins, num_classes, 2)``, lengths; see :func:`volseg.metrics.surface_faces`.
    """
    found = np.zeros((num_bins, num_classes, 2))
    for axis, indices in slices.items():
        normal = AXES.index(axis)
        held, sizes = hold_out(test, {axis: indices})[1], list(spacing)
        planes: list[tuple[Any, ...]] = [(...,)]
        if test.ndim > 2:
            planes = [(*[slice(None)] * normal, index) for index in indices]
            del sizes[normal]
        for on in planes:
            found += surface_faces(
                prediction[on], held[on], num_classes, spacing=sizes, bins=bins[on], num_bins=num_bins
            )
    return found


def _on_slices(
    part: Tested, folds: Sequence[Fold]
) -> Iterator[tuple[Mapping[str, Sequence[int]], npt.NDArray[np.uint8]]]:
    """What a fold is tested on: its own slices, and its holes in those of the others."""
    if not part.fold.holes:
        yield part.fold.slices, part.test
        return
    near, far = hold_out(part.test, part.fold.slices)
    yield part.fold.slices, far
    for other in folds:
        if other is not part.fold:
            yield other.slices, near


def lines(measured: Measured, scheme: LabelScheme) -> list[str]:
    """A table for a person."""
    estimated = measured.estimate
    by_class = zip(scheme.names, estimated.iou, estimated.dice, estimated.surface, strict=True)
    rows = [
        row
        for index, row in enumerate(by_class)
        if index != measured.headline.background or row[1].value is not None  # finished slices without any
    ]
    main = (estimated.foreground_iou, estimated.foreground_dice, estimated.foreground_surface)
    means = [("mean", *main)]
    if measured.headline.leaves_out:
        means = [
            ("mean over foreground", *main),
            ("with background", estimated.mean_iou, estimated.mean_dice, estimated.mean_surface),
        ]
    rows += means
    width = max(len(name) for name, *_ in rows)
    with_surface = measured.strokes is None
    found = [f"{'class':<{width}}  IoU    {estimated.level:.0%} interval  Dice"]
    found[0] += "   surface Dice" if with_surface else ""
    for name, iou, dice, surface in rows:
        interval = "–" if iou.low is None else f"{iou.low:.3f} – {iou.high:.3f}"
        figures = f"{name:<{width}}  {_figure(iou)}  {interval:<13}  {_figure(dice)}"
        found.append(f"{figures}  {_figure(surface)}" if with_surface else figures)
    reasons = dict.fromkeys(iou.reason for _, iou, *_ in rows if iou.reason)
    return [*found, *reasons, f"{measured.in_words()}."]


def _class_score(iou: Score, dice: Score, surface: Score) -> ClassScore:
    return ClassScore(iou.value, dice.value, _interval(iou), surface.value)


def _interval(score: Score) -> tuple[float, float] | None:
    return None if score.low is None or score.high is None else (score.low, score.high)


def _figure(score: Score) -> str:
    return "–    " if score.value is None else f"{score.value:.3f}"
