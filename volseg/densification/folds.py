"""Which painted slices are held out in turn, so that a model is scored on slices it has not seen.

Slices that lie side by side look alike. Those of one direction are therefore dealt out in *runs*: what
lies closer together than ``_CLOSE`` slices goes into the same fold. Where all slices are one run, as in a
stack painted from end to end, it is cut into blocks, and the slices beside a cut (the *guards*) are
neither trained nor tested on.

Of slices painted in one direction, a held-out one lies a whole gap from the next, and what is unlabelled at
most half of one. So that something is tested close to paint, too, *holes* a few voxels wide are left in the
slices that are learnt from, others in each fold.

Strokes are held out by *place*, several at once, and what touches them is not learnt from either: see
:mod:`volseg.densification.places`.

A model that goes on from an earlier run has learnt from more than the paint of this run without its slices: a
stroke becomes a slice, a half-painted slice is finished, and then is held out. So every fold keeps a record
of all voxels that its model has ever learnt from, and none of them is tested on again.
"""

import base64
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.annotation import find_slices, hold_out, numbered_slices
from volseg.annotation.slices import along, on_slices
from volseg.annotation.strokes import are_strokes, counted, strokes_of
from volseg.densification.places import STROKE_FOLDS, deal_places, missing, touching
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX

__all__ = ["Fold", "Folds", "VoxelSet", "make_folds", "runs_of"]

Labels: TypeAlias = npt.NDArray[np.uint8]
Run: TypeAlias = tuple[str, tuple[int, ...]]

_CLOSE = 2  # slices at most this far apart are neighbours
_FEWEST = 3  # runs of slices without which nothing can be known
_GUARDED = 5  # a block has at least this many slices if those beside its cuts are left out
_HOLES = 0.1  # of the paint that is learnt from is left out, in holes
_WIDE = 5  # voxels across a hole
_ALL_LEARNT = "All that could be held out was learnt from before, so it cannot be scored."
_SETS = ("learnt", "strokes", "beside")
_LONG = 12  # voxels; along a shorter axis slices are left out from end to end


@dataclass(frozen=True)
class VoxelSet:
    """Some voxels of a volume, such as all that a model has learnt from.

    Args:
        shape: of the volume.
        bits: one per voxel in C order, packed and compressed.
    """

    shape: tuple[int, ...]
    bits: bytes

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_]) -> "VoxelSet":
        """Those where a mask is true."""
        return cls(mask.shape, zlib.compress(np.packbits(mask).tobytes()))

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """``(*shape)``."""
        size = math.prod(self.shape)
        packed = zlib.decompressobj().decompress(self.bits, -(-size // 8) or 1)
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).reshape(self.shape).astype(bool)


@dataclass(frozen=True)
class Fold:
    """What is held out, as indices per axis.

    Args:
        slices: to test on.
        guards: neither trained nor tested on.
        others: the slices that are trained on. Where they cross one that is tested on, the voxels are in
            neither: the slices trained on have their neighbours on both sides.
        holes: of the slices that are trained on, what lies at one of these positions along each of these axes
            is left out, and tested on.
        learnt: all that its model has learnt from once it has been trained, earlier runs included; ``None``
            if no record was kept.
        strokes: to test on, where places are held out and not slices.
        beside: painted voxels that touch these: neither trained nor tested on.
    """

    slices: Mapping[str, Sequence[int]]
    guards: Mapping[str, Sequence[int]] = field(default_factory=dict)
    others: Mapping[str, Sequence[int]] = field(default_factory=dict)
    holes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    learnt: VoxelSet | None = None
    strokes: VoxelSet | None = None
    beside: VoxelSet | None = None

    @property
    def is_tested(self) -> bool:
        """Whether there is anything to test on."""
        return bool(self.slices) or self.strokes is not None

    def in_words(self) -> str:
        """What is held out."""
        if self.strokes is None:
            return numbered_slices(self.slices)
        return f"strokes of {counted(int(np.count_nonzero(self.strokes.mask)), 'voxel')}"

    def split(self, labels: Labels) -> tuple[Labels, Labels]:
        """What to train on and what to test on: ``(train, test)``, the rest 255 in both."""
        if self.strokes is not None:
            held, beside = (s is not None and s.mask for s in (self.strokes, self.beside))
            train, test = (np.where(out, IGNORE_INDEX, labels) for out in (held | beside, ~held))
            if self.learnt is not None:
                test[self.learnt.mask] = IGNORE_INDEX
            return train.astype(np.uint8), test.astype(np.uint8)
        rest, test = hold_out(labels, self.slices)
        train, test = hold_out(rest, self.guards)[0], hold_out(test, self.others)[0]
        if self.holes:
            where = tuple(self.holes.get(a, range(n)) for a, n in zip(AXES, labels.shape, strict=False))
            holes = np.ix_(*where)
            test[holes] = np.minimum(test[holes], train[holes])  # of which one is 255 everywhere
            train[holes] = IGNORE_INDEX
        if self.learnt is not None:
            test[self.learnt.mask] = IGNORE_INDEX
        return train, test

    def known(self, train: Labels) -> Labels:
        """What lies as near as if it were painted: all that the model has learnt from, 255 elsewhere."""
        if self.learnt is None:
            return train
        return np.where(self.learnt.mask, 0, train).astype(np.uint8)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for :meth:`from_json`."""
        parts: dict[str, Any] = {
            name: {axis: [int(i) for i in indices] for axis, indices in getattr(self, name).items()}
            for name in ("slices", "guards", "others", "holes")
        }
        for name in _SETS:
            if (voxels := getattr(self, name)) is not None:
                bits = base64.b64encode(voxels.bits).decode("ascii")
                parts[name] = {"shape": list(voxels.shape), "bits": bits}
        return parts

    @classmethod
    def from_json(cls, parts: Mapping[str, Any]) -> "Fold":
        """What :meth:`as_json` gave."""
        sets = {
            name: VoxelSet(tuple(parts[name]["shape"]), base64.b64decode(parts[name]["bits"]))
            for name in _SETS
            if name in parts
        }
        return cls(parts["slices"], parts["guards"], parts["others"], parts["holes"], **sets)


@dataclass(frozen=True)
class Folds:
    """The folds, or why there are none.

    Args:
        folds: every painted slice is held out in one of them; empty if nothing can be known.
        reason: why there are no folds, in a sentence for the report; empty if there are.
    """

    folds: tuple[Fold, ...]
    reason: str = ""


def make_folds(
    labels: Labels,
    count: int = 3,
    *,
    previous: Sequence[Fold] = (),
    spacing: Sequence[float] | None = None,
    names: Sequence[str] = (),
) -> Folds:
    """Deal the painted slices out into ``count`` folds, those of every direction evenly.

    Paint that does not lie on slices (strokes here and there) is dealt out place by place, into four.

    Args:
        labels: class indices, ``(*spatial)``, 255 where unlabelled.
        count: of the folds; fewer where there are fewer runs of slices.
        previous: folds of earlier paint on the same image. There are as many again, a slice stays in the
            fold it was in, and what a fold has learnt from (:attr:`Fold.learnt`) is not tested on again. Of
            a fold without that record it is only known that nothing on its own slices was learnt from:
            others are not held out from it. A fold that has nothing left to test on has no slices.
        spacing: voxel size along each axis, which says how far strokes are from each other.
        names: of the classes, for the reason.
    """
    if count < 2:
        raise ValueError(f"count = {count}: cross-validation needs at least 2 folds.")
    painted = labels != IGNORE_INDEX
    if not painted.any():
        return Folds((), "Nothing is painted, so nothing can be held out.")
    if are_strokes(labels):
        return _by_place(labels, spacing or (1.0,) * labels.ndim, previous, names)
    slices: Mapping[str, Sequence[int]] = find_slices(labels)
    blocks = _blocks(slices, count)
    if len(blocks) < _FEWEST:
        return Folds((), _too_few(sum(map(len, slices.values()))))
    count = len(previous) or min(count, len(blocks))
    before: Sequence[npt.NDArray[np.bool_] | None] = [None] * count
    if previous:
        before = [_learnt_before(fold, labels.shape) for fold in previous]
    recorded = all(fold.learnt is not None for fold in previous)
    held: list[dict[str, list[int]]] = [{} for _ in range(count)]
    guards: list[dict[str, list[int]]] = [{} for _ in range(count)]
    sizes = [0] * count
    for (axis, run), beside in blocks:
        homes = [_home(previous, axis, index, run) for index in run]
        emptiest = sizes.index(min(sizes))
        for index, home in zip(run, homes, strict=True):
            if not recorded and (home is None or index not in previous[home].slices[axis]):
                continue
            number = emptiest if home is None else home
            held[number].setdefault(axis, []).append(index)
            guards[number].setdefault(axis, []).extend(beside)
            sizes[number] += 1
    holes: Sequence[Mapping[str, Sequence[int]]] = [fold.holes for fold in previous]
    if not any(holes):
        holes = _holes(painted, slices, count)
    folds: list[Fold] = []
    for test, guarded, hole, old in zip(held, guards, holes, before, strict=True):
        if old is not None:
            test = _testable(test, slices, painted & ~old)
        fold = Fold(
            test,
            {axis: sorted(set(guarded[axis]) - set(indices)) for axis, indices in test.items()},
            {axis: sorted(set(slices.get(axis, ())) - set(test.get(axis, ()))) for axis in slices},
            hole if test and recorded else {},
        )
        learnt = fold.split(labels)[0] != IGNORE_INDEX
        folds.append(replace(fold, learnt=VoxelSet.of(learnt if old is None else learnt | old)))
    if previous and not any(fold.slices for fold in folds):
        return Folds((), _ALL_LEARNT)
    return Folds(tuple(fold for fold in folds if fold.slices) if not previous else tuple(folds))


def _too_few(n: int) -> str:
    """Why so many slices cannot be held out, and what to paint."""
    return (
        f"With {counted(n, 'painted slice')} it cannot be known how good the result is: some have to be held "
        f"out, and at least {_FEWEST} are needed for that. Paint "
        f"{'one more' if n == _FEWEST - 1 else f'{_FEWEST - n} more'}, a few slices apart."
    )


def _by_place(
    labels: Labels, spacing: Sequence[float], previous: Sequence[Fold], names: Sequence[str]
) -> Folds:
    """Folds of strokes: a place goes where least of it was learnt from before."""
    strokes = strokes_of(labels, spacing)
    if reason := missing(strokes, names or [f"class {c}" for c in range(int(strokes.classes.max()) + 1)]):
        return Folds((), reason)
    voxels = tuple(strokes.voxels.T)
    before = [_learnt_before(fold, labels.shape) for fold in previous]
    known = np.zeros((len(previous), strokes.places))
    for row, mask in zip(known, before, strict=True):
        np.add.at(row, strokes.place, mask[voxels])
    homes = np.where(known.any(0), known.argmin(0), -1) if previous else None
    parts = deal_places(strokes, len(previous) or STROKE_FOLDS, homes)[strokes.place]
    folds = []
    for number in range(len(previous) or STROKE_FOLDS):
        masks = np.zeros((2, *labels.shape), bool)
        held = parts == number
        for mask, chosen in zip(masks, (held, touching(strokes, held, spacing)), strict=True):
            mask[voxels] = chosen
        old = before[number] if previous else np.zeros(labels.shape, bool)
        tested = bool(np.any(masks[0] & ~old))
        fold = Fold({}, strokes=VoxelSet.of(masks[0]), beside=VoxelSet.of(masks[1])) if tested else Fold({})
        learnt = (fold.split(labels)[0] != IGNORE_INDEX) | old
        folds.append(replace(fold, learnt=VoxelSet.of(learnt)))
    if not any(fold.is_tested for fold in folds):
        return Folds((), _ALL_LEARNT)
    return Folds(tuple(folds))


def runs_of(indices: Iterable[int]) -> list[tuple[int, ...]]:
    """The slices of one direction, those that are neighbours together."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index - runs[-1][-1] <= _CLOSE:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [tuple(run) for run in runs]


def _blocks(slices: Mapping[str, Sequence[int]], count: int) -> list[tuple[Run, tuple[int, ...]]]:
    """What is held out together, with its guards: runs, the long ones cut."""
    runs = [(axis, run) for axis, indices in slices.items() for run in runs_of(indices)]
    total = sum(len(run) for _, run in runs)
    longest = _GUARDED if len(runs) >= _FEWEST else 1
    blocks: list[tuple[Run, tuple[int, ...]]] = []
    for axis, run in runs:
        parts = 1
        if len(run) > max(longest, total / count) or (longest == 1 and total >= _FEWEST):
            parts = max(1, min(len(run), round(2 * count * len(run) / total)))
        edges = [i * len(run) // parts for i in range(parts + 1)]
        for start, stop in pairwise(edges):
            beside = (*run[max(0, start - 1) : start], *run[stop : stop + 1])
            blocks.append(((axis, run[start:stop]), beside if stop - start >= _GUARDED else ()))
    return blocks


def _learnt_before(fold: Fold, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """What a fold of an earlier run may have learnt from; without a record, all but its slices."""
    if fold.learnt is None:
        return ~on_slices(shape, [fold.slices.get(axis, ()) for axis in AXES[: len(shape)]])
    if fold.learnt.shape != shape:
        raise ValueError(
            f"previous holds folds of a volume of {fold.learnt.shape} voxels, labels have {shape}: what was "
            "learnt from another volume says nothing of this one. Leave previous out."
        )
    return fold.learnt.mask


def _testable(
    held: Mapping[str, Sequence[int]],
    slices: Mapping[str, Sequence[int]],
    new: npt.NDArray[np.bool_],
) -> dict[str, list[int]]:
    """The slices of a fold on which there is something to test on; the others may be learnt from.

    Args:
        new: what is painted, and was never learnt from.
    """
    found = {axis: list(indices) for axis, indices in held.items()}
    while True:
        others = [set(slices.get(axis, ())) - set(found.get(axis, ())) for axis in AXES[: new.ndim]]
        tested = new & ~on_slices(new.shape, [sorted(indices) for indices in others])
        kept = {
            axis: [i for i in indices if tested[along(AXES.index(axis), [i])].any()]
            for axis, indices in found.items()
        }
        kept = {axis: indices for axis, indices in kept.items() if indices}
        if kept == found:
            return found
        found = kept


def _holes(
    painted: npt.NDArray[np.bool_], slices: Mapping[str, Sequence[int]], count: int
) -> Sequence[Mapping[str, Sequence[int]]]:
    """For each fold a lattice of holes in its slices, where all of these lie in one direction."""
    used = [AXES.index(axis) for axis, indices in slices.items() if indices]
    if len(used) != 1 or len(slices[AXES[used[0]]]) == painted.shape[used[0]]:
        return [{} for _ in range(count)]
    cut = [a for a in range(painted.ndim) if a != used[0] and painted.shape[a] >= _LONG]
    apart = _WIDE / _HOLES ** (1 / max(len(cut), 1))
    holes = []
    for fold in range(count):
        places = {}
        for a in cut:
            period = min(apart, painted.shape[a])
            first = fold * period / count
            places[AXES[a]] = [i for i in range(painted.shape[a]) if (i - first) % period < _WIDE]
        holes.append(places)
    return holes


def _home(previous: Sequence[Fold], axis: str, index: int, run: Sequence[int]) -> int | None:
    """The fold that the slice, or else the nearest one of its run, was in."""
    known = [
        (abs(old - index), fold)
        for fold, part in enumerate(previous)
        for old in part.slices.get(axis, ())
        if old in run
    ]
    return min(known)[1] if known else None
