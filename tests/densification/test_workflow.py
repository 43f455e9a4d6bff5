"""`volseg densify` from files to files: what it understands, refuses, keeps, and can be stopped at."""

import contextlib
import dataclasses
import errno
import html
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch

from volseg.densification import densify, earlier, inputs, run, training
from volseg.densification.nearness import measure_nearness
from volseg.densification.strokes import NO_SURFACE
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import Segment, Volume, read_volume, segments_of, with_segments, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.learners import LEARNERS
from volseg.learning import Task
from volseg.pixelwise import PixelwiseLearner
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint
from volseg.runs.claim import take_lock

SIZE = (24, 20, 16)
SPACING = (0.5, 0.5, 1.0)
SLICES = {2: (3, 8, 13), 1: (6, 14), 0: (8,)}  # axis: indices
QUICK = {"minutes": 0.001, "compare": False}

pytestmark = pytest.mark.usefixtures("clean_process")


class Brightness:
    """A model that takes no time: a voxel is of the class whose mean brightness is nearest to its own."""

    def __init__(self, means, curve):
        self.means, self.curve, self.notes = means, curve, ["a note"]

    def predict(self, task, progress=None):
        scores = -np.abs(
            task.image.mean(0)[None] - self.means.numpy().reshape(-1, *[1] * len(task.image[0].shape))
        )
        return (scores / 20).astype(np.float32)

    def predict_at(self, task, where):
        return self.predict(task)[:, where]

    def without_prior(self, task):
        return self

    def state(self):
        return {"model": {"means": self.means}, "curve": vars(self.curve)}

    @classmethod
    def from_state(cls, state):
        return cls(state["model"]["means"], SimpleNamespace(**state["curve"]))


def brightness(
    task, labels, *, seconds, slices=None, start=None, held_out=None, progress=None, should_stop=None
):
    """Stands in for :func:`volseg.pixelwise.learn`."""
    image = task.image.mean(0)
    known = [np.mean(image[labels == c]) if (labels == c).any() else 1e6 for c in range(task.classes)]
    progress(1.0, "learning")
    curve = {"iterations": [1.0], "loss": [1.0], "validation": [1.0] * (held_out is not None), "breaks": []}
    return Brightness(torch.tensor(known), SimpleNamespace(**curve))


class QuickLearner(PixelwiseLearner):
    """Stands in for the per-voxel learner."""

    def prepare(self, task):
        return 0.01

    def learn(self, task, labels, **settings):
        return brightness(task, labels, **settings)

    def from_state(self, state):
        return Brightness.from_state(state)


def looks(task, image):
    """Stands in for what needs the filter bank."""
    return earlier.Seen(
        image.name, earlier.pixels_of(image), image.spacing, image.unit, torch.zeros(1, 7), 0.0
    )


@pytest.fixture(autouse=True)
def at_once(monkeypatch, request):
    """What is around the learning is tested here, on a model that learns at once."""
    if "the_real_thing" not in request.fixturenames:
        monkeypatch.setitem(LEARNERS, "pixelwise", QuickLearner())
        monkeypatch.setattr(training, "look_at", looks)
        monkeypatch.setattr(run, "write_figures", lambda *_, **__: [])


@pytest.fixture
def the_real_thing():
    """For a test that learns, and draws."""


def ball(size):
    """Classes 0 (outside), 1 (shell), 2 (core)."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes)) + 0.1 * np.sin(5 * axes[0]) * np.cos(4 * axes[1])
    return np.select([radius < 0.45, radius < 0.8], [2, 1], 0).astype(np.uint8)


def on_slices(truth, slices=SLICES, values=(0, 1, 2), unlabelled=0):
    """What an editor leaves: values on some slices, and 0 elsewhere."""
    painted = np.full_like(truth, unlabelled)
    for axis, indices in slices.items():
        for index in indices:
            where = (slice(None),) * axis + (index,)
            painted[where] = np.asarray(values, np.uint8)[truth[where]]
    return painted


@pytest.fixture
def case(tmp_path):
    """Writes an image and its paint, gives their paths, the truth and what was painted."""

    def make(image=".nii.gz", labels=".nii.gz", *, size=SIZE, painted=None, unit="mm", **options):
        truth = ball(size)
        noise = np.random.default_rng(0).normal(0, 12, size)
        grey = np.clip(80 * truth + 20 + noise, 0, 255).astype(np.uint8)
        like = Volume(grey[None], np.diag([*SPACING[: len(size)], 1.0]), unit)
        paint = on_slices(truth, **options) if painted is None else painted
        segments = with_segments(like, [Segment(1, "shell", (1, 0.5, 0)), Segment(2, "core", (0, 0, 1))])
        paths = tmp_path / f"ball{image}", tmp_path / f"paint{labels}"
        write_volume(paths[0], grey, like)
        write_volume(paths[1], paint, segments if labels == ".seg.nrrd" else like)
        return SimpleNamespace(image=paths[0], labels=paths[1], truth=truth, paint=paint)

    return make


@pytest.fixture
def learnt(monkeypatch):
    """Notes every call of the learner; ``stop_at`` asks to stop during one, as Ctrl-C does."""
    calls = SimpleNamespace(made=[], stop_at=None)

    def noted(self, task, labels, *, start=None, should_stop=None, **settings):
        calls.made.append(SimpleNamespace(labels=labels.copy(), start=start, **settings))
        if len(calls.made) == calls.stop_at:
            signal.raise_signal(signal.SIGINT)
            assert should_stop()
        calls.made[-1].model = brightness(task, labels, start=start, should_stop=should_stop, **settings)
        return calls.made[-1].model

    monkeypatch.setattr(QuickLearner, "learn", noted)
    return calls


# --- what comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "labels", "result"),
    [
        (".nii.gz", ".nii.gz", "ball_segmentation.nii.gz"),
        (".nii", ".seg.nrrd", "ball_segmentation.seg.nrrd"),
        (".nrrd", ".nii.gz", "ball_segmentation.nrrd"),
        (".tif", ".tif", "ball_segmentation.tif"),
        (".mha", ".nrrd", "ball_segmentation.mha"),
        (".ome.zarr", ".nii.gz", "ball_segmentation.ome.zarr"),
    ],
)
def test_paint_comes_back_as_painted_in_every_format(case, tmp_path, image, labels, result):
    files = case(image, labels, unit="um" if image == ".tif" else "mm")
    out = tmp_path / "out"
    done = densify(files.image, files.labels, out, folds=0, **QUICK)
    written = read_volume(out / result, labels=True)
    source = read_volume(files.image)
    on = on_slices(np.ones_like(files.truth)) > 0  # 0 on a painted slice was painted, too
    assert written.array.dtype == np.uint8
    np.testing.assert_array_equal(written.array[0], done.labels)
    np.testing.assert_array_equal(done.labels[on], files.paint[on])
    np.testing.assert_allclose(written.affine, source.affine)
    confidence = read_volume(next(out.glob("ball_confidence.*"))).array[0]
    assert confidence.max() == 100
    assert (confidence[on] == 100).all()
    np.testing.assert_allclose(confidence / 100, done.confidence, atol=0.0051)
    assert np.mean(done.labels == files.truth) > 0.8  # it learnt something


def test_channels_may_be_files_of_their_own(case, tmp_path, learnt, monkeypatch):
    """What another image in that place would change must be noticed: the learner, the others, --resume."""
    files = case()
    first = read_volume(files.image)
    write_volume(tmp_path / "t1.nii.gz", 255 - first.array[0], first)
    seen = []

    @contextlib.contextmanager
    def comparing(image, labels, folds, *, files, **_):
        seen.extend(files)
        yield None

    monkeypatch.setattr(run, "comparing", comparing)
    images = [files.image, tmp_path / "t1.nii.gz"]
    learnt.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        densify(images, files.labels, tmp_path / "out", minutes=0.001)
    assert seen == images
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert [part["path"] for part in settings["image"]] == [str(path) for path in images]
    learnt.stop_at = None
    with pytest.raises(RefusedError, match="was begun with other image"):
        densify(files.image, files.labels, tmp_path / "out", minutes=0.001, resume=True)
    with pytest.raises(RefusedError, match="t1.nii.gz is what the result is made from"):
        densify(images, files.labels, images[1], minutes=0.001, overwrite=True)
    densify(images, files.labels, tmp_path / "out", minutes=0.001, resume=True)
    assert read_volume(tmp_path / "out" / "ball_segmentation.nii.gz").channels == 1


def test_numbers_that_were_changed_after_reading_are_not_taken_for_the_file(case, monkeypatch):
    """The methods beside it read the image themselves."""
    files = case()
    seen = []

    @contextlib.contextmanager
    def comparing(image, labels, folds, *, files, **_):
        seen.append((image.array.max(), list(files)))
        yield None

    monkeypatch.setattr(run, "comparing", comparing)
    changed = dataclasses.replace(read_volume(files.image), array=np.zeros((1, *SIZE), np.uint8))
    densify(changed, files.labels, minutes=0.001, force=True)
    assert seen == [(0, [])]


def test_paint_is_one_file(case):
    files = case()
    with pytest.raises(ValueError, match="are several files: paint all classes into one"):
        densify(files.image, [files.labels, files.labels])


def test_the_model_may_differ_from_the_paint_if_asked(case, tmp_path):
    random = np.random.default_rng(0).integers(1, 3, SIZE).astype(np.uint8)  # nobody can learn that
    files = case(painted=on_slices(random))
    kept, free = (
        densify(files.image, files.labels, keep_painted=keep, folds=0, force=True, **QUICK)
        for keep in (True, False)
    )
    on = files.paint > 0
    assert (kept.labels[on] == files.paint[on]).all()
    assert np.mean(free.labels[on] == files.paint[on]) < 0.9
    assert (free.confidence[on] < 1).any()


def test_segments_of_slicer_keep_their_names_and_colours(case, tmp_path, caplog):
    files = case(".nrrd", ".seg.nrrd")
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, tmp_path / "out", folds=0, **QUICK)
    assert done.names == {0: "background", 1: "shell", 2: "core"}
    assert "classes 1 'shell', 2 'core'" in caplog.text
    assert "shell" in (tmp_path / "out" / "report.html").read_text()
    written = segments_of(read_volume(tmp_path / "out" / "ball_segmentation.seg.nrrd", labels=True))
    assert [(s.value, s.name, s.colour) for s in written] == [
        (1, "shell", (1.0, 0.5, 0.0)),
        (2, "core", (0.0, 0.0, 1.0)),
    ]


def test_a_name_with_a_suffix_is_that_of_the_segmentation(case, tmp_path):
    files = case()
    done = densify(
        files.image, files.labels, tmp_path / "mine.seg.nrrd", names=["1=shell", "2=core"], folds=0, **QUICK
    )
    assert [s.name for s in segments_of(read_volume(tmp_path / "mine.seg.nrrd", labels=True))] == [
        "shell",
        "core",
    ]
    assert done.folder == tmp_path / "mine"
    assert {path.name for path in done.folder.iterdir()} == {
        "log.txt", "mine_confidence.nii.gz", "model.pt", "report.html", "scores.json", "settings.json",
    }  # fmt: skip
    assert all(path.is_file() for path in done.written)


def test_a_value_for_unlabelled_makes_0_a_class(case, tmp_path):
    files = case(unlabelled=9)
    done = densify(files.image, files.labels, tmp_path / "out", unlabelled=9, folds=0, **QUICK)
    assert done.names == {0: "class 0", 1: "class 1", 2: "class 2"}
    on = files.paint != 9
    assert (done.labels[on] == files.paint[on]).all()
    assert 9 not in done.labels


def test_an_image_in_2d(case, tmp_path):
    files = case(".png", ".png", size=(40, 36), painted=ball((40, 36)))
    done = densify(files.image, files.labels, tmp_path / "out", **QUICK)
    written = read_volume(tmp_path / "out" / "ball_segmentation.png", labels=True)
    np.testing.assert_array_equal(written.array[0], files.paint)  # all of it was painted
    assert done.scores["volseg"]["mean IoU"]["value"] > 0.5
    assert "parts of the painted image was compared" in done.note
    assert "slice" not in done.note


def test_arrays_in_memory_leave_no_file(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = ball(SIZE)
    image = (80 * truth + np.random.default_rng(0).normal(0, 12, SIZE)).astype(np.float32)
    done = densify(image, on_slices(truth), **QUICK)
    assert list(tmp_path.iterdir()) == []
    assert done.written == []
    assert done.folder is None
    assert done.labels.shape == SIZE


# --- what is told -----------------------------------------------------------------------------------------


def test_what_was_understood_and_found_is_said_before_it_learns(case, tmp_path, caplog, learnt):
    truth = ball(SIZE)
    paint = on_slices(truth)
    paint[..., 8] = paint[..., 3]  # copied
    files = case(painted=paint)
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, tmp_path / "out", force=True, folds=0, **QUICK)
    text = (tmp_path / "out" / "log.txt").read_text()
    said = caplog.text
    assert "xy: 3, 8, 13 · xz: 6, 14 · yz: 8; classes 1, 2" in text
    assert done.findings
    for finding in done.findings:
        assert said.index(finding.message) < said.index("The result: learning")
        assert finding.kind in json.dumps(json.loads((tmp_path / "out" / "scores.json").read_text()))
        assert f">{finding.kind}<" in (tmp_path / "out" / "report.html").read_text()


def test_every_painted_slice_is_scored_once(case, tmp_path, learnt, monkeypatch):
    pages = []
    monkeypatch.setattr(run, "write_figures", lambda _, page, **__: pages.append(page.curves) or [])
    files = case()
    done = densify(files.image, files.labels, tmp_path / "out", **QUICK)
    held = [call.held_out != IGNORE_INDEX for call in learnt.made[:-1]]
    assert len(held) == 3
    assert learnt.made[-1].held_out is None
    assert max(sum(held).ravel()) == 1  # no voxel in two folds
    for call, test in zip(learnt.made, held, strict=False):
        assert not (test & (call.labels != IGNORE_INDEX)).any()  # nor learnt from where it is tested
    everything = np.zeros(SIZE, bool)
    for axis, indices in SLICES.items():
        everything[(slice(None),) * axis + (list(indices),)] = True
    np.testing.assert_array_equal(learnt.made[-1].labels != IGNORE_INDEX, everything)
    (curves,) = pages
    assert [curve.name for curve in curves] == ["fold 1", "fold 2", "fold 3", "result"]
    assert [list(curve.validation_iterations) for curve in curves] == [[1], [1], [1], []]
    scores = done.scores["volseg"]
    assert set(scores["IoU"]) == {"background", "class 1", "class 2"}
    assert scores["slices"] == 6
    support = scores["support"]  # as slices cross, nothing is moved
    assert tuple(support["shares"]) == measure_nearness(learnt.made[-1].labels, SPACING).shares
    assert support["interpolated"] == support["nearer"] == support["farther"] == 0
    assert "extrapolation" not in done.note
    assert scores["temperature"] > 0
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"{scores['mean IoU']['value']:.3f}" in report


def test_what_was_left_out_of_learning_is_said_where_the_user_looks(case, tmp_path, caplog):
    files, out = case(), tmp_path / "out"
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, out, folds=0, **QUICK)
    assert done.remarks == ("a note",)
    assert json.loads((out / "scores.json").read_text())["remarks"] == ["a note"]
    assert "a note" in (out / "report.html").read_text()
    assert "a note" in caplog.text


class Halves(Brightness):
    """Two joined learners: what the first says, and the opposite, louder."""

    share, usual, second = 0.5, 0.6, -5

    def parts_at(self, task, where):
        found = super().predict(task)[:, where]
        return [found, self.second * found]

    def predict(self, task, block=None, **_):
        found = super().predict(task, block)
        return (1 - self.share + self.share * self.second) * found


class Agreeing(Halves):
    """What the first says, twice."""

    second = 1


@pytest.mark.parametrize(("model", "share"), [(Halves, 0.0), (Agreeing, Agreeing.usual)])
def test_of_joined_learners_the_result_has_the_share_that_held_out_slices_chose(
    case, tmp_path, monkeypatch, model, share
):
    """That is the usual one, where they show no other to be better."""
    shares = []

    def halves(self, task, labels, *, start=None, **settings):
        shares.append(getattr(start, "share", None))
        found = brightness(task, labels, start=start, **settings)
        return model(found.means, found.curve)

    monkeypatch.setattr(QuickLearner, "learn", halves)
    files, out = case(), tmp_path / "out"
    done = densify(files.image, files.labels, out, folds=3, **QUICK)
    assert f"The U-Net counts {share:.0%} of the result" in " ".join(done.remarks)
    assert shares == [None, None, None, share]  # known when the result is learnt
    assert np.mean(done.labels == files.truth) > 0.8
    assert done.scores["volseg"]["mean IoU"]["value"] > 0.6


def test_the_headline_leaves_background_out_everywhere_and_says_so(case, tmp_path, caplog):
    """Terminal, scores.json and the page: the same figure under the same name, the other one beside it."""
    paint = on_slices(ball(SIZE))
    wrong = (paint > 0) & (np.random.default_rng(0).random(SIZE) < 0.1)
    paint[wrong] = 3 - paint[wrong]  # nobody can learn that: the classes score less than the background
    files, out = case(painted=paint), tmp_path / "out"
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, out, names=["1=shell", "2=core"], force=True, **QUICK)
    scores = json.loads((out / "scores.json").read_text())["scores"]["volseg"]
    main, whole = scores["headline"]["IoU"], scores["mean IoU"]["value"]
    ious = [scores["IoU"][name]["value"] for name in ("shell", "core")]
    assert main["value"] == pytest.approx(np.mean(ious))
    assert main["value"] < whole
    assert scores["headline"]["classes"] == ["shell", "core"]
    assert scores["headline"]["background"] == "background"
    surface = scores["surface Dice"]
    assert [surface[name]["low"] for name in surface] == [None] * 3
    assert surface["core"]["reason"] == "No interval is computed for surface Dice."
    assert scores["headline"]["surface Dice"]["value"] == pytest.approx(
        np.mean([surface[name]["value"] for name in ("shell", "core")])
    )
    assert "Dice   surface Dice" in caplog.text
    assert f"  {surface['core']['value']:.3f}" in caplog.text
    assert (
        "Surface Dice is the share of its border that is off by one voxel at most, in the plane" in done.note
    )
    name = "mean IoU over foreground classes (shell, core)"
    assert scores["headline"]["name"] == name
    figure = f"{main['value']:.3f} ({main['low']:.2f} – {main['high']:.2f})"
    assert f"{name}: {figure}; with background {whole:.3f}." in caplog.text
    page = (out / "report.html").read_text()
    assert f"<dt>{name}, held out</dt><dd>{figure}</dd>" in page
    assert f"<dt>the same with background</dt><dd>{whole:.3f}</dd>" in page
    assert "mean over foreground classes</th>" in page
    assert "surface Dice<br>volseg</th>" in page
    assert "off by one voxel at most. It has no interval.</caption>" in page
    for score in (surface["shell"], surface["core"], scores["mean surface Dice"]):
        assert f'<td class="number">{score["value"]:.3f}</td>' in page
    assert done.scores["volseg"]["headline"]["name"] == name


def test_without_a_background_the_headline_is_the_mean_of_all_and_says_so(case, tmp_path, caplog):
    files = case(unlabelled=9)
    names = ["0=outside", "1=shell", "2=core"]
    with caplog.at_level(logging.INFO, "volseg"):
        densify(files.image, files.labels, tmp_path / "out", unlabelled=9, names=names, **QUICK)
    assert "mean IoU over all classes (outside, shell, core; none is background): " in caplog.text
    assert "with background" not in caplog.text


def test_the_command_to_go_on_reads_colours_as_this_one_did(case, tmp_path):
    files = case(image=".tif", labels=".tif")
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[files.paint]
    tifffile.imwrite(files.labels, colours.transpose(2, 1, 0, 3), photometric="rgb")
    numbers = {"000000": 0, "ff0000": 1, "00ff00": 2}
    done = densify(files.image, files.labels, tmp_path / "out", colours=numbers, folds=0, **QUICK)
    assert "--colours 000000=0,ff0000=1,00ff00=2" in done.suggestion.command


def test_how_much_of_each_class_there_is_is_told_in_voxels_and_in_units(case, tmp_path, caplog):
    files, out = case(), tmp_path / "out"
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, out, names=["1=shell", "2=core"], folds=0, **QUICK)
    n = int(np.count_nonzero(done.labels == 2))
    amounts = {each["name"]: each for each in json.loads((out / "scores.json").read_text())["amounts"]}
    assert amounts["core"] == {"name": "core", "voxels": n, "size": n * 0.25, "unit": "mm^3"}
    assert sum(each["voxels"] for each in amounts.values()) == done.labels.size
    assert f"core {n:,} voxels ({n * 0.25:,.6g} mm³)" in caplog.text
    page = (out / "report.html").read_text()
    assert f'<td class="number">{n:,}</td>' in page
    assert f'<td class="number">{n * 0.25:,.6g}</td>' in page


def test_after_more_paint_it_says_what_changed_and_how_to_go_on(case, tmp_path, caplog):
    files, first = case(), tmp_path / "a first"
    settings = {"names": ["1=shell", "2=core"], "spacing": (0.5, 0.5, 2.0), **QUICK}
    densify(files.image, files.labels, first, **settings)
    more = {axis: (*indices, 11) if axis == 2 else indices for axis, indices in SLICES.items()}
    write_volume(files.labels, on_slices(ball(SIZE), more), read_volume(files.image), overwrite=True)
    with caplog.at_level(logging.INFO, "volseg"):
        densify(files.image, files.labels, tmp_path / "a first_2", continue_from=first, **settings)
    said = (tmp_path / "a first_2" / "report.html").read_text()
    told = json.loads((tmp_path / "a first_2" / "scores.json").read_text())
    assert told["changes"][0] == f"Painted slices since {first}: new: z = 11 (the 12th)."
    assert re.fullmatch(
        r"mean IoU over foreground classes \(shell, core\): \d\.\d+ \(.*\) before, .* now\.",
        told["changes"][1],
    )
    assert told["changes"][2].startswith("IoU of background: ")
    for text in told["changes"]:
        assert text in said
        assert text in caplog.text
    assert told["date"][:2] == "20"
    command = told["suggestion"]["command"]
    assert shlex.split(command) == [
        "volseg", "densify", str(files.image), str(files.labels), "-o", str(tmp_path / "a first_3"),
        "--continue", str(tmp_path / "a first_2"), "--names", "1=shell", "2=core", "--spacing", "0.5,0.5,2.0",
    ]  # fmt: skip
    assert command in caplog.text
    assert command in html.unescape(said)
    assert f"Paint it into {files.labels}" in said
    assert "slice to paint next</span>" in said  # what the diamond means
    assert "figures/overview.png</a>" in said


@pytest.mark.parametrize("hashed", [True, False], ids=["now", "before hashes were kept"])
def test_slices_that_were_repainted_since_are_named_though_their_numbers_are_the_same(case, tmp_path, hashed):
    files, first = case(), tmp_path / "first"
    densify(files.image, files.labels, first, **QUICK)
    if not hashed:
        told = json.loads((first / "scores.json").read_text())
        del told["painted"]["hashes"]
        (first / "scores.json").write_text(json.dumps(told))
    half = files.paint.copy()
    half[:11, :, 8] = np.where(half[:11, :, 8], 1, 0)
    write_volume(files.labels, half, read_volume(files.image), overwrite=True)
    densify(files.image, files.labels, tmp_path / "second", continue_from=first, **QUICK)
    change = json.loads((tmp_path / "second" / "scores.json").read_text())["changes"][0]
    if not hashed:
        assert change.endswith("the same numbers; it is not known whether they were repainted.")
        return
    assert change == (
        f"Painted slices since {first}: painted differently: x = 8 (the 9th); y = 6 (the 7th); "
        "z = 8 (the 9th)."
    )
    densify(files.image, files.labels, tmp_path / "third", continue_from=tmp_path / "second", **QUICK)
    change = json.loads((tmp_path / "third" / "scores.json").read_text())["changes"][0]
    assert change == f"Painted slices since {tmp_path / 'second'}: the same."


@pytest.mark.parametrize(
    "slices",
    [{2: (4, 7, 10, 13)}, {2: (3, 6, 9, 13)}, {1: (6, 10, 14)}, {0: (5, 12, 19)}],
    ids=["even xy", "uneven xy", "xz", "yz"],
)
def test_slices_in_one_direction_have_a_score_that_says_it_extrapolates(case, tmp_path, learnt, slices):
    files = case(slices=slices)
    done = densify(files.image, files.labels, tmp_path / "out", folds=3, **QUICK)
    (count,) = map(len, slices.values())
    scores = done.scores["volseg"]
    assert scores["slices"] == count
    for score in (scores["IoU"]["background"], scores["IoU"]["class 1"], scores["mean IoU"]):
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
    assert scores["support"]["interpolated"] > 0.05
    assert scores["support"]["farther"] == scores["support"]["nearer"] == 0
    assert "Part of this is an extrapolation: held-out slices lie farther from the paint" in done.note
    assert "Part of this is an extrapolation" in (tmp_path / "out" / "report.html").read_text()
    for call in learnt.made[:-1]:
        assert not ((call.held_out != IGNORE_INDEX) & (call.labels != IGNORE_INDEX)).any()


def test_far_from_everything_held_out_the_lower_end_takes_it_to_be_wrong(case, tmp_path):
    files = case(slices={2: (6, 7, 8, 9)})
    done = densify(files.image, files.labels, tmp_path / "out", folds=3, **QUICK)
    support = done.scores["volseg"]["support"]
    assert support["nearer"] > 0.3
    assert done.scores["volseg"]["mean IoU"]["low"] < 1 - support["nearer"]
    assert "lie farther from paint than anything held out: there the result may be worse" in done.note


@pytest.mark.parametrize(
    ("slices", "folds", "message"),
    [({2: (8,)}, 3, "With 1 painted slice it cannot be known"), (SLICES, 0, "Nothing was held out")],
)
def test_without_a_score_it_says_why_and_learns_the_result_alone(
    case, tmp_path, caplog, learnt, slices, folds, message
):
    files = case(slices=slices)
    done = densify(files.image, files.labels, tmp_path / "out", folds=folds, **QUICK)
    assert len(learnt.made) == 1
    assert done.scores == {}
    assert message in done.note
    assert message in (tmp_path / "out" / "report.html").read_text()
    assert message in caplog.text or folds == 0


# --- what happens to an old result, and to the files, meanwhile -------------------------------------------


def contents(folder):
    """Every file and what it holds."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["out", "mine.nii.gz"])
def test_the_old_result_stays_whole_until_the_new_one_is_there(case, tmp_path, learnt, name):
    files, folder = case(), tmp_path / "results"
    folder.mkdir()
    densify(files.image, files.labels, folder / name, folds=0, **QUICK)
    before = contents(folder)
    learnt.stop_at = len(learnt.made) + 2
    with pytest.raises(KeyboardInterrupt):
        densify(files.image, files.labels, folder / name, seed=1, overwrite=True, **QUICK)
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(hidden) == 1
    assert {
        path: data for path, data in contents(folder).items() if path.parts[0] != hidden[0].name
    } == before
    with pytest.raises(RefusedError, match="go on with resume=True, or replace what is there"):
        densify(files.image, files.labels, folder / name, seed=1, **QUICK)
    learnt.stop_at = None
    made = len(learnt.made)
    densify(files.image, files.labels, folder / name, seed=1, resume=True, **QUICK)
    assert len(learnt.made) - made == 3  # the first of three folds had been kept
    after = contents(folder)
    assert not [path for path in after if any(part.startswith(".") for part in path.parts)]
    assert after.keys() - before.keys() == {path for path in after if "folds" in path.parts}
    assert (
        json.loads(next(data for path, data in after.items() if path.name == "settings.json"))["choices"][
            "seed"
        ]
        == 1
    )


def test_a_full_disk_leaves_the_old_result(case, tmp_path, monkeypatch):
    files, out = case(), tmp_path / "out"
    densify(files.image, files.labels, out, folds=0, **QUICK)
    before = contents(out)

    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run, "write_report", full)
    with pytest.raises(OSError, match="No space left"):
        densify(files.image, files.labels, out, seed=1, folds=0, overwrite=True, **QUICK)
    assert contents(out) == before


@pytest.mark.parametrize("which", ["image", "labels"])
@pytest.mark.parametrize("how", ["rewritten", "removed", "touched"])
@pytest.mark.parametrize("when", ["learning", "suggesting"])
def test_a_file_that_changes_meanwhile_is_noticed(case, tmp_path, monkeypatch, which, how, when):
    files, out = case(), tmp_path / "out"
    path = getattr(files, which)

    def meanwhile():
        if how == "removed":
            path.unlink(missing_ok=True)
        elif how == "rewritten":
            volume = read_volume(path)
            write_volume(path, volume.array[0][::-1], volume, overwrite=True)
        else:
            path.touch()

    def learn(self, task, labels, **settings):
        if when == "learning":
            meanwhile()
        return brightness(task, labels, **settings)

    def suggest(*_, **__):
        if when == "suggesting":
            meanwhile()

    monkeypatch.setattr(QuickLearner, "learn", learn)
    monkeypatch.setattr(run, "suggest", suggest)
    if how == "touched":
        densify(files.image, files.labels, out, folds=0, **QUICK)
        return
    with pytest.raises(InputError, match=f"{path.name} was changed, replaced or removed while it was"):
        densify(files.image, files.labels, out, folds=0, **QUICK)
    assert not (out / "ball_segmentation.nii.gz").exists()


def test_a_file_that_changes_while_the_page_is_drawn_leaves_a_whole_result(case, tmp_path, monkeypatch):
    files, out = case(), tmp_path / "out"
    drawn = run.report_of

    def meanwhile(*arguments, **settings):
        files.image.unlink()
        return drawn(*arguments, **settings)

    monkeypatch.setattr(run, "report_of", meanwhile)
    done = densify(files.image, files.labels, out, folds=0, **QUICK)
    assert done.written
    assert all(path.exists() for path in done.written)


@pytest.mark.slow
@pytest.mark.parametrize("again", [{"overwrite": True}, {"resume": True}, {}])
def test_a_folder_that_another_run_is_at_work_in_is_refused(case, tmp_path, again):
    files, out = case(), tmp_path / "out"
    out.mkdir()
    words = f"from volseg.runs.claim import claim; from pathlib import Path; claim(Path({str(out)!r})); "
    other = subprocess.Popen(
        [sys.executable, "-c", words + "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        other.stdout.readline()
        with pytest.raises(RefusedError, match=f"in use by another run .process {other.pid}.*another output"):
            densify(files.image, files.labels, out, **again, **QUICK)
    finally:
        other.communicate(b"\n")
    assert [path.name for path in out.iterdir()] == [".lock"]


# --- what is refused, before any time is spent ------------------------------------------------------------


@pytest.fixture
def never_learns(monkeypatch):
    def learn(*_, **__):
        raise AssertionError("it began to learn")

    monkeypatch.setattr(QuickLearner, "learn", learn)


@pytest.mark.parametrize("again", [{"overwrite": True}, {}])
def test_a_folder_that_is_painted_in_is_refused(case, tmp_path, never_learns, again):
    files, out = case(), tmp_path / "out"
    out.mkdir()
    painting = os.open(out / ".paint.lock", os.O_RDWR | os.O_CREAT)  # as another process would
    assert take_lock(painting)
    with pytest.raises(RefusedError, match=r"out is in use by another run .*choose another output"):
        densify(files.image, files.labels, out, **again, **QUICK)
    os.close(painting)
    assert [path.name for path in out.iterdir()] == [".paint.lock"]


def test_a_folder_is_densified_once_at_a_time_in_a_program(case, tmp_path, monkeypatch):
    files, out, begun = case(), tmp_path / "out", []

    def learn(*_, **__):
        begun.append(1)
        assert len(begun) == 1
        densify(files.image, files.labels, out, overwrite=True, **QUICK)

    monkeypatch.setattr(QuickLearner, "learn", learn)
    for count in (1, 2):  # the one that was refused is in the way of nothing later
        with pytest.raises(RefusedError, match=r"running already there, in this program\. Wait for it"):
            densify(files.image, files.labels, out, overwrite=True, **QUICK)
        assert begun == [1], count
        begun.clear()


@pytest.mark.parametrize("name", ["report.html", "ball_segmentation.nii.gz", "model.pt", "folds/fold_1.pt"])
def test_nothing_is_overwritten_unasked(case, tmp_path, never_learns, name):
    files = case()
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(
        RefusedError, match=rf"{path.name} exists already. Choose another name \(output\), or rep"
    ):
        densify(files.image, files.labels, tmp_path / "out", **QUICK)
    assert path.read_text() == "mine"


def test_overwriting_replaces_what_an_earlier_run_left(case, tmp_path):
    files, out = case(), tmp_path / "out"
    densify(files.image, files.labels, out, **QUICK)
    (out / "figures").mkdir()
    (out / "figures" / "scores.png").write_text("of the first")
    (out / "mine.txt").write_text("mine")
    densify(files.image, files.labels, out, overwrite=True, folds=0, **QUICK)
    assert not (out / "folds").exists()
    assert not (out / "figures" / "scores.png").exists()
    assert (out / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.pt", "ball_segmentation.nii.gz"])
def test_a_folder_is_never_replaced(case, tmp_path, never_learns, name):
    files = case()
    (tmp_path / "out" / name / "mine").mkdir(parents=True)
    with pytest.raises(RefusedError, match=f"{name} is a folder of yours"):
        densify(files.image, files.labels, tmp_path / "out", overwrite=True, **QUICK)
    assert (tmp_path / "out" / name / "mine").exists()


def test_a_result_that_is_a_folder_itself_can_be_replaced(case, tmp_path):
    files = case(".ome.zarr")
    for _ in range(2):
        densify(files.image, files.labels, tmp_path / "out", overwrite=True, folds=0, **QUICK)


@pytest.mark.parametrize("source", ["image", "labels"])
def test_what_it_is_made_from_is_never_replaced(case, tmp_path, never_learns, source):
    files = case()
    path = getattr(files, source)
    with pytest.raises(RefusedError, match="is what the result is made from"):
        densify(files.image, files.labels, path, overwrite=True, **QUICK)


def test_a_file_in_the_place_of_the_folder_is_refused(case, tmp_path, never_learns):
    files = case()
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RefusedError, match="out is a file, but a folder of that name is needed"):
        densify(files.image, files.labels, tmp_path / "out", **QUICK)
    with pytest.raises(RefusedError, match="output is empty. Name a folder"):
        densify(files.image, files.labels, "", **QUICK)


def test_a_folder_that_cannot_be_made_is_told(case, tmp_path, never_learns):
    files = case()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"cannot write to .*Choose another folder \(output\)"):
        densify(files.image, files.labels, tmp_path / "file" / "out", **QUICK)


def test_a_format_that_is_read_only_is_no_result(case, tmp_path, never_learns):
    files = case()
    with pytest.raises(
        ValueError, match="out.nhdr cannot be written: .nhdr is read only. Write out.nrrd instead"
    ):
        densify(files.image, files.labels, tmp_path / "out.nhdr", **QUICK)


def test_an_error_of_the_audit_stops_it_unless_forced(case, tmp_path):
    files = case(painted=ball(SIZE)[::-1].copy())  # mirrored? the ball is nearly symmetric, so shift it
    shifted = np.roll(ball(SIZE), 5, axis=0)
    write_volume(files.labels, on_slices(shifted), read_volume(files.image), overwrite=True)
    with pytest.raises(
        InputError, match=r"The audit found 1 error\(s\) in the paint \(shifted\).*go on with force=True"
    ):
        densify(files.image, files.labels, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()
    assert densify(files.image, files.labels, tmp_path / "out", force=True, folds=0, **QUICK).written


def test_nobody_can_force_it_to_learn_from_nothing(case, tmp_path, never_learns):
    files = case(painted=np.zeros(SIZE, np.uint8))
    with pytest.raises(InputError, match="No voxel is labelled"):
        densify(files.image, files.labels, tmp_path / "out", force=True, **QUICK)


def test_values_that_are_no_class_come_back_as_painted_if_forced(case, tmp_path):
    truth = ball(SIZE)
    paint = on_slices(truth).astype(np.uint16)
    paint[3:6, 3, 3] = 300
    files = case(painted=paint)
    names = {1: "shell", 2: "core"}
    with pytest.raises(InputError, match="unknown_value"):
        densify(files.image, files.labels, tmp_path / "out", names=names, **QUICK)
    done = densify(files.image, files.labels, tmp_path / "out", names=names, force=True, folds=0, **QUICK)
    assert done.labels.dtype == np.uint16
    assert (done.labels[3:6, 3, 3] == 300).all()
    assert (done.labels == 300).sum() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 0}, "minutes=0: it must be above 0"),
        ({"minutes": float("nan")}, "minutes=nan: it must be above 0"),
        ({"method": "magic"}, "method='magic' is unknown. There are: learner, interpolate, random-walker"),
        ({"learner": "magic"}, "learner = 'magic' is unknown. There are: auto, pixelwise, unet, joined"),
        ({"learner": "unet", "method": "interpolate"}, "this method learns nothing. Leave one of them out"),
        ({"folds": 1}, "folds=1: slices are held out in two or more turns"),
        ({"folds": -3}, "folds=-3: slices are held out"),
        ({"unlabelled": 3, "painted_only": True}, "both say what is unlabelled"),
        ({"device": "toaster"}, "device='toaster' is unknown: use cpu, cuda"),
        ({"device": "cuda:77"}, "there is no device cuda:77"),
        ({"names": ["tubule"]}, "names holds 'tubule': give each class once, as VALUE=NAME"),
        ({"names": ["1=a", "1=b"]}, "names holds '1=b': give each class once"),
        ({"names": {1: "a", "2": "a"}}, "names: two classes have the name 'a'"),
        ({"method": "interpolate", "continue_from": "out"}, "learns nothing, so no earlier result can"),
        ({"resume": True}, "nothing to resume or to overwrite"),
        ({"overwrite": True}, "nothing to resume or to overwrite"),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        densify("image.nii", "labels.nii", **settings)


@pytest.mark.parametrize(
    ("image", "labels", "kind", "message"),
    [
        (
            (3, 8, 8, 8),
            (8, 8, 7),
            InputError,
            r"labels have the shape \(8, 8, 7\), the image has \(8, 8, 8\)",
        ),
        ((8,), (8, 8), ValueError, r"an image as an array is \(channels, \*spatial\), not \(8,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(image, labels, kind, message):
    with pytest.raises(kind, match=message):
        densify(np.zeros(image), np.zeros(labels, np.uint8))


# --- stopped, and gone on with ----------------------------------------------------------------------------


def test_a_stopped_run_goes_on_behind_the_last_fold(case, tmp_path, learnt):
    files, out = case(), tmp_path / "out"
    learnt.stop_at = 2
    with pytest.raises(KeyboardInterrupt):
        densify(files.image, files.labels, out, **QUICK)
    assert [path.name for path in (out / "folds").iterdir()] == ["fold_1.pt"]
    assert not (out / "report.html").exists()
    assert not list(out.rglob("*.partial*"))
    with pytest.raises(RefusedError, match="go on with resume=True, or replace"):
        densify(files.image, files.labels, out, **QUICK)
    first = learnt.made[1].held_out
    learnt.made.clear()
    learnt.stop_at = None
    done = densify(files.image, files.labels, out, resume=True, **QUICK)
    assert len(learnt.made) == 3  # two folds and the result
    np.testing.assert_array_equal(learnt.made[0].held_out, first)
    assert done.scores["volseg"]["slices"] == 6


def test_a_run_that_is_stopped_at_the_result_keeps_what_it_learnt(case, tmp_path, learnt, caplog):
    files, out = case(), tmp_path / "out"
    learnt.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        densify(files.image, files.labels, out, **QUICK)
    assert "repeat the command with resume=True" in caplog.text
    assert (out / "model_partial.pt").exists()
    learnt.made.clear()
    learnt.stop_at = None
    densify(files.image, files.labels, out, resume=True, **QUICK)
    assert len(learnt.made) == 1
    assert learnt.made[0].start is not None
    assert not (out / "model_partial.pt").exists()
    with pytest.raises(RefusedError, match="is finished: nothing is left to resume"):
        densify(files.image, files.labels, out, resume=True, **QUICK)


def test_only_the_same_request_is_resumed(case, tmp_path, learnt):
    files, out = case(), tmp_path / "out"
    with pytest.raises(InputError, match="holds no settings.json: there is nothing to resume"):
        densify(files.image, files.labels, out, resume=True, **QUICK)
    learnt.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        densify(files.image, files.labels, out, **QUICK)
    with pytest.raises(RefusedError, match="with other choices: seed=0 then, seed=5 now. Repeat"):
        densify(files.image, files.labels, out, resume=True, seed=5, **QUICK)
    truth = ball(SIZE)
    write_volume(files.labels, on_slices(truth, {2: (3, 8)}), read_volume(files.image), overwrite=True)
    with pytest.raises(RefusedError, match="was begun with other labels"):
        densify(files.image, files.labels, out, resume=True, **QUICK)
    (out / "settings.json").write_text("{")
    with pytest.raises(InputError, match="settings.json cannot be read"):
        densify(files.image, files.labels, out, resume=True, **QUICK)
    (out / "settings.json").write_text("[]")
    with pytest.raises(InputError, match="is not what volseg wrote there"):
        densify(files.image, files.labels, out, resume=True, **QUICK)


def test_a_run_begun_before_there_were_some_options_is_resumed(case, tmp_path, learnt):
    files, out = case(), tmp_path / "out"
    learnt.stop_at = 1
    with pytest.raises(KeyboardInterrupt):
        densify(files.image, files.labels, out, **QUICK)
    settings = json.loads((out / "settings.json").read_text())
    for key in ("spacing", "colours"):
        del settings["choices"][key]
    (out / "settings.json").write_text(json.dumps(settings))
    learnt.stop_at = None
    with pytest.raises(RefusedError, match="was begun with other choices"):
        densify(files.image, files.labels, out, resume=True, spacing=",".join("2" * len(SIZE)), **QUICK)
    densify(files.image, files.labels, out, resume=True, **QUICK)
    assert (out / "report.html").exists()


def test_more_paint_goes_on_from_every_model_and_keeps_its_fold(case, tmp_path, learnt):
    files = case()
    densify(files.image, files.labels, tmp_path / "first", **QUICK)
    before = list(learnt.made)
    learnt.made.clear()
    more = {axis: (*indices, 11) if axis == 2 else indices for axis, indices in SLICES.items()}
    write_volume(files.labels, on_slices(ball(SIZE), more), read_volume(files.image), overwrite=True)
    densify(files.image, files.labels, tmp_path / "second", continue_from=tmp_path / "first", **QUICK)
    assert len(learnt.made) == 4
    for call, old in zip(learnt.made, before, strict=True):  # from that of the same fold
        assert torch.equal(call.start.means, old.model.means)
    assert len({tuple(call.model.means.tolist()) for call in before}) == 4
    for call, past in zip(learnt.made, before[:-1], strict=False):
        # nothing of the slices that it is tested on was learnt from, neither now nor before
        on = call.held_out != IGNORE_INDEX
        assert not (on & (call.labels != IGNORE_INDEX)).any()
        old = np.ones(SIZE, bool)
        old[..., 11] = False
        assert not (on & old & (past.labels != IGNORE_INDEX)).any()


def test_where_cropped_paint_does_not_reach_is_unlabelled_if_it_was_so_before(case, tmp_path):
    painted = on_slices(ball(SIZE), unlabelled=255)
    files = case(".tif", ".nii.gz", painted=painted)
    densify(files.image, files.labels, tmp_path / "first", unlabelled=255, **QUICK)
    like, cropped = read_volume(files.labels), tmp_path / "cropped.nii.gz"
    affine = like.affine.copy()
    affine[0, 3] += 4 * SPACING[0]
    write_volume(cropped, painted[4:], Volume(painted[None, 4:], affine, like.unit))
    before = earlier.load_earlier(tmp_path / "first")
    paint = inputs.read_inputs(files.image, cropped, inputs.Choices(), before).paint
    assert (paint.labels[:4] == IGNORE_INDEX).all()
    np.testing.assert_array_equal(paint.labels[4:] == IGNORE_INDEX, painted[4:] == 255)


def test_a_slice_that_was_begun_and_is_finished_is_not_scored_where_it_was_learnt_from(
    case, tmp_path, learnt
):
    image, ever = case().image, None
    for number, begun in enumerate((slice(0, 4), slice(0, 8), slice(None))):
        painted = on_slices(ball(SIZE), values=(1, 2, 3))
        painted[19, begun] = ball(SIZE)[19, begun] + 1
        before = tmp_path / str(number - 1) if number else None
        out = tmp_path / str(number)
        densify(image, painted, out, unlabelled=0, continue_from=before, folds=3, **QUICK)
        ever = ever or [np.zeros(SIZE, bool) for _ in learnt.made[:-1]]
        for call, seen in zip(learnt.made[:-1], ever, strict=True):
            seen |= call.labels != IGNORE_INDEX
            assert not (seen & (call.held_out != IGNORE_INDEX)).any()
        learnt.made.clear()


def test_folds_of_an_earlier_volseg_that_kept_no_record_are_learnt_anew(case, tmp_path, learnt, caplog):
    files = case()
    densify(files.image, files.labels, tmp_path / "first", **QUICK)
    for path in (tmp_path / "first" / "folds").glob("*.pt"):
        content = load_checkpoint(path)
        del content["fold"]
        save_checkpoint(path, content)
    learnt.made.clear()
    densify(files.image, files.labels, tmp_path / "second", continue_from=tmp_path / "first", **QUICK)
    assert [call.start is None for call in learnt.made] == [True, True, True, False]
    assert "kept no record of what its folds had learnt from. They are learnt again" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": (0, 1, 4)}, r"was learnt with other values: \[0, 1, 2\] then, \[0, 1, 4\] now"),
        ({"source": "nowhere"}, "nowhere holds no model.pt to continue"),
        ({"channels": 2}, "was learnt with other channels: 1 then, 2 now. Give an image with"),
    ],
)
def test_what_does_not_fit_the_earlier_result_is_refused(case, tmp_path, changed, message):
    files = case()
    densify(files.image, files.labels, tmp_path / "first.nii.gz", folds=0, **QUICK)
    source = changed.get("source", "first.nii.gz")
    image = np.repeat(read_volume(files.image).array, changed.get("channels", 1), 0)
    paint = on_slices(ball(SIZE), values=changed.get("values", (0, 1, 2)))
    with pytest.raises(InputError, match=message):
        densify(image, paint, tmp_path / "second", continue_from=tmp_path / source, **QUICK)
    assert not (tmp_path / "second").exists()


def strokes_on(truth, slices, apart=12):
    """Short lines, 1 to 3 by class, at every so many voxels of some slices."""
    paint = np.zeros_like(truth)
    for index in slices:
        for x in range(2, truth.shape[0] - 4, apart):
            for y in range(2, truth.shape[1], apart):
                line = (slice(x, x + 4), y, *(() if index is None else (index,)))
                paint[line] = truth[line] + 1
    return paint


@pytest.mark.parametrize(
    ("size", "slices"), [((72, 60), [None]), ((72, 60, 12), [5]), ((72, 60, 12), [1, 5, 9])]
)
def test_strokes_are_scored_by_place_and_it_is_said_what_was_drawn(
    case, tmp_path, caplog, learnt, size, slices
):
    files = case(size=size, painted=strokes_on(ball(size), slices))
    names = {1: "outside", 2: "shell", 3: "core"}
    first = tmp_path / "first"
    with caplog.at_level(logging.INFO, "volseg"):
        done = densify(files.image, files.labels, first, painted_only=True, names=names, **QUICK)
    tested = [call.held_out != IGNORE_INDEX for call in learnt.made[:-1]]
    assert len(tested) == 4
    np.testing.assert_array_equal(np.sum(tested, 0), files.paint > 0)
    assert all(not call.slices for call in learnt.made)  # no line is taken for a slice
    scores = done.scores["volseg"]
    found, true = scores["IoU"]["core"], done.labels == 3
    expected = np.count_nonzero(true & (files.truth == 2)) / np.count_nonzero(true | (files.truth == 2))
    assert found["low"] < expected <= found["high"]
    assert re.search(r"The paint is \d+ strokes at \d+ places", done.note)
    assert scores["surface Dice"]["core"] == {"value": None, "low": None, "high": None, "reason": NO_SURFACE}
    assert NO_SURFACE in done.note
    assert "surface Dice" not in (first / "report.html").read_text()
    assert ("nothing is known" in done.note) == (len(size) == 3 and len(slices) == 1)
    assert done.note.split(":")[0] in html.unescape((first / "report.html").read_text())
    assert "without strokes of" in caplog.text
    where = done.suggestion.in_words(size)
    assert f"Paint next: {where}" in caplog.text
    assert "?. " not in caplog.text
    assert json.loads((first / "scores.json").read_text())["suggestion"]["point"] == [*done.suggestion.point]
    assert where in html.unescape((first / "report.html").read_text())
    assert "Go to this place" in (first / "report.html").read_text()
    assert "Paint a stroke of what is there into" in done.suggestion.todo
    assert f"--continue {first}" in done.suggestion.command
    again = files.paint.copy()
    again[30:34, 30] = files.truth[30:34, 30] + 1 if len(size) == 2 else 0
    write_volume(files.labels, again, read_volume(files.image), overwrite=True)
    second = densify(files.image, files.labels, tmp_path / "second", continue_from=first, **QUICK)
    assert second.scores["volseg"]["folds"] == 4
    assert f"Paint since {first}" in (tmp_path / "second" / "report.html").read_text()


def test_of_what_does_not_learn_it_is_not_known_how_good_it_is_on_strokes(case, tmp_path):
    files = case(size=(72, 60), painted=strokes_on(ball((72, 60)), [None]))
    done = densify(
        files.image, files.labels, tmp_path / "out", painted_only=True, method="random-walker", **QUICK
    )
    assert done.scores == {}
    assert "Strokes are held out from what learns" in done.note


@pytest.mark.parametrize("strokes", [False, True])
def test_the_shares_of_classes_are_corrected_for_strokes_alone(case, tmp_path, learnt, monkeypatch, strokes):
    """Slices come out bit for bit as they are predicted; with strokes, folds and result are corrected."""
    asked, added = [], np.array([0.0, 0.0, 50.0], np.float32)

    def offsets(scores, painted, right):
        asked.append((painted, right))
        return added

    monkeypatch.setattr(training, "stroke_offsets", offsets)
    truth = ball((72, 60))
    paint = strokes_on(truth, [None]) if strokes else on_slices(truth, {0: (8, 36, 60)}, (1, 2, 3))
    files = case(size=(72, 60), painted=paint)
    done = densify(files.image, files.labels, tmp_path / "out", painted_only=True, **QUICK)
    assert len(asked) == 5 * strokes
    task = Task(read_volume(files.image).array, SPACING[:2], 3)
    plain = learnt.made[-1].model.predict(task).argmax(0) + 1
    unpainted = paint == 0
    if strokes:
        assert (done.labels[unpainted] == 3).all()
        counts = np.bincount(paint[paint > 0] - 1, minlength=3)
        np.testing.assert_array_equal(asked[-1][0], counts)
        assert all((painted < counts).any() for painted, _ in asked[:-1])  # of what each fold learnt from
        assert all(0.5 < right <= 1 for _, right in asked)
    else:
        np.testing.assert_array_equal(done.labels[unpainted], plain[unpainted])
