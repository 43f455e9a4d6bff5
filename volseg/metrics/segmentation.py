"""Scores of a segmentation into classes, and the one figure that stands for a result.

Everything starts from a confusion matrix, because matrices of slices, tiles and volumes add up and a
mean of scores does not. Arrays may be numpy or torch, of any shape, as class indices.

The one figure that stands for a result: the mean over the classes that are looked for.

Background is most of most volumes, and easy: counted like a class, it lifts a mean of two by a quarter. So
the *headline* is the mean over the foreground classes, where one class is the background, and over all
classes where none is. Either way its name says which, and the mean of all stands beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from volseg.labels import IGNORE_INDEX, background_of

__all__ = ["Headline", "boundary_f1", "confusion_matrix", "dice", "iou", "mean_score"]

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Floats: TypeAlias = npt.NDArray[np.float64]

_CHUNK = 2**22
_DILATION_LIMIT = 4  # voxels; beyond, a distance transform is quicker than a dilation by a ball


def confusion_matrix(
    prediction: Array, target: Array, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> npt.NDArray[np.int64]:
    """Voxels per true class (row) and predicted class (column), ``(num_classes, num_classes)``.

    Only voxels whose target is not ``ignore_index`` count; the prediction may hold anything elsewhere.
    Tensors are counted on their own device.
    """
    if tuple(prediction.shape) != tuple(target.shape):
        raise ValueError(
            f"prediction has the shape {tuple(prediction.shape)}, target {tuple(target.shape)}: "
            "they have to be the same voxels."
        )
    predicted, true = _flat(prediction), _flat(target)
    if predicted.device != true.device:
        true = true.to(predicted.device)
    matrix = torch.zeros(num_classes**2, dtype=torch.int64, device=predicted.device)
    for start in range(0, true.numel(), _CHUNK):
        rows, columns = true[start : start + _CHUNK], predicted[start : start + _CHUNK]
        annotated = rows != ignore_index
        rows = _checked(rows[annotated], "target", num_classes, ignore_index)
        columns = _checked(columns[annotated], "prediction", num_classes, ignore_index)
        matrix += torch.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return matrix.reshape(num_classes, num_classes).cpu().numpy()


def iou(matrix: npt.ArrayLike) -> Floats:
    """Intersection over union of each class, TP/(TP+FP+FN), from a confusion matrix.

    The measure of Çiçek et al. 2016, Sec. 4. ``nan`` for a class that is absent from both truth and
    prediction: nothing was asked of it.
    """
    hits, truth, predicted = _marginals(matrix)
    return _ratio(hits, truth + predicted - hits)


def dice(matrix: npt.ArrayLike) -> Floats:
    """Dice coefficient of each class, 2TP/(2TP+FP+FN), from a confusion matrix; ``nan`` as in :func:`iou`."""
    hits, truth, predicted = _marginals(matrix)
    return _ratio(2 * hits, truth + predicted)


def mean_score(scores: npt.ArrayLike) -> float:
    """Mean over the classes that have a score; ``nan`` if none has."""
    values = np.asarray(scores, np.float64).reshape(-1)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def boundary_f1(
    prediction: Array, truth: Array, *, tolerance: float = 1, mask: Array | None = None
) -> tuple[float, float, float]:
    """Precision, recall and F1 of a thin structure, forgiving errors of position.

    IoU and Dice of a membrane one or two voxels thick say little: shifted by one voxel against itself
    it scores 0.7. Here a predicted voxel is right if a true one lies within ``tolerance``, and a true
    voxel is found if a predicted one does.

    Args:
        prediction: the structure as predicted, ``(*spatial)``, true or nonzero inside.
        truth: the structure as annotated.
        tolerance: Euclidean distance in voxels; 0 gives the ordinary precision, recall and Dice.
        mask: annotated voxels. Elsewhere truth is unknown: neither array is looked at there.

    Returns:
        Precision is ``nan`` where nothing is predicted, recall where nothing is true, F1 where both.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance} must be 0 or more, in voxels.")
    predicted, true = _boolean(prediction), _boolean(truth)
    if predicted.shape != true.shape:
        raise ValueError(
            f"prediction has the shape {predicted.shape}, truth {true.shape}: they have to agree."
        )
    if mask is not None:
        inside = _boolean(mask)
        if inside.shape != true.shape:
            raise ValueError(f"mask has the shape {inside.shape}, truth {true.shape}: they have to agree.")
        predicted, true = predicted & inside, true & inside
    right = int(np.count_nonzero(predicted & _within(true, tolerance)))
    found = int(np.count_nonzero(true & _within(predicted, tolerance)))
    of_predicted, of_true = int(np.count_nonzero(predicted)), int(np.count_nonzero(true))
    precision = right / of_predicted if of_predicted else math.nan
    recall = found / of_true if of_true else math.nan
    if not of_predicted or not of_true:
        return precision, recall, 0.0 if of_predicted or of_true else math.nan
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def _flat(array: Array) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.as_subclass(torch.Tensor).detach().reshape(-1)
    array = np.ascontiguousarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable:  # torch warns about memory it may not write to
        array = array.copy()
    return torch.from_numpy(array).reshape(-1)


def _checked(values: torch.Tensor, name: str, num_classes: int, ignore_index: int) -> torch.Tensor:
    """Class indices as int64; refuses everything that is not a class."""
    indices = values.to(torch.int64)
    wrong = (indices < 0) | (indices >= num_classes)
    if values.is_floating_point():
        wrong |= indices != values
    if wrong.any():
        raise ValueError(
            f"{name} holds {values[wrong][0].item()} at an annotated voxel; class indices are 0 to "
            f"{num_classes - 1}, and {ignore_index} in the target for unlabelled."
        )
    return indices


def _marginals(matrix: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Hits, true voxels and predicted voxels of each class."""
    counts = np.asarray(matrix, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"matrix has the shape {counts.shape}; a confusion matrix is square.")
    return np.diagonal(counts), counts.sum(1), counts.sum(0)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _boolean(array: Array) -> npt.NDArray[np.bool_]:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu().numpy()
    return np.asarray(array) != 0


def _within(structure: npt.NDArray[np.bool_], tolerance: float) -> npt.NDArray[np.bool_]:
    """Voxels at most ``tolerance`` away from the structure."""
    if tolerance < 1 or not structure.any():
        return structure
    if tolerance <= _DILATION_LIMIT:
        reach = int(tolerance)
        offsets = np.indices((2 * reach + 1,) * structure.ndim) - reach
        return np.asarray(ndimage.binary_dilation(structure, (offsets**2).sum(0) <= tolerance**2))
    return np.asarray(ndimage.distance_transform_edt(~structure)) <= tolerance


_NAMED = 5  # classes, at most, in the name


@dataclass(frozen=True)
class Headline:
    """Which classes the headline is the mean of, and what it is called.

    Args:
        names: of all classes, in the order of their indices.
        background: the index of the background, where that is known from elsewhere, as from paint in which 0
            was taken for it; ``None``: the class that is named so, if one is.
    """

    names: Sequence[str]
    background: int | None = None

    def __post_init__(self) -> None:
        if self.background is None:
            object.__setattr__(self, "background", background_of(self.names))
        elif not 0 <= self.background < len(self.names):
            raise ValueError(
                f"background = {self.background} must be the index of a class, 0 to {len(self.names) - 1}."
            )

    @property
    def leaves_out(self) -> bool:
        """Whether there is a background beside other classes."""
        return self.background is not None and len(self.names) > 1

    @property
    def classes(self) -> list[int]:
        """The indices of the classes it is the mean of."""
        return [i for i in range(len(self.names)) if not (self.leaves_out and i == self.background)]

    def mean(self, scores: Sequence[float] | npt.NDArray[Any]) -> float:
        """The mean of such scores of all classes, of those that have one; NaN if none has."""
        return mean_score([scores[i] for i in self.classes])

    def title(self, measure: str = "IoU") -> str:
        """``mean IoU over foreground classes (nucleus)``."""
        named = [self.names[i] for i in self.classes]
        more = f" and {len(named) - _NAMED + 1} more" if len(named) > _NAMED else ""
        listed = ", ".join(named[: _NAMED - 1] if more else named) + more
        if self.leaves_out:
            return f"mean {measure} over foreground classes ({listed})"
        return f"mean {measure} over all classes ({listed}; none is background)"

    def beside(self, mean_of_all: float | None) -> str:
        """``with background 0.843``, to stand beside it; empty where it is the mean of all classes."""
        if not self.leaves_out or mean_of_all is None or math.isnan(mean_of_all):
            return ""
        return f"with background {mean_of_all:.3f}"

    def in_words(
        self,
        value: float | None,
        interval: tuple[float, float] | None = None,
        mean_of_all: float | None = None,
        measure: str = "IoU",
    ) -> str:
        """``mean IoU over foreground classes (nucleus): 0.698 (0.42 – 0.91); with background 0.843``."""
        figure = "unknown" if value is None or math.isnan(value) else f"{value:.3f}"
        if interval is not None:
            figure += f" ({interval[0]:.2f} – {interval[1]:.2f})"
        beside = self.beside(mean_of_all)
        return f"{self.title(measure)}: {figure}" + (f"; {beside}" if beside else "")
