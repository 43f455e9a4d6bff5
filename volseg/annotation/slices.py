"""Which slices of a volume are annotated; keep some, hold some out, count the rest.

Sparse annotation (Çiçek et al. 2016) is a handful of slices painted in any of the directions: a
*yz slice* stands perpendicular to x, an *xz slice* to y, an *xy slice* to z. Here a slice is named by
that axis and its index. In two dimensions the same words mean lines of an image.

All functions take class indices of shape ``(*spatial)``, without a channel axis; voxels that no one
annotated hold ``ignore_index``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX

__all__ = [
    "MIN_FRACTIONS",
    "SliceSearch",
    "along",
    "annotated_slices",
    "annotation_counts",
    "check_spatial",
    "choose_held_out",
    "choose_more_held_out",
    "even_positions",
    "find_slices",
    "hold_out",
    "keep_slices",
    "on_slices",
    "project",
]

Labels = npt.NDArray[Any]

_FULL = 0.95  # a slice is full from this share of annotated voxels on
_MIN_UNEXPLAINED = 0.1  # share of a slice that other slices must leave for it to be judged by itself
MIN_FRACTIONS = (0.5, 0.2, 0.05)  # slices painted in full are looked for first, then partly painted ones
_CHUNK = 2**22


def even_positions(n: int, k: int) -> list[int]:
    """``k`` of the indices ``0 .. n-1``, spread as evenly as possible: the middles of ``k`` equal parts."""
    if not 0 <= k <= n:
        raise ValueError(f"k = {k} of n = {n} positions cannot be chosen: k lies between 0 and n.")
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]


def keep_slices(labels: Labels, counts: Sequence[int], *, ignore_index: int = IGNORE_INDEX) -> Labels:
    """A dense label reduced to evenly spread slices; every other voxel becomes ``ignore_index``.

    Args:
        labels: class indices, ``(*spatial)``.
        counts: slices to keep perpendicular to x, y and z: the paper's "(7, 5, 21)" yz, xz and xy slices.
        ignore_index: label of voxels without annotation.
    """
    check_spatial(labels)
    if len(counts) != labels.ndim:
        raise ValueError(
            f"counts = {tuple(counts)} has {len(counts)} entries, labels of shape {labels.shape} "
            f"have {labels.ndim} axes: one count per axis is needed."
        )
    kept = np.full_like(labels, ignore_index)
    for axis, count in enumerate(counts):
        if not 0 <= count <= labels.shape[axis]:
            raise ValueError(
                f"counts[{axis}] = {count}, but there are {labels.shape[axis]} slices "
                f"perpendicular to {AXES[axis]}: choose 0 to {labels.shape[axis]}."
            )
        chosen = along(axis, even_positions(labels.shape[axis], count))
        kept[chosen] = labels[chosen]
    return kept


def annotated_slices(
    labels: Labels, *, min_fraction: float = 0.5, ignore_index: int = IGNORE_INDEX
) -> tuple[list[int], ...]:
    """Per axis, the indices of the annotated slices.

    Every annotated slice leaves a line in each slice that crosses it, and many parallel ones can fill
    most of a slice no one looked at. Hence slices are found one by one, the one with most annotation
    first, and each is judged by the voxels that the slices found before it do not explain: it counts
    where at least ``min_fraction`` of them are annotated. Fractions refer to the bounding box of all
    annotation, so that painting only a region of interest is not a disadvantage. Slices filled to the
    last voxel come before those with gaps.

    A dense label, where every slice of every axis is full (to 95 %), gives all slices.
    """
    check_spatial(labels)
    if not 0 < min_fraction <= 1:
        raise ValueError(f"min_fraction = {min_fraction} is not a fraction above 0 and up to 1.")
    annotated = labels != ignore_index
    if _is_dense(annotated):
        return tuple(list(range(n)) for n in labels.shape)
    box = _bounding_box(annotated)
    if box is None:
        return tuple([] for _ in labels.shape)
    found = _explain(annotated[box], min_fraction)
    return tuple([part.start + i for i in indices] for part, indices in zip(box, found, strict=True))


def find_slices(labels: Labels, *, ignore_index: int = IGNORE_INDEX) -> dict[str, list[int]]:
    """The annotated slices per axis ``"x"``, ``"y"`` (, ``"z"``), partly painted ones too if there are few.

    Of a dense label, those along one axis: the last that has three.
    """
    slices: tuple[list[int], ...] = ()
    for min_fraction in MIN_FRACTIONS:
        slices = annotated_slices(labels, min_fraction=min_fraction, ignore_index=ignore_index)
        if sum(map(len, slices)) >= 3:
            break
    if all(len(found) == n for found, n in zip(slices, labels.shape, strict=True)):
        last = max((axis for axis, found in enumerate(slices) if len(found) >= 3), default=labels.ndim - 1)
        slices = tuple(found if axis == last else [] for axis, found in enumerate(slices))
    return dict(zip(AXES, slices, strict=False))


def choose_held_out(
    labels: Labels, fraction: float = 0.2, *, ignore_index: int = IGNORE_INDEX
) -> dict[str, list[int]]:
    """Annotated slices to test on: about ``fraction`` of them, evenly spread over each direction.

    At least one slice is chosen where three or more are annotated, and at least one per direction is
    left to train on as long as any direction has two. Fewer than three annotated slices: none.

    Where annotated slices are neighbours, a slice left to train on shows what the next one looks like.
    Along such an axis whole blocks of consecutive slices are held out instead of single ones; a
    dense label is the extreme case and is held out along its last axis only (the last that has three slices).

    Returns:
        The indices per axis ``"x"``, ``"y"`` (, ``"z"``), as :func:`hold_out` takes them. Deterministic.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction = {fraction} leaves nothing to train or to test on: choose one between 0 and 1."
        )
    slices = find_slices(labels, ignore_index=ignore_index).values()
    counts = _apportion([len(found) for found in slices], fraction)
    return {axis: _pick(found, count) for axis, found, count in zip(AXES, slices, counts, strict=False)}


def choose_more_held_out(
    labels: Labels,
    held_out: Mapping[str, Sequence[int]],
    learnt: npt.NDArray[np.bool_],
    fraction: float = 0.2,
    *,
    ignore_index: int = IGNORE_INDEX,
) -> dict[str, list[int]]:
    """What to test on when slices were painted since: what was held out, and some that were never learnt.

    As many are added as now make up the ``fraction``, as far as there are slices of which the network has
    learnt no more than the lines in which others cross them.

    Args:
        learnt: the voxels that were ever trained on, ``(*spatial)``.
    """
    held = {axis: list(indices) for axis, indices in held_out.items()}
    annotated = labels != ignore_index
    slices = find_slices(labels, ignore_index=ignore_index)
    fresh: list[tuple[str, int]] = []
    for number, (axis, found) in enumerate(slices.items()):
        known = project(annotated & learnt, number) > 0.5 * project(annotated, number)
        fresh += [(axis, i) for i in found if not known[i] and i not in held.get(axis, ())]
    total = sum(map(len, slices.values()))
    wanted = max(1, round(fraction * total)) if total >= 3 else 0
    count = max(0, min(wanted - sum(map(len, held.values())), len(fresh)))
    axes = [fresh[i][0] for i in even_positions(len(fresh), count)] if count else []
    for axis in sorted(set(axes)):
        among = [i for other, i in fresh if other == axis]
        held[axis] = sorted([*held.get(axis, ()), *_pick(among, axes.count(axis))])
    return held


def hold_out(
    labels: Labels, slices: Mapping[str, Sequence[int]], *, ignore_index: int = IGNORE_INDEX
) -> tuple[Labels, Labels]:
    """Split annotation into what to train on and what to test on: ``(train, held)``.

    ``held`` keeps the annotation on the given slices and nothing else; ``train`` keeps everything
    else, also without the lines in which held-out slices cross the others. Both are copies.

    Args:
        labels: class indices, ``(*spatial)``.
        slices: indices per axis ``"x"``, ``"y"`` or ``"z"``; see :func:`choose_held_out`.
        ignore_index: label of voxels without annotation.
    """
    check_spatial(labels)
    names = AXES[: labels.ndim]
    held = np.full_like(labels, ignore_index)
    train = labels.copy()
    for name, indices in slices.items():
        if name not in names:
            raise ValueError(
                f"slices names the axis {name!r}; labels of shape {labels.shape} have the axes "
                f"{', '.join(names)}."
            )
        axis = names.index(name)
        for index in indices:
            if not 0 <= index < labels.shape[axis]:
                raise ValueError(
                    f"slices[{name!r}] holds {index}, but {name} runs from 0 to {labels.shape[axis] - 1}."
                )
        chosen = along(axis, list(indices))
        held[chosen] = labels[chosen]
        train[chosen] = ignore_index
    return train, held


def annotation_counts(
    labels: npt.ArrayLike, num_classes: int, *, ignore_index: int = IGNORE_INDEX
) -> npt.NDArray[np.int64]:
    """Annotated voxels of each class, ``(num_classes,)``; unannotated voxels count for none.

    ``labels`` may have any shape.
    """
    flat = np.asarray(labels).reshape(-1)
    if flat.dtype.kind not in "iu":
        raise ValueError(f"labels are of type {flat.dtype}; class indices are integers.")
    counts = np.zeros(num_classes, np.int64)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        part = part[part != ignore_index]
        if part.size and (part.min() < 0 or part.max() >= num_classes):
            wrong = int(part[(part < 0) | (part >= num_classes)][0])
            raise ValueError(
                f"labels hold {wrong}; class indices are 0 to {num_classes - 1}, "
                f"and {ignore_index} for unlabelled."
            )
        counts += np.bincount(part.astype(np.intp), minlength=num_classes)
    return counts


def check_spatial(labels: Labels) -> None:
    """Refuse what is neither an image nor a volume, a channel axis above all."""
    if labels.ndim not in (2, 3):
        raise ValueError(
            f"labels of shape {labels.shape} have {labels.ndim} axes; an image has 2 and a volume 3, "
            "without a channel axis (pass label[0])."
        )


def along(axis: int, indices: Sequence[int]) -> tuple[Any, ...]:
    """Index that picks slices perpendicular to an axis."""
    return (*[slice(None)] * axis, np.asarray(indices, np.intp))


def on_slices(shape: tuple[int, ...], slices: Sequence[Sequence[int]]) -> npt.NDArray[np.bool_]:
    """Which voxels lie on slices, given as indices per axis."""
    mask = np.zeros(shape, bool)
    for axis, indices in enumerate(slices):
        mask[along(axis, indices)] = True
    return mask


def project(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    """Number of true voxels in each slice perpendicular to an axis."""
    others = tuple(other for other in range(mask.ndim) if other != axis)
    return np.asarray(np.count_nonzero(mask, axis=others), np.int64)


def _is_dense(annotated: npt.NDArray[np.bool_]) -> bool:
    if 0 in annotated.shape:
        return False
    slice_sizes = [annotated.size // n for n in annotated.shape]
    return all(project(annotated, axis).min() >= _FULL * n for axis, n in enumerate(slice_sizes))


def _bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(project(mask, axis))
        if filled.size == 0:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


class SliceSearch:
    """Slices found one by one, each judged by the voxels that those found before it do not explain.

    Every painted slice leaves a line in each slice that crosses it. A slice explains the voxels that lie on
    it; they count for no other any more.

    Attributes:
        left: voxels that no slice explains yet, ``(*spatial)``.
        counts: per axis, how many of these each slice holds; -1 for a slice that was found.
        found: per axis, the indices of the slices, in the order in which they were found.
    """

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.left = mask.copy()
        self.counts = [project(mask, axis) for axis in range(mask.ndim)]
        self.found: list[list[int]] = [[] for _ in mask.shape]

    def area(self, axis: int) -> int:
        """Voxels of a slice perpendicular to an axis that lie on none of the slices found."""
        return math.prod(n - len(self.found[o]) for o, n in enumerate(self.left.shape) if o != axis)

    def best(
        self, judge: Callable[[int], tuple[npt.NDArray[np.bool_], float]]
    ) -> tuple[float, int, int] | None:
        """The good slice of the largest count, with its axis and index; ``None`` if there is none.

        Args:
            judge: of an axis, which slices are good, and what their counts are divided by. Of equal slices
                that along the last axis is taken.
        """
        best: tuple[float, int, int] | None = None
        for axis in reversed(range(self.left.ndim)):
            good, unit = judge(axis)
            index = int(np.argmax(np.where(good, self.counts[axis], -1)))
            if good[index] and (best is None or self.counts[axis][index] / unit > best[0]):
                best = (self.counts[axis][index] / unit, axis, index)
        return best

    def explain(self, axis: int, index: int) -> npt.NDArray[np.bool_]:
        """Add a slice; what it explains that no other did, without its axis."""
        explained = np.take(self.left, index, axis=axis)
        for position, other in enumerate(o for o in range(self.left.ndim) if o != axis):
            self.counts[other] -= project(explained, position)
        self.counts[axis][index] = -1
        self.left[along(axis, [index])] = False
        self.found[axis].append(index)
        return explained


def _explain(annotated: npt.NDArray[np.bool_], min_fraction: float) -> list[list[int]]:
    """Slices that explain the annotation, fullest and largest first."""
    search = SliceSearch(annotated)
    limits = [limit for limit in (_FULL, 0.8, 0.65) if limit > min_fraction] + [min_fraction]

    def judge(axis: int) -> tuple[npt.NDArray[np.bool_], float]:
        area, counts = search.area(axis), search.counts[axis]
        large = area >= max(1, _MIN_UNEXPLAINED * annotated.size / annotated.shape[axis])
        return large & (counts >= limits[0] * area), 1.0

    while limits:
        best = search.best(judge)
        if best is None:
            limits.pop(0)
        else:
            search.explain(*best[1:])
    return [sorted(indices) for indices in search.found]


def _apportion(totals: Sequence[int], fraction: float) -> list[int]:
    """Slices to hold out per axis, in proportion (largest remainders), leaving some to train on."""
    total = sum(totals)
    counts = [0] * len(totals)
    if total < 3:
        return counts
    limits = [max(0, n - 1) for n in totals]
    if not any(limits):  # one slice per direction: one of them has to go
        limits = list(totals)
    wanted = min(max(1, round(fraction * total)), sum(limits), total - 1)
    while sum(counts) < wanted:
        open_axes = [axis for axis in range(len(totals)) if counts[axis] < limits[axis]]
        counts[max(open_axes, key=lambda axis: (fraction * totals[axis] - counts[axis], axis))] += 1
    return counts


def _pick(found: Sequence[int], count: int) -> list[int]:
    """So many of the slices along an axis: evenly spread, or whole blocks of neighbours."""
    return [found[i] for i in (_blocks if _are_neighbours(found) else even_positions)(len(found), count)]


def _are_neighbours(indices: Sequence[int]) -> bool:
    """Whether most slices lie directly beside the next one."""
    return len(indices) > 1 and float(np.mean(np.diff(indices) == 1)) > 0.5


def _blocks(n: int, k: int) -> list[int]:
    """``k`` of ``n`` positions as one block of neighbours, or two where each still has five."""
    blocks = min(k, 2 if k >= 10 else 1)
    positions: list[int] = []
    for i, middle in enumerate(even_positions(n, blocks)):
        length = k // blocks + (i < k % blocks)
        start = min(max(0, middle - length // 2), n - length)
        positions.extend(range(start, start + length))
    return positions
