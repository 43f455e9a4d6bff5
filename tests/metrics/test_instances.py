"""Objects are matched as in the cell tracking challenge and the Data Science Bowl: by sets of voxels."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from volseg.metrics import (
    average_precision,
    instance_scores,
    matched_iou,
    merges_and_splits,
    object_precision,
    seg_score,
)
from volseg.metrics.instances import IOU_THRESHOLDS


def blobs(shape, seed, level=0.1):
    rng = np.random.default_rng(seed)
    return ndimage.label(ndimage.gaussian_filter(rng.standard_normal(shape), 1) > level)[0]


@pytest.fixture(params=[(24, 21), (9, 8, 10)], ids=["2d", "3d"])
def case(request):
    """A prediction that shares some objects with the truth, splits, merges, misses and invents others."""
    truth, other = blobs(request.param, 0), blobs(request.param, 1, 0.2)
    prediction = truth.copy()
    half = (slice(request.param[0] // 2, None),)
    prediction[half] = np.where(other[half] > 0, other[half] + 100, 0)
    prediction[0] = 0
    return prediction, truth


def sets(image):
    return [set(map(tuple, np.argwhere(image == i))) for i in np.unique(image) if i > 0]


def two_cells():
    """Two cells of 20 voxels, side by side without a gap."""
    truth = np.zeros((6, 12), int)
    truth[1:5, 1:6], truth[1:5, 6:11] = 7, 9
    return truth


# --- against sets


def slow_matched_iou(prediction, truth):
    scores = []
    for true in sets(truth):
        found = [p for p in sets(prediction) if len(p & true) > len(true) / 2]
        scores.append(len(found[0] & true) / len(found[0] | true) if found else 0)
    return scores


def test_seg_is_that_of_sets_of_voxels(case):
    expected = slow_matched_iou(*case)
    assert 0 < np.count_nonzero(expected) < len(expected)
    np.testing.assert_allclose(matched_iou(*case), expected)
    assert seg_score(*case) == pytest.approx(np.mean(expected))


def slow_precision(prediction, truth, threshold):
    predicted, true = sets(prediction), sets(truth)
    found = sum(any(len(p & t) / len(p | t) > threshold for p in predicted) for t in true)
    return found / (found + (len(predicted) - found) + (len(true) - found))


def test_precision_is_that_of_sets_of_voxels(case):
    expected = [slow_precision(*case, threshold) for threshold in IOU_THRESHOLDS]
    assert 0 < expected[-1] < expected[0] < 1
    np.testing.assert_allclose(object_precision(*case), expected)
    assert average_precision(*case) == pytest.approx(np.mean(expected))
    assert IOU_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def slow_merges_and_splits(prediction, truth):
    predicted, true = sets(prediction), sets(truth)
    in_one = [[t for t in true if len(p & t) > len(t) / 2] for p in predicted]
    parts = [[p for p in predicted if len(p & t) > len(p) / 2] for t in true]
    return sum(len(ts) for ts in in_one if len(ts) > 1), sum(len(ps) > 1 for ps in parts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(24, 21), (9, 8, 10)], ids=["2d", "3d"])
def test_merges_and_splits_are_those_of_sets_of_voxels(shape, seed):
    prediction, truth = blobs(shape, 0, 0.05), blobs(shape, 0, 0.15)
    prediction = np.where(np.random.default_rng(seed).random(shape) < 0.05, 0, prediction)
    prediction[1::7] = 0
    prediction = ndimage.label(prediction)[0]
    expected = slow_merges_and_splits(prediction, truth)
    assert merges_and_splits(prediction, truth) == expected


# --- by hand


def test_one_voxel_that_joins_two_cells_merges_both():
    truth = two_cells()
    truth[:, 5] = 0  # a gap between them
    assert merges_and_splits(ndimage.label(truth)[0], truth) == (0, 0)
    joined = truth.copy()
    joined[3, 5] = 7
    joined = ndimage.label(joined)[0]
    assert merges_and_splits(joined, truth) == (2, 0)
    assert merges_and_splits(truth, joined) == (0, 1)
    sizes = np.array([16, 20])
    np.testing.assert_allclose(matched_iou(joined, truth), sizes / 37)
    np.testing.assert_allclose(object_precision(joined, truth, thresholds=(0.5, 0.6)), [1 / 2, 0])


def test_half_an_object_is_not_enough():
    truth = np.array([[1, 1, 1, 1]])
    assert seg_score(np.array([[3, 3, 0, 0]]), truth) == 0
    assert seg_score(np.array([[3, 3, 3, 0]]), truth) == 0.75
    assert object_precision(np.array([[3, 3, 0, 0]]), truth, thresholds=(0.5,)) == 0  # IoU is 0.5, not above
    assert object_precision(np.array([[3, 3, 3, 0]]), truth, thresholds=(0.5, 0.75)).tolist() == [1, 0]
    assert merges_and_splits(np.array([[3, 3, 4, 4]]), truth) == (0, 1)
    assert merges_and_splits(np.array([[3, 3, 4, 4]]), np.array([[1, 1, 1, 0]])) == (0, 0)
    assert merges_and_splits(np.array([[1, 1, 1, 0]]), np.array([[3, 3, 4, 4]])) == (0, 0)


def test_three_cells_in_one_are_three_merged_objects():
    truth = np.repeat(np.arange(1, 5), 3)[None]
    prediction = np.where(truth < 4, 8, 9)
    assert merges_and_splits(prediction, truth) == (3, 0)
    assert instance_scores(prediction, truth)["objects"] == 4


def test_objects_that_nobody_asked_for_cost_precision_but_not_seg():
    truth = two_cells()
    prediction = truth.copy()
    prediction[0, 0] = 50
    assert seg_score(prediction, truth) == 1
    assert average_precision(prediction, truth) == pytest.approx(2 / 3)


# --- properties


def test_the_truth_itself_is_perfect(case):
    _, truth = case
    scores = instance_scores(truth, truth)
    assert scores == {
        "seg": 1, "precision_50": 1, "average_precision": 1, "merged": 0, "split": 0, "objects": truth.max(),
    }  # fmt: skip


def test_all_scores_at_once_are_those_one_by_one(case):
    scores = instance_scores(*case)
    assert scores["seg"] == seg_score(*case)
    assert scores["precision_50"] == object_precision(*case)[0]
    assert scores["average_precision"] == average_precision(*case)
    assert (scores["merged"], scores["split"]) == merges_and_splits(*case)


def test_which_id_an_object_bears_does_not_matter(case):
    prediction, truth = case
    ids = np.concatenate([[0], np.random.default_rng(0).permutation(10**9 + np.arange(300))])
    scores = instance_scores(prediction, truth)
    assert instance_scores(ids[prediction], ids[truth]) == pytest.approx(scores)
    assert instance_scores(prediction.astype(np.uint16), truth.astype(">i2")) == scores
    assert instance_scores(torch.from_numpy(prediction), torch.from_numpy(truth)) == scores


def test_precision_treats_both_images_alike(case):
    prediction, truth = case
    np.testing.assert_allclose(object_precision(prediction, truth), object_precision(truth, prediction))


def test_unlabelled_voxels_are_not_looked_at(case):
    prediction, truth = case
    known = (slice(None), slice(0, 5))
    hidden = np.full_like(truth, -1)
    hidden[known] = truth[known]
    expected = instance_scores(prediction[known], truth[known])
    assert instance_scores(prediction, hidden) == expected
    assert instance_scores(np.where(hidden < 0, 1234, prediction), hidden) == expected


def test_an_image_without_background_has_all_its_objects():
    truth = np.repeat([[1, 2]], 4, 0)
    assert instance_scores(truth, truth)["objects"] == 2
    assert instance_scores(truth + 5, truth)["seg"] == 1
    assert merges_and_splits(np.ones_like(truth), truth) == (2, 0)


def test_nothing_has_defined_scores():
    nothing, something = np.zeros((4, 5), int), np.ones((4, 5), int)
    for truth in (nothing, nothing - 1):
        scores = instance_scores(nothing, truth)
        assert math.isnan(scores["seg"])
        assert math.isnan(scores["average_precision"])
        assert scores["objects"] == scores["merged"] == scores["split"] == 0
    assert instance_scores(nothing, something)["seg"] == 0
    assert average_precision(nothing, something) == 0
    assert average_precision(something, nothing) == 0
    assert math.isnan(seg_score(something, nothing))


# --- errors


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"prediction has the shape \(2, 3\), truth \(3, 2\)"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), "prediction is of type float64; object ids are integers"),
        (np.zeros((2, 3), int), np.ones((2, 3), bool), "truth is of type bool.*scipy.ndimage.label"),
        (np.full((2, 3), -2), np.zeros((2, 3), int), "prediction holds the id -2"),
    ],
)
def test_what_holds_no_objects_is_refused(prediction, truth, message):
    for measure in (matched_iou, object_precision, merges_and_splits, instance_scores):
        with pytest.raises(ValueError, match=message):
            measure(prediction, truth)


@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (1.1,), (math.nan,), ()])
def test_thresholds_that_allow_two_matches_are_refused(thresholds):
    with pytest.raises(ValueError, match="has to hold IoU from 0.5 to 1"):
        object_precision(two_cells(), two_cells(), thresholds=thresholds)


# --- real cells


def test_real_nuclei_that_touch_are_merged_by_connected_components(shared_data):
    tifffile = pytest.importorskip("tifffile")
    truth = tifffile.imread(shared_data / "stardist_nuclei" / "stardist_mask2d.tif").astype(np.int64)
    joined = ndimage.label(truth > 0)[0]
    scores = instance_scores(joined, truth)
    assert scores["merged"] >= 2
    assert scores["objects"] - joined.max() >= scores["merged"] / 2
    assert scores["seg"] < 1
