"""Which strokes are held out together, and what no score from such paint can know.

Strokes are held out by *place* (:mod:`volseg.annotation.strokes`), a quarter of the places at once, so that
each class is learnt from three quarters of its own.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from volseg.annotation.numbering import PLANES, numbered
from volseg.annotation.strokes import FEWEST_PLACES, TOUCHING, Strokes, counted
from volseg.geometry import AXES

__all__ = ["STROKE_FOLDS", "TOO_LITTLE", "cannot_know", "deal_places", "missing", "touching"]

STROKE_FOLDS = 4
"""Parts that the places are held out in; how much models agree depends on what they share."""

TOO_LITTLE = "Too little paint to tell how good the result is"
_CORNER = 0.25  # of the volume, the box around all strokes is smaller


def deal_places(
    strokes: Strokes, count: int, homes: npt.NDArray[np.intp] | None = None
) -> npt.NDArray[np.intp]:
    """The part, 0 to ``count - 1``, that each place is held out in: every class as evenly as can be.

    Args:
        homes: the part that each place has to be in; -1 where any will do.

    Returns:
        ``(places,)``.
    """
    table = np.zeros((strokes.places, int(strokes.classes.max(initial=0)) + 1))
    np.add.at(table, (strokes.place, strokes.classes), 1)
    shares = table / np.maximum(table.sum(0), 1)
    at_places = np.count_nonzero(table, axis=0)
    rarest = np.where(table > 0, at_places, strokes.places + 1).min(1)
    held = np.zeros((count, table.shape[1]))
    parts = np.zeros(strokes.places, np.intp)
    for place in np.lexsort((-table.sum(1), rarest)):
        shows = table[place] > 0
        costs = [(float(held[part][shows].sum()), float(held[part].sum())) for part in range(count)]
        parts[place] = costs.index(min(costs)) if homes is None or homes[place] < 0 else homes[place]
        held[parts[place]] += shares[place]
    return parts


def touching(
    strokes: Strokes, held: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> npt.NDArray[np.bool_]:
    """Which painted voxels touch strokes that are held out: they are neither learnt from nor tested on.

    Args:
        held: which of the painted voxels are, ``(n,)`` as in ``strokes``.
    """
    points = strokes.voxels * (np.asarray(spacing, float) / min(spacing))
    if not held.any():
        return np.zeros(len(points), bool)
    distance, _ = cKDTree(points[held]).query(points, distance_upper_bound=np.nextafter(TOUCHING, np.inf))
    return np.asarray((distance <= TOUCHING) & ~held, bool)


def missing(strokes: Strokes, names: Sequence[str], expected: Sequence[int] = ()) -> str:
    """Why nothing can be known of so little paint, and what to paint; empty if there is enough.

    Args:
        names: of the classes, by index.
        expected: classes that must have been painted; those that were, if empty.
    """
    at_places = {c: places for c, (_, places) in strokes.per_class().items()}
    wanted = sorted({*expected, *at_places})
    lacking = {c: FEWEST_PLACES - at_places.get(c, 0) for c in wanted}
    if len(wanted) < 2:
        return f"{TOO_LITTLE}: only one class is painted. Paint another one."
    what = ", ".join(f"{counted(n, 'more place')} with {names[c]}" for c, n in lacking.items() if n > 0)
    if not what:
        return ""
    return (
        f"{TOO_LITTLE}: places are held out in turn, and {FEWEST_PLACES} of every class are needed for "
        f"that. Paint {what}, some way from the others."
    )


def cannot_know(strokes: Strokes) -> str:
    """What no score from these strokes can know, in sentences; empty if there is nothing to say."""
    axis, planes = strokes.planes()
    said = []
    if len(strokes.shape) == 3 and len(planes) <= 2:
        where = numbered(AXES[axis], planes[0], strokes.shape[axis])
        on = f"one slice, {where}" if len(planes) == 1 else f"two {PLANES[axis]} slices"
        said.append(
            f"All strokes lie on {on}: of other slices nothing is known, and the score takes them to be like "
            "those. Paint on another slice, too."
        )
    extent = np.ptp(strokes.voxels, axis=0) + 1 if len(strokes.voxels) else np.ones(len(strokes.shape))
    across = [a for a in range(len(strokes.shape)) if len(planes) > 2 or a != axis or len(strokes.shape) == 2]
    share = math.prod(float(extent[a]) / strokes.shape[a] for a in across)
    if share < _CORNER:
        said.append(
            f"All strokes lie within {share:.0%} of the image: of the rest nothing is known. Paint elsewhere."
        )
    return " ".join(said)
