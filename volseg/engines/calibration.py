"""Moving the decision between the classes to where it scores best on annotated voxels.

A network trained on balanced samples, or for a few minutes, is not calibrated, and even calibrated
probabilities cut at one half do not give the best Dice where a class is rare or thin. One number per
class, added to its logits, mends most of that. It is fitted on the annotation that was trained on, never
on what is held out, and put into the bias of the network's last convolution, so nothing else need know.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from volseg.labels import IGNORE_INDEX
from volseg.metrics import dice

__all__ = ["add_to_bias", "fit_shift", "gather"]

logger = logging.getLogger(__name__)

_STEPS = np.arange(-3.0, 3.01, 0.1)  # of one class's logit
_ROUNDS = 3
_MOST_VOXELS = 400_000


def gather(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` and classes ``(N,)`` of the voxels of a case that are annotated."""
    annotated = target[0] != IGNORE_INDEX
    return logits[:, annotated].T.float().cpu(), target[0][annotated].long().cpu()


def fit_shift(
    parts: Iterable[tuple[Tensor, Tensor]], scored: Sequence[int], *, seed: int = 0
) -> NDArray[np.float64]:
    """What to add to each class's logit for the best mean Dice over the classes ``scored``, ``(C,)``.

    One class after the other is moved, the first stays: shifts matter relative to each other only.

    Args:
        parts: logits and classes, as :func:`gather` returns them, of each case.
    """
    parts = list(parts)
    logits = torch.cat([part for part, _ in parts])
    classes = torch.cat([part for _, part in parts])
    if len(classes) > _MOST_VOXELS:
        chosen = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))[:_MOST_VOXELS]
        logits, classes = logits[chosen], classes[chosen]
    shift = np.zeros(logits.shape[1])
    for _ in range(_ROUNDS if len(shift) > 2 else 1):
        before = shift.copy()
        for index in range(1, len(shift)):
            scores = [_mean_dice(logits, classes, scored, _with(shift, index, step)) for step in _STEPS]
            shift[index] = _STEPS[int(np.argmax(_smoothed(scores)))]
        if (before == shift).all():
            break
    return shift


def add_to_bias(network: nn.Module, shift: ArrayLike) -> None:
    """Put the shift into the last convolution, ``network.head``.

    Raises:
        ValueError: if the network has no such convolution with a bias.
    """
    head = getattr(network, "head", None)
    bias = getattr(head, "bias", None)
    if not isinstance(bias, Tensor):
        raise ValueError(
            "The network has no 'head' with a bias, so the shift of its logits has no place to stay."
        )
    with torch.no_grad():
        bias += torch.as_tensor(shift, dtype=bias.dtype, device=bias.device)


def _with(shift: NDArray[np.float64], index: int, value: float) -> NDArray[np.float64]:
    moved = shift.copy()
    moved[index] = value
    return moved


def _mean_dice(logits: Tensor, classes: Tensor, scored: Sequence[int], shift: NDArray[np.float64]) -> float:
    count = logits.shape[1]
    prediction = (logits + torch.as_tensor(shift, dtype=logits.dtype)).argmax(1)
    matrix = torch.bincount(classes * count + prediction, minlength=count**2).reshape(count, count)
    return float(np.nanmean(dice(matrix.numpy())[list(scored)]))


def _smoothed(scores: list[float]) -> NDArray[np.float64]:
    """A mean over neighbouring steps: the middle of a plateau, rather than its luckiest point."""
    padded = np.pad(np.asarray(scores), 2, mode="edge")
    return np.convolve(padded, np.ones(5) / 5, mode="valid")
