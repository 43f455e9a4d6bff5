"""What a volume and some painted slices are turned into, and from what."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from volseg.annotation import find_slices, keep_slices
from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import members
from volseg.pixelwise.features import filter_bank, responses_at, responses_in, smooth
from volseg.pixelwise.members import Curve, LabelledVoxels, Members, train
from volseg.pixelwise.model import Model, Task, learn
from volseg.pixelwise.place import PlacePrior, measure_paint, prior_at
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint

SHAPES = [(40, 36), (22, 26, 18)]


@pytest.fixture(params=SHAPES, ids=["2d", "3d"])
def scene(request):
    """Balls that are rough inside, in a smooth and noisy surrounding; a plane through their middle."""
    rng = np.random.default_rng(0)
    shape = request.param
    centres = rng.uniform(0, 1, (4, len(shape))) * shape
    grid = np.indices(shape).reshape(len(shape), -1).T
    radius = 7 if len(shape) == 2 else 6
    truth = (np.min([np.linalg.norm(grid - c, axis=1) for c in centres], 0) < radius).reshape(shape)
    image = rng.normal(0, 0.3, shape) + truth * ndimage.gaussian_filter(rng.normal(0, 4, shape), 0.7)
    return image[None].astype(np.float32), truth.astype(np.uint8)


def everywhere(shape):
    return torch.cartesian_prod(*(torch.arange(n) for n in shape))


@pytest.mark.parametrize("spacing", [1.0, 3.0], ids=["isotropic", "last axis coarse"])
def test_responses_at_voxels_are_those_of_whole_layers(scene, spacing):
    image, _ = scene
    bank = filter_bank(torch.from_numpy(image), [*[1.0] * (image.ndim - 2), spacing])
    layers = responses_in(bank, 3, 7)
    voxels = everywhere(image.shape[1:]).reshape(*image.shape[1:], -1)[3:7].reshape(-1, image.ndim - 1)
    torch.testing.assert_close(responses_at(bank, voxels), layers.flatten(1).T, rtol=1e-3, atol=1e-3)
    assert layers.shape == (bank.features, 4, *image.shape[2:])


def test_smoothing_is_that_of_scipy(scene):
    image, _ = scene
    found = smooth(torch.from_numpy(image), [1.3] * (image.ndim - 1))[0]
    wanted = ndimage.gaussian_filter(image[0].astype(np.float64), 1.3, mode="mirror", radius=4)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_responses_turn_with_the_image(scene):
    image, _ = scene
    image = torch.from_numpy(image)[..., : min(image.shape[1:]) // 2 * 2]
    size = min(image.shape[1:]) // 2 * 2
    image = image[(slice(None), *[slice(size)] * (image.ndim - 1))]
    turned = filter_bank(image.transpose(1, 2).flip(1), [1.0] * (image.ndim - 1)).maps
    for maps, found in zip(filter_bank(image, [1.0] * (image.ndim - 1)).maps, turned, strict=True):
        if maps.shape[1] * 2 ** round(math.log2(size / maps.shape[1])) == size:  # odd grids are padded
            wanted = maps.transpose(1, 2).flip(1)
            torch.testing.assert_close(found.float(), wanted.float(), rtol=5e-3, atol=5e-3)


def test_eigenvalues_are_those_of_linear_algebra(scene):
    image, _ = scene
    dims = image.ndim - 1
    smoothed = smooth(torch.from_numpy(image), [1.0] * dims)[0].double().numpy()
    first = np.gradient(smoothed) if dims > 1 else [np.gradient(smoothed)]
    hessian = np.stack([np.stack(np.gradient(each), -1) for each in first], -1)
    wanted = np.linalg.eigvalsh((hessian + np.swapaxes(hessian, -1, -2)) / 2)[..., ::-1]
    found = filter_bank(torch.from_numpy(image), [1.0] * dims, [1.0]).maps[0][2 : 2 + dims]
    inside = (slice(3, -3),) * dims  # np.gradient mixes its one-sided differences otherwise
    np.testing.assert_allclose(np.moveaxis(found.float().numpy(), 0, -1)[inside], wanted[inside], atol=2e-3)


def test_an_image_without_contrast_gives_finite_responses():
    bank = filter_bank(torch.zeros(1, 9, 8, 7), (1.0, 1.0, 2.0))
    assert all(torch.isfinite(maps).all() for maps in bank.maps)


DISTANCES, POSITION, NOTHING = [0, 1, 2], [3, 4, 5], []  # columns of the prior of two classes in 3D


@pytest.mark.parametrize("spacing", [1.0, 2.5], ids=["isotropic", "last axis coarse"])
def test_the_prior_is_the_distance_to_other_slices(scene, spacing):
    """The slow twin: one distance transform of the volume per class, without the voxel's own slices."""
    _, truth = scene
    steps = [*[1.0] * (truth.ndim - 1), spacing]
    labels = keep_slices(truth, [3] * truth.ndim)
    found = prior_at(measure_paint(labels, find_slices(labels), 2, steps), everywhere(truth.shape)).numpy()
    slices = [np.flatnonzero((np.moveaxis(labels, a, 0) != IGNORE_INDEX).reshape(n, -1).all(1))
              for a, n in enumerate(truth.shape)]  # fmt: skip
    rng = np.random.default_rng(1)
    painted = np.argwhere(labels != IGNORE_INDEX)
    for place in [*rng.choice(painted, 6), *rng.integers(0, truth.shape, (6, truth.ndim))]:
        others = np.full_like(labels, IGNORE_INDEX)
        for axis, indices in enumerate(slices):
            for index in indices:
                if index != place[axis]:
                    chosen = (*[slice(None)] * axis, index)
                    others[chosen] = labels[chosen]
        distances = [
            ndimage.distance_transform_edt(others != c, sampling=steps)[tuple(place)]
            if (others == c).any() else 1e3
            for c in (0, 1)
        ]  # fmt: skip
        margin = distances[0] - distances[1]
        wanted = [np.sqrt(min(distances)), *(np.sign(m) * np.sqrt(abs(m)) for m in (margin, -margin))]
        row = found[np.ravel_multi_index(tuple(place), truth.shape)]
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-4, atol=1e-4)


def test_a_slice_is_not_told_its_own_labels(scene):
    _, truth = scene
    labels = keep_slices(truth, [3] * truth.ndim)
    index = int(np.flatnonzero((labels != IGNORE_INDEX).reshape(len(labels), -1).all(1))[1])
    changed = labels.copy()
    others = (labels != IGNORE_INDEX).sum(0) >= 3  # where slices of other axes cross it
    changed[index] = np.where(others, labels[index], 1 - labels[index])
    voxels = everywhere(truth.shape)
    voxels = voxels[(voxels[:, 0] == index) & torch.from_numpy(~others.reshape(-1)).repeat(len(truth))]
    before, after = (
        prior_at(measure_paint(each, find_slices(each), 2, [1.0] * truth.ndim), voxels)
        for each in (labels, changed)
    )
    lines = torch.from_numpy(np.isfinite(before.numpy())).all()
    assert lines
    torch.testing.assert_close(before, after)


@pytest.mark.slow
def test_slices_are_learnt_from_and_the_rest_is_found(scene, clock):
    image, truth = scene
    labels = keep_slices(truth, [3] * truth.ndim)
    task = Task(image, (1.0,) * truth.ndim, 2)
    model = learn(task, labels, slices=find_slices(labels), seconds=2.0)
    found = model.predict(task)
    rest = labels == IGNORE_INDEX
    wrong = (found.argmax(0) != truth)[rest].mean()
    assert found.shape == (2, *truth.shape)
    assert found.dtype == np.float32
    assert wrong < 0.5 * min(truth[rest].mean(), 1 - truth[rest].mean())
    assert model.curve.loss[-1] < model.curve.loss[0] / 2


@pytest.fixture
def learnt(scene, clock):
    image, truth = scene
    labels = keep_slices(truth, [2] * truth.ndim)
    task = Task(image, (1.0,) * truth.ndim, 2)
    return (
        task,
        labels,
        learn(
            task,
            labels,
            slices=find_slices(labels),
            seconds=1.0,
            held_out=np.where(labels == IGNORE_INDEX, truth, 255),
        ),
    )


def test_a_model_comes_back_from_its_file(learnt, tmp_path):
    task, _, model = learnt
    save_checkpoint(tmp_path / "model.pt", model.state())
    again = Model.from_state(load_checkpoint(tmp_path / "model.pt"))
    assert len(again.stages) == len(model.stages) == 2
    assert again.curve == model.curve
    np.testing.assert_allclose(again.predict(task), model.predict(task), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("read_back", [False, True])
def test_some_voxels_are_segmented_as_all_of_them_are(learnt, read_back):
    task, labels, model = learnt
    model = Model.from_state(model.state()) if read_back else model
    where = np.random.default_rng(0).random(labels.shape) < 0.1
    np.testing.assert_allclose(model.predict_at(task, where), model.predict(task)[:, where], atol=1e-3)


@pytest.mark.slow
def test_a_busy_machine_takes_a_few_steps_all_the_same(scene, monkeypatch):
    clock = itertools.count()
    busy = SimpleNamespace(monotonic=lambda: 1000.0 * next(clock))
    monkeypatch.setattr(members, "time", busy)
    monkeypatch.setattr(members, "_BATCH", 64)
    image, truth = scene
    task, labels = Task(image, (1.0,) * truth.ndim, 2), keep_slices(truth, [2] * truth.ndim)
    model = learn(task, labels, slices=find_slices(labels), seconds=0.01)
    assert model.curve.iterations[-1] >= 50
    assert model.curve.loss[-1] < model.curve.loss[0]
    assert max(learn(task, labels, slices=find_slices(labels), seconds=0.01, fewest=40).curve.iterations) < 50


@pytest.mark.slow
def test_a_model_goes_on_where_it_was(learnt):
    task, labels, model = learnt
    before = [*model.curve.iterations]
    further = learn(task, labels, slices=find_slices(labels), seconds=1.0, start=model)
    assert further.curve.loss[0] < model.curve.loss[0]
    assert model.curve.iterations == before


def test_what_is_held_out_is_looked_at_for_the_curve_alone(learnt):
    _, _, model = learnt
    assert len(model.curve.validation) == len(model.curve.iterations)
    assert all(math.isfinite(value) for value in model.curve.validation)


def test_learning_ends_when_it_is_told_to(scene):
    image, truth = scene
    labels = keep_slices(truth, [2] * truth.ndim)
    asked: list[int] = []
    told: list[float] = []
    model = learn(
        Task(image, (1.0,) * truth.ndim, 2),
        labels,
        slices=find_slices(labels),
        seconds=60,
        progress=lambda share, _: told.append(share),
        should_stop=lambda: len(asked) > 20 or asked.append(1),
    )
    assert len(model.stages) == 1
    assert told == sorted(told)


def test_nothing_painted_is_nothing_to_learn_from(scene):
    image, truth = scene
    with pytest.raises(InputError, match="No voxel is painted"):
        learn(Task(image, (1.0,) * truth.ndim, 2), np.full_like(truth, IGNORE_INDEX), seconds=1)


def test_a_blind_perceptron_does_not_see_the_prior():
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(200, 5, generator=generator)
    members = Members.new(seen, slice(3, 5), 2, blind=(False, True), seed=0)
    changed = seen.clone()
    changed[:, 3:] += 1
    for number, is_blind in enumerate((False, True)):
        one = Members(
            members.perceptrons[number : number + 1], members.mean, members.std, members.masks[[number]]
        )
        assert torch.equal(one(seen.clone()), one(changed.clone())) is is_blind


def test_members_learn_what_columns_say(clock):
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(3000, 4, generator=generator)
    classes = (seen[:, 0] * seen[:, 1] > 0).long()
    members = Members.new(seen, slice(3, 4), 2, blind=(False, True), seed=0)
    train(members, LabelledVoxels(seen.clone(), classes), seconds=1.5, random=generator, curve=Curve())
    assert (members(seen.clone()).argmax(1) == classes).float().mean() > 0.95


@pytest.mark.slow
def test_learning_ends_when_paint_was_seen_often_enough():
    seen = torch.randn(50, 3)
    members = Members.new(seen, slice(2, 3), 2, blind=(True,), seed=0)
    curve = Curve()
    sample = LabelledVoxels(seen, torch.arange(50) % 2)
    train(members, sample, seconds=300, random=torch.Generator(), curve=curve)
    assert 450 <= curve.iterations[-1] <= 500


@pytest.mark.parametrize(
    ("counts", "telling"),
    [
        ((0, 0, 6), POSITION),
        ((0, 0, 1), NOTHING),
        ((1, 1, 1), NOTHING),
        ((2, 0, 1), POSITION),
        ((2, 0, 2), DISTANCES),
        ((2, 2, 2), DISTANCES),
    ],
)
def test_distances_are_looked_at_where_slices_cross_and_the_position_in_a_stack(counts, telling):
    labels = keep_slices(np.zeros((20, 21, 22), np.uint8), counts)
    paint = measure_paint(labels, find_slices(labels), 2, (1.0, 1.0, 1.0))
    assert list(range(paint.features))[paint.telling] == telling


def learnt_along(directions, scene):
    """From slices in some directions, or from a stroke."""
    image, truth = scene
    labels = keep_slices(truth, [*[0] * (truth.ndim - directions), *[5] * directions])
    labels.flat[:50] = truth.flat[:50]
    task = Task(image, (1.0,) * truth.ndim, 2)
    slices = find_slices(labels) if directions else {}
    return task, learn(task, labels, slices=slices, seconds=0.2)


@pytest.mark.parametrize("directions", [0, 1, 2])
def test_one_perceptron_of_two_looks_at_what_is_telling_and_only_there(scene, clock, directions):
    _, model = learnt_along(directions, scene)
    wanted = np.zeros(model.paint.features)
    wanted[model.paint.telling] = 1
    width = len(model.stages[0].mean)
    for stage in model.stages:
        sighted, blind = stage.masks[:, width - model.paint.features : width].numpy()
        assert (sighted == wanted).all()
        assert not blind.any()
        assert stage.masks[:, : width - model.paint.features].all()


@pytest.mark.parametrize("directions", [0, 1, 2])
def test_for_an_image_without_paint_none_that_looks_at_the_prior_is_asked(scene, clock, directions):
    task, model = learnt_along(directions, scene)
    alone, size = model.without_prior(task), task.size
    assert [len(stage.perceptrons) for stage in alone.stages] == [1 if directions else 2] * 2
    planes = tuple((0, i, torch.rand(2, *size[1:])) for i in (3, 9))
    other = PlacePrior(planes, (1.0,) * len(size), 2, 0.1)
    elsewhere = Model(alone.stages, other, alone.curve, alone.stride)
    np.testing.assert_array_equal(elsewhere.predict(task), alone.predict(task))


def test_positions_are_in_units_of_how_far_voxels_are_from_slices():
    labels = keep_slices(np.zeros((9, 9, 31), np.uint8), (0, 0, 4))
    (slices,) = (find_slices(labels)["z"],)
    paint = measure_paint(labels, {"z": slices}, 2, (0.5, 0.5, 2.0))
    away = np.mean([min(abs(z - s) for s in slices) for z in range(31)]) * 4
    assert paint.blur == pytest.approx(away)
    step = prior_at(paint, torch.tensor([[1, 2, 4], [2, 2, 5]])).diff(dim=0)[0, -3:]
    np.testing.assert_allclose(step, [1 / away, 0, 4 / away], rtol=1e-5)


def test_position_is_blurred_while_learning_by_its_unit():
    """What no texture shows, and differs within less than the blur, cannot be learnt from the position."""
    random = torch.Generator().manual_seed(0)

    def right(length: float) -> float:
        seen = torch.rand(4000, 3, generator=random) * torch.tensor([1.0, 1.0, length])
        classes = (seen[:, 2] > length / 2).long()
        members = Members.new(seen, slice(2, 3), 2, blind=(False,), seed=0)
        sample = LabelledVoxels(seen.clone(), classes)
        train(members, sample, seconds=60, random=random, curve=Curve(), blurred=slice(2, 3))
        found = members(seen).softmax(1)[torch.arange(4000), classes]
        return float(found.mean())

    assert right(100.0) > 0.95
    assert right(0.5) < 0.7


def test_a_stack_goes_on_from_what_was_learnt_when_slices_cross(scene, clock):
    image, truth = scene
    task = Task(image, (1.0,) * truth.ndim, 2)
    stack = keep_slices(truth, [*[0] * (truth.ndim - 1), 5])
    crossed = keep_slices(truth, [5] * truth.ndim)
    before = learn(task, stack, slices=find_slices(stack), seconds=0.5)
    after = learn(task, crossed, slices=find_slices(crossed), seconds=0.5, start=before)
    first = len(after.stages[0].mean) - after.paint.features
    assert after.stages[0].masks[0, first] == 1
    assert before.stages[0].masks[0, first] == 0
    assert (after.predict(task).argmax(0) == truth).mean() > 0.9


def test_looking_at_more_changes_no_answer_at_first():
    seen = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    members = Members.new(seen, slice(2, 6), 2, blind=(False, True), seed=0, telling=slice(1))
    now = members.looking_at(seen, slice(2, 6), slice(1, 4), (False, True))
    far = members.looking_at(seen, slice(2, 6), slice(0), (False, True))
    torch.testing.assert_close(now(seen), far(seen))
    torch.testing.assert_close(
        members.looking_at(seen, slice(2, 6), slice(0, 3), (False, True))(seen), members(seen)
    )
    assert now.masks[0].tolist() == [1, 1, 0, 1, 1, 1]


def test_looking_at_more_of_the_prior_changes_nothing_else_and_takes_turns():
    seen = torch.randn(300, 40, generator=torch.Generator().manual_seed(0))
    blind = (True,) * 6
    members = Members.new(seen, slice(36, 40), 2, blind=blind, seed=0, kept=0.5)  # as the live learner's
    now = members.looking_at(seen, slice(36, 40), slice(0, 2), (False, True))
    torch.testing.assert_close(now.masks[:, :36], members.masks[:, :36])
    assert now.masks[:, 36:].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]] * 3
    torch.testing.assert_close(now(seen), members(seen))


def test_one_perceptron_stays_blind_whatever_the_others_look_at():
    seen = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    alone = Members.new(seen, slice(2, 6), 2, blind=(False, True), seed=0).without_prior(slice(2, 6))
    now = alone.looking_at(seen, slice(2, 6), slice(0, 2), (False, True))
    assert len(now.perceptrons) == len(now.without_prior(slice(2, 6)).perceptrons) == 1


def test_columns_that_are_new_are_scaled_by_what_is_painted():
    seen = 7 + 3 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    members = Members.new(torch.randn(300, 6), slice(2, 6), 2, blind=(False, True), seed=0, telling=slice(1))
    now = members.looking_at(seen, slice(2, 6), slice(1, 4), (False, True))
    torch.testing.assert_close(now.mean[3:], seen.mean(0)[3:])
    torch.testing.assert_close(now.std[3:], seen.std(0)[3:])
    torch.testing.assert_close(now.mean[:2], members.mean[:2])


def test_the_position_is_what_is_blurred_in_both_stages(scene, clock, monkeypatch):
    image, truth = scene
    labels = keep_slices(truth, [*[0] * (truth.ndim - 1), 5])
    task = Task(image, (1.0,) * truth.ndim, 2)
    blurred: list[slice] = []

    def watched(*given, **settings):
        blurred.append(settings["blurred"])
        train(*given, **settings)

    monkeypatch.setattr("volseg.pixelwise.model.train", watched)
    model = learn(task, labels, slices=find_slices(labels), seconds=0.2)
    last = len(model.stages[0].mean)
    assert blurred == [slice(last - truth.ndim, last)] * len(model.stages)


def test_in_other_units_the_same_is_answered():
    seen = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    members = Members.new(seen, slice(2, 6), 2, blind=(False, True), seed=0)
    smaller = seen.clone()
    smaller[:, 3:6] *= 11
    torch.testing.assert_close(members.in_units(slice(3, 6), 11.0)(smaller), members(seen))


def test_a_model_continued_with_denser_paint_still_knows_where_voxels_lie(clock, monkeypatch):
    """Positions are in units of the distance to paint, which is now shorter."""
    truth = np.zeros((12, 10, 40), np.uint8)
    truth[6:] = 1
    task = Task(np.random.default_rng(0).normal(0, 1, (1, *truth.shape)).astype(np.float32), (1.0,) * 3, 2)
    sparse, dense = (keep_slices(truth, (0, 0, count)) for count in (2, 20))
    before = learn(task, sparse, slices=find_slices(sparse), seconds=0.5)
    monkeypatch.setattr("volseg.pixelwise.model.train", lambda *_, **__: None)  # it only starts from there
    after = learn(task, dense, slices=find_slices(dense), seconds=0.5, start=before)
    assert before.paint.blur > 5 * after.paint.blur
    np.testing.assert_allclose(
        Model(after.stages[:1], after.paint, Curve()).predict(task),
        Model(before.stages[:1], before.paint, Curve()).predict(task),
        atol=0.05,
    )


def test_of_one_class_nothing_is_farther(scene):
    _, truth = scene
    labels = keep_slices(np.zeros_like(truth), [3] * truth.ndim)
    paint = measure_paint(labels, find_slices(labels), 1, (1.0,) * truth.ndim)
    found = prior_at(paint, everywhere(truth.shape))
    assert found.isfinite().all()
    assert (found[:, 1] == 0).all()


@pytest.fixture
def crossed(scene, clock):
    image, truth = scene
    labels = keep_slices(truth, [3] * truth.ndim)
    task = Task(image, (1.0,) * truth.ndim, 2)
    return task, labels, learn(task, labels, slices=find_slices(labels), seconds=0.5)


def test_what_was_learnt_at_other_scales_is_not_applied_and_its_loss_is_said(crossed, clock):
    task, labels, model = crossed
    size = (8,) * labels.ndim
    small = Task(np.array(task.image[(slice(None), *[slice(8)] * labels.ndim)]), task.spacing, 2)
    match = f"looks at .* filter responses .* an image of {' × '.join(map(str, size))} voxels has .*crop"
    for alone in (model, model.without_prior(small)):
        with pytest.raises(InputError, match=match):
            alone.predict(small)
        with pytest.raises(InputError, match=match):
            alone.predict_at(small, np.ones(size, bool))
    paint = labels[(slice(8),) * labels.ndim].copy()
    paint[..., 3] = 0
    paint[..., 4] = 1
    after = learn(small, paint, slices={}, seconds=0.2, start=model)
    assert sum("could not be continued" in note for note in after.notes) == 1
    again = learn(task, labels, slices=find_slices(labels), seconds=0.2, start=model)
    assert not any("could not be continued" in note for note in again.notes)


@pytest.mark.parametrize("is_kept", [True, False], ids=["finest grid", "coarser grid"])
def test_both_stages_have_half_a_say(is_kept):
    """Whether what the first one found is known or asked again."""
    seen = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    paint = PlacePrior((), (1.0, 1.0), 2)
    width = 4
    stages = [
        Members.new(seen[:, :columns], slice(0), 2, blind=(True, True), seed=seed)
        for seed, columns in ((0, width + paint.features), (1, 12))
    ]
    bank = SimpleNamespace(maps=[torch.zeros(1)], features=width)
    first, second = (
        stage(seen[:, :columns].clone()).T.numpy()
        for stage, columns in zip(stages, (width + paint.features, 12), strict=True)
    )
    answer = Model(stages, paint, Curve())._answering(bank)
    found = answer(seen, first if is_kept else None)
    np.testing.assert_allclose(found, (first + second) / 2, atol=1e-6)


def test_paint_without_slices_says_nothing(scene):
    _, truth = scene
    paint = PlacePrior((), (1.0,) * truth.ndim, 2)
    found = prior_at(paint, everywhere(truth.shape))
    assert found[:, : paint.distances].std(0).max() == 0
    assert paint.telling.start == paint.telling.stop


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
def test_asking_members_leaves_their_mode(mode):
    seen = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    found = Members.new(seen, slice(2, 3), 2, blind=(False, True), seed=0)
    for perceptron in found.perceptrons:
        perceptron.train(mode)
    found(seen.clone())
    assert {part.training for perceptron in found.perceptrons for part in perceptron.modules()} == {mode}
