"""How good a result is that was learnt from strokes: by groups of strokes that are held out by place.

People draw strokes where they look: in the middle of objects, of all classes equally often, or just where the
result was wrong. So what is right of held-out strokes is not what is right of the volume: it was found to be
far too high for strokes at random places, and far too low for strokes on errors. Places that nothing was
painted at have no such choice in them, but no truth either. There, models that did not learn from the same
places are compared with each other: where two of them differ, at least one is wrong. For models that are as
sure as they are right, they agree as much with each other as with the truth (Nakkiran and Bansal 2020, Jiang
et al. 2022). Models that share paint, and an architecture, agree somewhat more than that, by an amount that
was measured where the truth is known, with its spread (``benchmarks/interval_coverage.py``, strokes).

Held-out strokes can lower it, as models that make the same mistakes agree. The lower end of the interval is
at most what is right of held-out strokes, where each kind of prediction (its class, and how sure it is) is
weighted as it is frequent elsewhere. And of a class that is hardly found again on them nothing is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from volseg.annotation.strokes import FEWEST_PLACES, Strokes, strokes_of
from volseg.densification.intervals import Estimate, Score
from volseg.densification.places import STROKE_FOLDS, TOO_LITTLE, cannot_know, deal_places, missing, touching
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, iou
from volseg.pixelwise.balance import offsets, trust_in

__all__ = [
    "NO_SURFACE",
    "Compared",
    "LiveScore",
    "agreement",
    "elsewhere",
    "live_score",
    "stroke_offsets",
]

Labels: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]

NO_SURFACE = "Surface Dice is left out: a stroke ends where the person stopped, not at a border."
"""Why there is none where strokes are held out."""

_FOUND = 0.2  # of the held-out voxels of a class, that have to be found again
_LOOKED_AT = 20_000  # unpainted voxels that models are compared on
_SURE = (0.5, 0.8, 0.95)  # by how much the class is more probable than the next one
_LEAST = 1e-3  # of a score, so that its logit is a number
_BALANCED = 0.5  # of the correction for classes that are painted too often
_SEEN = 30  # of these, that any of two models takes for a class
# In the logit, by how much models agree more with each other than with the truth, and its standard deviation:
# on phantoms of four kinds and three real sets, seeds 1000 to 1005, which no reported figure contains.
_TOO_HIGH, _SPREAD = 0.3, 0.6
_TOO_HIGH_ON_ONE, _SPREAD_ON_ONE = 0.5, 0.8  # where all strokes lie on one slice of a volume


class Compared(NamedTuple):
    """What a model says: of what was held out from it, and of unpainted voxels.

    Attributes:
        scores: of the held-out voxels, ``(C, n)``.
        truth: their classes, ``(n,)``.
        elsewhere: scores of the unpainted voxels, ``(C, m)``.
    """

    scores: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    elsewhere: npt.NDArray[np.float32]


@dataclass(frozen=True)
class LiveScore:
    """The score of what is being painted: the headline, and one score per class.

    Attributes:
        reason: what it cannot know, or why there is none, in sentences.
    """

    value: float | None
    low: float | None
    high: float | None
    per_class: tuple[Score, ...]
    reason: str = ""


def elsewhere(labels: Labels, *, among: Mask | None = None, seed: int = 0) -> Mask:
    """The unpainted voxels that models are compared on, drawn evenly: ``(*spatial)``.

    Args:
        among: where they may lie; anywhere if None.
    """
    free = labels == IGNORE_INDEX
    if among is not None:
        free &= among
    chosen = np.flatnonzero(free)
    if len(chosen) > _LOOKED_AT:
        chosen = np.random.default_rng(seed).choice(chosen, _LOOKED_AT, replace=False)
    mask = np.zeros(labels.size, bool)
    mask[chosen] = True
    return mask.reshape(labels.shape)


def agreement(
    models: Sequence[Compared],
    strokes: Strokes,
    *,
    foreground: Sequence[int],
    level: float = 0.95,
) -> Estimate:
    """Scores of models that learnt without different places, by how far they agree where nothing is painted.

    Args:
        models: one for each part of the places, all asked about the same unpainted voxels.
        foreground: the classes that the headline is the mean of.
    """
    classes = len(models[0].scores)
    predictions = [model.elsewhere.argmax(0) for model in models]
    pairs = [confusion_matrix(one, other, classes) for one, other in combinations(predictions, 2)]
    unions = np.array([m.sum(0) + m.sum(1) - np.diagonal(m) for m in pairs]).reshape(-1, classes)
    alike = np.mean([np.nan_to_num(iou(m)) for m in pairs], 0) if pairs else np.zeros(classes)
    again = np.nan_to_num(iou(_as_sure_elsewhere(models)))
    held = np.sum([confusion_matrix(m.scores.argmax(0), m.truth, classes) for m in models], 0)
    recall = np.diagonal(held) / np.maximum(held.sum(1), 1)
    at_places = {c: places for c, (_, places) in strokes.per_class().items()}
    reasons = []
    for c in range(classes):
        if at_places.get(c, 0) < FEWEST_PLACES:
            reasons.append(f"It is painted at fewer than {FEWEST_PLACES} places.")
        elif recall[c] < _FOUND:
            reasons.append(
                f"Of its held-out strokes only {recall[c]:.0%} were found again: paint more of it."
            )
        elif not pairs or unions[:, c].mean() < _SEEN:
            reasons.append("It is too rare in the result to tell.")
        else:
            reasons.append("")
    one_slice = len(strokes.shape) == 3 and len(strokes.planes()[1]) == 1

    def score(chosen: Sequence[int], reason: str) -> Score:
        if reason:
            return Score(None, reason=reason)
        fewest = min(at_places[c] for c in chosen)
        return _lowered(float(alike[chosen].mean()), float(again[chosen].mean()), fewest, level, one_slice)

    scores = tuple(score([c], reasons[c]) for c in range(classes))
    means = []
    for wanted in (range(classes), foreground):
        chosen = [c for c in wanted if c in at_places]
        unknown = not chosen or any(reasons[c] for c in chosen)
        means.append(score(chosen, "Of a class nothing is known." if unknown else ""))
    mean, headline = means
    none = Score(None, reason=NO_SURFACE)
    dices = tuple(map(_as_dice, scores))
    main = headline, _as_dice(headline), none
    return Estimate(
        scores, dices, (none,) * classes, mean, _as_dice(mean), none, *main, strokes.places, level
    )


def stroke_offsets(
    scores: npt.NDArray[np.float32], painted: npt.NDArray[np.int64], right: float
) -> npt.NDArray[np.float32]:
    """What is added to log probabilities because strokes show rare classes too often, ``(C,)``.

    See :mod:`volseg.pixelwise.balance`. It is done by half: strokes say less of how common classes were taken
    to be than slices do.

    Args:
        scores: of unpainted voxels, ``(C, n)``.
        painted: voxels that were learnt from, per class.
        right: share of the held-out strokes that is right. It is low where a person paints on errors, and
            there is nothing to correct.
    """
    return offsets(scores, painted, _BALANCED * trust_in(right))


def live_score(
    labels: Labels,
    spacing: Sequence[float],
    learn_without: Callable[[Mask], Callable[[Mask], npt.NDArray[np.float32]]],
    *,
    names: Sequence[str],
    background: int | None = 0,
    among: Mask | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LiveScore:
    """The score of what is being painted, by four short trainings.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
        learn_without: given the painted voxels to leave out, ``(*spatial)``, learns from the others, and
            gives what predicts the voxels of a mask: scores ``(C, n)``, in C order.
        names: of the classes, by index.
        background: the class that the headline leaves out.
        among: where models may be compared; anywhere if None. Where an image is too large to be looked at as
            a whole, the part of it that is at hand.
        should_stop: asked before every training; then there is no score.
    """
    classes = len(names)
    unknown = (Score(None),) * classes
    strokes = strokes_of(labels, spacing)
    if why := missing(strokes, names):
        return LiveScore(None, None, None, unknown, why)
    parts = deal_places(strokes, STROKE_FOLDS)[strokes.place]
    look = elsewhere(labels, among=among)
    models = []
    for part in range(STROKE_FOLDS):
        held = parts == part
        if should_stop is not None and should_stop():
            return LiveScore(None, None, None, unknown, "It was stopped.")
        if not held.any():
            continue
        mask, left_out = np.zeros((2, *labels.shape), bool)
        mask[tuple(strokes.voxels[held].T)] = True
        left_out[tuple(strokes.voxels[held | touching(strokes, held, spacing)].T)] = True
        if len(np.unique(labels[(labels != IGNORE_INDEX) & ~left_out])) < 2:
            why = (
                f"{TOO_LITTLE}: places are held out in turn, and beside one of them all paint of every class "
                "but one touches it, so nothing can be learnt without it. Paint at places some way from it."
            )
            return LiveScore(None, None, None, unknown, why)
        scores = learn_without(left_out)(mask | look)
        where = mask[mask | look]
        models.append(Compared(scores[:, where], strokes.classes[held], scores[:, ~where]))
    foreground = [c for c in range(classes) if c != background]
    estimated = agreement(models, strokes, foreground=foreground)
    main = estimated.foreground_iou
    unsure = [f"{names[c]}: {score.reason}" for c, score in enumerate(estimated.iou) if score.reason]
    reasons = [cannot_know(strokes), *(unsure if main.value is None else [])]
    return LiveScore(main.value, main.low, main.high, estimated.iou, " ".join(filter(None, reasons)))


def _as_sure_elsewhere(models: Sequence[Compared]) -> npt.NDArray[np.float64]:
    """The confusion that there is if predictions are as right as those on held-out strokes that were as sure.

    Returns:
        Share of the voxels per true (row) and predicted class (column), ``(C, C)``.
    """
    classes, bins = len(models[0].scores), len(_SURE) + 1
    held, everywhere = np.zeros((classes, classes, bins)), np.zeros((classes, bins))
    for model in models:
        np.add.at(held, (model.truth, *_kinds(model.scores)), 1)
        np.add.at(everywhere, _kinds(model.elsewhere), 1)
    counts = held.sum(0)
    right = np.where(counts > 0, held / np.maximum(counts, 1), np.eye(classes)[:, :, None])
    return np.asarray((right * everywhere).sum(2) / max(everywhere.sum(), 1))


def _kinds(scores: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The class that is predicted, and how much more probable it is than the next one, in bins."""
    probabilities = special.softmax(scores, 0)
    best = np.sort(probabilities, 0)
    margin = best[-1] - (best[-2] if len(best) > 1 else 0)
    return probabilities.argmax(0), np.digitize(margin, _SURE)


def _lowered(alike: float, again: float, places: int, level: float, one_slice: bool) -> Score:
    """What models agree in, as a score: what they agree too much is taken off, with an interval.

    Args:
        again: the score on held-out strokes. The interval holds what is somewhat below, too.
        places: of the class. The interval holds errors so rare that these need not show them.
    """
    too_high, spread = (_TOO_HIGH_ON_ONE, _SPREAD_ON_ONE) if one_slice else (_TOO_HIGH, _SPREAD)
    reach = float(stats.norm.ppf((1 + level) / 2)) * spread
    odds, odds_again = special.logit(np.clip([alike, again], _LEAST, 1 - _LEAST))
    low, value, high = special.expit(odds - too_high + np.array([-reach, 0, reach])).tolist()
    shown = (1 - level) ** (1 / places)
    low = min(low, shown, float(special.expit(odds_again - _TOO_HIGH)))
    return Score(value, low, 1.0 if alike > 1 - _LEAST else high)


def _as_dice(score: Score) -> Score:
    """The same as Dice, which is 2 IoU / (1 + IoU) of a class."""
    value, low, high = (v if v is None else 2 * v / (1 + v) for v in (score.value, score.low, score.high))
    return Score(value, low, high, score.reason)
