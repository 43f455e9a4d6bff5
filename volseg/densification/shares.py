"""How much each part of a joined learner counts: what would have been best on the slices that were held out.

Which of two learners knows a structure better depends on the image, the paint and the time, so it is not set
but measured. A fold is scored with the share that was best on all *other* folds, so that the choice does not
flatter what is reported. The result has the share that was best on all of them.

Held-out slices are few, and what is best on them by chance is no better elsewhere. So the share stays at what
was settled on other volumes unless another one is better in fold after fold: by more than the standard error
of the gain.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from volseg.densification.scoring import Tested
from volseg.learners.joined import SHARE
from volseg.learning import Scores, Task, mixed
from volseg.metrics import confusion_matrix, iou, mean_score

__all__ = ["Joined", "choose_share", "in_words", "joined_folds"]

_SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8)  # of the second part, that may be chosen
_LEAST_FOLDS = 2  # that a gain is compared in
_LOOKED_AT = 50_000  # voxels of a fold


@runtime_checkable
class Joined(Protocol):
    """A model of two parts.

    Attributes:
        share: of the second.
        usual: what that is where nothing is held out.
    """

    share: float

    @property
    def usual(self) -> float:
        """See above."""

    def parts_at(self, task: Task, where: npt.NDArray[np.bool_]) -> list[Scores]:
        """Log probabilities of each part ``(C, n)``, of the voxels where a mask is true."""


def choose_share(folds: Sequence[Tested], usual: float = SHARE) -> float:
    """That which gains most over the usual one, less the standard error of the gain.

    If none does, it stays. The gain is that of the mean IoU over the classes of a fold.

    Args:
        folds: whose scores are those of both parts, ``(2, C, n)``.
    """
    if len(folds) < _LEAST_FOLDS:
        return usual
    gains = {share: np.array([_gain(fold, share, usual) for fold in folds]) for share in _SHARES}
    sure = {share: float(g.mean() - g.std(ddof=1) / np.sqrt(len(g))) for share, g in gains.items()}
    best = max(sure, key=sure.__getitem__)
    return best if sure[best] > 0 else usual


def _gain(fold: Tested, share: float, usual: float) -> float:
    truth = fold.test[fold.where]
    chosen = np.random.default_rng(0).permutation(len(truth))[:_LOOKED_AT]
    scores, classes = fold.scores[..., chosen], fold.scores.shape[1]
    before, after = (
        mean_score(iou(confusion_matrix(mixed(scores, each).argmax(0), truth[chosen], classes)))
        for each in (usual, share)
    )
    return after - before


def joined_folds(folds: Sequence[Tested], usual: float = SHARE) -> tuple[list[Tested], float]:
    """Folds with scores ``(C, n)``, each by the share that was best on the others; and the best on all."""
    found = []
    for number, fold in enumerate(folds):
        share = choose_share([*folds[:number], *folds[number + 1 :]], usual)
        others = None if fold.elsewhere is None else mixed(fold.elsewhere, share)
        found.append(replace(fold, scores=mixed(fold.scores, share), elsewhere=others))
    return found, choose_share(folds, usual)


def in_words(share: float, *, measured: bool) -> str:
    """For a person."""
    why = "by what was held out" if measured else "nothing was held out to choose it by"
    return f"The U-Net counts {share:.0%} of the result, the per-voxel learner {1 - share:.0%}: {why}."
