"""How common classes are is estimated from predictions, not from how often they were painted."""

import numpy as np
import pytest

from volseg.pixelwise.balance import class_shares, offsets, trust_in


def predicted(true, learnt_with, n=20000, seed=0):
    """Log probabilities of one normally distributed feature, by a model that assumes other shares."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(len(true), n, p=true)
    seen = rng.normal(2.0 * classes, 1)
    scores = np.log(learnt_with)[:, None] - 0.5 * (seen - 2.0 * np.arange(len(true))[:, None]) ** 2
    return scores.astype(np.float32), classes


@pytest.mark.parametrize("true", [(0.96, 0.04), (0.3, 0.6, 0.1)])
def test_shares_are_those_of_the_volume(true):
    painted = np.full(len(true), 10**6)
    scores, _ = predicted(true, painted / painted.sum())
    np.testing.assert_allclose(class_shares(scores, painted), true, atol=0.02)


def test_a_rare_class_painted_as_often_as_a_common_one_does_not_come_out_fat():
    painted = np.array([5000, 5000])
    scores, classes = predicted((0.96, 0.04), (0.5, 0.5))
    before = (scores.argmax(0) == 1).mean()
    moved = scores + offsets(scores, painted)[:, None]
    after = (moved.argmax(0) == 1).mean()
    assert before > 3 * 0.04
    assert after < 1.2 * 0.04
    assert (moved.argmax(0) == classes).mean() > (scores.argmax(0) == classes).mean()


def test_little_paint_holds_the_shares_to_its_own():
    scores, _ = predicted((0.96, 0.04), (0.5, 0.5))
    by_paint = [class_shares(scores, np.array([n, n]))[1] for n in (10, 100, 1000, 100_000)]
    assert by_paint == sorted(by_paint, reverse=True)
    assert by_paint[0] > 0.4


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_trust_scales_what_is_moved(trust):
    scores, _ = predicted((0.9, 0.1), (0.5, 0.5))
    painted = np.array([900, 900])
    np.testing.assert_allclose(offsets(scores, painted, trust), trust * offsets(scores, painted), atol=1e-6)


def test_shares_that_are_right_move_nothing():
    scores, _ = predicted((0.7, 0.3), (0.7, 0.3))
    np.testing.assert_allclose(offsets(scores, np.array([70_000, 30_000])), 0, atol=0.1)


def test_a_class_without_paint_is_left_alone():
    scores, _ = predicted((0.6, 0.3, 0.1), (1 / 3, 1 / 3, 1 / 3))
    assert offsets(scores, np.array([100, 100, 0]))[2] == 0
    assert not offsets(scores, np.array([100, 0, 0])).any()
    assert np.isfinite(offsets(scores, np.array([100, 100, 0]))).all()


def test_who_corrects_is_told_from_who_paints_anywhere():
    assert trust_in(0.2) == 0
    assert 0 < trust_in(0.7) < 1
    assert trust_in(0.95) == 1
