"""Folds: every painted slice is held out once, and what is next to it is not learnt from if possible."""

import re

import numpy as np
import pytest

from volseg.annotation import hold_out, keep_slices
from volseg.densification.folds import Fold, make_folds, runs_of
from volseg.densification.timing import affordable_folds
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
        for axis, indices in fold.others.items():
            assert (np.take(test, indices, "xyz".index(axis)) == IGNORE_INDEX).all()
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


def test_strokes_that_are_no_slices_are_cut_into_stripes():
    labels = np.full((90, 30, 30), IGNORE_INDEX, np.uint8)
    for i in range(5, 85, 4):
        labels[i : i + 3, (7 * i) % 25 : (7 * i) % 25 + 4, (11 * i) % 25 : (11 * i) % 25 + 4] = i % 2
    folds = make_folds(labels, 3).folds
    assert {axis for axis, _ in held(folds)} == {"x"}
    sizes = [np.count_nonzero(fold.split(labels)[1] != IGNORE_INDEX) for fold in folds]
    assert sum(sizes) == np.count_nonzero(labels != IGNORE_INDEX)
    assert min(sizes) > 0.2 * sum(sizes)


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ({}, "Nothing is painted"),
        ({"z": [4]}, "With 1 painted slice it cannot be told how good the result is.*Paint 2 more"),
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
