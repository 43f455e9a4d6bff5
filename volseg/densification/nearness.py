"""How far from paint a voxel lies: what makes held-out slices harder than the rest of the volume.

Close to a painted slice everything is easy, and the more paint there is, the closer all of it is. A slice
that is held out lies as far from the next one as slices are apart; an unlabelled voxel at most half
of that. So held-out voxels are counted in *bins* of their distance to what was learnt from, and each bin
counts as much as its share of the unlabelled voxels.

Where slices lie in one direction there are distances at which nothing can be held out: held-out slices are
farther, held-out holes nearer. Errors at these distances are *interpolated* from those that are measured
next to them, nearer and farther, as if they rose evenly in between: such a voxel counts as a share of both.
Where nothing nearer was held out, all counts as the farther, which is too strict; where nothing farther was,
as the nearer, which is too kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.labels import IGNORE_INDEX

__all__ = ["HEAVIEST", "Nearness", "Support", "measure_nearness"]

HEAVIEST = 10.0
"""A held-out voxel counts for at most as many."""

_BINS = 8


@dataclass(frozen=True)
class Support:
    """How much each bin counts, once what is not measured is interpolated from what is.

    Args:
        shares: of the bins.
        interpolated: share of the unlabelled voxels for which nearer and farther ones stand.
        nearer, farther: the same for those that only nearer, or only farther ones stand for.
    """

    shares: tuple[float, ...]
    interpolated: float = 0.0
    nearer: float = 0.0
    farther: float = 0.0


@dataclass(frozen=True)
class Nearness:
    """Bins of distance to paint, and how many of the unlabelled voxels lie in each.

    Args:
        limits: largest distance in each bin but the last, in units of ``spacing``.
        shares: of the bins; those of the first one, nearer than any of those voxels, and of the last one,
            farther than any, are 0.
        centres: mean distance of those voxels in each bin; NaN where there are none.
    """

    limits: tuple[float, ...]
    shares: tuple[float, ...]
    centres: tuple[float, ...]
    spacing: tuple[float, ...]

    def distances(self, known: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Of every voxel to what is learnt from: ``(*spatial)``."""
        return _distance(known, self.spacing)

    def bins(self, known: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The bin of every voxel, by its distance to what is learnt from: ``(*spatial)``."""
        return self.bins_of(self.distances(known))

    def bins_of(self, distances: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """The bins of distances."""
        return np.searchsorted(self.limits, distances).astype(np.uint8)

    def support(self, counts: npt.ArrayLike, centres: npt.ArrayLike) -> Support:
        """What stands for the unlabelled voxels.

        Args:
            counts: held-out voxels in each bin.
            centres: mean distance of these; anything where there are none.
        """
        found, where = np.asarray(counts, float), np.asarray(centres, float)
        shares = np.asarray(self.shares)
        measured = (found > 0) & (found * HEAVIEST >= shares * found.sum())
        if not measured.any():
            return Support(self.shares)
        order = np.flatnonzero(measured)[np.argsort(where[measured])]
        moved = np.where(measured, shares, 0)
        between = nearer = farther = 0.0
        for b in np.flatnonzero((shares > 0) & ~measured):
            after = int(np.searchsorted(where[order], self.centres[b]))
            if after == 0:
                moved[order[0]] += shares[b]
                farther += shares[b]
            elif after == len(order):
                moved[order[-1]] += shares[b]
                nearer += shares[b]
            else:
                low, high = order[after - 1], order[after]
                part = (self.centres[b] - where[low]) / (where[high] - where[low])
                moved[low] += (1 - part) * shares[b]
                moved[high] += part * shares[b]
                between += shares[b]
        return Support(tuple(moved.tolist()), float(between), float(nearer), float(farther))


def measure_nearness(labels: npt.NDArray[np.uint8], spacing: Sequence[float] | None = None) -> Nearness:
    """The distances from all paint of all unlabelled voxels.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
    """
    sizes = (1.0,) * labels.ndim if spacing is None else tuple(float(s) for s in spacing)
    if len(sizes) != labels.ndim:
        raise ValueError(f"spacing = {sizes}: a voxel size for each of {labels.ndim} axes is needed.")
    unknown = labels == IGNORE_INDEX
    if not unknown.any() or unknown.all():
        return Nearness((), (1.0,), (0.0,), sizes)
    distances = _distance(labels, sizes)[unknown]
    below = np.nextafter(distances.min(), np.float32(0))
    limits = np.unique(np.quantile(distances, np.arange(1, _BINS + 1) / _BINS))
    limits = np.concatenate([[below], limits[limits > below]])
    bins = np.searchsorted(limits, distances)
    counts = np.bincount(bins, minlength=len(limits) + 1)
    sums = np.bincount(bins, distances, minlength=len(limits) + 1)
    with np.errstate(invalid="ignore"):
        centres = sums / counts
    return Nearness(
        tuple(limits.tolist()), tuple((counts / counts.sum()).tolist()), tuple(centres.tolist()), sizes
    )


def _distance(labels: npt.NDArray[np.uint8], spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    """To the nearest painted voxel."""
    distance = ndimage.distance_transform_edt(labels == IGNORE_INDEX, sampling=spacing)
    return np.asarray(distance, np.float32)
