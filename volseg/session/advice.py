"""Where to paint next: the slice on which the live result is least sure, and the place on it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.annotation import numbered
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX

if TYPE_CHECKING:
    from volseg.session.session import Session

__all__ = ["Place", "suggest"]

_SAMPLED = 6000  # voxels that are looked at
_NEAR = 2  # slices this close to a painted one are not suggested
_COARSE = 1.5  # an axis with voxels this much longer is the only one to paint across
_WIDE = 0.03  # of a slice: over so much of it doubts are gathered


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

    Random voxels without paint are looked at, and the slice with most doubt is chosen, not next to one that
    is painted in many places already.
    """
    if session.live is None or not session.model:
        return None
    size = session.size
    if len(size) == 2:
        return _on_slice(session, 2, 0)
    random = np.random.default_rng(seed)
    voxels = np.stack([random.integers(0, n, _SAMPLED) for n in size], 1)
    with session.learning():
        scores = session.live.predict_at(voxels)
    chances = np.exp(scores - scores.max(0))
    doubt = 1 - chances.max(0) / chances.sum(0)
    best, most = None, -1.0
    for axis in _axes(session.spacing):
        n = size[axis]
        width = max(n / 64, 1.0)
        per_slice = np.bincount(voxels[:, axis], doubt, minlength=n)
        counts = np.bincount(voxels[:, axis], minlength=n).astype(float)
        found = ndimage.gaussian_filter1d(per_slice, width) / ndimage.gaussian_filter1d(counts, width).clip(
            1e-9
        )
        for index in session.painted()[axis]:
            found[max(index - _NEAR, 0) : index + _NEAR + 1] *= _left(session, axis, index)
        if found.max() > most:
            best, most = (axis, int(found.argmax())), float(found.max())
    return None if best is None else _on_slice(session, *best)


def _left(session: "Session", axis: int, index: int) -> float:
    """How much of a slice is unlabelled."""
    return float(np.mean(session.paint_slice(axis, index) == IGNORE_INDEX))


def _axes(spacing: tuple[float, ...]) -> list[int]:
    """Axes across which people can paint: none whose slices have voxels longer than wide."""
    longest = max(range(3), key=lambda axis: spacing[axis])
    others = [spacing[axis] for axis in range(3) if axis != longest]
    return [longest] if spacing[longest] > _COARSE * max(others) else [2, 1, 0]


def _on_slice(session: "Session", axis: int, index: int) -> Place:
    scores = session.scores(axis, index)
    order = np.sort(scores, 0)
    doubt: npt.NDArray[np.float64] = np.exp(order[-2] - order[-1]).astype(np.float64)
    blank = session.paint_slice(axis, index) == IGNORE_INDEX
    spread = ndimage.gaussian_filter(np.where(blank, doubt, 0), [max(_WIDE * n, 1) for n in doubt.shape])
    first, second = np.unravel_index(np.argmax(np.where(blank, spread, -1)), spread.shape)
    near = tuple(slice(max(p - 3, 0), p + 4) for p in (int(first), int(second)))
    ranked = np.argsort(scores[(slice(None), *near)].mean((1, 2)))[::-1]
    names = [info.name for info in session.classes.values()]
    pair = names[ranked[0]], names[ranked[1]]
    across = [a for a in range(len(session.size)) if len(session.size) == 2 or a != axis]
    where = ", ".join(f"{AXES[a]} = {p}" for a, p in zip(across, (int(first), int(second)), strict=True))
    on = "" if len(session.size) == 2 else f" on slice {numbered(AXES[axis], index, session.size[axis])}"
    text = f"Paint near {where}{on}: {pair[0]} or {pair[1]}? The result is least sure there."
    return Place(axis, index, (int(first), int(second)), pair, text)
