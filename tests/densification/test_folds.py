"""Folds: every painted slice is held out once, and what is next to it is not learnt from if possible."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation import hold_out, keep_slices
from volseg.densification.folds import Fold, VoxelSet, make_folds, runs_of
from volseg.densification.schedule import affordable_folds
from volseg.labels import IGNORE_INDEX

DENSE = np.random.default_rng(0).integers(0, 3, (24, 20, 18)).astype(np.uint8)


def painted(**slices: list[int]) -> np.ndarray:
    """A volume with these slices painted."""
    return hold_out(DENSE, slices)[1]


def held(folds) -> list[tuple[str, int]]:
    return sorted((axis, i) for fold in folds for axis, indices in fold.slices.items() for i in indices)


@pytest.fixture(
    params=[(1, 1, 1), (2, 2, 2), (3, 0, 4), (0, 0, 5), (2, 3)], ids=lambda counts: "-".join(map(str, counts))
)
def labels(request):
    """Painted slices in one to three directions of a volume, and lines of an image."""
    return keep_slices(DENSE if len(request.param) == 3 else DENSE[:, :, 0], request.param)


def test_every_painted_slice_is_held_out_once(labels):
    folds = make_folds(labels, 3).folds
    assert len(folds) == 3
    slices = [(axis, i) for axis, i in held(folds)]
    on = [np.take(labels, i, "xyz".index(axis)) for axis, i in slices]
    assert len(set(slices)) == len(slices)
    assert all((values != IGNORE_INDEX).all() for values in on)
    _, everything = hold_out(labels, {a: [i for b, i in slices if b == a] for a, _ in slices})
    np.testing.assert_array_equal(everything, labels)


def test_no_voxel_is_learnt_from_and_tested_or_tested_where_a_training_slice_crosses(labels):
    for fold in make_folds(labels, 3).folds:
        train, test = fold.split(labels)
        assert (test != IGNORE_INDEX).any()
        assert (train != IGNORE_INDEX).any()
        assert not np.any((train != IGNORE_INDEX) & (test != IGNORE_INDEX))
        for axis, indices in fold.slices.items():
            assert (np.take(train, indices, "xyz".index(axis)) == IGNORE_INDEX).all()
        whole = replace(fold, holes={}).split(labels)[1]
        for axis, indices in fold.others.items():
            assert (np.take(whole, indices, "xyz".index(axis)) == IGNORE_INDEX).all()
        crossing = (labels != IGNORE_INDEX) & (train == IGNORE_INDEX) & (test == IGNORE_INDEX)
        two = sum(
            np.isin(np.arange(n), [i for b, i in held(make_folds(labels, 3).folds) if b == a]).reshape(
                [-1 if b == a else 1 for b in "xyz"[: labels.ndim]]
            )
            for a, n in zip("xyz", labels.shape, strict=False)
        )
        assert (np.broadcast_to(two, labels.shape)[crossing] >= 2).all()


def test_slices_side_by_side_are_held_out_together():
    labels = painted(z=[2, 3, 8, 9, 13, 15], x=[5, 6])
    for fold in make_folds(labels, 3).folds:
        for pair in ((2, 3), (8, 9), (13, 15)):
            assert len(set(pair) & set(fold.slices.get("z", ()))) in (0, 2)
        assert sorted(fold.slices.get("x", ())) in ([], [5, 6])


def test_a_stack_painted_from_end_to_end_is_cut_into_blocks_and_their_neighbours_are_left_out():
    labels = np.zeros((4, 5, 60), np.uint8)
    for axis_labels in (labels, labels[0]):
        folds = make_folds(axis_labels, 3).folds
        axis = "xyz"[axis_labels.ndim - 1]
        assert held(folds) == [(axis, i) for i in range(60)]
        for fold in folds:
            train, test = fold.split(axis_labels)
            learnt = np.flatnonzero((train != IGNORE_INDEX).reshape(-1, 60).any(0))
            tested = np.flatnonzero((test != IGNORE_INDEX).reshape(-1, 60).any(0))
            assert np.abs(np.subtract.outer(learnt, tested)).min() == 2
            assert len(learnt) > 30


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ({}, "Nothing is painted"),
        ({"z": [4]}, "With 1 painted slice it cannot be known how good the result is.*Paint 2 more"),
        ({"z": [4], "x": [9]}, "With 2 painted slices.*Paint one more"),
    ],
)
def test_too_few_slices_give_a_reason_instead_of_folds(slices, reason):
    folds = make_folds(painted(**slices))
    assert folds.folds == ()
    assert re.search(reason, folds.reason)


def test_three_slices_side_by_side_are_held_out_one_by_one_since_it_cannot_be_avoided():
    folds = make_folds(painted(z=[6, 7, 8])).folds
    assert [dict(fold.slices) for fold in folds] == [{"z": [6]}, {"z": [7]}, {"z": [8]}]


def test_with_more_paint_every_slice_stays_in_its_fold():
    before = make_folds(painted(x=[4, 12, 20], z=[3, 9, 15])).folds
    after = make_folds(painted(x=[4, 12, 16, 20], y=[6], z=[3, 9, 10, 15]), previous=before).folds
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        for axis, indices in old.slices.items():
            assert set(indices) <= set(new.slices[axis])
    assert held(after) == [("x", i) for i in (4, 12, 16, 20)] + [("y", 6)] + [
        ("z", i) for i in (3, 9, 10, 15)
    ]
    (home,) = [fold for fold in after if 9 in fold.slices.get("z", ())]
    assert 10 in home.slices["z"]


ONE_DIRECTION = {
    "xy": (DENSE, (0, 0, 4)),
    "yz": (DENSE, (5, 0, 0)),
    "lines": (DENSE[:, :, 0], (0, 3)),
}


@pytest.mark.parametrize("shape", ONE_DIRECTION)
def test_slices_in_one_direction_are_learnt_from_with_holes_that_are_tested_on(shape):
    dense, counts = ONE_DIRECTION[shape]
    labels = keep_slices(dense, counts)
    folds = make_folds(labels, 3).folds
    for fold in folds:
        train, test = fold.split(labels)
        near = hold_out(test, fold.slices)[0] != IGNORE_INDEX
        distance = ndimage.distance_transform_edt(train == IGNORE_INDEX)
        assert 1 <= distance[near].max() <= 5  # close to paint, where a whole slice is a gap away
        assert not near[train != IGNORE_INDEX].any()
        on_others = hold_out(labels, fold.slices)[0] != IGNORE_INDEX
        assert 0.02 < near.sum() / on_others.sum() < 0.3
        np.testing.assert_array_equal(near | (train != IGNORE_INDEX), on_others)
    assert len({str(fold.holes) for fold in folds}) == len(folds)


@pytest.mark.parametrize("counts", [(2, 2, 0), (1, 1, 2), (0, 0, 18)], ids=str)
def test_there_are_no_holes_where_slices_cross_or_nothing_is_unpainted(counts):
    assert not any(fold.holes for fold in make_folds(keep_slices(DENSE, counts), 3).folds)


def test_with_more_paint_the_holes_stay_where_they_were():
    before = make_folds(painted(z=[2, 8, 14]), 3).folds
    after = make_folds(painted(z=[2, 5, 8, 14]), 3, previous=before).folds
    assert [fold.holes for fold in after] == [fold.holes for fold in before] != [{}] * 3


def more_paint(rng: np.random.Generator, labels: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """What somebody may do next: whole slices, parts of some, finished ones, strokes, voxels painted again;
    and erase some."""
    labels = labels.copy()
    for _ in range(rng.integers(1, 4)):
        axis = int(rng.integers(labels.ndim))
        where = [slice(None)] * labels.ndim
        where[axis] = int(rng.integers(labels.shape[axis]))
        kind = rng.choice(["slice", "part", "finish", "stroke", "erase"])
        begun = np.unique(np.nonzero(labels != IGNORE_INDEX)[axis])
        if kind in ("finish", "erase") and len(begun):
            where[axis] = int(rng.choice(begun))
        if kind in ("part", "stroke"):
            across = int(rng.choice([a for a in range(labels.ndim) if a != axis]))
            start, n = int(rng.integers(labels.shape[across])), labels.shape[across]
            where[across] = slice(start, start + (max(2, n // 2) if kind == "part" else 4))
        if kind == "stroke":
            where[axis] = slice(where[axis], where[axis] + 2)
        labels[tuple(where)] = IGNORE_INDEX if kind == "erase" else dense[tuple(where)]
    return labels


@pytest.mark.parametrize("shape", [(24, 20, 18), (40, 32)], ids=["3d", "2d"])
def test_however_somebody_goes_on_painting_no_fold_is_tested_on_what_it_ever_learnt_from(shape):
    """Random layouts over three continuations; what was learnt is kept here voxel by voxel, as the twin."""
    tested = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        dense = rng.integers(0, 3, shape).astype(np.uint8)
        labels = np.full(shape, IGNORE_INDEX, np.uint8)
        folds, ever = (), []
        for _ in range(4):
            labels = more_paint(rng, labels, dense)
            found = make_folds(labels, 3, previous=folds).folds
            if not found:
                continue
            ever = ever or [np.zeros(shape, bool) for _ in found]
            assert len(found) == len(ever)
            for fold, learnt in zip(found, ever, strict=True):
                train, test = Fold.from_json(fold.as_json()).split(labels)
                learnt |= train != IGNORE_INDEX
                assert not np.any(learnt & (test != IGNORE_INDEX))
                assert fold.is_tested == bool((test != IGNORE_INDEX).any())  # else it cannot score
                np.testing.assert_array_equal(fold.known(train) != IGNORE_INDEX, learnt)
                tested += int(bool(folds)) * np.count_nonzero(test != IGNORE_INDEX)
            folds = found
    assert tested > 3000


def test_a_slice_that_was_begun_is_scored_only_where_it_was_not_learnt_from():
    first = painted(x=[14], y=[16], z=[3, 12])
    first[6, 3:11, 3:11] = DENSE[6, 3:11, 3:11]
    second = first.copy()
    second[6] = DENSE[6]
    folds = make_folds(second, 3, previous=make_folds(first, 3).folds).folds
    (home,) = [fold for fold in folds if 6 in fold.slices.get("x", ())]
    test = home.split(second)[1][6] != IGNORE_INDEX
    assert not test[3:11, 3:11].any()
    assert test[11:16, 13:].any()


def test_of_folds_without_a_record_only_their_own_slices_are_known_not_to_be_learnt_from():
    first = painted(x=[4, 12, 20], z=[3, 9, 15])
    before = [Fold(fold.slices) for fold in make_folds(first, 3).folds]
    second = np.where(painted(x=[8], y=[6]) != IGNORE_INDEX, DENSE, first)
    after = make_folds(second, 3, previous=before).folds
    assert [fold.slices for fold in after] == [fold.slices for fold in before]
    for fold in after:
        assert (fold.split(second)[0][8, :, [1, 6, 17]] != IGNORE_INDEX).any()  # but learnt from


def test_where_everything_was_learnt_from_nothing_is_held_out_and_it_says_why():
    labels = painted(z=[3, 9, 15])
    before = [replace(fold, slices={}) for fold in make_folds(labels, 3).folds]
    learnt = VoxelSet.of(labels != IGNORE_INDEX)
    folds = make_folds(labels, 3, previous=[replace(fold, learnt=learnt) for fold in before])
    assert folds.folds == ()
    assert "was learnt from before" in folds.reason


def test_folds_of_another_volume_are_refused():
    before = make_folds(painted(z=[3, 9, 15]), 3).folds
    with pytest.raises(ValueError, match="previous holds folds of a volume of .24, 20, 18. voxels"):
        make_folds(DENSE[:, :, :10], 3, previous=before)


def test_a_fold_can_be_given_by_hand():
    labels = painted(x=[4, 12], z=[3])
    train, test = Fold({"x": [4]}).split(labels)
    np.testing.assert_array_equal(train, hold_out(labels, {"x": [4]})[0])
    np.testing.assert_array_equal(test, hold_out(labels, {"x": [4]})[1])


def test_runs_join_what_lies_at_most_two_slices_apart():
    assert runs_of([9, 1, 2, 4, 20, 23]) == [(1, 2, 4), (9,), (20,), (23,)]


def test_one_fold_is_none():
    with pytest.raises(ValueError, match="count = 1: cross-validation needs at least 2 folds"):
        make_folds(DENSE, 1)


@pytest.mark.parametrize(
    ("minutes", "voxels", "expected"),
    [(15, 11_000_000, 3), (15, 500_000, 8), (4, 500_000, 4), (0.1, 500_000, 3), (15, 4_000_000, 7)],
)
def test_small_volumes_and_much_time_make_more_folds(minutes, voxels, expected):
    assert affordable_folds(60 * minutes, voxels) == expected
