"""How much each part of a joined learner counts: what would have been best on the slices that were held out.

Which of two learners knows a structure better depends on the image, the paint and the time, so it is not set
but measured. A fold is scored with the share that was best on all *other* folds, so that the choice does not
flatter what is reported. The result has the share that was best on all of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from volseg.densification.scoring import Tested
from volseg.learning import Scores, Task, mixed
from volseg.metrics import confusion_matrix, iou, mean_score

__all__ = ["Joined", "choose_share", "in_words", "joined_folds"]

_SHARES = (0.4, 0.2, 0.6, 0.0, 0.8)  # of the second part; of equal ones the first is taken
_LOOKED_AT = 50_000  # voxels of a fold


@runtime_checkable
class Joined(Protocol):
    """A model of two parts.

    Attributes:
        share: of the second.
    """

    share: float

    def parts_at(self, task: Task, where: npt.NDArray[np.bool_]) -> list[Scores]:
        """Log probabilities of each part ``(C, n)``, of the voxels where a mask is true."""


def choose_share(folds: Sequence[Tested]) -> float:
    """That with the highest mean IoU over the classes; the first of the list if nothing was held out.

    Args:
        folds: whose scores are those of both parts, ``(2, C, n)``.
    """
    looked_at = []
    for fold in folds:
        truth = fold.test[fold.where]
        chosen = np.random.default_rng(0).permutation(len(truth))[:_LOOKED_AT]
        looked_at.append((fold.scores[..., chosen], truth[chosen]))
    if not looked_at:
        return _SHARES[0]

    def score(share: float) -> float:
        matrices = [
            confusion_matrix(mixed(scores, share).argmax(0), truth, scores.shape[1])
            for scores, truth in looked_at
        ]
        return mean_score(iou(np.sum(matrices, 0)))

    return max(_SHARES, key=score)


def joined_folds(folds: Sequence[Tested]) -> tuple[list[Tested], float]:
    """Folds with scores ``(C, n)``, each by the share that was best on the others; and the best on all."""
    found = []
    for number, fold in enumerate(folds):
        share = choose_share([*folds[:number], *folds[number + 1 :]])
        others = None if fold.elsewhere is None else mixed(fold.elsewhere, share)
        found.append(replace(fold, scores=mixed(fold.scores, share), elsewhere=others))
    return found, choose_share(folds)


def in_words(share: float, *, measured: bool) -> str:
    """For a person."""
    why = "chosen on what was held out" if measured else "nothing was held out to choose it on"
    return f"The U-Net counts {share:.0%} of the result, the per-voxel learner {1 - share:.0%}: {why}."
