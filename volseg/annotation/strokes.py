"""Strokes: paint that is neither slices nor a dense label, but lines and spots here and there.

A *stroke* is what hangs together of one class. Strokes close to each other are a *place*: what is drawn
there, of all classes, stands and falls together, so places are what can be held out, and what is counted. A
person who paints in one corner only would make one place of everything; so a place ends where it holds its
share of the paint, and always between two strokes.

Distances are in the units of ``spacing``; how far *close* is depends on the finest voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from volseg.annotation.numbering import PLANES
from volseg.annotation.slices import check_spatial
from volseg.labels import IGNORE_INDEX

__all__ = ["FEWEST_PLACES", "TOUCHING", "Strokes", "are_strokes", "counted", "strokes_of"]

TOUCHING = 3.0
"""Strokes this close, in voxels of the finest axis, show the same part of the image."""

FEWEST_PLACES = 3
"""Places of a class without which nothing can be known of it: one is held out, two are learnt from."""

_NEARBY = 10.0  # the same, of those that look alike
_MOST_TOUCHING, _MOST_NEARBY = 1 / 5, 1 / 8  # of the paint, what a place holds at most if it can be helped
_POINTS = 64  # of a stroke that distances are measured from
_DENSE = 0.5  # of all voxels: strokes cover less
_FULL = {2: 0.9, 3: 0.4}  # of the box around its paint, a slice (of an image, a line) is painted to
_HALF = 0.5  # of all paint; of its extent
_SIDE = 8  # voxels, that box has on each side


@dataclass(frozen=True, eq=False)
class Strokes:
    """The painted voxels, one after the other, and what each belongs to.

    Attributes:
        voxels: indices ``(n, dims)``, in C order.
        classes: class index of each, ``(n,)``.
        stroke: number of the stroke that each belongs to, from 0 on.
        place: number of the place that each belongs to, from 0 on.
        shape: of the volume.
    """

    voxels: npt.NDArray[np.intp]
    classes: npt.NDArray[np.uint8]
    stroke: npt.NDArray[np.intp]
    place: npt.NDArray[np.intp]
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many strokes there are."""
        return int(self.stroke.max(initial=-1)) + 1

    @property
    def places(self) -> int:
        """How many places there are."""
        return int(self.place.max(initial=-1)) + 1

    def map(self) -> npt.NDArray[np.int32]:
        """The number of the place of every voxel, ``(*shape)``; -1 where nothing is painted."""
        found = np.full(self.shape, -1, np.int32)
        found[tuple(self.voxels.T)] = self.place
        return found

    def per_class(self) -> dict[int, tuple[int, int]]:
        """How many strokes there are of each class, and at how many places."""
        return {
            int(c): (len(np.unique(self.stroke[on])), len(np.unique(self.place[on])))
            for c in np.unique(self.classes)
            for on in [self.classes == c]
        }

    def planes(self) -> tuple[int, list[int]]:
        """The axis along which fewest slices carry strokes, the last of these, and the slices."""
        carrying = [np.unique(self.voxels[:, axis]).tolist() for axis in range(len(self.shape))]
        axis = min(reversed(range(len(self.shape))), key=lambda a: len(carrying[a]))
        return axis, carrying[axis]

    def in_words(self, names: Sequence[str]) -> str:
        """One line: ``40 strokes at 17 places on 3 xy slices: lumen 20 at 11, tubule 20 at 12``.

        Args:
            names: of the classes, by index.
        """
        axis, planes = self.planes()
        on = ""
        if len(self.shape) == 3:
            on = f" on {counted(len(planes), f'{PLANES[axis]} slice')}"
        parts = [f"{names[c]} {count} at {places}" for c, (count, places) in self.per_class().items()]
        return f"{counted(self.count, 'stroke')} at {counted(self.places, 'place')}{on}: {', '.join(parts)}"


def counted(n: int, what: str) -> str:
    """``1 place``, ``3 places``."""
    return f"{n} {what}{'s' * (n != 1)}"


def are_strokes(labels: npt.NDArray[np.uint8]) -> bool:
    """Whether paint is strokes: most of it lies on no slice that is painted throughout.

    A region of interest, or half of a slice, may be all that was painted throughout.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
    """
    check_spatial(labels)
    painted = labels != IGNORE_INDEX
    n = int(np.count_nonzero(painted))
    if not 0 < n <= _DENSE * labels.size:
        return False
    voxels = np.argwhere(painted)
    extent = np.ptp(voxels, axis=0) + 1
    on = np.zeros(n, bool)
    for axis, size in enumerate(labels.shape):
        index = voxels[:, axis]
        counts = np.bincount(index, minlength=size)
        full = counts > 0
        area = np.ones(size)
        for other in (o for o in range(labels.ndim) if o != axis):
            low, high = np.full(size, labels.shape[other]), np.full(size, -1)
            np.minimum.at(low, index, voxels[:, other])
            np.maximum.at(high, index, voxels[:, other])
            side = high - low + 1
            full &= side >= max(min(_SIDE, labels.shape[other]), _HALF * extent[other])
            area *= side
        on |= (full & (counts >= _FULL[labels.ndim] * area))[index]
    return int(np.count_nonzero(on)) < _HALF * n


def strokes_of(labels: npt.NDArray[np.uint8], spacing: Sequence[float] | None = None) -> Strokes:
    """The strokes of some paint, and the places they make.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
        spacing: voxel size along each axis.
    """
    check_spatial(labels)
    sizes = np.ones(labels.ndim) if spacing is None else np.asarray(spacing, float)
    if sizes.shape != (labels.ndim,):
        raise ValueError(f"spacing = {spacing}: a voxel size for each of {labels.ndim} axes is needed.")
    flat = np.flatnonzero(labels != IGNORE_INDEX)
    voxels = np.stack(np.unravel_index(flat, labels.shape), 1)
    classes = labels.reshape(-1)[flat]
    stroke = _connected(flat, voxels, classes, labels.shape)
    place = _places(voxels * (sizes / sizes.min()), stroke) if len(flat) else stroke
    return Strokes(voxels, classes, stroke, place, labels.shape)


def _connected(
    flat: npt.NDArray[np.intp],
    voxels: npt.NDArray[np.intp],
    classes: npt.NDArray[np.uint8],
    shape: tuple[int, ...],
) -> npt.NDArray[np.intp]:
    """The number of the stroke of each voxel: those of its class that touch, at corners, too.

    `skimage.measure.label` numbers every voxel of the volume, at 8 bytes each; this asks the painted ones.
    """
    n = len(flat)
    pairs = [np.zeros((2, 0), np.intp)]
    for offset in product((-1, 0, 1), repeat=len(shape)):
        if offset <= (0,) * len(shape):
            continue  # every pair once
        beside = voxels + offset
        inside = np.flatnonzero(np.all((beside >= 0) & (beside < shape), 1))
        target = np.ravel_multi_index(tuple(beside[inside].T), shape)
        found = np.minimum(np.searchsorted(flat, target), n - 1)
        same = (flat[found] == target) & (classes[found] == classes[inside])
        pairs.append(np.stack([inside[same], found[same]]))
    rows, columns = np.concatenate(pairs, 1)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.intp)


def _places(points: npt.NDArray[np.float64], stroke: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """The number of the place of each voxel: the closest strokes are joined first.

    Args:
        points: in voxels of the finest axis.
    """
    sizes = np.bincount(stroke)
    order = np.argsort(stroke, kind="stable")
    chosen = np.concatenate(
        [part[:: -(-len(part) // _POINTS)] for part in np.split(order, np.cumsum(sizes)[:-1])]
    )
    tree = cKDTree(points[chosen])
    near = tree.sparse_distance_matrix(tree, _NEARBY, output_type="coo_matrix")
    first, second = stroke[chosen[near.row]], stroke[chosen[near.col]]
    between = first < second
    rows = np.lexsort((near.data[between], second[between], first[between]))
    table = np.stack([first[between][rows], second[between][rows]], 1)
    closest = np.flatnonzero(np.any(np.diff(table, axis=0, prepend=-1) != 0, 1))
    distances = near.data[between][rows][closest]
    home, held = np.arange(len(sizes)), sizes.astype(float) / len(stroke)

    def root(number: int) -> int:
        while home[number] != number:
            number = home[number]
        return int(number)

    for pair in np.argsort(distances, kind="stable"):
        a, b = (root(int(s)) for s in table[closest[pair]])
        most = _MOST_TOUCHING if distances[pair] <= TOUCHING else _MOST_NEARBY
        if a != b and held[a] + held[b] <= most:
            home[b] = a
            held[a] += held[b]
    return np.unique([root(number) for number in range(len(sizes))], return_inverse=True)[1][stroke]
