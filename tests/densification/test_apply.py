"""What was learnt from one image segments the next of its kind: what is carried over, said, and refused."""

import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
import torch

import volseg
from volseg.annotation import find_slices
from volseg.densification import densify
from volseg.densification.earlier import Earlier, Seen, distance, load_earlier, pixels_of
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.learners import LEARNERS, architecture
from volseg.pixelwise.members import Members
from volseg.pixelwise.model import Model, Task, learn
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint

SIZE = (32, 28, 20)
NAMES = ["1=shell", "2=core"]

pytestmark = pytest.mark.usefixtures("clean_process")


def stack(seed, gain=1.0, size=SIZE):
    """An image and its truth: a few balls with a core, at places of their own."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    truth = np.zeros(size, np.uint8)
    for centre in random.uniform(0.25, 0.75, (3, 3)) * size:
        radius = np.linalg.norm(places - centre.reshape(3, 1, 1, 1), axis=0)
        truth = np.maximum(truth, np.select([radius < 3.5, radius < 7], [2, 1], 0).astype(np.uint8))
    grey = np.clip(gain * (60 * truth + 30 + random.normal(0, 10, size)), 0, 255).astype(np.uint8)
    return grey, truth


def painted(truth, slices=((2, (4, 10, 16)), (1, (8, 20)))):
    paint = np.zeros_like(truth)
    for axis, indices in slices:
        for index in indices:
            where = (slice(None),) * axis + (index,)
            paint[where] = truth[where]
    return paint


def save(folder, name, array, spacing=(1.0, 1.0, 1.0), unit="um"):
    path = folder / name
    write_volume(path, array, Volume(array[None], np.diag([*spacing, 1.0]), unit), overwrite=True)
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A result that was learnt from the first stack."""
    folder = tmp_path_factory.mktemp("first")
    grey, truth = stack(0)
    image, paint = save(folder, "one.tif", grey), save(folder, "paint.tif", painted(truth))
    densify(image, paint, folder / "out", names=NAMES, minutes=0.02, compare=False, force=True)
    return folder / "out"


@pytest.mark.slow
def test_a_stack_without_paint_is_segmented_and_it_is_said_what_is_known(result, tmp_path, caplog):
    grey, truth = stack(1)
    image = save(tmp_path, "two.tif", grey)
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(image, None, tmp_path / "out", apply=result)
    assert np.mean(done.labels == truth) > 0.9
    assert done.names == {0: "background", 1: "shell", 2: "core"}
    assert done.scores == {}
    then = json.loads((result / "scores.json").read_text())["scores"]["volseg"]["headline"]
    for told in (done.note, (tmp_path / "out" / "report.html").read_text()):
        assert "it cannot be known how good the result is" in told
        assert f"had {then['name']} {then['IoU']['value']:.3f}" in told
        assert "on what was held out of one.tif" in told
        assert "near. That does not say that the result is right" in told
    assert "The result: learning" not in caplog.text
    again = densify(image, None, apply=tmp_path / "out")  # what was applied can be applied again
    np.testing.assert_array_equal(again.labels, done.labels)


@pytest.mark.slow
def test_an_image_that_looks_different_is_told(result, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, SIZE).astype(np.uint8)
    done = densify(save(tmp_path, "noise.tif", noise), None, apply=result)
    assert "far. This image looks different" in done.note


@pytest.mark.slow
def test_with_paint_of_its_own_it_starts_from_there_and_is_scored_on_what_nothing_has_seen(
    result, tmp_path, caplog
):
    grey, truth = stack(1)
    image, paint = (
        save(tmp_path, "two.tif", grey),
        save(tmp_path, "paint.tif", painted(truth, [(2, (4, 10, 16))])),
    )
    settings = {"minutes": 0.01, "compare": False, "force": True}
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(image, paint, tmp_path / "out", apply=result, **settings)
    assert done.names == {0: "background", 1: "shell", 2: "core"}  # nobody named them here
    assert f"As in {result}: 1 is 'shell', 2 is 'core'." in caplog.text
    assert done.scores["volseg"]["headline"]["classes"] == ["shell", "core"]
    kept = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert [seen["name"] for seen in kept["images"]] == ["one.tif", "two.tif"]
    with pytest.raises(InputError, match="was learnt from this very image .*Go on with continue_from="):
        densify(image, paint, apply=tmp_path / "out", **settings)
    densify(image, paint, continue_from=tmp_path / "out", **settings)
    caplog.clear()
    with caplog.at_level(logging.INFO, "volseg"):
        alone = densify(image, None, tmp_path / "alone", apply=tmp_path / "out", **settings)
    assert "was learnt from this very image" in caplog.text
    assert "give them along with" not in caplog.text
    assert f"--continue {tmp_path / 'out'}" in alone.suggestion.command


@pytest.mark.slow
def test_what_was_learnt_from_paint_in_two_directions_does_not_look_for_paint_where_there_is_none(result):
    """The distance to paint is a feature of half of the perceptrons; where no paint is, it must not count."""
    earlier = load_earlier(result, is_applied=True)
    paint = earlier.model.paint
    assert paint.telling == slice(paint.distances)
    grey, _ = stack(1)
    task = Task(grey[None], (1.0, 1.0, 1.0), 3)
    alone = earlier.model.without_prior(task)
    found = alone.predict(task)
    moved = dataclasses.replace(task)
    elsewhere = Model(
        alone.stages, earlier.model.paint, alone.curve, alone.stride
    )  # its paint is not looked at
    np.testing.assert_allclose(elsewhere.predict(moved), found, atol=1e-4)
    assert not np.allclose(earlier.model.predict(task), found, atol=1e-2)


@pytest.mark.slow
def test_own_paint_in_one_direction_does_not_use_distances_that_mislead(result):
    earlier = load_earlier(result, is_applied=True)
    grey, truth = stack(1)
    labels = np.full(SIZE, IGNORE_INDEX, np.uint8)
    labels[..., [4, 10, 16]] = truth[..., [4, 10, 16]]
    model = learn(
        Task(grey[None], (1.0, 1.0, 1.0), 3),
        labels,
        slices=find_slices(labels),
        seconds=0.5,
        start=earlier.model,
    )
    assert all((stage.masks == 0).any(1).all() for stage in model.stages)


# --- what does not fit ------------------------------------------------------------------------------------


def seen(name="one.tif", spacing=(1.0, 1.0, 1.0), unit="um", looks=None, pixels=""):
    looks = torch.linspace(0, 1, 7).repeat(4, 1) if looks is None else looks
    return Seen(name, pixels, spacing, unit, looks, 0.01)


def earlier(tmp_path, *images, names=("background", "shell"), values=(0, 1), channels=1, **more):
    return Earlier(
        tmp_path / "first",
        LEARNERS["pixelwise"],
        None,
        names,
        values,
        channels,
        is_applied=True,
        images=images or (seen(),),
        **more,
    )


def volume(spacing=(1.0, 1.0, 1.0), unit="um", channels=1):
    dims = len(spacing)
    return Volume(np.zeros((channels, *(8,) * dims), np.uint8), np.diag([*spacing, 1.0]), unit)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheme": LabelScheme(["background", "a"], [0, 2])}, r"other values: \[0, 1\] then, \[0, 2\] now"),
        ({"unknown": [7]}, r"other values: \[0, 1\] then, \[0, 1, 7\] now.*leave apply out"),
        ({"image": volume(channels=2)}, "other channels: 1 then, 2 now"),
        (
            {"scheme": LabelScheme(["background", "core"], [0, 1])},
            "other names: 'shell' then, 'core' now. The classes have to mean the same",
        ),
        ({"image": volume((1.0, 1.0))}, "learnt from 3D, and .* is 2D"),
        (
            {"image": volume((0.3, 0.3, 0.3))},
            "Voxels are 0.3 x 0.3 x 0.3 um here and 1 x 1 x 1 um in one.tif",
        ),
        (
            {"image": volume((1.0, 1.0, 5.0), "")},
            r"Voxels are 1 x 1 x 5 \(no unit\) here .* size to it. If one of these sizes is wrong or "
            r"missing, say it with spacing='X,Y,Z': here, or where .* was learnt. Otherwise resample one of",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, given, message):
    settings = {
        "scheme": LabelScheme(["background", "shell"], [0, 1]),
        "unknown": [],
        "image": volume(),
    } | given
    with pytest.raises(InputError, match=message):
        earlier(tmp_path).check(settings["scheme"], settings["unknown"], settings["image"], force=False)


@pytest.mark.parametrize(("spacing", "force"), [((1.4, 1.4, 1.4), False), ((3.0, 3.0, 3.0), True)])
def test_somewhat_other_voxels_are_told(tmp_path, caplog, spacing, force):
    earlier(tmp_path).check_alone(volume(spacing), force=force)
    assert "Expect it to be worse" in caplog.text
    caplog.clear()
    earlier(tmp_path).check_alone(volume((1.1, 1.1, 1.1)), force=False)
    earlier(tmp_path).check_alone(volume((7.0, 7.0, 7.0), ""), force=False)  # without a unit: the same shape
    assert not caplog.text


def test_what_a_result_does_not_say_is_said_to_be_unknown(tmp_path):
    old = dataclasses.replace(earlier(tmp_path), images=())
    assert "kept no record of how its image looks" in old.far(torch.zeros(4, 7))
    assert "has no score of its own" in old.in_words()
    alike = earlier(tmp_path).far(seen().looks)
    assert "as alike as an image saved again" in alike
    assert "has another size" in earlier(tmp_path).far(torch.zeros(4, 3))


def test_distance_is_0_for_alike_and_grows_to_1():
    generator = torch.Generator().manual_seed(0)
    looks = torch.randn(5, 7, generator=generator).sort(1).values
    assert distance(looks, looks) == 0
    steps = [distance(looks, looks + shift) for shift in (0.1, 1.0, 100.0)]
    assert steps == sorted(steps)
    assert 0.95 < steps[-1] <= 1
    assert distance(looks, looks[:3]) == float("inf")


def test_pixels_are_told_apart_by_their_numbers_and_not_by_their_file(tmp_path):
    grey, _ = stack(0)
    paths = [save(tmp_path, name, grey) for name in ("a.tif", "b.nii.gz")]
    assert len({pixels_of(read_volume(path)) for path in paths}) == 1
    assert pixels_of(read_volume(save(tmp_path, "c.tif", grey[::-1]))) != pixels_of(read_volume(paths[0]))


@pytest.mark.parametrize("telling", [slice(2), slice(1), slice(1, 2)], ids=["all", "distance", "position"])
def test_perceptrons_that_see_some_of_the_prior_are_left_out(telling):
    seen, prior = torch.randn(50, 6), slice(2, 4)
    members = Members.new(seen, prior, 3, blind=(False, True), seed=0, telling=telling)
    blind = members.without_prior(prior)
    assert len(blind.perceptrons) == 1
    values = torch.randn(20, 6)
    others = values.clone()
    others[:, 2:4] += 100
    torch.testing.assert_close(blind(values.clone()), blind(others))
    assert not torch.allclose(members(values.clone()), members(others))


def test_what_cannot_go_together_is_refused(tmp_path):
    array = np.zeros(SIZE, np.uint8)
    with pytest.raises(ValueError, match="continue_from='a' and apply='b': continue what was learnt"):
        densify(array, array, continue_from="a", apply="b")
    with pytest.raises(ValueError, match="there are no labels to learn from"):
        densify(array)
    with pytest.raises(InputError, match="holds no model.pt to continue.*leave apply out"):
        densify(array, None, apply=tmp_path)


# --- whoever learns ---------------------------------------------------------------------------------------


@pytest.fixture(params=sorted(LEARNERS))
def learner(request, monkeypatch):
    """Each of them, small enough for a test."""
    monkeypatch.setattr(architecture, "_WIDTH", {"cpu": 4})
    monkeypatch.setattr(architecture, "_VOXELS", {("cpu", 3): 2**12})
    return LEARNERS[request.param]


@pytest.mark.slow
def test_who_learnt_is_said_everywhere_and_goes_on_from_there(learner, tmp_path, caplog):
    grey, truth = stack(0, size=(24, 20, 16))
    slices = [(2, (2, 6, 10, 14))]
    image, paint = save(tmp_path, "one.tif", grey), save(tmp_path, "paint.tif", painted(truth, slices))
    quick = {"minutes": 0.01, "compare": False, "force": True, "device": "cpu"}
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    with caplog.at_level(logging.INFO, "volseg"):
        densify(image, paint, first, learner=learner.name, folds=2, **quick)
    assert f"What learns is {learner.title} ({learner.name})." in caplog.text
    assert learner.methods in caplog.text
    scores = json.loads((first / "scores.json").read_text())
    assert (scores["learner"], scores["methods"]["sentence"]) == (learner.name, learner.methods)
    assert json.loads((first / "settings.json").read_text())["learner"] == learner.name
    page = (first / "report.html").read_text()
    assert learner.methods in page
    assert all(source in page for source in learner.sources)
    assert scores["scores"]["volseg"]["folds"] == 2
    assert load_earlier(first).learner is learner
    more = save(tmp_path, "more.tif", painted(truth, [*slices, (1, (5, 14))]))
    densify(image, more, second, continue_from=first, **quick)  # auto: the one that learnt before
    assert json.loads((second / "settings.json").read_text())["learner"] == learner.name
    other = next(n for n in LEARNERS if n != learner.name and learner.name not in LEARNERS[n].continues)
    with pytest.raises(InputError, match=f"was learnt by {learner.title}; another learner"):
        densify(image, more, third, continue_from=first, learner=other, **quick)
    grey, _ = stack(1, size=(24, 20, 16))
    done = densify(save(tmp_path, "two.tif", grey), None, third, apply=second, device="cpu")
    assert done.labels.shape == (24, 20, 16)
    assert load_earlier(third, is_applied=True).learner is learner


def test_where_255_was_found_to_be_unlabelled_a_named_background_stays_a_class(tmp_path, caplog):
    grey, truth = stack(0, size=(24, 20, 16))
    names = ["0=background", "1=shell", "2=core"]
    quick = {"minutes": 0.01, "compare": False, "force": True, "device": "cpu", "folds": 0}
    image = save(tmp_path, "one.tif", grey)

    def paint(name, indices):
        labels = np.full(truth.shape, 255, np.uint8)
        labels[..., indices] = truth[..., indices]
        return save(tmp_path, name, labels)

    first, more = paint("first.tif", [2, 6, 10, 14]), paint("more.tif", [2, 6, 10, 12, 14])
    densify(image, first, tmp_path / "out", names=names, **quick)
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(image, more, continue_from=tmp_path / "out", **quick)
    assert done.names == {0: "background", 1: "shell", 2: "core"}
    assert "new: z = 12 (the 13th)" in caplog.text
    assert "strokes" not in caplog.text


def test_on_the_very_image_that_was_learnt_from_load_and_apply_find_the_same(tmp_path):
    """Of noise, place says most; on another image it must not be looked at."""
    random = np.random.default_rng(0)
    grey, other = (random.integers(0, 255, (24, 20, 16)).astype(np.uint8) for _ in range(2))
    truth = np.full(grey.shape, 1, np.uint8)
    truth[:12] = 2
    image, paint = save(tmp_path, "one.tif", grey), save(tmp_path, "p.tif", painted(truth, [(2, (2, 8, 13))]))
    densify(image, paint, tmp_path / "out", minutes=0.02, compare=False, force=True, folds=0)
    loaded, earlier = volseg.load(tmp_path / "out"), load_earlier(tmp_path / "out", is_applied=True)
    for path, is_known in ((image, True), (save(tmp_path, "two.tif", other), False)):
        done = densify(path, None, apply=tmp_path / "out")
        np.testing.assert_array_equal(loaded.predict(path).array[0], done.labels)
        _, probabilities = loaded.predict(path, probabilities=True)
        np.testing.assert_allclose(probabilities.array.max(0), done.confidence, atol=0.01)
        volume = read_volume(path)
        model = earlier.model_for(Task(volume.array, volume.spacing, 2), pixels_of(volume))
        assert (model is earlier.model) is is_known


def test_what_is_only_applied_was_learnt_by_who_learnt_it_however_much_time_there_is(tmp_path):
    grey, truth = stack(0, size=(24, 20, 16))
    image, paint = (
        save(tmp_path, "one.tif", grey),
        save(tmp_path, "paint.tif", painted(truth, [(2, (4, 10, 14))])),
    )
    densify(image, paint, tmp_path / "out", minutes=0.01, compare=False, force=True, folds=0)
    other = save(tmp_path, "two.tif", stack(1, size=(24, 20, 16))[0])
    done = densify(other, None, tmp_path / "applied", apply=tmp_path / "out", minutes=10)
    assert done.learner is LEARNERS["pixelwise"]
    assert json.loads((tmp_path / "applied" / "settings.json").read_text())["learner"] == "pixelwise"
    assert load_earlier(tmp_path / "applied", is_applied=True).learner is LEARNERS["pixelwise"]


@pytest.mark.slow
def test_a_result_from_before_learners_had_names_is_continued_applied_and_resumed(result, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(result, old)
    for path in [old / "model.pt", *(old / "folds").glob("*.pt")]:
        content = load_checkpoint(path)
        del content["learner"]
        save_checkpoint(path, content)
    settings = json.loads((old / "settings.json").read_text())
    del settings["learner"]
    settings["choices"]["method"] = "network"
    (old / "settings.json").write_text(json.dumps(settings))
    first = result.parent
    quick = {"minutes": 0.01, "compare": False, "force": True}
    done = densify(first / "one.tif", first / "paint.tif", continue_from=old, **quick)
    assert done.learner is LEARNERS["pixelwise"]
    grey, _ = stack(1)
    found = densify(save(tmp_path, "two.tif", grey), None, apply=old)
    np.testing.assert_array_equal(found.labels, densify(tmp_path / "two.tif", None, apply=result).labels)
    (old / "report.html").unlink()  # as of a run that was stopped at its end
    again = {"names": NAMES, "minutes": 0.02, "compare": False, "force": True, "resume": True}
    with pytest.raises(RefusedError, match="other learner: pixelwise then, unet now"):
        densify(first / "one.tif", first / "paint.tif", old, learner="unet", **again)
    densify(first / "one.tif", first / "paint.tif", old, **again)
    assert (old / "report.html").is_file()
