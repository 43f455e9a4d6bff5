"""How sure a model may be: one temperature, fitted on slices that it was not trained on.

A model says 0.99 too often. Divided by a temperature before the softmax, its scores say what they
should, and no voxel changes its class (Guo et al. 2017, Sec. 4.2).

*Scores* are logits or log probabilities, ``(C, *spatial)``: adding a number to all classes changes
nothing, so either will do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import log_softmax

from volseg.labels import IGNORE_INDEX
from volseg.report import Calibration

__all__ = ["Calibrator", "HeldOutScores", "calibrate", "held_out_sample", "log_scores"]

Floats = npt.NDArray[np.float32]

_RANGE = (0.05, 20.0)  # of temperatures
_BINS = 15
_CHUNK = 2**20
_SMALLEST = 1e-7  # probability, so that its logarithm is a number


class HeldOutScores(NamedTuple):
    """Scores and truth of held-out voxels, ``(N, C)`` and ``(N,)``."""

    scores: Floats
    truth: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Calibrator:
    """Turns scores into probabilities.

    Args:
        chart: how much it helped, measured on folds that the temperature was not fitted on.
    """

    temperature: float = 1.0
    chart: Calibration | None = None

    def probabilities(self, scores: npt.NDArray[Any]) -> Floats:
        """Calibrated probabilities of all classes, ``(C, *spatial)``."""
        return _softmax(scores, self.temperature)

    def confidence(self, scores: npt.NDArray[Any], labels: npt.NDArray[Any] | None = None) -> Floats:
        """The probability that the class with the highest score is right, ``(*spatial)``.

        Args:
            labels: painted classes, which are right wherever they are not 255.
        """
        probabilities = self.probabilities(scores).max(0)
        if labels is not None:
            probabilities[labels != IGNORE_INDEX] = 1
        return probabilities


def log_scores(probabilities: npt.NDArray[Any]) -> Floats:
    """Scores of a method that gives probabilities, some of them 0."""
    return np.log(np.maximum(probabilities, _SMALLEST)).astype(np.float32)


def held_out_sample(
    scores: npt.NDArray[Any], test: npt.NDArray[np.uint8], *, limit: int = 100_000, seed: int = 0
) -> HeldOutScores:
    """The held-out voxels of a fold, at most ``limit`` of them, drawn evenly."""
    if scores.shape[1:] != test.shape:
        raise ValueError(f"scores have the shape {scores.shape}, test {test.shape}: (C, *spatial) is needed.")
    voxels = np.flatnonzero(test != IGNORE_INDEX)
    if len(voxels) > limit:
        voxels = np.sort(np.random.default_rng(seed).choice(voxels, limit, replace=False))
    flat = scores.reshape(len(scores), -1)
    return HeldOutScores(np.asarray(flat[:, voxels].T, np.float32), test.reshape(-1)[voxels])


def calibrate(samples: Sequence[HeldOutScores]) -> Calibrator:
    """The temperature with the highest likelihood on held-out voxels; 1 if there are none.

    Args:
        samples: one per fold. With two or more, each fold is also calibrated with the temperature of the
            others, which is what ``chart`` shows.
    """
    samples = [sample for sample in samples if len(sample.truth)]
    if not samples:
        return Calibrator()
    chart = None
    if len(samples) > 1:
        before, after = [], []
        for i, sample in enumerate(samples):
            others = _temperature([*samples[:i], *samples[i + 1 :]])
            before.append(_certainty(sample, 1.0))
            after.append(_certainty(sample, others))
        chart = _chart(np.concatenate(before, 1), np.concatenate(after, 1))
    return Calibrator(_temperature(samples), chart)


def _temperature(samples: Sequence[HeldOutScores]) -> float:
    """Minimises the negative log-likelihood, which has one minimum in 1/T."""
    scores = np.concatenate([sample.scores for sample in samples])
    truth = np.concatenate([sample.truth for sample in samples]).astype(np.intp)[:, None]

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(scores / np.float32(np.exp(log_temperature)), axis=1)
        return -float(np.take_along_axis(scaled, truth, 1).mean(dtype=np.float64))

    found = optimize.minimize_scalar(loss, bounds=np.log(_RANGE).tolist(), method="bounded")
    return float(np.exp(found.x))


def _certainty(sample: HeldOutScores, temperature: float) -> npt.NDArray[np.float64]:
    """Confidence of each voxel, and whether its class is right: ``(2, N)``."""
    probabilities = _softmax(sample.scores.T, temperature)
    return np.stack([probabilities.max(0), probabilities.argmax(0) == sample.truth]).astype(np.float64)


def _chart(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> Calibration:
    edges = np.linspace(0, 1, _BINS + 1)
    curves, errors = [], []
    for confidence, right in (before, after):
        bins = np.clip(np.digitize(confidence, edges) - 1, 0, _BINS - 1)
        n, sure, hits = (np.bincount(bins, w, _BINS) for w in (None, confidence, right))
        curves.append([float(h / m) if m else None for h, m in zip(hits, n, strict=True)])
        errors.append(float(np.abs(hits - sure).sum() / n.sum()))
    return Calibration(edges.tolist(), curves[0], curves[1], errors[0], errors[1])


def _softmax(scores: npt.NDArray[Any], temperature: float) -> Floats:
    """Along the first axis, in float32, block by block."""
    flat = scores.reshape(len(scores), -1)
    result = np.empty(flat.shape, np.float32)
    for start in range(0, flat.shape[1], _CHUNK):
        part = flat[:, start : start + _CHUNK].astype(np.float32) / np.float32(temperature)
        part -= part.max(0)
        np.exp(part, out=part)
        result[:, start : start + _CHUNK] = part / part.sum(0)
    return result.reshape(scores.shape)
