"""How well objects were found, one by one: cells or nuclei that touch.

Images are integer arrays of object ids, 2D or 3D, 0 for background; which id an object bears does not
matter. Voxels with a negative id in the truth are unlabelled and are not looked at, as in
:func:`volseg.weightmaps.border_weight_map`. An object is all voxels of an id, connected or not.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import contingency_table

__all__ = [
    "MergesAndSplits",
    "average_precision",
    "instance_scores",
    "matched_iou",
    "merges_and_splits",
    "object_precision",
    "seg_score",
]

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Floats: TypeAlias = npt.NDArray[np.float64]
Ids: TypeAlias = npt.NDArray[np.int64]

IOU_THRESHOLDS = tuple(i / 20 for i in range(10, 20))


class MergesAndSplits(NamedTuple):
    """True objects that lost their identity."""

    merged: int  # share one predicted object with another true object
    split: int  # fell into several predicted objects


class _Overlaps(NamedTuple):
    """Pairs of a true and a predicted object that overlap, and the sizes of all objects, in voxels."""

    true: Ids  # (pairs,) index into true_sizes
    predicted: Ids  # (pairs,) index into predicted_sizes
    voxels: Floats  # (pairs,) common to both
    true_sizes: Floats
    predicted_sizes: Floats

    @property
    def iou(self) -> Floats:
        return self.voxels / (self.true_sizes[self.true] + self.predicted_sizes[self.predicted] - self.voxels)


def matched_iou(prediction: Array, truth: Array) -> Floats:
    """IoU of each true object with the predicted one that covers more than half of it, else 0.

    One number per true object, in the order of ascending ids; those of several images can be joined.
    """
    return _matched_iou(_overlaps(prediction, truth))


def seg_score(prediction: Array, truth: Array) -> float:
    """Mean of :func:`matched_iou`: SEG of the cell tracking challenge. ``nan`` without true objects.

    The measure of Ronneberger et al. 2015, Table 2. A predicted object that covers no true one costs
    nothing; see :func:`average_precision` for that.
    """
    return _mean(matched_iou(prediction, truth))


def object_precision(
    prediction: Array, truth: Array, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> Floats:
    """TP / (TP + FP + FN) of objects, a true one being found if some predicted one has IoU > threshold.

    As in the 2018 Data Science Bowl. ``nan`` where there are no objects at all.

    Args:
        thresholds: 0.5 to 1; from 0.5 on no object can match twice.
    """
    return _object_precision(_overlaps(prediction, truth), thresholds)


def average_precision(
    prediction: Array, truth: Array, *, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> float:
    """Mean of :func:`object_precision` over IoU thresholds 0.5, 0.55, ..., 0.95."""
    return _mean(object_precision(prediction, truth, thresholds=thresholds))


def merges_and_splits(prediction: Array, truth: Array) -> MergesAndSplits:
    """How many true objects were merged with another, and how many were split.

    Merged: a predicted object covers more than half of it, and more than half of another one too.
    Split: two or more predicted objects lie with more than half of themselves in it. Swapping the
    arrays swaps the roles, not the numbers: two cells merged into one are 2 merged objects, one cell
    split in two is 1 split object.
    """
    return _merges_and_splits(_overlaps(prediction, truth))


def instance_scores(prediction: Array, truth: Array) -> dict[str, float]:
    """All at once: ``seg``, ``precision_50``, ``average_precision``, ``merged``, ``split``, ``objects``."""
    overlaps = _overlaps(prediction, truth)
    precision = _object_precision(overlaps, IOU_THRESHOLDS)
    merges = _merges_and_splits(overlaps)
    return {
        "seg": _mean(_matched_iou(overlaps)),
        "precision_50": float(precision[0]),
        "average_precision": _mean(precision),
        "merged": merges.merged,
        "split": merges.split,
        "objects": len(overlaps.true_sizes),
    }


def _matched_iou(overlaps: _Overlaps) -> Floats:
    scores = np.zeros(len(overlaps.true_sizes))
    covers = 2 * overlaps.voxels > overlaps.true_sizes[overlaps.true]
    scores[overlaps.true[covers]] = overlaps.iou[covers]
    return scores


def _object_precision(overlaps: _Overlaps, thresholds: Sequence[float]) -> Floats:
    wrong = [t for t in thresholds if not 0.5 <= t <= 1]
    if wrong or not thresholds:
        raise ValueError(
            f"thresholds = {list(thresholds)} has to hold IoU from 0.5 to 1: "
            "below 0.5 an object could match more than one other."
        )
    found = (overlaps.iou[:, None] > np.asarray(thresholds)).sum(0)
    all_objects = len(overlaps.true_sizes) + len(overlaps.predicted_sizes)
    return found / (all_objects - found) if all_objects else np.full(len(thresholds), np.nan)


def _merges_and_splits(overlaps: _Overlaps) -> MergesAndSplits:
    covered = 2 * overlaps.voxels > overlaps.true_sizes[overlaps.true]
    per_predicted = np.bincount(overlaps.predicted[covered])
    contained = 2 * overlaps.voxels > overlaps.predicted_sizes[overlaps.predicted]
    per_true = np.bincount(overlaps.true[contained])
    return MergesAndSplits(int(per_predicted[per_predicted > 1].sum()), int(np.count_nonzero(per_true > 1)))


def _overlaps(prediction: Array, truth: Array) -> _Overlaps:
    predicted, true = _ids(prediction, "prediction"), _ids(truth, "truth")
    if predicted.shape != true.shape:
        raise ValueError(
            f"prediction has the shape {predicted.shape}, truth {true.shape}: they have to agree."
        )
    known = true >= 0
    predicted, true = predicted[known], true[known]
    if predicted.size and predicted.min() < 0:
        raise ValueError(
            f"prediction holds the id {predicted.min()}; ids are 0 for background and positive for objects. "
            "Only the truth may have unlabelled voxels."
        )
    if not true.size:
        none = np.zeros(0, np.int64)
        return _Overlaps(none, none, np.zeros(0), np.zeros(0), np.zeros(0))
    true_ids, rows = np.unique(true, return_inverse=True)
    predicted_ids, columns = np.unique(predicted, return_inverse=True)
    table = contingency_table(rows, columns, ignore_labels=(), sparse_type="array").tocoo()
    # drop the background; where there is none, the first id is an object
    first_true, first_predicted = int(0 in true_ids[:1]), int(0 in predicted_ids[:1])
    objects = (table.row >= first_true) & (table.col >= first_predicted)
    return _Overlaps(
        table.row[objects].astype(np.int64) - first_true,
        table.col[objects].astype(np.int64) - first_predicted,
        table.data[objects],
        np.bincount(rows)[first_true:].astype(np.float64),
        np.bincount(columns)[first_predicted:].astype(np.float64),
    )


def _ids(image: Array, name: str) -> npt.NDArray[Any]:
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name} is of type {array.dtype}; object ids are integers. "
            "Give a mask its ids first, for instance by scipy.ndimage.label."
        )
    return array


def _mean(scores: Floats) -> float:
    return float(scores.mean()) if scores.size else math.nan
