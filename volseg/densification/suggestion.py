"""Which slice, or place, to paint next: where the model expects most of its own errors.

Calibrated probabilities say how often each class is taken for which other, slice by slice, without any
truth: the *expected confusion*. Whoever paints a slice removes the errors on it, and some of those
nearby, the fewer the further away. What that does to the mean IoU is the expected gain; it rises where a
rare class is confused, not only where many voxels are uncertain.

On small volumes the rise was a quarter of the expected gain to all of it (``benchmarks/suggestion.py``):
some errors stay, because the image does not show better. Take it as what is possible.

Where a person paints strokes, a place is suggested: the one around which expected errors weigh most, an error
in a class as the inverse of how much of it there is, which is what it takes from its IoU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation import find_slices
from volseg.annotation.strokes import are_strokes
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX
from volseg.metrics import iou, mean_score
from volseg.report import Suggestion

__all__ = ["SUGGESTION_DEFAULT", "Candidate", "expected_gains", "suggest", "suggest_place"]

SUGGESTION_DEFAULT = True
"""Whether a report suggests a slice unless set otherwise: it beat its controls, see docs/results.md."""

_NEAR = 2  # slices this close to a painted one are not suggested
_REACH = 4.0  # slices over which the effect of a painted one falls to 1/e
_COARSE = 1.5  # how much longer a voxel may be along one axis for slices along it to be painted


_AROUND = 3.0  # voxels of the finest axis over which errors around a place are gathered
_AWAY = 6.0  # the same, that a place is away from paint


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
    names: Sequence[str] = (),
) -> Suggestion | None:
    """The slice to paint next; ``None`` if every slice is painted or next to one that is.

    Where strokes are painted, the place; see :func:`suggest_place`.

    Args:
        probabilities: calibrated, ``(C, *spatial)``.
        labels: what is painted, ``(*spatial)``, 255 elsewhere.
        spacing: voxel size along each axis. Slices that cut across a longer one are not suggested:
            people cannot paint on them.
        missing: what the mean IoU may rise by, as measured on held-out slices. Probabilities that expect
            more errors than there are would gain more than that.
        names: of the classes, by index.
    """
    if are_strokes(labels):
        named = names or [f"class {c}" for c in range(len(probabilities))]
        return suggest_place(probabilities, labels, named, spacing=spacing)
    candidates = expected_gains(probabilities, labels, spacing=spacing)
    if not candidates:
        return None
    best = max(candidates, key=lambda candidate: candidate.gain)
    text = "Most errors are expected on it and nearby; the gain is what it would be if all of them went."
    return Suggestion(best.axis, best.index, min(best.gain, missing), text)


def suggest_place(
    probabilities: npt.NDArray[Any],
    labels: npt.NDArray[np.uint8],
    names: Sequence[str],
    *,
    spacing: Sequence[float] | None = None,
) -> Suggestion | None:
    """Where to draw strokes next, on which slice, and which classes are in question there.

    Args:
        probabilities, labels, spacing: as for :func:`suggest`.
        names: of the classes, by index.

    Returns:
        ``None`` if no unpainted voxel is away from paint, or none is unsure.
    """
    sizes = np.ones(labels.ndim) if spacing is None else np.asarray(spacing, float)
    steps = sizes / sizes.min()
    weights = 1 / np.maximum(probabilities.reshape(len(names), -1).sum(1, dtype=np.float64), 1)
    best, chosen = probabilities.max(0), weights[probabilities.argmax(0)]
    harm = np.tensordot(weights, probabilities, 1) - best * chosen + (1 - best) * chosen
    harm[labels != IGNORE_INDEX] = 0
    gathered = ndimage.gaussian_filter(harm, _AROUND / steps, mode="constant")
    if np.any(labels != IGNORE_INDEX):
        gathered[ndimage.distance_transform_edt(labels == IGNORE_INDEX, sampling=steps) < _AWAY] = 0
    if not gathered.max() > 0:
        return None
    point = tuple(int(i) for i in np.unravel_index(int(gathered.argmax()), labels.shape))
    reach = np.ceil(_AROUND / steps).astype(int)
    near = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(point, reach, strict=True))
    ranked = np.argsort(-probabilities[:, *near].reshape(len(names), -1).mean(1))
    axis = -1
    if labels.ndim == 3:
        across = {a: near[:a] + (slice(point[a], point[a] + 1),) + near[a + 1 :] for a in range(3)}
        axis = max(reversed(_paintable(spacing, 3)), key=lambda a: harm[across[a]].mean())
    return Suggestion(
        AXES[axis] if axis >= 0 else "",
        point[axis] if axis >= 0 else 0,
        text="The result is least sure there, where an error counts.",
        point=point,
        classes=tuple(names[c] for c in ranked[:2]),
    )


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
