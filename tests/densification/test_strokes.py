"""Strokes: held out by place, and a score that says what it cannot know."""

import json
import re

import numpy as np
import pytest
from scipy import ndimage

from volseg.annotation.strokes import TOUCHING, strokes_of
from volseg.densification.folds import Fold, make_folds
from volseg.densification.places import STROKE_FOLDS, cannot_know, deal_places, missing
from volseg.densification.strokes import Compared, agreement, elsewhere, live_score, stroke_offsets
from volseg.labels import IGNORE_INDEX

NAMES = ["stroma", "lumen"]
CASES = {
    "2d": ((96, 90), [None]),
    "one slice": ((24, 96, 90), [9]),
    "three slices": ((24, 96, 90), [3, 12, 20]),
    "many slices": ((24, 96, 90), list(range(1, 23, 2))),
}


def drawn(case, seed=0, places=12):
    """At every place one line of each class, and the truth that they are part of."""
    shape, indices = CASES[case]
    rng = np.random.default_rng(seed)
    truth = (ndimage.gaussian_filter(rng.normal(size=shape), 6) > 0).astype(np.uint8)
    labels = np.full(shape, IGNORE_INDEX, np.uint8)
    for number in range(places):
        row, column = 4 + 22 * (number // 3), 4 + 28 * (number % 3)
        index = indices[number % len(indices)]
        on, true = (labels, truth) if index is None else (labels[index], truth[index])
        for c in range(2):
            on[row + 2 * c, column : column + 8] = c
            true[row + 2 * c, column : column + 8] = c
    return labels, truth


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def test_every_place_is_held_out_once_and_whole(case):
    labels, _ = drawn(case)
    strokes = strokes_of(labels)
    folds = make_folds(labels, 7).folds
    assert len(folds) == STROKE_FOLDS
    tested = np.stack([fold.split(labels)[1] for fold in folds])
    np.testing.assert_array_equal(tested.min(0), labels)
    held = (tested != IGNORE_INDEX)[:, *strokes.voxels.T]
    assert (held.sum(0) == 1).all()
    for place in range(strokes.places):
        assert len(np.unique(held.argmax(0)[strokes.place == place])) == 1


def test_nothing_that_is_learnt_from_touches_what_is_tested_and_every_class_is_learnt(case):
    labels, _ = drawn(case, places=12)
    spacing = (1.0,) * labels.ndim
    for fold in make_folds(labels, spacing=spacing).folds:
        train, test = fold.split(labels)
        distance = ndimage.distance_transform_edt(test == IGNORE_INDEX)
        assert distance[train != IGNORE_INDEX].min() > TOUCHING
        assert set(np.unique(train)) == {0, 1, IGNORE_INDEX}
        np.testing.assert_array_equal(fold.learnt.mask, train != IGNORE_INDEX)


def test_what_touches_a_held_out_stroke_is_left_out_where_a_place_is_full():
    labels = np.full((60, 60), IGNORE_INDEX, np.uint8)
    for row in range(1, 60, 2):
        for column in range(1, 50, 8):
            labels[row, column : column + 6] = (row + column) // 2 % 2
    left_out = 0
    for fold in make_folds(labels).folds:
        train, test = fold.split(labels)
        distance = ndimage.distance_transform_edt(test == IGNORE_INDEX)
        assert distance[train != IGNORE_INDEX].min() > TOUCHING
        left_out += np.count_nonzero((labels != IGNORE_INDEX) & (train == 255) & (test == 255))
    assert left_out > 0


def test_a_fold_of_strokes_is_kept_in_a_file(case):
    labels, _ = drawn(case)
    for fold in make_folds(labels).folds:
        again = Fold.from_json(json.loads(json.dumps(fold.as_json())))
        assert again == fold
        np.testing.assert_array_equal(again.split(labels)[1], fold.split(labels)[1])
        assert fold.in_words() == f"strokes of {np.count_nonzero(fold.strokes.mask)} voxels"


def test_with_more_strokes_no_fold_is_tested_on_what_it_ever_learnt_from(case):
    labels, _ = drawn(case)
    some = drawn(case, places=9)[0]
    before = make_folds(some).folds
    after = make_folds(labels, previous=before).folds
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        train, test = new.split(labels)
        assert not np.any((test != IGNORE_INDEX) & old.learnt.mask)
        assert not np.any((test != IGNORE_INDEX) & (train != IGNORE_INDEX))
        assert (new.learnt.mask == (old.learnt.mask | (train != IGNORE_INDEX))).all()
    tested = np.stack([fold.split(labels)[1] for fold in after]).min(0)
    np.testing.assert_array_equal(tested, labels)


def test_strokes_beside_folds_of_slices_are_tested_where_nothing_was_learnt_from():
    labels, truth = drawn("many slices")
    slices = np.full(labels.shape, IGNORE_INDEX, np.uint8)
    for index in (4, 12, 20):
        slices[index] = truth[index]
    before = make_folds(slices).folds
    for old, new in zip(before, make_folds(labels, previous=before).folds, strict=True):
        assert new.is_tested
        assert not np.any((new.split(labels)[1] != IGNORE_INDEX) & old.learnt.mask)


def test_classes_are_dealt_out_evenly():
    labels, _ = drawn("2d")
    strokes = strokes_of(labels)
    parts = deal_places(strokes, 4)
    for c in range(2):
        per_part = np.bincount(parts[np.unique(strokes.place[strokes.classes == c])], minlength=4)
        assert per_part.tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({0: 12, 1: 1}, "3 of every class are needed for that. Paint 2 more places with lumen, some way"),
        ({0: 2, 1: 2}, "Paint 1 more place with stroma, 1 more place with lumen"),
        ({0: 12}, "only one class is painted. Paint another one"),
    ],
)
def test_too_little_paint_has_no_score_and_it_is_said_what_is_missing(case, kept, reason):
    labels, _ = drawn(case)
    strokes = strokes_of(labels)
    for c in range(2):
        gone = np.unique(strokes.place)[kept.get(c, 0) :]
        at = strokes.voxels[(strokes.classes == c) & np.isin(strokes.place, gone)]
        labels[tuple(at.T)] = IGNORE_INDEX
    for found in (make_folds(labels, names=NAMES).reason, missing(strokes_of(labels), NAMES)):
        assert found.startswith("Too little paint to tell how good the result is")
        assert reason in found
    score = live_score(labels, (1.0,) * labels.ndim, lambda mask: None, names=NAMES)
    assert score.value is score.low is None
    assert reason in score.reason


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("2d", "^$"),
        ("one slice", r"All strokes lie on one slice, x = 9 \(10 of 24\): of other slices nothing is known"),
        ("three slices", "^$"),
    ],
)
def test_it_is_said_what_the_score_cannot_know(case, said):
    assert re.search(said, cannot_know(strokes_of(drawn(case)[0])))


def test_strokes_in_a_corner_say_nothing_of_the_rest():
    labels, _ = drawn("2d", places=2)
    assert "All strokes lie within 1% of the image" in cannot_know(strokes_of(labels))


def sure(classes, wrong=0.0, seed=0, margin=4.0):
    """Scores of a model that says these classes."""
    said = np.asarray(classes)
    flip = np.random.default_rng(seed).random(said.shape) < wrong
    return margin * np.eye(2, dtype=np.float32)[np.where(flip, 1 - said, said)].T


HELD = np.array([0, 1] * 50, np.uint8)
RANDOM = np.random.default_rng(0).integers(0, 2, 5000).astype(np.uint8)


def compared(wrong_elsewhere=0.0, wrong_held=0.0, elsewhere=RANDOM, held=HELD, models=4):
    return [
        Compared(sure(held, wrong_held, seed), HELD, sure(elsewhere, wrong_elsewhere, 9 + seed))
        for seed in range(models)
    ]


def test_models_that_agree_more_have_a_higher_score_that_is_lower_than_they_agree():
    strokes = strokes_of(drawn("three slices")[0])
    values = []
    for wrong in (0.02, 0.1, 0.3):
        found = agreement(compared(wrong), strokes, foreground=[1]).foreground_iou
        alike = ((1 - wrong) ** 2 + wrong**2) / (1 + 2 * wrong * (1 - wrong))
        assert 0 < found.low < found.value < found.high < 1
        assert found.value < alike < found.high
        values.append(found.value)
    assert values == sorted(values, reverse=True)


def test_what_models_agree_in_wrongly_lowers_the_lower_end():
    strokes = strokes_of(drawn("three slices")[0])
    right, wrong = (
        agreement(compared(0.0, held), strokes, foreground=[1]).foreground_iou for held in (0.0, 0.3)
    )
    assert right.value == wrong.value
    assert right.low > wrong.low
    assert wrong.low < 0.7 / 1.3 < wrong.high


def test_errors_that_few_places_need_not_show_are_allowed_for():
    few, many = (
        agreement(compared(), strokes_of(drawn("2d", places=n)[0]), foreground=[1]).foreground_iou
        for n in (4, 12)
    )
    assert few.low == pytest.approx(0.05 ** (1 / 4))
    assert many.low == pytest.approx(0.05 ** (1 / 12))


def test_on_one_slice_less_is_known():
    many, one = (
        agreement(compared(0.1), strokes_of(drawn(case)[0]), foreground=[1]).foreground_iou
        for case in ("three slices", "one slice")
    )
    assert one.low < many.low
    assert one.high - one.low > many.high - many.low


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        (
            compared(held=np.where(np.arange(100) < 90, 0, HELD)),
            "Of its held-out strokes only 10% were found",
        ),
        (compared(elsewhere=np.zeros(5000, int)), "It is too rare in the result to tell"),
        (compared(models=1), "It is too rare in the result to tell"),
    ],
    ids=["not found again", "nowhere", "one model"],
)
def test_a_class_of_which_nothing_is_known_has_no_score_and_neither_has_the_mean(models, reason):
    estimated = agreement(models, strokes_of(drawn("2d")[0]), foreground=[1])
    assert reason in estimated.iou[1].reason
    assert estimated.foreground_iou.value is estimated.mean_iou.value is None
    assert (estimated.iou[0].value is None) == (len(models) == 1)


def test_models_are_compared_on_unpainted_voxels_that_are_drawn_evenly(case):
    labels, _ = drawn(case)
    mask = elsewhere(labels)
    assert not np.any(mask & (labels != IGNORE_INDEX))
    assert mask.sum() == min(20_000, np.count_nonzero(labels == IGNORE_INDEX))
    among = np.zeros(labels.shape, bool)
    among[:5] = True
    assert not elsewhere(labels, among=among)[5:].any()


def nearest_mean(image, labels, asked):
    """A model that takes no time: of the class whose mean brightness is nearest."""

    def learn_without(left_out):
        asked.append(left_out)
        train = np.where(left_out, IGNORE_INDEX, labels)
        means = [image[train == c].mean() for c in range(2)]
        return lambda where: -np.abs(image[where][None] - np.array(means)[:, None]).astype(np.float32)

    return learn_without


def test_the_live_score_takes_four_trainings_and_holds_the_truth(case):
    labels, truth = drawn(case)
    image = truth + np.random.default_rng(1).normal(0, 0.4, truth.shape)
    asked = []
    score = live_score(labels, (1.0,) * labels.ndim, nearest_mean(image, labels, asked), names=NAMES)
    assert len(asked) == STROKE_FOLDS
    assert not np.any(np.sum(asked, 0)[labels == IGNORE_INDEX])
    assert np.all(np.sum(asked, 0)[labels != IGNORE_INDEX] >= 1)
    predicted = nearest_mean(image, labels, [])(np.zeros(labels.shape, bool))(truth >= 0).argmax(0)
    hits = np.count_nonzero((predicted == 1) & (truth.ravel() == 1))
    true = hits / np.count_nonzero((predicted == 1) | (truth.ravel() == 1))
    assert score.low < true < score.high
    assert score.per_class[1].value == score.value
    assert ("one slice" in score.reason) == (case == "one slice")


def test_the_live_score_can_be_stopped_and_looks_only_where_it_may(case):
    labels, _ = drawn(case)
    among = np.zeros(labels.shape, bool)
    among[:, :40] = True
    seen = []

    def learn_without(left_out):
        return lambda where: seen.append(where) or np.zeros((2, where.sum()), np.float32)

    stopped = live_score(labels, (1.0,) * labels.ndim, learn_without, names=NAMES, should_stop=lambda: True)
    assert stopped.value is None
    assert not seen
    live_score(labels, (1.0,) * labels.ndim, learn_without, names=NAMES, among=among)
    assert not np.any(np.any(seen, 0) & ~among & (labels == IGNORE_INDEX))


def test_a_class_that_is_painted_too_often_is_held_back_unless_the_person_paints_on_errors():
    common = np.random.default_rng(0).random(4000) < 0.05
    scores = sure(common.astype(int), margin=3.0)
    painted = np.array([3000, 3000])
    moved = stroke_offsets(scores, painted, right=0.95)
    assert moved[0] > 0.1
    assert moved[1] < -0.5
    np.testing.assert_array_equal(stroke_offsets(scores, painted, right=0.5), 0)
    assert np.all(np.abs(stroke_offsets(scores, painted, right=0.7)) < np.abs(moved))
