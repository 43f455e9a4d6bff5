"""Calibrated confidence: the temperature that was put in is found, and what is shown was held out."""

import numpy as np
import pytest
from scipy import special

from volseg.densification.calibration import Calibrator, HeldOutScores, calibrate, held_out_sample, log_scores
from volseg.labels import IGNORE_INDEX


def sample(seed: int, temperature: float, n: int = 4000) -> HeldOutScores:
    """Scores that are ``temperature`` times as extreme as they should be, and classes drawn accordingly."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (n, 3)).astype(np.float32)
    chances = special.softmax(scores, 1)
    truth = (rng.random((n, 1)) > chances.cumsum(1)[:, :2]).sum(1).astype(np.uint8)
    return HeldOutScores(scores * np.float32(temperature), truth)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 5.0])
def test_the_temperature_is_found_and_confidence_becomes_right(temperature):
    calibrator = calibrate([sample(seed, temperature) for seed in range(4)])
    assert calibrator.temperature == pytest.approx(temperature, rel=0.05)
    chart = calibrator.chart
    assert chart.error_after < 0.02
    if temperature != 1:
        assert chart.error_before > 5 * chart.error_after


def test_the_chart_is_measured_on_folds_that_the_temperature_was_not_fitted_on():
    sure, unsure = sample(0, 4.0), sample(1, 0.25)
    chart = calibrate([sure, unsure]).chart
    # Each is calibrated by the other, which makes both far worse than the common temperature would.
    together = Calibrator(1.0).probabilities(sure.scores.T).max(0)
    assert together.mean() > 0.8
    assert chart.error_after > chart.error_before > 0.1


def test_the_error_is_the_distance_between_confidence_and_frequency_bin_by_bin():
    scores = np.log(np.array([[0.72, 0.28]] * 10 + [[0.12, 0.88]] * 10, np.float32))
    truth = np.array([0] * 5 + [1] * 5 + [1] * 9 + [0], np.uint8)
    chart = calibrate([HeldOutScores(scores, truth)] * 2).chart
    assert chart.error_before == pytest.approx((10 * 0.22 + 10 * 0.02) / 20, abs=1e-6)
    frequencies = [f for f in chart.before if f is not None]
    assert frequencies == pytest.approx([0.5, 0.9])
    assert [i for i, f in enumerate(chart.before) if f is not None] == [10, 13]


@pytest.fixture(params=[(4, 5, 6), (9, 7)], ids=["3d", "2d"])
def scores(request):
    return np.random.default_rng(0).normal(0, 3, (3, *request.param)).astype(np.float32)


def test_no_voxel_changes_its_class_and_adding_a_number_to_all_classes_changes_nothing(scores):
    for temperature in (0.3, 4.0):
        probabilities = Calibrator(temperature).probabilities(scores)
        np.testing.assert_array_equal(probabilities.argmax(0), scores.argmax(0))
        np.testing.assert_allclose(probabilities, special.softmax(scores / temperature, 0), atol=1e-6)
        moved = Calibrator(temperature).probabilities(scores + 1000)
        np.testing.assert_allclose(moved, probabilities, atol=2e-3)


def test_confidence_is_the_probability_of_the_class_chosen_and_1_where_painted(scores):
    calibrator = Calibrator(2.0)
    labels = np.full(scores.shape[1:], IGNORE_INDEX, np.uint8)
    labels[1] = 2
    confidence = calibrator.confidence(scores, labels)
    assert (confidence[1] == 1).all()
    expected = special.softmax(scores / 2, 0).max(0)
    np.testing.assert_allclose(np.delete(confidence, 1, 0), np.delete(expected, 1, 0), rtol=1e-5)
    np.testing.assert_allclose(calibrator.confidence(scores), expected, rtol=1e-5)


def test_probabilities_become_scores_even_where_they_are_0():
    probabilities = np.array([[1.0, 0.25], [0.0, 0.75]])
    again = Calibrator().probabilities(log_scores(probabilities))
    np.testing.assert_allclose(again, probabilities, atol=1e-6)


def test_a_sample_holds_the_held_out_voxels_and_at_most_so_many(scores):
    test = np.full(scores.shape[1:], IGNORE_INDEX, np.uint8)
    test[2] = np.random.default_rng(1).integers(0, 3, test[2].shape)
    whole = held_out_sample(scores, test)
    np.testing.assert_array_equal(whole.truth, test[2].ravel())
    np.testing.assert_array_equal(whole.scores, scores[:, 2].reshape(3, -1).T)
    few = held_out_sample(scores, test, limit=5)
    assert len(few.truth) == 5
    known = {(t, *s) for t, s in zip(whole.truth, whole.scores.tolist(), strict=True)}
    assert {(t, *s) for t, s in zip(few.truth, few.scores.tolist(), strict=True)} <= known


def test_without_held_out_voxels_nothing_is_changed():
    empty = HeldOutScores(np.zeros((0, 3), np.float32), np.zeros(0, np.uint8))
    assert calibrate([]) == calibrate([empty]) == Calibrator(1.0, None)


def test_one_fold_alone_has_no_chart():
    calibrator = calibrate([sample(0, 3.0)])
    assert calibrator.chart is None
    assert calibrator.temperature == pytest.approx(3, rel=0.1)


def test_scores_and_labels_of_different_volumes_are_refused(scores):
    with pytest.raises(ValueError, match="scores have the shape"):
        held_out_sample(scores, np.zeros((2, 2), np.uint8))
