"""Where to paint next: the slice on which the live result is least sure, and the place on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from volseg.annotation import numbered
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from volseg.session.session import Session

__all__ = ["Place", "suggest"]

_SAMPLED = 6000  # voxels that are looked at
_NEAR = 2  # slices this close to a painted one are not suggested
_COARSE = 1.5  # an axis with voxels this much longer is the only one to paint across
_NARROW = 8  # voxels across a slice, below which nothing can be seen on it
_WIDE = 0.05  # of a slice: over so much of it doubts are gathered
_FEWEST = 200  # voxels at hand without which nothing is said


@dataclass(frozen=True)
class Place:
    """What to look at next.

    Attributes:
        axis, index: of the slice.
        point: on it, in voxels.
        classes: names of the two classes that are taken for each other most.
        text: the same in a sentence.
    """

    axis: int
    index: int
    point: tuple[int, int]
    classes: tuple[str, str]
    text: str


def suggest(session: "Session", seed: int = 0) -> Place | None:
    """The place where paint is expected to help most; ``None`` before anything has been learnt.

    Random voxels whose image features are at hand are looked at. The slice with most doubt is chosen, not
    next to one that is painted in many places already, and on it the place with most doubt around it.
    """
    live, size = session.live, session.size
    if live is None or not session.model or not session.can_learn:
        return None
    random = np.random.default_rng(seed)
    voxels = np.stack([random.integers(0, n, _SAMPLED) for n in size], 1)
    with session.learning():
        voxels = voxels[live.at_hand(voxels)]
        if len(voxels) < _FEWEST:
            return None
        scores = live.predict_at(voxels)
    ranked = np.sort(scores, 0)
    doubt = np.exp(ranked[-2] - ranked[-1]).astype(np.float64)
    axis, index = (2, 0) if len(size) == 2 else _slice(session, voxels, doubt)
    if len(size) == 3:
        near = np.abs(voxels[:, axis] - index) <= max(size[axis] // 100, 1)
        voxels, scores, doubt = voxels[near], scores[:, near], doubt[near]
    across = [a for a in range(len(size)) if len(size) == 2 or a != axis]
    on = voxels[:, across]
    blank = session.paint_slice(axis, index)[tuple(on.T)] == IGNORE_INDEX
    if not blank.any():
        return None
    places = on * np.array([session.spacing[a] for a in across])
    around = cKDTree(places).query_ball_point(places, _WIDE * float(np.ptp(places, 0).max()))
    spread = np.array([doubt[others].mean() for others in around])
    best = int(np.argmax(np.where(blank, spread, -1)))
    order = np.argsort(scores[:, around[best]].mean(1))[::-1]
    names = [info.name for info in session.classes.values()]
    pair = names[order[0]], names[order[1]]
    point = int(on[best, 0]), int(on[best, 1])
    where = ", ".join(f"{AXES[a]} = {p}" for a, p in zip(across, point, strict=True))
    of = "" if len(size) == 2 else f" on slice {numbered(AXES[axis], index, size[axis])}"
    text = f"Paint near {where}{of}: {pair[0]} or {pair[1]}? The result is least sure there."
    return Place(axis, index, point, pair, text)


def _slice(
    session: "Session", voxels: npt.NDArray[np.int64], doubt: npt.NDArray[np.float64]
) -> tuple[int, int]:
    """The slice with most doubt, by how much of it is blank if it is painted or next to one that is."""
    best, most = (2, 0), -1.0
    for axis in _axes(session.spacing, session.size):
        n = session.size[axis]
        width = max(n / 64, 1.0)
        sums = np.bincount(voxels[:, axis], doubt, minlength=n)
        counts = np.bincount(voxels[:, axis], minlength=n).astype(float)
        here = ndimage.gaussian_filter1d(counts, width)
        found = np.where(counts > 0, ndimage.gaussian_filter1d(sums, width) / here.clip(1e-9), 0)
        for index in session.painted()[axis]:
            found[max(index - _NEAR, 0) : index + _NEAR + 1] *= _left(session, axis, index)
        if found.max() > most:
            best, most = (axis, int(found.argmax())), float(found.max())
    return best


def _left(session: "Session", axis: int, index: int) -> float:
    """How much of a slice is unlabelled."""
    return float(np.mean(session.paint_slice(axis, index) == IGNORE_INDEX))


def _axes(spacing: tuple[float, ...], size: tuple[int, ...]) -> list[int]:
    """Axes across which people can paint: none whose slices are narrow, or have voxels longer than wide."""
    longest = max(range(3), key=lambda axis: spacing[axis])
    others = [spacing[axis] for axis in range(3) if axis != longest]
    axes = [longest] if spacing[longest] > _COARSE * max(others) else [2, 1, 0]
    wide = [axis for axis in axes if min(n for a, n in enumerate(size) if a != axis) >= _NARROW]
    return wide or [min((2, 1, 0), key=lambda axis: size[axis])]
