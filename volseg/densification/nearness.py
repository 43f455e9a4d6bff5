"""How far from paint a voxel lies: what makes held-out slices harder than the rest of the volume.

Close to a painted slice everything is easy, and the more paint there is, the closer all of it is. A slice
that is held out lies as far from the next one as slices are apart; a voxel that nobody painted at most half
of that. So held-out voxels are counted in *bins* of their distance to what was learnt from, and each bin
counts as much as its share of the voxels that nobody painted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.labels import IGNORE_INDEX

__all__ = ["Nearness", "measure_nearness"]

_BINS = 8


@dataclass(frozen=True)
class Nearness:
    """Bins of distance to paint, and how many of the voxels that nobody painted lie in each.

    Args:
        limits: largest distance in each bin but the last, in units of ``spacing``.
        shares: of the bins; that of the last one, beyond the farthest of those voxels, is 0.
    """

    limits: tuple[float, ...]
    shares: tuple[float, ...]
    spacing: tuple[float, ...]

    def bins(self, train: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The bin of every voxel, by its distance to what is learnt from: ``(*spatial)``."""
        return np.searchsorted(self.limits, _distance(train, self.spacing)).astype(np.uint8)


def measure_nearness(labels: npt.NDArray[np.uint8], spacing: Sequence[float] | None = None) -> Nearness:
    """The distances from all paint of all voxels that nobody painted.

    Args:
        labels: class indices, ``(*spatial)``, 255 where nobody painted.
    """
    sizes = (1.0,) * labels.ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(sizes) != labels.ndim:
        raise ValueError(f"spacing = {sizes}: a voxel size for each of {labels.ndim} axes is needed.")
    unknown = labels == IGNORE_INDEX
    if not unknown.any() or unknown.all():
        return Nearness((), (1.0,), sizes)
    distances = _distance(labels, sizes)[unknown]
    limits = np.unique(np.quantile(distances, np.arange(1, _BINS + 1) / _BINS))
    counts = np.bincount(np.searchsorted(limits, distances), minlength=len(limits) + 1)
    return Nearness(tuple(limits.tolist()), tuple((counts / counts.sum()).tolist()), sizes)


def _distance(labels: npt.NDArray[np.uint8], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """To the nearest painted voxel."""
    distance = ndimage.distance_transform_edt(labels == IGNORE_INDEX, sampling=spacing)
    return np.asarray(distance, np.float32)
