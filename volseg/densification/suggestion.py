"""Which slice to paint next: where the model expects most of its own errors.

Calibrated probabilities say how often each class is taken for which other, slice by slice, without any
truth: the *expected confusion*. Whoever paints a slice removes the errors on it, and some of those
nearby, the fewer the further away. What that does to the mean IoU is the expected gain; it rises where a
rare class is confused, not only where many voxels are uncertain.

On small volumes the rise was a quarter of the expected gain to all of it (``benchmarks/suggestion.py``):
some errors stay, because the image does not show better. Take it as what is possible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation import find_slices
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.metrics import iou, mean_score
from volseg.report import Suggestion

__all__ = ["SUGGESTION_DEFAULT", "Candidate", "expected_gains", "suggest"]

SUGGESTION_DEFAULT = True
"""Whether a report suggests a slice unless set otherwise: it beat its controls, see docs/results.md."""

_NEAR = 2  # slices this close to a painted one are not suggested
_REACH = 4.0  # slices over which the effect of a painted one falls to 1/e
_COARSE = 1.5  # how much longer a voxel may be along one axis for slices along it to be painted


@dataclass(frozen=True)
class Candidate:
    """A slice, and by how much painting it should raise the mean IoU."""

    axis: str
    index: int
    gain: float


def suggest(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[np.uint8],
    *,
    spacing: Sequence[float] | None = None,
    missing: float = 1.0,
) -> Suggestion | None:
    """The slice to paint next; ``None`` if every slice is painted or next to one that is.

    Args:
        probabilities: calibrated, ``(C, *spatial)``.
        labels: what is painted, ``(*spatial)``, 255 elsewhere.
        spacing: voxel size along each axis. Slices that cut across a longer one are not suggested:
            people cannot paint on them.
        missing: what the mean IoU may rise by, as measured on held-out slices. Probabilities that expect
            more errors than there are would gain more than that.
    """
    candidates = expected_gains(probabilities, labels, spacing=spacing)
    if not candidates:
        return None
    best = max(candidates, key=lambda candidate: candidate.gain)
    text = "Most errors are expected on it and nearby; the gain is what it would be if all of them went."
    return Suggestion(best.axis, best.index, min(best.gain, missing), text)


def expected_gains(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[np.uint8],
    *,
    spacing: Sequence[float] | None = None,
) -> list[Candidate]:
    """All slices that could be painted, and what is expected of each."""
    if probabilities.shape[1:] != labels.shape:
        raise ValueError(
            f"probabilities have the shape {probabilities.shape}, labels {labels.shape}: (C, *spatial) and "
            "(*spatial) are needed."
        )
    painted = find_slices(labels)
    confusions = _confusions(probabilities, labels)
    candidates = []
    for axis in _paintable(spacing, labels.ndim):
        matrices = confusions[axis]
        n = len(matrices)
        now = matrices.sum(0)
        before = mean_score(iou(now))
        solved = np.zeros_like(matrices)  # the same voxels without errors
        c = np.arange(matrices.shape[1])
        solved[:, c, c] = matrices.sum(2)
        distance = np.abs(np.arange(n)[:, None] - np.arange(n))
        better = now + np.tensordot(np.exp(-distance / _REACH), solved - matrices, 1)
        done = np.array(painted[AXES[axis]], int)
        for index in range(n):
            if np.all(np.abs(done - index) > _NEAR):
                gain = mean_score(iou(better[index])) - before
                candidates.append(Candidate(AXES[axis], index, gain))
    return candidates


def _confusions(
    probabilities: npt.NDArray[Any], labels: npt.NDArray[np.uint8]
) -> list[npt.NDArray[np.float64]]:
    """Per axis the expected confusion of each slice, ``(n, C, C)``; painted voxels are right."""
    classes = len(probabilities)
    predicted = probabilities.argmax(0)
    unknown = labels == IGNORE_INDEX
    sums = [np.zeros((n, classes, classes)) for n in labels.shape]
    for column in range(classes):
        chosen = unknown & (predicted == column)
        for row in range(classes):
            mass = np.where(chosen, probabilities[row], 0)
            for axis, matrices in enumerate(sums):
                others = tuple(a for a in range(labels.ndim) if a != axis)
                matrices[:, row, column] += mass.sum(others, dtype=np.float64)
        known = labels == column
        for axis, matrices in enumerate(sums):
            others = tuple(a for a in range(labels.ndim) if a != axis)
            matrices[:, column, column] += np.count_nonzero(known, axis=others)
    return sums


def _paintable(spacing: Sequence[float] | None, dims: int) -> list[int]:
    """Axes whose slices have no voxels longer than wide."""
    if spacing is None or dims < 3:
        return list(range(dims))
    longest = max(range(dims), key=lambda axis: spacing[axis])
    others = [spacing[axis] for axis in range(dims) if axis != longest]
    return [longest] if spacing[longest] > _COARSE * max(others) else list(range(dims))
