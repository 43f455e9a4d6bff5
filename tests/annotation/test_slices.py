"""Which slices are annotated is found again, and held-out slices stay out of training."""

import itertools

import numpy as np
import pytest

from volseg.annotation import (
    annotated_slices,
    annotation_counts,
    choose_held_out,
    even_positions,
    hold_out,
    keep_slices,
)
from volseg.annotation.slices import SliceSearch, on_slices, project
from volseg.labels import IGNORE_INDEX

PAPER_SAMPLES = [((248, 244, 64), (7, 5, 21)), ((245, 244, 56), (6, 7, 12)), ((246, 244, 59), (4, 5, 10))]
SHAPES = {"2d": (40, 31), "3d": (30, 26, 22)}


@pytest.fixture(params=SHAPES, ids=str)
def dense(request):
    """A label with every voxel annotated, three classes."""
    return np.random.default_rng(0).integers(0, 3, SHAPES[request.param], dtype=np.uint8)


def annotated(labels):
    return labels != IGNORE_INDEX


def painted(shape, slices):
    """Annotation (of class 1) on the given slices per axis."""
    labels = np.full(shape, IGNORE_INDEX, np.uint8)
    for axis, indices in enumerate(slices):
        for index in indices:
            np.moveaxis(labels, axis, 0)[index] = 1
    return labels


# --- positions and slices to keep


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 5), (64, 21), (7, 2), (248, 7), (9, 0)])
def test_positions_are_the_middles_of_equal_parts(n, k):
    positions = even_positions(n, k)
    assert positions == [int((i + 0.5) * n / k) for i in range(k)]
    assert sorted(set(positions)) == positions
    if k:
        gaps = np.diff([-positions[0] - 1, *positions, 2 * n - 1 - positions[-1]])
        assert gaps.max() - gaps.min() <= 2


@pytest.mark.parametrize("k", [-1, 6])
def test_more_positions_than_there_are_cannot_be_chosen(k):
    with pytest.raises(ValueError, match=f"k = {k} of n = 5 positions cannot be chosen"):
        even_positions(5, k)


def test_kept_slices_are_untouched_and_the_rest_is_ignored(dense):
    counts = (2, 0, 5)[: dense.ndim]
    kept = keep_slices(dense, counts)
    on_a_slice = np.zeros(dense.shape, bool)
    for index in itertools.product(*map(range, dense.shape)):
        on_a_slice[index] = any(
            i in even_positions(n, k) for i, n, k in zip(index, dense.shape, counts, strict=True)
        )
    np.testing.assert_array_equal(kept, np.where(on_a_slice, dense, IGNORE_INDEX))
    assert kept.dtype == dense.dtype


def test_keeping_every_slice_keeps_everything(dense):
    np.testing.assert_array_equal(keep_slices(dense, dense.shape), dense)


def test_keeping_takes_one_count_per_axis(dense):
    with pytest.raises(ValueError, match="one count per axis is needed"):
        keep_slices(dense, (1,) * (dense.ndim + 1))
    with pytest.raises(ValueError, match=r"counts\[1\] = 99, but there are \d+ slices perpendicular to y"):
        keep_slices(dense, (1, 99, 1)[: dense.ndim])


# --- finding annotated slices


@pytest.mark.parametrize(("shape", "counts"), PAPER_SAMPLES, ids=["S1", "S2", "S3"])
def test_the_slices_of_the_paper_are_found(shape, counts):
    labels = keep_slices(np.ones(shape, np.uint8), counts)
    expected = tuple(even_positions(n, k) for n, k in zip(shape, counts, strict=True))
    assert annotated_slices(labels) == expected


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", SHAPES)
def test_random_slices_are_found_however_they_cross(kind, seed):
    rng = np.random.default_rng(seed)
    shape = SHAPES[kind]
    slices = tuple(sorted(rng.choice(n, rng.integers(0, n * 0.6), replace=False).tolist()) for n in shape)
    assert annotated_slices(painted(shape, slices)) == slices


def test_crossing_lines_that_fill_most_of_a_slice_are_no_slice():
    z = [i for i in range(20) if i % 4]  # 75 % of every yz and xz slice is filled by these
    labels = painted((24, 22, 20), ([5], [], z))
    assert annotated_slices(labels) == ([5], [], z)


def test_a_thick_slab_is_slices_of_one_direction():
    assert annotated_slices(painted((30, 30, 30), ([], [], [11, 12]))) == ([], [], [11, 12])
    assert annotated_slices(painted((30, 30), ([4, 5, 6], []))) == ([4, 5, 6], [])


def test_slices_painted_inside_a_region_of_interest_are_found():
    labels = np.full((60, 60, 40), IGNORE_INDEX, np.uint8)
    labels[10:30, 20:35, 5:25] = painted((20, 15, 20), ([3, 12], [7], [0, 6, 19]))
    assert annotated_slices(labels) == ([13, 22], [27], [5, 11, 24])


def test_slices_with_holes_are_found():
    rng = np.random.default_rng(0)
    labels = painted((30, 28, 20), ([4, 20], [9], [3, 10, 16]))
    labels[rng.random(labels.shape) < 0.3] = IGNORE_INDEX
    assert annotated_slices(labels) == ([4, 20], [9], [3, 10, 16])


def test_a_stray_voxel_is_no_slice():
    labels = painted((20, 20, 20), ([], [], [4]))
    labels[19, 19, 19] = 0
    assert annotated_slices(labels) == ([], [], [4])


def test_what_little_other_slices_leave_is_no_slice():
    labels = painted((20, 20, 20), ([], [], range(19)))
    labels[3:9, :, 19] = 1  # full lines of xy slice 19, each the rest of a yz slice
    assert annotated_slices(labels) == ([], [], list(range(19)))


def test_a_slice_counts_from_the_given_fraction_on():
    labels = painted((10, 20), ([2, 7], []))
    labels[7, 8:] = IGNORE_INDEX  # 40 % left
    assert annotated_slices(labels) == ([2], [])
    assert annotated_slices(labels, min_fraction=0.4) == ([2, 7], [])


def test_a_dense_label_is_annotated_in_every_slice(dense):
    assert annotated_slices(dense) == tuple(list(range(n)) for n in dense.shape)


def test_a_blank_label_has_no_annotated_slice(dense):
    blank = np.full_like(dense, IGNORE_INDEX)
    assert annotated_slices(blank) == ([],) * dense.ndim
    assert annotated_slices(blank[:0]) == ([],) * dense.ndim


def test_the_label_is_not_changed(dense):
    labels = keep_slices(dense, (2, 2, 2)[: dense.ndim])
    before = labels.copy()
    annotated_slices(labels)
    hold_out(labels, choose_held_out(labels))
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("bad", [0, 1.1, -1])
def test_min_fraction_is_a_fraction(dense, bad):
    with pytest.raises(ValueError, match=f"min_fraction = {bad} is not a fraction"):
        annotated_slices(dense, min_fraction=bad)


@pytest.mark.parametrize(
    "call",
    [annotated_slices, choose_held_out, lambda a: keep_slices(a, (1,) * 4), lambda a: hold_out(a, {})],
    ids=["annotated_slices", "choose_held_out", "keep_slices", "hold_out"],
)
def test_a_channel_axis_is_refused(call):
    with pytest.raises(ValueError, match=r"labels of shape \(1, 4, 4, 4\) have 4 axes.*pass label\[0\]"):
        call(np.zeros((1, 4, 4, 4), np.uint8))


# --- choosing and holding out


@pytest.mark.parametrize(
    ("shape", "counts", "expected"),
    [
        (*PAPER_SAMPLES[0], (2, 1, 4)),
        (*PAPER_SAMPLES[1], (1, 1, 3)),
        ((30, 30, 30), (1, 1, 1), (0, 0, 1)),
        ((30, 30, 30), (2, 2, 1), (0, 1, 0)),
        ((30, 30, 30), (0, 0, 3), (0, 0, 1)),
        ((30, 30, 30), (1, 1, 0), (0, 0, 0)),
        ((30, 40), (5, 0), (1, 0)),
    ],
)
def test_a_fifth_of_the_slices_is_held_out_in_proportion(shape, counts, expected):
    held = choose_held_out(keep_slices(np.ones(shape, np.uint8), counts))
    assert tuple(held) == tuple("xyz"[: len(shape)])
    assert tuple(map(len, held.values())) == expected


def test_held_out_slices_are_spread_evenly_among_the_annotated():
    z = list(range(1, 60, 3))
    held = choose_held_out(painted((30, 30, 60), ([], [], z)))
    assert held["z"] == [z[i] for i in even_positions(len(z), 4)]


def test_a_dense_label_is_held_out_as_a_block_of_its_last_axis(dense):
    held = choose_held_out(dense)
    last = "xyz"[dense.ndim - 1]
    assert all(indices == [] for axis, indices in held.items() if axis != last)
    count = round(0.2 * dense.shape[-1])
    assert held[last] == list(range(held[last][0], held[last][0] + count))
    assert 0 < held[last][0] < held[last][-1] < dense.shape[-1] - 1


def test_a_long_dense_label_is_held_out_as_two_blocks():
    held = choose_held_out(np.zeros((6, 6, 100), np.uint8))["z"]
    assert held == [*range(20, 30), *range(70, 80)]


def test_a_dense_label_of_two_slices_is_held_out_along_another_axis():
    held = choose_held_out(np.zeros((20, 30, 2), np.uint8))
    assert held == {"x": [], "y": [12, 13, 14, 15, 16, 17], "z": []}


def test_a_stack_of_neighbouring_slices_is_held_out_as_a_block():
    held = choose_held_out(painted((30, 30, 30), ([], [], list(range(4, 14)))))
    assert held == {"x": [], "y": [], "z": [8, 9]}


@pytest.mark.parametrize("n", range(3, 30))
def test_blocks_never_overlap_nor_take_everything(n):
    for fraction in (0.01, 0.3, 0.5, 0.8, 0.99):
        held = choose_held_out(np.zeros((2, n), np.uint8), fraction)["y"]
        assert len(held) == len(set(held)) == min(max(1, round(fraction * n)), n - 1)
        assert set(held) <= set(range(n))


def test_slices_painted_in_small_part_are_held_out_too():
    labels = np.full((40, 40, 40), IGNORE_INDEX, np.uint8)
    for z, corner in zip((2, 12, 22, 32), (0, 10, 20, 25), strict=True):
        labels[corner : corner + 13, corner : corner + 14, z] = 1  # 12 % of the bounding box
    assert annotated_slices(labels) == ([], [], [])
    assert choose_held_out(labels) == {"x": [], "y": [], "z": [22]}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", SHAPES)
def test_annotation_is_split_without_loss_or_leak(kind, seed):
    rng = np.random.default_rng(seed)
    shape = SHAPES[kind]
    labels = painted(shape, [rng.choice(n, rng.integers(0, 6), replace=False) for n in shape])
    if seed == 0:  # a dense ball
        grid = np.indices(shape) - np.array(shape).reshape(-1, *[1] * len(shape)) / 2
        labels = np.where((grid**2).sum(0) < 100, 1, IGNORE_INDEX).astype(np.uint8)
    fraction = rng.uniform(0.05, 0.9)
    slices = choose_held_out(labels, fraction)
    assert slices == choose_held_out(labels, fraction)
    found = annotated_slices(labels)
    for indices, available in zip(slices.values(), found, strict=True):
        assert set(indices) <= set(available)
    train, held = hold_out(labels, slices)
    assert not (annotated(train) & annotated(held)).any()
    np.testing.assert_array_equal(annotated(train) | annotated(held), annotated(labels))
    np.testing.assert_array_equal(labels[annotated(held)], held[annotated(held)])
    np.testing.assert_array_equal(labels[annotated(train)], train[annotated(train)])
    enough = sum(map(len, found)) >= 3
    assert annotated(held).any() == enough
    assert annotated(train).any() == annotated(labels).any()


def test_held_out_slices_are_blank_in_training_even_where_others_cross(dense):
    train, held = hold_out(dense, {"x": [3, 7], "y": [0]})
    assert not annotated(train[[3, 7]]).any()
    assert not annotated(train[:, 0]).any()
    np.testing.assert_array_equal(held[[3, 7]], dense[[3, 7]])
    np.testing.assert_array_equal(held[:, 0], dense[:, 0])
    assert not annotated(held[4:7, 1:]).any()


def test_holding_out_nothing_leaves_everything(dense):
    train, held = hold_out(dense, {})
    np.testing.assert_array_equal(train, dense)
    assert train is not dense
    assert not annotated(held).any()


@pytest.mark.parametrize("axis", ["w", "xy", "", "X"])
def test_an_unknown_axis_is_refused(dense, axis):
    with pytest.raises(ValueError, match=f"slices names the axis '{axis}'.*have the axes x, y"):
        hold_out(dense, {axis: [0]})


def test_an_image_has_no_z():
    with pytest.raises(ValueError, match="slices names the axis 'z'"):
        hold_out(np.zeros((4, 4), np.uint8), {"z": [0]})


@pytest.mark.parametrize("index", [-1, 31])
def test_a_slice_outside_is_refused(index):
    with pytest.raises(ValueError, match=rf"slices\['y'\] holds {index}, but y runs from 0 to 30"):
        hold_out(np.zeros((40, 31), np.uint8), {"y": [4, index]})


@pytest.mark.parametrize("bad", [0, 1, -0.1])
def test_the_held_out_fraction_lies_between_nothing_and_everything(dense, bad):
    with pytest.raises(ValueError, match=f"fraction = {bad} leaves nothing"):
        choose_held_out(dense, bad)


# --- counting


def test_counts_are_those_of_a_loop(dense, monkeypatch):
    monkeypatch.setattr("volseg.annotation.slices._CHUNK", 100)
    dense.flat[::3] = IGNORE_INDEX
    for labels in (dense, dense[None], dense.astype(np.int64), dense[::-1]):
        counts = annotation_counts(labels, 4)
        assert counts.dtype == np.int64
        assert counts.tolist() == [int((labels == c).sum()) for c in range(4)]


def test_unannotated_voxels_count_for_no_class():
    assert annotation_counts(np.full((3, 4), IGNORE_INDEX, np.uint8), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [3, 254, -1])
def test_a_label_without_class_is_refused(bad):
    with pytest.raises(ValueError, match=f"labels hold {bad}; class indices are 0 to 2"):
        annotation_counts(np.array([0, 255, bad]), 3)


def test_float_labels_are_refused():
    with pytest.raises(ValueError, match="labels are of type float32"):
        annotation_counts(np.zeros(3, np.float32), 3)


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)], ids=["2d", "3d"])
def test_what_a_slice_explains_counts_for_no_other(shape):
    mask = np.random.default_rng(0).random(shape) < 0.6
    search = SliceSearch(mask)
    for axis, index in ((0, 2), (1, 3)):
        before = search.left.copy()
        explained = search.explain(axis, index)
        np.testing.assert_array_equal(explained, np.take(before, index, axis=axis))
    beside = mask & ~on_slices(shape, search.found)
    np.testing.assert_array_equal(search.left, beside)
    for axis, counts in enumerate(search.counts):
        unfound = np.setdiff1d(np.arange(shape[axis]), search.found[axis])
        np.testing.assert_array_equal(counts[unfound], project(beside, axis)[unfound])
        assert (counts[search.found[axis]] == -1).all()
        away = [
            n - len(found) for o, (n, found) in enumerate(zip(shape, search.found, strict=True)) if o != axis
        ]
        assert search.area(axis) == np.prod(away)


def test_of_equal_slices_the_last_axis_is_taken():
    search = SliceSearch(np.ones((3, 3, 3), bool))
    assert search.best(lambda axis: (np.ones(3, bool), 9.0)) == (1.0, 2, 0)
    assert search.best(lambda axis: (np.zeros(3, bool), 1.0)) is None
