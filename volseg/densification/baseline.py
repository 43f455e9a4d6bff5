"""What a method without training returns."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Baseline"]


class Baseline(NamedTuple):
    """A segmentation by a method that is there to compare with.

    Args:
        labels: class indices, ``(*spatial)``, as painted wherever somebody painted.
        probabilities: of each class, ``(C, *spatial)``.
    """

    labels: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
