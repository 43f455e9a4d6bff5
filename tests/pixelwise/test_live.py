"""Rounds of learning while a person paints."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import Task, learn
from volseg.pixelwise import live as module
from volseg.pixelwise.live import Live, PaintedVoxels

SHAPES = [(60, 50), (26, 30, 18)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 128)
    monkeypatch.setattr(module, "_COUNT", 2)


@pytest.fixture(params=SHAPES, ids=["2d", "3d"])
def scene(request):
    """A bright ball, and strokes of both classes through the middle."""
    shape = request.param
    grid = np.indices(shape)
    middle = np.array(shape).reshape(-1, *[1] * len(shape)) / 2
    truth = (np.linalg.norm(grid - middle, axis=0) < 7).astype(np.uint8)
    image = np.random.default_rng(0).normal(0, 0.3, shape) + 2 * truth
    labels = np.full(shape, IGNORE_INDEX, np.uint8)
    line = tuple(slice(None) if axis == 0 else n // 2 for axis, n in enumerate(shape))
    labels[line] = truth[line]
    return image[None].astype(np.float32), truth, labels


def everything(truth):
    return tuple(slice(None) for _ in truth.shape)


def learnt(scene, rounds=3, **how):
    image, truth, labels = scene
    live = Live(image, (1.0,) * truth.ndim, 2, **how)
    for _ in range(rounds):
        live.learn(labels, seconds=60, steps=20)
    return live


def test_a_stroke_is_enough_to_find_the_rest(scene):
    _, truth, _ = scene
    found = learnt(scene).predict(everything(truth))
    assert found.shape == (2, *truth.shape)
    assert found.dtype == np.float32
    both = (found.argmax(0) == 1) & (truth == 1)
    assert both.sum() / ((found.argmax(0) == 1) | (truth == 1)).sum() > 0.8


def test_blocks_are_parts_of_the_whole(scene):
    _, truth, _ = scene
    live = learnt(scene)
    whole = live.predict(everything(truth))
    block = tuple(slice(n // 3, n // 2) for n in truth.shape)
    np.testing.assert_allclose(live.predict(block), whole[(slice(None), *block)], atol=0.05)


def test_the_same_rounds_give_the_same_weights(scene):
    first, second = learnt(scene).state()["model"], learnt(scene).state()["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = learnt(scene, seed=1).state()["model"]
    assert not torch.equal(first["0.0.weight"], other["0.0.weight"])


def test_a_session_goes_on_from_its_state_as_if_it_had_not_ended(scene):
    image, truth, labels = scene
    live = learnt(scene, rounds=2)
    again = Live.from_state(image, (1.0,) * truth.ndim, live.state())
    assert np.array_equal(again.predict(everything(truth)), live.predict(everything(truth)))
    for each in (live, again):
        each.learn(labels, seconds=60, steps=20)
    first, second = live.state(), again.state()
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])
    assert first["curve"] == second["curve"]


def test_painted_voxels_alone_are_as_good_as_an_array_of_labels(scene):
    image, truth, labels = scene
    live = Live(image, (1.0,) * truth.ndim, 2)
    for _ in range(3):
        live.learn(PaintedVoxels.of(labels), seconds=60, steps=20)
    assert np.array_equal(live.predict(everything(truth)), learnt(scene).predict(everything(truth)))


def test_what_is_erased_counts_no_longer(scene):
    image, truth, labels = scene
    more = labels.copy()
    more[tuple(slice(2, 6) for _ in truth.shape)] = 1
    live = Live(image, (1.0,) * truth.ndim, 2)
    live.learn(more, seconds=60, steps=0)
    live.learn(labels, seconds=60, steps=20)
    other = Live(image, (1.0,) * truth.ndim, 2)
    other.learn(labels, seconds=60, steps=0)
    other.learn(labels, seconds=60, steps=20)
    np.testing.assert_allclose(live.predict(everything(truth)), other.predict(everything(truth)), atol=0.5)
    assert len(live._rows) == np.count_nonzero(labels != IGNORE_INDEX)


def test_a_new_class_keeps_what_was_learnt_of_the_others(scene):
    image, truth, labels = scene
    live = learnt(scene)
    before = live.predict(everything(truth)).argmax(0)
    live.add_class()
    after = live.predict(everything(truth))
    assert after.shape[0] == 3
    assert (after.argmax(0) == before).mean() > 0.98
    corner = tuple(slice(0, 5) for _ in truth.shape)
    image[(0, *corner)] -= 5
    live.bricks = type(live.bricks)(image, (1.0,) * truth.ndim)
    labels[corner] = 2
    for _ in range(3):
        live.learn(labels, seconds=60, steps=20)
    assert (live.predict(everything(truth)).argmax(0)[corner] == 2).mean() > 0.8


def test_a_model_predicts_as_the_session_does_and_is_continued(scene):
    image, truth, labels = scene
    live = learnt(scene)
    task = Task(image, (1.0,) * truth.ndim, 2)
    model = live.as_model()
    np.testing.assert_allclose(model.predict(task), live.predict(everything(truth)), atol=0.05)
    further = learn(task, labels, seconds=0.1, fewest=2, start=model, should_stop=lambda: True)
    assert further.stages[0].masks.shape == model.stages[0].masks.shape


def test_bricks_are_built_nearest_first_until_they_are_there(scene):
    image, truth, _ = scene
    live = Live(image, (1.0,) * truth.ndim, 2)
    place = [n // 2 for n in truth.shape]
    blocks = list(live.next_bricks(place))
    for block in blocks:
        assert live.build(block)
        assert live.ready(block) == 1
    assert live.ready(everything(truth)) == 1
    assert not list(live.next_bricks(place))


def test_without_new_paint_learning_comes_to_an_end(scene, monkeypatch):
    image, truth, labels = scene
    monkeypatch.setattr(module, "_CYCLE", 4)
    live = Live(image, (1.0,) * truth.ndim, 2)
    assert not live.is_done
    rounds = 0
    while not live.is_done:
        live.learn(labels, seconds=0)
        rounds += 1
    before = live.state()["model"]
    assert 1 < rounds < 10
    assert live.curve.iterations[-1] == 4 * rounds
    live.learn(labels, seconds=60)
    after = live.state()["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    labels[tuple(slice(0, 2) for _ in truth.shape)] = 0
    live.learn(labels, seconds=60)
    assert live.curve.iterations[-1] > 4 * rounds


def test_learning_ends_when_it_should(scene):
    image, truth, labels = scene
    live = Live(image, (1.0,) * truth.ndim, 2)
    live.learn(labels, seconds=60, steps=20, should_stop=lambda: True)
    assert live.curve.iterations == [1]


def test_of_much_paint_the_dense_is_thinned_and_strokes_are_not(scene, monkeypatch):
    image, truth, labels = scene
    adopted = np.where(labels == IGNORE_INDEX, truth, labels)
    adopted[: len(truth) // 2 - 12] = IGNORE_INDEX
    adopted[0].flat[0] = 1  # a stroke far from all that
    monkeypatch.setattr(module, "_MOST", 400)
    paint = PaintedVoxels.of(adopted)
    found, again = paint.thinned(truth.shape), paint.thinned(truth.shape)
    assert len(found.voxels) <= 400 < len(paint.voxels)
    np.testing.assert_array_equal(found.voxels, again.voxels)
    np.testing.assert_array_equal(found.classes, adopted.flat[found.voxels])
    assert (np.diff(found.voxels) > 0).all()
    assert 0 in found.voxels
    live = Live(image, (1.0,) * truth.ndim, 2)
    live.learn(labels, seconds=60, steps=20)
    live.learn(adopted, seconds=60, steps=40)
    assert live.predict(everything(truth)).argmax(0)[truth == 1].mean() > 0.8
    monkeypatch.setattr(module, "_MOST", 200)
    live.learn(adopted, seconds=60, steps=1)
    assert live.agreement != (0, 0)  # fewer are learnt from, and nothing was taken back


def test_nothing_painted_is_nothing_to_learn_from(scene):
    image, truth, labels = scene
    live = Live(image, (1.0,) * truth.ndim, 2)
    with pytest.raises(InputError, match="No voxel is painted"):
        live.learn(np.full_like(labels, IGNORE_INDEX), seconds=1)
    for ask in (live.as_model, lambda: live.predict(everything(truth))):
        with pytest.raises(InputError, match="Nothing has been learnt"):
            ask()


def noisy(shape):
    """A rare class that differs from the common one by less than the noise does."""
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(0, 1, shape), 1.5)
    truth = (blobs > np.quantile(blobs, 0.95)).astype(np.uint8)
    return (rng.normal(0, 1, shape) + 1.2 * truth)[None].astype(np.float32), truth


def test_a_rare_class_painted_as_often_as_a_common_one_does_not_come_out_fat():
    image, truth = noisy((48, 48, 24))
    rng = np.random.default_rng(1)
    live = Live(image, (1.0,) * 3, 2)
    labels = np.full(truth.shape, IGNORE_INDEX, np.uint8)
    for _ in range(4):
        for c in (0, 1):
            labels[tuple(rng.permutation(np.argwhere(truth == c))[:150].T)] = c
        live.learn(labels, seconds=60, steps=20)
    corrected = live.predict(everything(truth)).argmax(0)
    live._offset.zero_()
    live._fold()
    plain = live.predict(everything(truth)).argmax(0)
    assert truth.mean() < 0.1
    assert plain.mean() > 1.7 * truth.mean()
    assert abs(corrected.mean() - truth.mean()) < 0.5 * (plain.mean() - truth.mean())
    assert (corrected == truth).mean() > (plain == truth).mean()


def test_paint_that_corrects_moves_nothing():
    """What is painted was wrong each time: its shares do not say how common classes were taken to be."""
    image, truth = noisy((48, 48, 24))
    rng = np.random.default_rng(1)
    live = Live(image, (1.0,) * 3, 2)
    labels = np.full(truth.shape, IGNORE_INDEX, np.uint8)
    labels[:6, :6, :6] = truth[:6, :6, :6]
    for _ in range(3):
        live.learn(labels, seconds=60, steps=20)
        wrong = np.argwhere((live.predict(everything(truth)).argmax(0) != truth) & (labels == IGNORE_INDEX))
        worst = tuple(rng.permutation(wrong)[:300].T)
        labels[worst] = truth[worst]
    live.learn(labels, seconds=60, steps=20)
    assert live.agreement[0] < 0.2 * live.agreement[1]
    assert not live._offset.any()
