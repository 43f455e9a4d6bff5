"""How good a result is, with an interval that should hold its true score.

Voxels of one slice stand and fall together, so slices are counted, not voxels: the spread of a score is
that of leaving out one slice after the other (the jackknife; Miller 1974, Biometrika 61:1-15). An IoU
lies between 0 and 1 and is skewed close to them. Its interval is therefore symmetric in the logit, which
stays within them, with the quantile of Student's t for as many slices as there *effectively* are: ten
slices, one of which has most of a class, say hardly more about it than that one.

What is held out is scored by models that learnt from fewer slices than the result does. Two things make
up for that: distances to paint are weighted as they are where it is unlabelled (:mod:`nearness
<volseg.densification.nearness>`), and the upper end allows for errors that fall as the number of slices that
show a class rises; as its square where that are less than half of all slices, for such a structure is known
by its place between them. The score itself stays too low, most for these.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from volseg.annotation.slices import along
from volseg.densification.folds import runs_of
from volseg.densification.nearness import HEAVIEST
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, dice, iou, mean_score, pooled_surface_dice

__all__ = ["Estimate", "Score", "SliceConfusion", "estimate", "slice_confusions"]

_FEWEST = 3  # slices without which there is no interval
_FEWEST_EFFECTIVE = 1.5  # the same, in effective slices
_RARE = 0.5  # of the slices
_CERTAIN = 0.5  # voxels that are added to hits and misses, so that no score is exactly 0 or 1
_UNKNOWN = "A class was painted on one slice only: the interval of the mean holds whatever its score may be."
_NO_INTERVAL = "No interval is computed for surface Dice."
_NO_BORDER = "No border of it was held out."
_ONE_SLICE = "It was painted on one slice only; when that is held out, none is left to learn it from."


@dataclass(frozen=True)
class SliceConfusion:
    """What was predicted on a held-out slice, or on neighbouring ones.

    Args:
        matrices: voxels per true class (row) and predicted class (column), one for each bin of distance
            to what was learnt from.
    """

    axis: str
    indices: tuple[int, ...]
    matrices: npt.NDArray[np.int64]

    def joined(self, other: "SliceConfusion") -> "SliceConfusion":
        """With what another model said of other voxels of the same slice."""
        return SliceConfusion(self.axis, self.indices, self.matrices + other.matrices)


@dataclass(frozen=True)
class Score:
    """A figure, and the interval that its true value lies in; ``None`` where it cannot be known.

    Args:
        reason: why not, in a sentence.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Estimate:
    """Scores per class and on average: over all classes, and over those that are looked for.

    Attributes:
        surface: surface Dice at a tolerance of one voxel, without intervals.
    """

    iou: tuple[Score, ...]
    dice: tuple[Score, ...]
    surface: tuple[Score, ...]
    mean_iou: Score
    mean_dice: Score
    mean_surface: Score
    foreground_iou: Score
    foreground_dice: Score
    foreground_surface: Score
    slices: int
    level: float


def slice_confusions(
    prediction: npt.NDArray[Any],
    test: npt.NDArray[np.uint8],
    slices: Mapping[str, Sequence[int]],
    num_classes: int,
    *,
    bins: npt.NDArray[np.uint8] | None = None,
    num_bins: int = 1,
) -> list[SliceConfusion]:
    """Confusion matrices of one fold, slice by slice; neighbouring slices of a direction count as one.

    A voxel on two held-out slices is counted on the first.

    Args:
        prediction: class indices, ``(*spatial)``; anything where nothing is tested.
        test: what was held out, 255 elsewhere (:meth:`Fold.split`).
        bins: of the distance to what was learnt from (:meth:`Nearness.bins`).
    """
    for name, array in (("prediction", prediction), ("bins", bins)):
        if array is not None and array.shape != test.shape:
            raise ValueError(f"{name} has the shape {array.shape}, test {test.shape}: they have to agree.")
    rest = test.copy()
    found = []
    for axis, indices in slices.items():
        for run in runs_of(indices):
            on = along(AXES.index(axis), run)
            true, predicted = rest[on], prediction[on]
            where = np.zeros(true.shape, np.uint8) if bins is None else bins[on]
            matrices = np.stack(
                [
                    confusion_matrix(predicted, np.where(where == b, true, IGNORE_INDEX), num_classes)
                    for b in range(num_bins)
                ]
            )
            rest[on] = IGNORE_INDEX
            if matrices.any():
                found.append(SliceConfusion(axis, run, matrices))
    return found


def estimate(
    confusions: Sequence[SliceConfusion],
    num_classes: int,
    *,
    level: float = 0.95,
    shares: Sequence[float] = (1.0,),
    folds: int | None = None,
    foreground: Sequence[int] | None = None,
    unseen: float = 0.0,
    surfaces: npt.NDArray[np.float64] | None = None,
) -> Estimate:
    """Scores over all held-out slices of all folds, with confidence intervals over slices.

    Args:
        foreground: the classes that the headline is the mean of; all if None.
        shares: how much each bin counts (:attr:`Nearness.shares`).
        folds: how many there were: the models had learnt from all slices but one in so many. ``None`` if
            they had learnt from all that the result learns from.
        unseen: share of the voxels farther from paint than anything held out (:attr:`Support.nearer`). The
            lower ends take them to be wrong.
        surfaces: areas of all borders by bin and class, ``(bins, C, 2)``, of :func:`surface_faces
            <volseg.metrics.surface_faces>`; ``None`` if borders were not compared.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} must be between 0 and 1, such as 0.95.")
    matrices, weights = _weighted(confusions, num_classes, shares)
    truth = matrices.sum(2)
    unions = truth + matrices.sum(1) - np.diagonal(matrices, axis1=1, axis2=2)
    total = matrices.sum(0)
    gains = _gains(truth > 0, folds)
    everything = list(range(num_classes))
    looked_for = everything if foreground is None else list(foreground)
    scores: list[tuple[tuple[Score, ...], Score, Score]] = []
    for measure in (iou, dice):
        value = measure(total)
        left_out = np.array([measure(total - matrix) for matrix in matrices]).reshape(-1, num_classes)
        classes = tuple(
            _class_score(float(value[c]), left_out[:, c], unions[:, c], truth[:, c], level, float(gains[c]))
            for c in everything
        )
        mean, headline = (
            _mean(
                value[chosen],
                left_out[:, chosen],
                unions[:, chosen],
                level,
                gains[chosen],
                [classes[c] for c in chosen],
            )
            for chosen in (everything, looked_for)
        )
        scores.append(
            (
                tuple(_lowered(score, unseen) for score in classes),
                _lowered(mean, unseen),
                _lowered(headline, unseen),
            )
        )
    (ious, mean_iou, main_iou), (dices, mean_dice, main_dice) = scores
    faces = np.zeros((num_classes, 2)) if surfaces is None else np.tensordot(weights, surfaces, 1)
    each = pooled_surface_dice(faces)
    surface = tuple(_without_interval(float(each[c]), ious[c]) for c in everything)
    mean_surface = _without_interval(mean_score(each), mean_iou)
    main_surface = _without_interval(mean_score(each[looked_for]), main_iou)
    means = mean_iou, mean_dice, mean_surface, main_iou, main_dice, main_surface
    return Estimate(ious, dices, surface, *means, len(matrices), level)


def _without_interval(value: float, overlap: Score) -> Score:
    """Surface Dice as a score, unknown where the IoU is."""
    if overlap.value is None:
        return Score(None, reason=overlap.reason)
    return Score(None, reason=_NO_BORDER) if math.isnan(value) else Score(value, reason=_NO_INTERVAL)


def _mean(
    value: npt.NDArray[np.float64],
    left_out: npt.NDArray[np.float64],
    unions: npt.NDArray[np.float64],
    level: float,
    gains: npt.NDArray[np.float64],
    classes: Sequence[Score],
) -> Score:
    """The mean over some classes; the columns of all arguments are theirs.

    Of a class on one slice nothing is known: in the interval it may be anything from never to always right.
    """
    lonely = np.array([score.reason == _ONE_SLICE for score in classes])
    if lonely.any():
        rest = ~lonely
        if not np.isfinite(value[rest]).any():
            return Score(None, reason="Every class was painted on one slice only.")
        others = [score for score in classes if score.reason != _ONE_SLICE]
        known = _mean(value[rest], left_out[:, rest], unions[:, rest], level, gains[rest], others)
        count = int(np.isfinite(value[rest]).sum())
        return _with_unknown(known, count, value[lonely])
    means = np.array([mean_score(scores) for scores in left_out])
    errors = np.where(np.isnan(value), 0, 1 - value)
    gain = float((gains * errors).sum() / errors.sum()) if errors.any() else 1.0
    weights = (unions / np.maximum(unions.sum(0), 1)).sum(1)
    mean = _score(mean_score(value), means, weights, float(unions.sum()), level, gain)
    return _widened(mean, classes)


def _with_unknown(known: Score, count: int, values: npt.NDArray[np.float64]) -> Score:
    """The mean of ``count`` classes with those of ``values``, which could be anything."""
    if known.value is None:
        return known
    total, more = count + len(values), len(values)
    value = (count * known.value + float(values.sum())) / total
    if known.low is None or known.high is None:
        return Score(value, reason=known.reason)
    low, high = count * known.low / total, (count * known.high + more) / total
    return Score(value, low, high, _UNKNOWN)


def _gains(shown: npt.NDArray[np.bool_], folds: int | None) -> npt.NDArray[np.float64]:
    """What is left of the errors at best, with all slices, of classes that these slices (rows) show."""
    if folds is None:
        return np.ones(shown.shape[1])
    held_out = np.maximum(1 / folds, 1 / np.maximum(shown.sum(0), 2))  # of the slices that show the class
    return np.asarray((1 - held_out) ** np.where(shown.mean(0) < _RARE, 2, 1))


def _weighted(
    confusions: Sequence[SliceConfusion], num_classes: int, shares: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """One matrix per slice, each bin counting as its share, and all together as many voxels as before.

    Returns:
        The matrices, and what a voxel of each bin counts for, up to a factor.
    """
    matrices = np.zeros((len(confusions), len(shares), num_classes, num_classes))
    for row, confusion in zip(matrices, confusions, strict=True):
        row[:] = confusion.matrices
    voxels = matrices.sum((0, 2, 3))
    weights = np.minimum(np.asarray(shares) * voxels.sum() / np.maximum(voxels, 1), HEAVIEST)
    found = np.tensordot(matrices, weights, ([1], [0]))
    return np.asarray(found * (voxels.sum() / max(found.sum(), 1))), weights


def _class_score(
    value: float,
    left_out: npt.NDArray[np.float64],
    unions: npt.NDArray[np.float64],
    truth: npt.NDArray[np.float64],
    level: float,
    gain: float,
) -> Score:
    if not unions.any():
        return Score(None, reason="It is in no held-out part.")
    if np.count_nonzero(truth) == 1:
        return Score(None, reason=_ONE_SLICE)
    return _score(value, left_out, unions, float(unions.sum()), level, gain)


def _score(
    value: float,
    left_out: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    voxels: float,
    level: float,
    gain: float,
) -> Score:
    """A score with its interval.

    Args:
        value: over all slices.
        left_out: over all slices but one, for each of them.
        weights: how much each slice counts.
        voxels: that the score is about.
        gain: what is left of the errors with all slices, at best.
    """
    n = len(weights)
    if math.isnan(value):
        return Score(None, reason="Nothing was held out.")
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    if n < _FEWEST or effective < _FEWEST_EFFECTIVE:
        parts = f"{n} held-out part{'s' * (n != 1)}"
        reason = f"{parts} ({effective:.1f} effectively) do not suffice to say how far that can be trusted."
        return Score(value, reason=reason)
    odds = _logits(left_out, voxels)
    spread = math.sqrt((n - 1) / n * np.square(odds - odds.mean()).sum())
    reach = float(stats.t.ppf((1 + level) / 2, effective - 1)) * spread
    low, high = special.expit(_logits(value, voxels) + np.array([-reach, reach]))
    never = (1 - level) ** (1 / effective)  # how rare something may be that so many slices do not show
    if value == 0:
        low, high = 0.0, max(high, 1 - never)
    elif value == 1:
        low, high = min(low, never), 1.0
    return Score(value, float(low), 1 - gain * (1 - float(high)))


def _widened(mean: Score, classes: Sequence[Score]) -> Score:
    """The mean with what classes add that were never, or always, found: leaving out slices shows nothing."""
    if mean.value is None or mean.low is None or mean.high is None:
        return mean
    known = [score for score in classes if score.value is not None]
    above = sum(score.high or 0 for score in known if score.value == 0) / len(known)
    below = sum(1 - (score.low or 0) for score in known if score.value == 1) / len(known)
    low = mean.value - math.hypot(mean.value - mean.low, below)
    high = mean.value + math.hypot(mean.high - mean.value, above)
    return Score(mean.value, max(0.0, low), min(1.0, high))


def _lowered(score: Score, unseen: float) -> Score:
    """The lower end if this share of the voxels, of which nothing is known, were wrong."""
    return score if score.low is None else replace(score, low=score.low * (1 - unseen))


def _logits(scores: npt.ArrayLike, voxels: float) -> npt.NDArray[np.float64]:
    """Log odds of scores, finite even for 0 and 1; a score that nothing is known of counts as 0.5."""
    hits = np.nan_to_num(np.asarray(scores, np.float64), nan=0.5) * voxels
    return np.asarray(np.log((hits + _CERTAIN) / (voxels - hits + _CERTAIN)))
