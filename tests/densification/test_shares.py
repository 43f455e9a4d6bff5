"""Of two joined learners, each counts as much as held-out slices say."""

import numpy as np
import pytest

from volseg.densification import scoring
from volseg.densification.folds import Fold
from volseg.densification.shares import choose_share, in_words, joined_folds
from volseg.labels import IGNORE_INDEX
from volseg.learners.joined import SHARE


def fold(first: float, second: float, *, seed: int = 0, elsewhere: bool = False) -> scoring.Tested:
    """A fold of which each part knows so much: 1 all of the truth, 0 nothing, -1 the opposite."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, 2000)
    test = np.full((50, 50), IGNORE_INDEX, np.uint8)
    test.flat[: len(truth)] = truth
    signs = np.stack([1 - 2 * truth, 2 * truth - 1])
    parts = [knows * signs + random.normal(0, 1, signs.shape) for knows in (first, second)]
    scores = np.stack(parts).astype(np.float32)
    return scoring.Tested(Fold({"z": [1]}), test, scores, scores[..., :7] if elsewhere else None)


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [(1, -9, 0.0), (-3, 3, 0.6), (-3, 1, 0.8), (3, 3, SHARE), (0, 2, 0.8)],
)
def test_the_share_is_that_of_the_one_that_knows(first, second, wanted):
    assert choose_share([fold(first, second, seed=s) for s in range(3)]) >= wanted
    assert wanted > 0 or choose_share([fold(first, second, seed=s) for s in range(3)]) == 0


def test_what_is_better_in_one_fold_only_does_not_count():
    folds = [fold(0.5, 3, seed=0), *(fold(0.5, 0.2, seed=s) for s in (1, 2))]
    assert choose_share(folds[:1] * 3) > SHARE
    assert choose_share(folds) <= SHARE
    assert choose_share(folds[:1]) == SHARE


def test_a_fold_has_no_part_in_the_share_that_it_is_scored_with():
    for odd in (fold(1, -9), fold(-3, 3)):
        found, _ = joined_folds([odd, *(fold(1, -9, seed=s) for s in (1, 2))])
        np.testing.assert_allclose(found[0].scores, odd.scores[0])  # the others say: the first alone
        found, _ = joined_folds([odd, *(fold(-3, 1, seed=s) for s in (1, 2))])
        np.testing.assert_allclose(found[0].scores, 0.2 * odd.scores[0] + 0.8 * odd.scores[1], atol=1e-5)


def test_the_same_share_holds_elsewhere():
    folds = [fold(-3, 1, seed=s, elsewhere=True) for s in range(3)]
    found, share = joined_folds(folds)
    assert share == 0.8
    np.testing.assert_allclose(
        found[0].elsewhere, 0.2 * folds[0].elsewhere[0] + 0.8 * folds[0].elsewhere[1], rtol=1e-5
    )
    assert found[0].scores.shape == (2, 2000)


def test_with_nothing_held_out_it_is_said():
    assert choose_share([]) == SHARE
    assert "nothing was held out" in in_words(0.4, measured=False)
    assert in_words(0.2, measured=True) == (
        "The U-Net counts 20% of the result, the per-voxel learner 80%: by what was held out."
    )
