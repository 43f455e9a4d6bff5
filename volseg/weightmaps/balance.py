"""Rare classes count more."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from volseg.errors import InputError

__all__ = ["class_balance"]


def class_balance(
    counts: Sequence[int] | npt.NDArray[Any] | torch.Tensor, *, power: float = 1.0
) -> torch.Tensor:
    """One weight per class, the rarer the class the larger: ``weight ∝ count ** -power``.

    Scaled so that the average annotated voxel has weight 1, hence balancing does not change the
    learning rate. ``power=1`` gives every class the same say, 0.5 is a compromise, 0 weighs all voxels
    alike. A class without annotated voxels gets weight 0: there is nothing to weigh.

    Args:
        counts: annotated voxels per class, ``(C,)``; see :func:`volseg.annotation.annotation_counts`.
        power: how far to go.

    Returns:
        float32 tensor, ``(C,)``.
    """
    numbers = np.asarray(counts, np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (numbers < 0).any():
        raise ValueError(f"counts = {numbers.tolist()} is not a list of one number of voxels per class.")
    if not math.isfinite(power):
        raise ValueError(f"power = {power} is not a finite number.")
    total = numbers.sum()
    if total == 0:
        raise InputError(
            f"There is no annotated voxel in any of the {len(numbers)} classes: they cannot be balanced. "
            "Check that the label is the right file and that its label scheme names the values in it."
        )
    present = numbers > 0
    share = numbers[present] / total
    weights = np.zeros(len(numbers))
    weights[present] = share**-power / (share ** (1 - power)).sum()
    return torch.from_numpy(weights).float()
