"""The slice to paint next: where errors are expected, and not where paint is."""

import numpy as np
import pytest

from volseg.densification.suggestion import expected_gains, suggest
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, iou, mean_score


@pytest.fixture(params=[(16, 14, 12), (18, 15)], ids=["3d", "2d"])
def case(request):
    """Sure everywhere but on slab x = 9..11; x = 2 is painted."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, request.param)
    probabilities = np.where(np.stack([classes == 0, classes == 1]), 0.99, 0.01)
    probabilities[:, 9:12] = np.where(probabilities[:, 9:12] > 0.5, 0.55, 0.45)
    labels = np.full(request.param, IGNORE_INDEX, np.uint8)
    labels[2] = classes[2]
    return probabilities, labels


def test_the_slice_in_the_middle_of_what_is_unsure_is_suggested(case):
    found = suggest(*case)
    assert (found.axis, found.index) == ("x", 10)
    assert 0 < found.gain < 0.5


def test_no_more_is_promised_than_is_missing(case):
    assert suggest(*case, missing=0.01).gain == 0.01
    assert suggest(*case, missing=0.9).gain == suggest(*case).gain < 0.9


def test_no_slice_is_suggested_that_is_painted_or_beside_one(case):
    probabilities, labels = case
    candidates = expected_gains(probabilities, labels)
    x = {c.index for c in candidates if c.axis == "x"}
    assert x == set(range(5, labels.shape[0]))
    assert {c.index for c in candidates if c.axis == "y"} == set(range(labels.shape[1]))


def test_the_gain_is_that_of_the_expected_confusion_without_the_errors_nearby(case):
    probabilities, labels = case
    (found,) = [c for c in expected_gains(probabilities, labels) if (c.axis, c.index) == ("x", 10)]
    before, after = np.zeros((2, 2)), np.zeros((2, 2))
    for voxel in np.ndindex(labels.shape):
        p, predicted = probabilities[(slice(None), *voxel)], probabilities[(slice(None), *voxel)].argmax()
        solved = np.exp(-abs(voxel[0] - 10) / 4)
        if labels[voxel] != IGNORE_INDEX:
            p, predicted, solved = np.eye(2)[labels[voxel]], labels[voxel], 0
        before[:, predicted] += p
        after[:, predicted] += (1 - solved) * p
        after += solved * np.diag(p)
    expected = mean_score(iou(after)) - mean_score(iou(before))
    assert found.gain == pytest.approx(expected, abs=1e-9)


def test_expected_confusion_is_the_true_one_on_average():
    rng = np.random.default_rng(3)
    sure = rng.uniform(0.5, 1, (40, 40, 8))
    predicted = rng.integers(0, 2, sure.shape)
    truth = np.where(rng.random(sure.shape) < sure, predicted, 1 - predicted)
    probabilities = np.where(np.stack([predicted == 0, predicted == 1]), sure, 1 - sure)
    labels = np.full(sure.shape, IGNORE_INDEX, np.uint8)
    everything = [c for c in expected_gains(probabilities, labels) if c.axis == "z"]
    assert len(everything) == 8
    true = mean_score(iou(confusion_matrix(predicted, truth, 2)))
    # Painting any slice of eight removes most errors, and 1 - IoU is what there is to gain.
    assert 0.3 * (1 - true) < min(c.gain for c in everything) < max(c.gain for c in everything) < 1 - true


def test_a_rare_class_weighs_more_than_its_voxels():
    probabilities = np.zeros((3, 20, 20, 20))
    probabilities[0] = 1
    probabilities[:, :, :10] = np.array([0.0, 1.0, 0.0])[:, None, None, None]
    probabilities[:, 15, 0:10] = np.array([0.4, 0.6, 0.0])[:, None, None]  # many voxels of common classes
    probabilities[:, 4, 10:14, :6] = np.array([0.4, 0.0, 0.6])[:, None, None]  # few of a rare one
    found = suggest(probabilities, np.full((20, 20, 20), IGNORE_INDEX, np.uint8))
    assert (found.axis, found.index) == ("x", 4)


def test_slices_across_long_voxels_are_not_suggested(case):
    probabilities, labels = case
    if labels.ndim == 3:
        assert {c.axis for c in expected_gains(probabilities, labels, spacing=(1, 1, 4))} == {"z"}
        assert {c.axis for c in expected_gains(probabilities, labels, spacing=(1, 1, 1.2))} == {"x", "y", "z"}
    else:
        assert {c.axis for c in expected_gains(probabilities, labels, spacing=(1, 4))} == {"x", "y"}


def test_where_all_is_painted_nothing_is_suggested():
    probabilities = np.full((2, 6, 6, 6), 0.5)
    assert suggest(probabilities, np.zeros((6, 6, 6), np.uint8), spacing=(1, 1, 3)) is None


def test_probabilities_of_another_volume_are_refused(case):
    with pytest.raises(ValueError, match="probabilities have the shape"):
        suggest(case[0], case[1][:5])


NAMES = ["stroma", "lumen", "tubule"]


@pytest.fixture(params=[(30, 40, 36), (40, 36)], ids=["3d", "2d"])
def place(request):
    """Sure everywhere but in a ball, where it is the first class or the third; a few strokes far from it."""
    size = request.param
    centre = (20, 28, 9)[-len(size) :]
    distance = np.linalg.norm(np.moveaxis(np.indices(size), 0, -1) - centre, axis=-1)
    probabilities = np.zeros((3, *size), np.float32)
    probabilities[0] = np.where(distance < 4, 0.55, 0.99)
    probabilities[1], probabilities[2] = 1 - probabilities[0], 0
    probabilities[1:, distance < 4] = np.array([0.05, 0.4])[:, None]
    labels = np.full(size, IGNORE_INDEX, np.uint8)
    for row, column in ((3, 3), (3, 25), (15, 12)):
        labels[..., row : row + 2, column : column + 6][(2,) * (len(size) - 2)] = row % 3
    return probabilities, labels, centre


def test_where_strokes_are_painted_the_place_and_its_classes_are_suggested(place):
    probabilities, labels, centre = place
    found = suggest(probabilities, labels, names=NAMES)
    assert np.abs(np.subtract(found.point, centre)).max() <= 1
    assert found.classes == ("stroma", "tubule")
    assert found.gain is None
    words = found.in_words(labels.shape)
    assert words.endswith(": stroma or tubule?")
    if labels.ndim == 2:
        assert found.axis == ""
        assert words.startswith(f"x = {found.point[0]}, y = {found.point[1]}:")
    else:
        assert found.index == found.point["xyz".index(found.axis)]
        assert f" on slice {found.axis} = {found.index} ({found.index + 1} of " in words


def test_the_slice_of_a_place_is_one_that_people_can_paint_on(place):
    probabilities, labels, _ = place
    if labels.ndim == 3:
        assert suggest(probabilities, labels, spacing=(3, 1, 1), names=NAMES).axis == "x"
        flat = probabilities.copy()
        flat[:, :, :, :9] = flat[:, :, :, 10:] = np.array([0.99, 0.01, 0])[:, None, None, None]
        assert suggest(flat, labels, names=NAMES).axis == "z"  # the doubt lies on this plane


def test_no_place_is_suggested_beside_paint_or_where_all_is_sure(place):
    probabilities, labels, centre = place
    labels[centre] = 0
    point = suggest(probabilities, labels, names=NAMES).point
    assert np.linalg.norm(np.subtract(point, centre)) >= 6
    certain = np.zeros_like(probabilities)
    certain[0] = 1
    assert suggest(certain, labels, names=NAMES) is None


def test_an_error_in_a_rare_class_weighs_more(place):
    probabilities, labels, centre = place
    probabilities[:, ..., 30:] = np.array([0.5, 0.5, 0.0]).reshape(3, *[1] * labels.ndim)  # common classes
    probabilities[1, ..., :12] += 1e-3
    point = suggest(probabilities, labels, names=NAMES).point
    assert np.abs(np.subtract(point, centre)).max() <= 2
