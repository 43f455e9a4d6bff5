"""Scores are those of naive loops and of independent implementations, on annotated voxels only."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import DiceMetric, MeanIoU
from skimage.metrics import contingency_table

from volseg.labels import IGNORE_INDEX
from volseg.metrics import boundary_f1, confusion_matrix, dice, iou, mean_score


@pytest.fixture(params=[(9, 8), (5, 7, 6)], ids=["2d", "3d"])
def case(request):
    """Prediction and truth of four classes, the last of which never occurs; every other slice annotated."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, request.param, dtype=np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape)).astype(
        np.uint8
    )
    truth[::2] = IGNORE_INDEX
    return prediction, truth


def membrane(shape, seed):
    return np.random.default_rng(seed).random(shape) < 0.1


# --- confusion matrix, IoU, Dice


def test_the_matrix_is_that_of_a_loop(case, monkeypatch):
    monkeypatch.setattr("volseg.metrics.segmentation._CHUNK", 50)
    prediction, truth = case
    expected = np.zeros((4, 4), np.int64)
    for place in np.ndindex(truth.shape):
        if truth[place] != IGNORE_INDEX:
            expected[truth[place], prediction[place]] += 1
    matrix = confusion_matrix(prediction, truth, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


def test_the_matrix_is_that_of_scikit_image(case):
    prediction, truth = case
    table = contingency_table(truth, prediction, ignore_labels=[IGNORE_INDEX])
    np.testing.assert_array_equal(confusion_matrix(prediction, truth, 3), table.toarray()[:3, :3])


def test_every_kind_of_array_is_counted_alike(case):
    prediction, truth = case
    expected = confusion_matrix(prediction, truth, 3)
    locked = prediction.copy()
    locked.flags.writeable = False
    for p, t in [
        (torch.from_numpy(prediction), torch.from_numpy(truth)),
        (torch.from_numpy(prediction).long(), truth),
        (MetaTensor(torch.from_numpy(prediction).float()), MetaTensor(torch.from_numpy(truth).float())),
        (prediction.astype(">i4"), truth.astype(np.float32)),
        (prediction[::-1, ::-1], truth[::-1, ::-1]),
        (locked, truth),
        (prediction.T, truth.T),
    ]:
        np.testing.assert_array_equal(confusion_matrix(p, t, 3), expected)


def test_matrices_add_up(case):
    prediction, truth = case
    parts = [confusion_matrix(p, t, 3) for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_array_equal(sum(parts), confusion_matrix(prediction, truth, 3))


def test_unannotated_voxels_change_nothing_whatever_is_predicted_there(case):
    prediction, truth = case
    expected = confusion_matrix(prediction, truth, 3)
    prediction[truth == IGNORE_INDEX] = 77
    np.testing.assert_array_equal(confusion_matrix(prediction, truth, 3), expected)
    assert not confusion_matrix(prediction, np.full_like(truth, IGNORE_INDEX), 3).any()


def one_hot(labels, classes, annotated):
    return torch.from_numpy(np.stack([(labels == c) & annotated for c in range(classes)])[None]).float()


def test_scores_are_those_of_monai(case):
    prediction, truth = case
    annotated = truth != IGNORE_INDEX
    y_pred, y = one_hot(prediction, 4, annotated), one_hot(truth, 4, annotated)
    matrix = confusion_matrix(prediction, truth, 4)
    options = {"include_background": True, "reduction": "none", "ignore_empty": True}
    np.testing.assert_allclose(dice(matrix), DiceMetric(**options)(y_pred, y)[0], rtol=1e-6)
    np.testing.assert_allclose(iou(matrix), MeanIoU(**options)(y_pred, y)[0], rtol=1e-6)


def test_scores_are_those_of_sets(case):
    prediction, truth = case
    matrix = confusion_matrix(prediction, truth, 3)
    for c in range(3):
        a = set(map(tuple, np.argwhere((prediction == c) & (truth != IGNORE_INDEX))))
        b = set(map(tuple, np.argwhere(truth == c)))
        assert iou(matrix)[c] == pytest.approx(len(a & b) / len(a | b))
        assert dice(matrix)[c] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))


def test_dice_and_iou_tell_the_same():
    matrix = np.random.default_rng(0).integers(0, 99, (5, 5))
    np.testing.assert_allclose(dice(matrix), 2 * iou(matrix) / (1 + iou(matrix)))


def test_a_class_absent_from_both_has_no_score_and_one_absent_from_either_has_zero():
    matrix = [[3, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]]
    np.testing.assert_array_equal(iou(matrix), [0.5, np.nan, 0, 0])
    np.testing.assert_array_equal(dice(matrix), [2 / 3, np.nan, 0, 0])
    assert mean_score(iou(matrix)) == pytest.approx(0.5 / 3)


def test_the_mean_of_no_score_is_no_score():
    assert math.isnan(mean_score([np.nan, np.nan]))
    assert math.isnan(mean_score([]))
    assert math.isnan(mean_score(iou(np.zeros((2, 2)))))


def test_counts_beyond_32_bits_are_exact():
    big = 2**40
    np.testing.assert_allclose(iou([[big, big], [0, big]]), [0.5, 0.5])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), r"prediction has the shape \(2, 3\), target \(3, 2\)"),
        (
            np.array([5, 0]),
            np.array([0, 255]),
            "prediction holds 5 at an annotated voxel; class indices are 0 to 2",
        ),
        (np.array([255, 0]), np.array([0, 255]), "prediction holds 255 at an annotated voxel"),
        (np.array([0, 0]), np.array([3, 255]), "target holds 3 at an annotated voxel"),
        (np.array([0, 0]), np.array([-1, 255]), "target holds -1 at"),
        (np.array([0.5, 0]), np.array([0, 255]), "prediction holds 0.5 at"),
        (np.array([0.0, 0]), np.array([np.nan, 255]), "target holds nan at"),
    ],
)
def test_what_is_no_class_is_refused(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(prediction, target, 3)


@pytest.mark.parametrize("score", [iou, dice])
def test_a_confusion_matrix_is_square(score):
    with pytest.raises(ValueError, match=r"matrix has the shape \(2, 3\); a confusion matrix is square"):
        score(np.zeros((2, 3)))


# --- thin structures


@pytest.fixture(params=[(17, 15), (9, 8, 10)], ids=["2d", "3d"])
def shape(request):
    return request.param


def slow_boundary_f1(prediction, truth, tolerance):
    p, t = np.argwhere(prediction), np.argwhere(truth)
    close = np.array([[((a - b) ** 2).sum() <= tolerance**2 for b in t] for a in p])
    precision, recall = close.any(1).mean(), close.any(0).mean()
    return precision, recall, 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0, 0.9, 1, 1.5, 3, 4, 4.5, 5])
def test_thin_structures_are_scored_as_by_a_loop(shape, tolerance):
    prediction, truth = membrane(shape, 0) & membrane(shape, 2) | membrane(shape, 4), membrane(shape, 1)
    expected = slow_boundary_f1(prediction, truth, tolerance)
    assert boundary_f1(prediction, truth, tolerance=tolerance) == pytest.approx(expected)


def test_without_tolerance_it_is_dice(shape):
    prediction, truth = membrane(shape, 0), membrane(shape, 1) | membrane(shape, 0)
    matrix = confusion_matrix(prediction.astype(np.uint8), truth.astype(np.uint8), 2)
    precision, recall, f1 = boundary_f1(prediction, truth, tolerance=0)
    assert f1 == pytest.approx(dice(matrix)[1])
    assert precision == 1
    assert recall == pytest.approx(matrix[1, 1] / matrix[1].sum())


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_sheet_shifted_within_the_tolerance_is_perfect(shape, axis):
    truth = np.zeros(shape, bool)
    np.moveaxis(truth, axis, 0)[4] = True
    assert boundary_f1(np.roll(truth, 1, axis), truth) == (1, 1, 1)
    assert boundary_f1(np.roll(truth, 2, axis), truth) == (0, 0, 0)
    assert boundary_f1(np.roll(truth, 3, axis), truth, tolerance=3) == (1, 1, 1)


def test_swapping_the_arrays_swaps_precision_and_recall(shape):
    a, b = membrane(shape, 0), membrane(shape, 1)
    precision, recall, f1 = boundary_f1(a, b)
    assert boundary_f1(b, a) == pytest.approx((recall, precision, f1))


def test_nothing_outside_the_mask_counts(shape):
    prediction, truth = membrane(shape, 0), membrane(shape, 1)
    mask = np.zeros(shape, bool)
    mask[2:7] = True
    inside = boundary_f1(prediction[2:7], truth[2:7], tolerance=2)
    assert boundary_f1(prediction, truth, tolerance=2, mask=mask) == pytest.approx(inside)
    assert boundary_f1(prediction | ~mask, truth ^ ~mask, tolerance=2, mask=mask) == pytest.approx(inside)


def test_tensors_and_label_arrays_are_welcome(shape):
    prediction, truth = membrane(shape, 0), membrane(shape, 1)
    expected = boundary_f1(prediction, truth, mask=truth | prediction)
    tensors = [torch.from_numpy(a.astype(np.uint8)) for a in (prediction, truth, truth | prediction)]
    assert boundary_f1(tensors[0], tensors[1], mask=tensors[2]) == expected
    assert boundary_f1(prediction * 3, truth.astype(float), mask=tensors[2]) == expected


@pytest.mark.parametrize("tolerance", [0, 1, 5])
def test_empty_structures_have_defined_scores(shape, tolerance):
    empty, some = np.zeros(shape, bool), membrane(shape, 0)
    same = [
        (boundary_f1(empty, empty, tolerance=tolerance), (math.nan, math.nan, math.nan)),
        (boundary_f1(some, empty, tolerance=tolerance), (0, math.nan, 0)),
        (boundary_f1(empty, some, tolerance=tolerance), (math.nan, 0, 0)),
    ]
    for got, expected in same:
        assert got == pytest.approx(expected, nan_ok=True)


def test_shapes_and_tolerance_are_checked(shape):
    a = np.zeros(shape, bool)
    with pytest.raises(ValueError, match="prediction has the shape .*, truth .*: they have to agree"):
        boundary_f1(a[1:], a)
    with pytest.raises(ValueError, match="mask has the shape .*, truth .*: they have to agree"):
        boundary_f1(a, a, mask=a[1:])
    for bad in (-1, math.nan):
        with pytest.raises(ValueError, match=f"tolerance = {bad} must be 0 or more"):
            boundary_f1(a, a, tolerance=bad)


def test_the_thin_boundary_of_real_tissue_forgives_a_shift(shared_data):
    tifffile = pytest.importorskip("tifffile")
    truth = tifffile.imread(shared_data / "isbi2012_em" / "train-labels.tif", key=0) == 0
    shifted = np.roll(truth, 1, 0)
    assert boundary_f1(shifted, truth, tolerance=0)[2] < 0.9
    assert boundary_f1(shifted, truth)[2] > 0.99
