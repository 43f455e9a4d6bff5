"""What every learner promises, whatever is inside: the same tests for all of them, in 2D and 3D."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import log_softmax

from volseg.annotation import find_slices, keep_slices
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.learners import (
    LEARNERS,
    UNetLearner,
    UNetModel,
    architecture,
    choose_learner,
    learner_in,
    sections,
    trained_in,
)
from volseg.learners.architecture import choose_architecture
from volseg.learning import Task
from volseg.pixelwise import PixelwiseLearner, members
from volseg.pixelwise import model as pixelwise_model
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint

SHAPES = {"2d": (44, 40), "3d": (20, 24, 16)}
STEPS = {"pixelwise": 30, "unet": 12, "joined": 30}  # so many bring more than guessing


@pytest.fixture
def small(monkeypatch):
    """Networks and steps that are small enough for a test."""
    monkeypatch.setattr(members, "_BATCH", 256)
    ticks = itertools.count()
    monkeypatch.setattr(members, "time", SimpleNamespace(monotonic=lambda: 1000.0 * next(ticks)))
    monkeypatch.setattr(pixelwise_model, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 1e6))
    monkeypatch.setattr(architecture, "_WIDTH", {"cpu": 4, "cuda": 4})
    monkeypatch.setattr(architecture, "_VOXELS", {("cpu", 2): 2**10, ("cpu", 3): 2**12})


@pytest.fixture(params=[*sorted(LEARNERS), "sections"])
def learner(request, small, monkeypatch):
    """Each of them; the U-Net on blocks, and on sections where whole slices are painted."""
    monkeypatch.setattr(sections, "ENOUGH", 1 if request.param == "sections" else 10**9)
    return LEARNERS.get(request.param, LEARNERS["unet"])


@pytest.fixture(params=SHAPES)
def scene(request):
    """A bright ball in a dark, noisy surrounding: image ``(1, *spatial)`` and truth."""
    shape = SHAPES[request.param]
    random = np.random.default_rng(0)
    grid = np.indices(shape)
    centre = np.array(shape).reshape(-1, *[1] * len(shape)) / 2
    truth = (np.linalg.norm(grid - centre, axis=0) < min(shape) / 3).astype(np.uint8)
    image = ndimage.gaussian_filter(2.0 * truth, 0.5) + random.normal(0, 0.3, shape)
    return SimpleNamespace(image=image[None].astype(np.float32), truth=truth)


def strokes(truth):
    """A few short lines, on no slice as a whole."""
    labels = np.full_like(truth, IGNORE_INDEX)
    middle = tuple(n // 2 for n in truth.shape[1:])
    labels[(slice(2, -2), *middle)] = truth[(slice(2, -2), *middle)]
    labels[(slice(2, -2), *(2 for _ in middle))] = truth[(slice(2, -2), *(2 for _ in middle))]
    return labels


PAINT = {
    "slices of every direction": lambda truth: keep_slices(truth, [2] * truth.ndim),
    "slices of one direction": lambda truth: keep_slices(truth, [0] * (truth.ndim - 1) + [3]),
    "strokes": strokes,
}


def task_of(scene, seed=0):
    return Task(scene.image, (1.0,) * scene.truth.ndim, 2, seed)


def learnt(learner, scene, labels, *, steps=None, seed=0, task=None, **settings):
    """A number of steps, however long they take."""
    task = task or task_of(scene, seed)
    steps = steps or STEPS[learner.name]
    model = learner.learn(task, labels, slices=find_slices(labels), seconds=1e-6, fewest=steps, **settings)
    return task, model


def wrong(model, task, truth):
    return np.mean(model.predict(task).argmax(0) != truth)


@pytest.mark.slow
@pytest.mark.parametrize("paint", PAINT)
def test_something_is_learnt_from_any_paint_and_only_classes_that_are_painted(learner, scene, paint):
    labels = PAINT[paint](scene.truth)
    task, model = learnt(learner, scene, labels, steps=3 * STEPS[learner.name])
    scores = model.predict(task)
    assert scores.shape == (2, *scene.truth.shape)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert wrong(model, task, scene.truth) < min(scene.truth.mean(), 1 - scene.truth.mean())


@pytest.mark.slow
def test_a_class_without_paint_is_found_nowhere(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task = Task(scene.image, (1.0,) * scene.truth.ndim, 3)
    _, model = learnt(learner, scene, labels, task=task, steps=3 * STEPS[learner.name])
    assert set(np.unique(model.predict(task).argmax(0))) <= {0, 1}


def test_the_same_seed_and_number_of_steps_give_the_same_scores_and_another_seed_others(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    runs = [learnt(learner, scene, labels, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (model.predict(task) for task, model in runs)
    np.testing.assert_array_equal(again, first)
    assert not np.allclose(other, first, atol=1e-3)


def test_what_is_held_out_changes_nothing_but_the_curve(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    rest = np.where(labels == IGNORE_INDEX, scene.truth, IGNORE_INDEX)
    opposite = np.where(rest == IGNORE_INDEX, IGNORE_INDEX, 1 - rest).astype(np.uint8)
    runs = [learnt(learner, scene, labels, held_out=held) for held in (None, rest, opposite)]
    scores = [model.predict(task) for task, model in runs]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[1], scores[2])
    curves = [model.curve for _, model in runs]
    assert curves[0].validation == []
    assert len(curves[1].validation) == len(curves[1].iterations)
    assert curves[1].validation != curves[2].validation


def test_a_model_comes_back_from_its_file_whole(learner, scene, tmp_path):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, model = learnt(learner, scene, labels)
    save_checkpoint(tmp_path / "model.pt", model.state())
    content = load_checkpoint(tmp_path / "model.pt")
    assert learner_in(content, "model.pt") is learner
    again = trained_in(content, "model.pt")
    np.testing.assert_allclose(again.predict(task), model.predict(task), atol=0.05)  # distances in 16 bits
    assert again.curve == model.curve


@pytest.mark.slow
def test_it_goes_on_from_earlier_and_leaves_that_as_it_is(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, model = learnt(learner, scene, labels, steps=3 * STEPS[learner.name])
    before = model.predict(task)
    few = max(STEPS[learner.name] // 6, 1)
    _, further = learnt(learner, scene, labels, steps=few, start=model)
    _, fresh = learnt(learner, scene, labels, steps=few)
    assert further.curve.loss[0] < fresh.curve.loss[0]
    assert wrong(further, task, scene.truth) < wrong(fresh, task, scene.truth)
    np.testing.assert_array_equal(model.predict(task), before)


def test_voxels_and_blocks_are_scored_as_in_the_whole(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, model = learnt(learner, scene, labels)
    whole = model.predict(task)
    where = np.zeros(scene.truth.shape, bool)
    where[..., 3] = where[..., 11] = True
    where[5] = np.random.default_rng(0).random(where[5].shape) < 0.3
    for mask in (where, where & (np.indices(where.shape)[-1] == 3), ~where):
        np.testing.assert_allclose(model.predict_at(task, mask), whole[:, mask], atol=1e-3)
    block = (slice(3, 9), *(slice(5, 6) for _ in scene.truth.shape[2:]), slice(0, 14))
    np.testing.assert_allclose(model.predict(task, block), whole[(slice(None), *block)], atol=1e-3)


def test_it_ends_after_the_step_at_hand_when_it_is_asked_to(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    asked, told = [], []
    model = learner.learn(
        task_of(scene),
        labels,
        slices=find_slices(labels),
        seconds=600,
        progress=lambda share, _: told.append(share),
        should_stop=lambda: len(asked) > 3 or asked.append(1),
    )
    assert len(asked) == 4
    assert model.curve.iterations[-1] <= 4
    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)


def test_it_says_how_long_scoring_will_take(learner, scene):
    task = task_of(scene)
    assert 0 < learner.prepare(task) < 60


def test_without_paint_there_is_nothing_to_learn_from(learner, scene):
    nothing = np.full_like(scene.truth, IGNORE_INDEX)
    with pytest.raises(InputError, match="No voxel is painted"):
        learner.learn(task_of(scene), nothing, seconds=1)


def test_what_another_learner_learnt_is_no_start_unless_it_says_so(learner, scene):
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    for other in LEARNERS.values():
        if other is learner:
            continue
        _, start = learnt(other, scene, labels, steps=1)
        if other.name in learner.continues:
            learner.learn(task_of(scene), labels, seconds=1e-6, fewest=1, start=start)
            continue
        with pytest.raises(ValueError, match=f"start was not learnt by {learner.title}"):
            learner.learn(task_of(scene), labels, seconds=1, start=start)


def test_it_can_be_told_in_a_methods_section(learner):
    names = [source.split()[0] for source in learner.sources]
    assert names
    assert all(name in learner.methods for name in names)
    assert learner.methods.endswith(".")
    assert learner.methods_with_sources() == {"sentence": learner.methods, "sources": list(learner.sources)}


# --- which one --------------------------------------------------------------------------------------------


def test_auto_is_what_measured_better_or_what_learnt_before():
    assert choose_learner("auto").name == "pixelwise"
    assert choose_learner("auto", seconds=239, voxels=10).name == "pixelwise"
    assert choose_learner("auto", seconds=241, voxels=10).name == "joined"
    assert choose_learner("auto", seconds=900, voxels=180 * 250 * 250).name == "pixelwise"
    assert choose_learner("auto", seconds=900, voxels=180**3).name == "joined"
    assert choose_learner("auto", LEARNERS["pixelwise"], seconds=60).name == "pixelwise"
    assert choose_learner("auto", LEARNERS["pixelwise"], seconds=900).name == "joined"
    assert choose_learner("auto", LEARNERS["joined"], seconds=60).name == "joined"
    assert choose_learner("joined", LEARNERS["pixelwise"]).name == "joined"
    assert choose_learner("auto", LEARNERS["unet"]).name == "unet"
    assert choose_learner("unet").name == "unet"
    with pytest.raises(InputError, match="learnt by the U-Net; another learner .pixelwise. cannot start"):
        choose_learner("pixelwise", LEARNERS["unet"])
    with pytest.raises(
        ValueError, match="learner = 'forest' is unknown. There are: auto, pixelwise, unet, joined"
    ):
        choose_learner("forest")


def test_a_file_without_a_learner_is_of_the_first_and_of_an_unknown_one_refused():
    assert learner_in({"curve": {}}, "model.pt").name == "pixelwise"
    with pytest.raises(InputError, match="was learnt by 'forest', which this volseg does not have"):
        learner_in({"curve": {}, "learner": "forest"}, "model.pt")
    with pytest.raises(InputError, match="last.pt holds nothing that volseg densify has learnt"):
        learner_in({"iteration": 3}, "last.pt")


# --- the network of the U-Net -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "spacing", "kernels", "strides"),
    [
        ((100, 100, 100), (1, 1, 1), [(3, 3, 3)] * 3, (4, 4, 4)),
        ((200, 200, 20), (4, 4, 40), [(3, 3, 1)] * 3, (4, 4, 1)),
        ((200, 200, 40), (1, 1, 3), [(3, 3, 1), (3, 3, 3), (3, 3, 3)], (4, 4, 2)),
        ((300, 200), (1, 1), [(3, 3)] * 4, (8, 8)),
        ((300, 5), (1, 1), [(3, 3)] * 4, (8, 1)),
        ((5, 5), (1, 1), [(3, 3)], (1, 1)),
    ],
)
def test_coarse_and_short_axes_are_not_pooled(size, spacing, kernels, strides):
    architecture = choose_architecture(size, spacing, seconds=100, device="cpu")
    assert architecture.kernels == [list(kernel) for kernel in kernels]
    assert tuple(math.prod(steps) for steps in zip(*architecture.pooling, strict=True)) == (
        strides if architecture.pooling else ()
    )
    assert all(n % s == 0 for n, s in zip(architecture.patch, strides, strict=True))
    assert all(n <= -(-full // s) * s for n, full, s in zip(architecture.patch, size, strides, strict=True))
    assert math.prod(architecture.patch) <= 2**16
    assert len(architecture.channels) == len(kernels) == len(architecture.pooling) + 1


def test_more_time_and_a_gpu_make_a_wider_network_and_larger_patches():
    few, many = (choose_architecture((99,) * 3, (1,) * 3, seconds=s, device="cpu") for s in (60, 7200))
    gpu = choose_architecture((99,) * 3, (1,) * 3, seconds=60, device="cuda")
    assert many.channels[0][0] == 2 * few.channels[0][0]
    assert len(gpu.channels) > len(few.channels)
    assert math.prod(gpu.patch) > math.prod(few.patch)


def test_a_joined_model_says_the_weighted_mean_of_its_parts(scene, small):
    learner = LEARNERS["joined"]
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, model = learnt(learner, scene, labels)
    where = np.ones(scene.truth.shape, bool)
    first, second = model.parts_at(task, where)
    np.testing.assert_allclose(np.exp(first).sum(0), 1, rtol=1e-4)
    for share, wanted in ((0.0, first), (1.0, second), (0.25, 0.75 * first + 0.25 * second)):
        model.share = share
        np.testing.assert_allclose(model.predict_at(task, where), wanted, rtol=1e-4, atol=1e-4)
        found = model.predict(task).reshape(2, -1)
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=5e-2)
    model.share = 0.7
    assert trained_in(model.state(), "it").share == 0.7
    assert learner.learn(task, labels, seconds=1e-6, fewest=1, start=model).share == 0.7


def test_the_slower_part_gets_more_of_the_time_and_the_other_may_have_begun(scene, small, monkeypatch):
    learner, given = LEARNERS["joined"], {}
    for part in (PixelwiseLearner, UNetLearner):

        def watched(self, *what, seconds, start=None, learn=part.learn, **settings):
            given[self.name] = (seconds, start)
            return learn(self, *what, seconds=1e-6, start=start, **settings)

        monkeypatch.setattr(part, "learn", watched)
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, begun = learnt(LEARNERS["pixelwise"], scene, labels)
    slices = find_slices(labels)
    model = learner.learn(task, labels, slices=slices, seconds=100.0, fewest=2, start=begun)
    assert given == {"pixelwise": (pytest.approx(30), begun), "unet": (pytest.approx(70), None)}
    learner.learn(task, labels, slices=slices, seconds=100.0, fewest=2, start=model)
    assert [given[name][1] for name in ("pixelwise", "unet")] == model.parts
    assert learner.continues == ("pixelwise",)


def test_a_part_without_a_share_neither_learns_nor_is_asked(scene, small, monkeypatch):
    learner = LEARNERS["joined"]
    labels = keep_slices(scene.truth, [2] * scene.truth.ndim)
    task, model = learnt(learner, scene, labels)
    model.share = 0.0
    monkeypatch.setattr(UNetModel, "predict", None)
    monkeypatch.setattr(UNetLearner, "learn", None)
    first = task_of(scene)
    np.testing.assert_allclose(
        model.predict(task), log_softmax(model.parts[0].predict(first), axis=0), rtol=1e-3, atol=1e-2
    )
    after = learner.learn(task, labels, slices=find_slices(labels), seconds=1e-6, fewest=2, start=model)
    assert after.parts[1] is model.parts[1]
    assert after.share == 0
