"""The score and its interval: slices are what is counted, and the interval holds what it should."""

import numpy as np
import pytest
from scipy import special, stats

from volseg.annotation import hold_out, keep_slices
from volseg.densification.folds import make_folds
from volseg.densification.intervals import SliceConfusion, estimate, slice_confusions
from volseg.densification.nearness import measure_nearness
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, dice, iou, mean_score


def confusion(matrix, index: int = 0) -> SliceConfusion:
    return SliceConfusion("z", (index,), np.array(matrix, np.int64)[None])


def drawn(rng: np.random.Generator, skill: float) -> SliceConfusion:
    """A slice of three classes, each voxel right with probability ``skill``."""
    rows = [
        rng.multinomial(n, [skill if a == b else (1 - skill) / 2 for b in range(3)])
        for a, n in enumerate(rng.integers(200, 2000, 3))
    ]
    return confusion(rows)


@pytest.mark.parametrize("slices", [4, 12])
def test_the_interval_holds_the_true_score_as_often_as_it_says_and_voxels_do_not_count(slices):
    rng = np.random.default_rng(slices)

    def skills(n):
        return special.expit(rng.normal(2, 0.7, n))

    true = mean_score(iou(np.sum([drawn(rng, s).matrices[0] for s in skills(3000)], axis=0)))
    found = [estimate([drawn(rng, s) for s in skills(slices)], 3).mean_iou for _ in range(150)]
    inside = [score.low <= true <= score.high for score in found]
    assert 0.9 <= np.mean(inside) <= 0.995
    # Counting voxels gives an interval a tenth as wide, which fails nine times of ten.
    assert 0.1 < np.mean([score.high - score.low for score in found]) < 0.55


def test_the_mean_over_the_foreground_is_that_of_its_classes_with_an_interval_of_their_own():
    rng = np.random.default_rng(1)
    slices = [drawn(rng, s) for s in (0.7, 0.8, 0.9, 0.95, 0.6)]
    for one in slices:
        one.matrices[:, 0, 0] += 100_000  # background: most of the volume, and easy
    found = estimate(slices, 3, folds=4, foreground=[1, 2])
    assert found.foreground_iou.value == pytest.approx(mean_score([s.value for s in found.iou[1:]]))
    assert found.foreground_dice.value == pytest.approx(mean_score([s.value for s in found.dice[1:]]))
    assert found.mean_iou.value > found.foreground_iou.value + 0.1
    assert found.foreground_iou.high - found.foreground_iou.low > found.mean_iou.high - found.mean_iou.low
    alone = estimate(slices, 3, folds=4, foreground=[2])  # of one class it is that class's
    for part in ("value", "low", "high"):
        assert getattr(alone.foreground_iou, part) == pytest.approx(getattr(alone.iou[2], part))
    everything = estimate(slices, 3, folds=4)
    assert everything.foreground_iou == everything.mean_iou == found.mean_iou


def test_the_interval_is_that_of_the_jackknife_in_the_logit():
    rng = np.random.default_rng(0)
    slices = [drawn(rng, s) for s in (0.7, 0.8, 0.9, 0.95, 0.6)]
    matrices = np.array([s.matrices[0] for s in slices])
    found = estimate(slices, 3, level=0.8)
    for measure, scores in ((iou, found.iou), (dice, found.dice)):
        for c, score in enumerate(scores):
            left_out = special.logit([measure(np.delete(matrices, i, 0).sum(0))[c] for i in range(5)])
            spread = np.sqrt(4 / 5 * np.square(left_out - left_out.mean()).sum())
            unions = matrices[:, c].sum(1) + matrices[:, :, c].sum(1) - matrices[:, c, c]
            effective = unions.sum() ** 2 / (unions**2).sum()
            reach = stats.t.ppf(0.9, effective - 1) * spread
            value = measure(matrices.sum(0))[c]
            expected = special.expit(special.logit(value) + np.array([-reach, reach]))
            assert score.value == pytest.approx(value)
            np.testing.assert_allclose((score.low, score.high), expected, atol=2e-4)


def test_an_interval_is_wider_with_fewer_slices_and_when_one_of_them_has_most_of_a_class():
    alike = [[[90, 10], [10, 90]], [[80, 20], [20, 80]]]
    many = estimate([confusion(alike[i % 2]) for i in range(12)], 2).iou[0]
    few = estimate([confusion(alike[i % 2]) for i in range(4)], 2).iou[0]
    lopsided = estimate(
        [confusion(np.array(alike[i % 2]) * (100 if i == 0 else 1)) for i in range(12)], 2
    ).iou[0]
    assert few.high - few.low > 2 * (many.high - many.low)
    assert lopsided.low is None
    assert "12 held-out parts (1.2 effectively) do not suffice" in lopsided.reason


def test_bins_count_as_their_share_of_the_volume():
    near, far = np.array([[50, 0], [0, 50]]), np.array([[5, 5], [5, 5]])
    slices = [SliceConfusion("x", (i,), np.stack([near, far])) for i in range(4)]
    for share in (0.0, 0.3, 1.0):
        score = estimate(slices, 2, shares=(share, 1 - share)).iou[0]
        mixed = share * near / near.sum() + (1 - share) * far / far.sum()
        assert score.value == pytest.approx(iou(mixed)[0])


def test_a_voxel_counts_for_ten_at_most():
    """One wrong voxel in a bin that nine tenths of the volume lie in says little, however large its share."""
    near, far = np.array([[0, 1], [0, 0]]), np.array([[500, 0], [0, 500]])
    slices = [SliceConfusion("x", (i,), np.stack([near, far])) for i in range(4)]
    score = estimate(slices, 2, shares=(0.9, 0.1)).iou[0]
    assert score.value == pytest.approx(iou(10 * near + 0.1 * 1001 / 1000 * far)[0])


def test_what_lies_farther_than_anything_held_out_may_be_wrong():
    slices = [drawn(np.random.default_rng(i), 0.8) for i in range(5)]
    known, partly = estimate(slices, 3), estimate(slices, 3, unseen=0.25)
    for old, new in zip((*known.iou, known.mean_iou), (*partly.iou, partly.mean_iou), strict=True):
        assert (new.value, new.high) == (old.value, old.high)
        assert new.low == pytest.approx(0.75 * old.low)


def test_fewer_slices_to_learn_from_lift_the_upper_end_only():
    rng = np.random.default_rng(1)
    slices = [drawn(rng, s) for s in (0.7, 0.8, 0.9, 0.95, 0.6)]
    whole, part = estimate(slices, 3).mean_iou, estimate(slices, 3, folds=4).mean_iou
    assert (part.value, part.low) == (whole.value, whole.low)
    assert 1 - part.high == pytest.approx(3 / 4 * (1 - whole.high))


@pytest.mark.parametrize(("shown", "learnt"), [((5, 10, 15, 20), 2 / 3), ((5, 20), 1 / 2)])
def test_a_structure_on_few_slices_is_lifted_more(shown, learnt):
    """Three folds hold out a third of the slices that show it at once, and of two slices one."""
    often = [confusion([[90, 10, 0], [10, 90, 0], [0, 0, 0]]) for _ in range(8)]
    rarely = [confusion([[90, 10, 0], [10, 60, 10], [0, n, 30]]) for n in shown]
    whole, part = estimate(often + rarely, 3), estimate(often + rarely, 3, folds=3)
    for c, gain in ((1, 2 / 3), (2, learnt**2)):
        assert part.iou[c].low == whole.iou[c].low
        assert 1 - part.iou[c].high == pytest.approx(gain * (1 - whole.iou[c].high))
    assert learnt**2 < (1 - part.mean_iou.high) / (1 - whole.mean_iou.high) < 2 / 3


def test_a_class_that_was_never_found_could_still_be_and_widens_the_mean():
    slices = [confusion([[90, 10, 0], [10, 90, 0], [3, 3, 0]]) for _ in range(6)]
    found = estimate(slices, 3)
    assert (found.iou[2].value, found.iou[2].low) == (0, 0)
    assert found.iou[2].high == pytest.approx(1 - 0.05 ** (1 / 6), abs=0.01)
    assert found.mean_iou.high > found.mean_iou.value + 0.9 * found.iou[2].high / 3


def test_a_class_without_any_error_may_still_have_some():
    found = estimate([confusion([[50, 0], [0, 50]]) for _ in range(6)], 2)
    assert found.iou[0].high == 1
    assert found.iou[0].low == pytest.approx(0.05 ** (1 / 6), abs=0.01)
    assert found.mean_iou.low < 0.7


@pytest.mark.parametrize(
    ("matrices", "which", "reason"),
    [
        ([], 0, "It is in no held-out part"),
        ([[[9, 1, 0], [1, 9, 0], [0, 0, 0]]] * 4, 2, "It is in no held-out part"),
        (
            [[[9, 1, 0], [1, 9, 0], [0, 0, 0]]] * 3 + [[[9, 1, 0], [1, 9, 0], [5, 0, 0]]],
            2,
            "on one slice only",
        ),
        ([[[9, 1, 0], [1, 9, 0], [2, 2, 6]]] * 2, 0, "2 held-out parts .* do not suffice"),
    ],
)
def test_what_cannot_be_told_says_why(matrices, which, reason):
    score = estimate([confusion(m) for m in matrices], 3).iou[which]
    assert score.low is score.high is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(score.reason)


def test_a_class_on_one_slice_may_have_any_score_and_the_mean_allows_for_it():
    rng = np.random.default_rng(3)
    slices = [drawn(rng, s) for s in (0.7, 0.8, 0.9, 0.95, 0.6)]
    wider = [SliceConfusion(c.axis, c.indices, np.pad(c.matrices, [(0, 0), (0, 1), (0, 1)])) for c in slices]
    wider[2].matrices[0, 3, [0, 3]] = 30, 10
    known, found = estimate(slices, 3).mean_iou, estimate(wider, 4)
    assert found.iou[3].value is None
    mean = found.mean_iou
    assert mean.low == pytest.approx(0.75 * known.low, abs=0.02)
    assert mean.high == pytest.approx(0.75 * known.high + 0.25, abs=0.02)
    assert mean.value == pytest.approx(0.75 * known.value + 0.25 * 10 / 40, abs=0.02)
    assert "A class was painted on one slice only" in mean.reason


def test_where_every_class_is_on_one_slice_there_is_no_mean():
    mean = estimate([confusion([[9, 1], [0, 0]]), confusion([[0, 0], [5, 5]])], 2).mean_iou
    assert mean.value is None
    assert "Every class was painted on one slice only" in mean.reason


@pytest.fixture(params=[(12, 14, 10), (30, 24)], ids=["3d", "2d"])
def case(request):
    """Truth, a prediction with errors, and some painted slices."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, request.param).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.8, truth, 0)
    return truth, prediction, keep_slices(truth, (2,) * truth.ndim)


def test_confusions_of_all_slices_are_those_of_all_held_out_voxels(case):
    _, prediction, labels = case
    nearness = measure_nearness(labels)
    for fold in make_folds(labels).folds:
        train, test = fold.split(labels)
        expected = confusion_matrix(prediction, test, 3)
        plain = slice_confusions(prediction, test, fold.slices, 3)
        binned = slice_confusions(
            prediction, test, fold.slices, 3, bins=nearness.bins(train), num_bins=len(nearness.shares)
        )
        np.testing.assert_array_equal(sum(c.matrices[0] for c in plain), expected)
        np.testing.assert_array_equal(sum(c.matrices.sum(0) for c in binned), expected)
        assert len(plain) == len(binned) == sum(map(len, fold.slices.values()))


def test_neighbouring_slices_count_as_one():
    test = np.zeros((8, 6, 6), np.uint8)
    found = slice_confusions(test, test, {"x": [1, 2, 6]}, 2)
    assert [(c.axis, c.indices) for c in found] == [("x", (1, 2)), ("x", (6,))]


def test_nearness_tells_how_far_from_paint_the_unpainted_voxels_are():
    labels = np.full((21, 4, 4), IGNORE_INDEX, np.uint8)
    labels[[0, 20]] = 0
    nearness = measure_nearness(labels, (2.0, 1.0, 1.0))
    assert nearness.limits[-1] == 20
    assert nearness.shares[-1] == 0
    assert sum(nearness.shares) == pytest.approx(1)
    labels[20] = IGNORE_INDEX
    bins = nearness.bins(labels)
    np.testing.assert_array_equal(bins[11:], len(nearness.limits))
    counts = np.bincount(bins[1:11].ravel(), minlength=len(nearness.shares))
    np.testing.assert_allclose(counts / counts.sum(), nearness.shares, atol=0.11)


@pytest.mark.parametrize("slices", [[6, 18, 30, 42], [3, 9, 30, 44]], ids=["even", "uneven"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 6.0)], ids=["cubes", "thick"])
def test_errors_that_rise_evenly_with_distance_are_found_though_no_such_distance_was_held_out(
    slices, spacing
):
    """The twin: the same straight line, summed over all unlabelled voxels."""
    labels = hold_out(np.zeros((20, 22, 48), np.uint8), {"z": slices})[1]
    nearness = measure_nearness(labels, spacing)
    counts, sums = np.zeros((2, len(nearness.shares)))
    for fold in make_folds(labels).folds:
        train, test = fold.split(labels)
        distances, where = nearness.distances(train), test != IGNORE_INDEX
        bins = nearness.bins(train)[where]
        counts += np.bincount(bins, minlength=len(counts))
        sums += np.bincount(bins, distances[where], len(counts))
    centres = sums / np.maximum(counts, 1)
    support = nearness.support(counts, centres)
    unpainted = nearness.distances(labels)[labels == IGNORE_INDEX]
    assert np.dot(support.shares, 0.1 + 0.02 * centres) == pytest.approx(
        0.1 + 0.02 * unpainted.mean(), rel=0.05
    )
    assert sum(support.shares) == pytest.approx(1)
    assert support.interpolated > 0.2
    assert support.nearer == support.farther == 0


def test_where_only_nearer_or_farther_voxels_were_held_out_it_says_so():
    labels = hold_out(np.zeros((6, 6, 40), np.uint8), {"z": [19, 20]})[1]
    nearness = measure_nearness(labels)
    bins = len(nearness.shares)
    for chosen, distance in ((0, 0.5), (bins - 1, 99.0)):
        counts = np.where(np.arange(bins) == chosen, 50, 0)
        support = nearness.support(counts, np.full(bins, distance))
        np.testing.assert_allclose(support.shares, counts / 50)
        assert (support.nearer, support.farther) == pytest.approx((1, 0) if chosen == 0 else (0, 1))
    assert nearness.support(np.zeros(bins), np.zeros(bins)).shares == nearness.shares


def test_a_distance_with_too_few_held_out_voxels_is_interpolated_too():
    labels = hold_out(np.zeros((9, 9, 41), np.uint8), {"z": [20]})[1]
    nearness = measure_nearness(labels)
    shares = np.array(nearness.shares)
    counts = np.where(shares > 0, 1000, 0)
    counts[3] = 1
    centres = np.nan_to_num(nearness.centres)
    support = nearness.support(counts, centres)
    assert support.shares[3] == 0
    assert support.shares[2] + support.shares[4] == pytest.approx(shares[2:5].sum())
    assert support.interpolated == pytest.approx(shares[3])
    assert nearness.support(np.where(shares > 0, 1000, 0), centres).shares == nearness.shares


def test_an_image_painted_all_over_has_one_bin():
    nearness = measure_nearness(np.zeros((9, 7), np.uint8))
    assert (nearness.limits, nearness.shares) == ((), (1.0,))
    assert not nearness.bins(np.zeros((9, 7), np.uint8)).any()


def test_wrong_arguments_are_told():
    array = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match="prediction has the shape"):
        slice_confusions(array.T, array, {"x": [0]}, 2)
    with pytest.raises(ValueError, match="bins has the shape"):
        slice_confusions(array, array, {"x": [0]}, 2, bins=array.T)
    with pytest.raises(ValueError, match="level = 95 must be between 0 and 1"):
        estimate([], 2, level=95)
    with pytest.raises(ValueError, match="a voxel size for each of 2 axes"):
        measure_nearness(array, (1.0, 1.0, 1.0))
