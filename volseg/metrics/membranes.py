"""How well the membranes in electron microscopy were found: the measures of the ISBI 2012 challenge.

A network gives every pixel a probability of lying *inside* a cell. Cut at a threshold, the connected
inside (through pixel edges: 4 neighbours in 2D, 6 in 3D) are the segments; what is not inside is
membrane. Every measure is taken at ten thresholds, and the best of them is reported together with
its threshold, as the challenge did. Definitions follow the organisers' published implementation.

Until 2015 the challenge ranked by ``warping_error``, ``rand_error`` and ``pixel_error`` (the figures in
Ronneberger et al. 2015, Table 1), then by V_Rand and V_Info after border thinning, which do not care
how wide a membrane is drawn (Arganda-Carreras et al. 2015).

One array is one image, 2D or 3D. A list of arrays is several sections, scored together: each threshold
applies to all of them. A volume taken section by section is ``list(volume)``.
"""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information
from skimage.segmentation import watershed

from volseg.metrics.warping import KINDS, homotopic_warp

__all__ = [
    "THRESHOLDS",
    "Best",
    "ThinnedScores",
    "membrane_scores",
    "pixel_error",
    "rand_error",
    "thinned_scores",
    "warping_error",
]

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Images: TypeAlias = Array | Sequence[Array]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ids: TypeAlias = npt.NDArray[np.int64]
Pairs: TypeAlias = list[tuple[npt.NDArray[Any], Bools]]

THRESHOLDS = tuple(i / 10 for i in range(10))
"""Inside is where the probability is above 0, 0.1, ..., 0.9."""


class Best(NamedTuple):
    """The best value over the thresholds, and the first threshold that reaches it.

    ``nan`` twice where the measure says nothing at any of them, as when the truth has no inside.
    """

    value: float
    threshold: float


class ThinnedScores(NamedTuple):
    """Scores after border thinning, 1 for a perfect segmentation."""

    v_rand: Best
    v_info: Best


def pixel_error(probability: Images, truth: Images, *, thresholds: Sequence[float] = THRESHOLDS) -> Best:
    """1 - F-score of the inside pixels, pooled over the sections.

    Args:
        probability: of lying inside a cell, 0 to 1.
        truth: true (or 1) inside a cell, false (or 0) on membranes; same shapes.
    """
    pairs = _pairs(probability, truth)

    def error(threshold: float) -> float:
        hits = sum(int(np.count_nonzero((p > threshold) & t)) for p, t in pairs)
        both = sum(int(np.count_nonzero(p > threshold)) + int(np.count_nonzero(t)) for p, t in pairs)
        return 1 - 2 * hits / both if both else math.nan

    return _best(min, map(error, thresholds), thresholds)


def rand_error(probability: Images, truth: Images, *, thresholds: Sequence[float] = THRESHOLDS) -> Best:
    """1 - F-score of pixel pairs in one segment, over the true inside: the adapted Rand error.

    Pairs are pooled over the sections. True membrane pixels are left out; a pixel that is truly inside
    but predicted as membrane is a segment of its own and so pairs with none. Arguments as in
    :func:`pixel_error`.
    """
    pairs = _pairs(probability, truth)
    true = [_components(t) for _, t in pairs]

    def error(threshold: float) -> float:
        return _rand([_within(t, _components(p > threshold)) for t, (p, _) in zip(true, pairs, strict=True)])

    return _best(min, map(error, thresholds), thresholds)


def warping_error(
    probability: Images,
    truth: Images,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    kinds: Sequence[str] = ("merge", "split"),
) -> Best:
    """Share of pixels that are mistakes of topology: no warping of the truth explains them. 2D only.

    The truth is warped onto the prediction through simple points, in 2D with 4-connected cells and
    8-connected membranes; see :func:`volseg.metrics.warping.homotopic_warp`. Counted are the pixels
    left over that merge or split cells, the "minimum splits and mergers warping error" of the
    challenge. Arguments as in :func:`pixel_error`.

    Args:
        kinds: which mistakes count, of :data:`volseg.metrics.warping.KINDS`; all of them give the
            warping error of Jain et al. 2010. The challenge's program looks at corner neighbours too
            when it names a mistake, so an isolated pixel may bear another name there; the sum over
            all kinds is the same.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds holds {unknown[0]!r}; there are: {', '.join(KINDS)}.")
    pairs = _pairs(probability, truth)
    if any(t.ndim != 2 for _, t in pairs):
        raise ValueError(
            "The warping error is defined on 2D images, and this one is 3D. "
            "Score it section by section: warping_error(list(probability), list(truth))."
        )

    def error(threshold: float) -> float:
        warpings = [homotopic_warp(t, p > threshold, abs(p - threshold)) for p, t in pairs]
        mistakes = sum(warping.count(kind) for warping in warpings for kind in set(kinds))
        return mistakes / sum(t.size for _, t in pairs)

    return _best(min, map(error, thresholds), thresholds)


def thinned_scores(
    probability: Images, truth: Images, *, thresholds: Sequence[float] = THRESHOLDS
) -> ThinnedScores:
    """V_Rand and V_Info after border thinning (Arganda-Carreras et al. 2015).

    Predicted segments first grow over the membrane by a watershed until lines one pixel wide remain,
    so that a membrane drawn too wide costs nothing. Then, over the true inside:

    * V_Rand is the F-score of pixel pairs, 1 - :func:`rand_error` of the thinned segments;
    * V_Info is the F-score of information, twice the mutual information over the sum of both
      entropies; the mean over the sections.

    Pixels on the lines are segments of their own. Pairs of a pixel with itself are not counted, as in
    scikit-image; the article counts them, which changes V_Rand by less than one over the mean size of
    a segment. Arguments as in :func:`pixel_error`.
    """
    pairs = _pairs(probability, truth)
    true = [_components(t) for _, t in pairs]
    rand, info = [], []
    for threshold in thresholds:
        labels = [_within(t, _thinned(p > threshold)) for t, (p, _) in zip(true, pairs, strict=True)]
        rand.append(1 - _rand(labels))
        scores = [_information(*both) for both in labels if both[0].size]
        info.append(math.fsum(scores) / len(scores) if scores else math.nan)
    return ThinnedScores(_best(max, rand, thresholds), _best(max, info, thresholds))


def membrane_scores(
    probability: Images, truth: Images, *, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, Best]:
    """All measures of this module that apply: the warping error to 2D images only.

    Keys ``pixel_error``, ``rand_error``, ``warping_error``, ``v_rand``, ``v_info``. Arguments as in
    :func:`pixel_error`.
    """
    pairs = _pairs(probability, truth)
    p, t = [p for p, _ in pairs], [t for _, t in pairs]
    scores = {
        "pixel_error": pixel_error(p, t, thresholds=thresholds),
        "rand_error": rand_error(p, t, thresholds=thresholds),
    }
    if all(image.ndim == 2 for image in t):
        scores["warping_error"] = warping_error(p, t, thresholds=thresholds)
    return scores | thinned_scores(p, t, thresholds=thresholds)._asdict()


def _best(
    choose: Callable[..., tuple[float, float]], values: Iterable[float], thresholds: Sequence[float]
) -> Best:
    if not thresholds:
        raise ValueError("thresholds is empty: give at least one, for instance thresholds=(0.5,).")
    defined = [pair for pair in zip(values, thresholds, strict=True) if not math.isnan(pair[0])]
    return Best(*choose(defined, key=operator.itemgetter(0))) if defined else Best(math.nan, math.nan)


def _pairs(probability: Images, truth: Images) -> Pairs:
    """Probability and truth of each image, as arrays that are what they should be."""
    first, second = _several(probability), _several(truth)
    if len(first) != len(second) or not first:
        raise ValueError(
            f"There are {len(first)} probability maps and {len(second)} true images: "
            "give as many of the one as of the other, at least one."
        )
    return [(_probability(p), _inside(t, tuple(p.shape))) for p, t in zip(first, second, strict=True)]


def _several(images: Images) -> list[Array]:
    return [images] if isinstance(images, np.ndarray | torch.Tensor) else list(images)


def _probability(image: Array) -> npt.NDArray[Any]:
    if isinstance(image, torch.Tensor):
        image = image.detach().float().cpu().numpy()
    if image.ndim not in (2, 3):
        raise ValueError(
            f"A probability map has the shape {image.shape}; it is an image (X, Y) or a volume (X, Y, Z) "
            "without batch or channel axis."
        )
    if image.size == 0:
        raise ValueError(f"A probability map has the shape {image.shape}: there is nothing to score.")
    lowest, highest = float(image.min()), float(image.max())
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(
            f"A probability map runs from {lowest:g} to {highest:g}; probabilities are 0 to 1. "
            "Divide 8-bit maps by 255, and apply softmax to logits."
        )
    return image


def _inside(image: Array, shape: tuple[int, ...]) -> Bools:
    if tuple(image.shape) != shape:
        raise ValueError(
            f"A probability map has the shape {shape}, its truth {tuple(image.shape)}: they have to agree."
        )
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    inside = array != 0
    if array.dtype != bool and (array[inside] != 1).any():
        raise ValueError(
            f"The truth holds {array[inside & (array != 1)][0]}; it is 1 inside cells and 0 on membranes. "
            "Say which labels are inside, for instance truth == 255."
        )
    return inside


def _components(inside: Bools) -> Ids:
    return np.asarray(ndimage.label(inside)[0], np.int64)


def _thinned(inside: Bools) -> Ids:
    """Segments grown over the membrane until lines one pixel wide part them, 0 on the lines."""
    grown = watershed((~inside).astype(np.uint8), _components(inside), connectivity=1, watershed_line=True)
    return np.asarray(grown, np.int64)


def _within(true: Ids, predicted: Ids) -> tuple[Ids, Ids]:
    """True and predicted segment of each truly inside pixel; predicted membrane pixels each their own."""
    inside = true > 0
    labels = predicted[inside]
    alone = np.flatnonzero(labels == 0)
    labels[alone] = predicted.max() + 1 + np.arange(alone.size)
    return true[inside], labels


def _rand(sections: Sequence[tuple[Ids, Ids]]) -> float:
    """Adapted Rand error over all sections; no two sections share a segment."""
    filled = [section for section in sections if section[0].size]
    if not filled:
        return math.nan
    true, predicted = (_joined(side) for side in zip(*filled, strict=True))
    with np.errstate(invalid="ignore"):  # nothing but segments of one pixel: 0 / 0
        # membranes are left out already; the default would leave out segment 0 of the truth
        return float(adapted_rand_error(true, predicted, ignore_labels=())[0])


def _joined(sections: Sequence[Ids]) -> Ids:
    """One after the other, with the ids of each above those of all before."""
    starts = np.cumsum([0, *(int(section.max()) + 1 for section in sections[:-1])])
    return np.concatenate([section + start for section, start in zip(sections, starts, strict=True)])


def _information(true: Ids, predicted: Ids) -> float:
    """2 I / (H + H) = 1 - VI / (H + H); two segmentations that both are one segment agree."""
    entropies = _entropy(true) + _entropy(predicted)
    distance = float(variation_of_information(true, predicted, ignore_labels=()).sum())
    return max(0.0, 1 - distance / entropies) if entropies else 1.0


def _entropy(labels: Ids) -> float:
    """In bits."""
    counts = np.bincount(labels)
    share = counts[counts > 0] / labels.size
    return float(-(share * np.log2(share)).sum())
