"""Classes that are painted more often than they occur: by how much log probabilities have to be moved.

Strokes are not slices. A person paints a rare class about as often as a common one, and what learns from that
takes the rare one to be common: it comes out too fat. How common classes are in the volume can be estimated
from what is predicted of voxels without paint, by expectation maximisation (Saerens, Latinne and
Decaestecker 2002, Sec. 2.2), and the probabilities be corrected for it.

Two things speak against believing the estimate. With little paint, the predictions behind it are worth hardly
anything: it is held to the shares of the painted voxels, the more the fewer these are. And a person who
corrects a result paints where it is wrong. Then the shares of the paint say where it *was* wrong, not how
common classes were taken to be, and there is nothing to correct: see :func:`trust_in`.
"""

import numpy as np
import numpy.typing as npt

from volseg.learning import Scores

__all__ = ["class_shares", "offsets", "trust_in"]

_HELD = 200  # painted voxels with which as much is held on to the shares of the paint as to the predictions
_ITERATIONS = 30
_RAREST = 1e-5
_CORRECTS, _PAINTS_ANYWHERE = 0.5, 0.9  # of what was painted, the share that had been right before


def class_shares(scores: Scores, painted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How common each class is among voxels that were not painted, ``(classes,)``; they sum to 1.

    Args:
        scores: log probabilities of such voxels, chosen at random, ``(classes, n)``, by what was learnt from
            the paint.
        painted: voxels per class ``(classes,)``; a class without any has the share that is predicted.
    """
    there = painted > 0
    learnt_with = np.where(there, painted, 1) / np.where(there, painted, 1).sum()
    shifted = np.exp(scores - scores.max(0))
    probabilities = (shifted / shifted.sum(0)).astype(np.float64)
    held = learnt_with * (_HELD / max(int(painted.sum()), 1)) * scores.shape[1]
    shares = learnt_with
    for _ in range(_ITERATIONS):
        corrected = probabilities * (shares / learnt_with)[:, None]
        corrected /= corrected.sum(0)
        shares = np.maximum(corrected.sum(1) + held, _RAREST * scores.shape[1])
        shares /= shares.sum()
    return shares


def offsets(scores: Scores, painted: npt.NDArray[np.int64], trust: float = 1.0) -> npt.NDArray[np.float32]:
    """What is added to log probabilities so that no class is as common as its paint but as it is predicted.

    Args:
        scores, painted: as for :func:`class_shares`.
        trust: from 0, which changes nothing, to 1; see :func:`trust_in`.

    Returns:
        ``(classes,)``; 0 for a class that is not painted.
    """
    there = painted > 0
    if trust <= 0 or there.sum() < 2:
        return np.zeros(len(painted), np.float32)
    shares = class_shares(scores, painted)
    ratio = shares * painted.sum() / np.where(there, painted, 1)
    return np.where(there, trust * np.log(ratio), 0).astype(np.float32)


def trust_in(agreement: float) -> float:
    """How far the shares of the paint can be taken for what a class was taken to be, from 0 to 1.

    Args:
        agreement: the share of the painted voxels that had been predicted as they were painted then. It is
            low where a person corrects, and high where one paints anywhere.
    """
    return float(np.clip((agreement - _CORRECTS) / (_PAINTS_ANYWHERE - _CORRECTS), 0, 1))
