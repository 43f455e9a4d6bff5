"""`volseg densify` and the bundle as they are typed; the real learner; the methods beside it."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from monai.bundle import run as run_bundle

from volseg.bundle import check_bundle
from volseg.densification import densify, run
from volseg.densification.baselines import random_walk
from volseg.densification.comparison import comparing, work
from volseg.densification.folds import make_folds
from volseg.densification.schedule import Forecast, Progress, Timetable
from volseg.densification.scoring import Scorer
from volseg.io import Volume, read_volume, write_volume
from volseg.labels import IGNORE_INDEX
from volseg.metrics import Headline
from volseg.runs.stopping import Stopping
from volseg.session import Session

SIZE = (26, 24, 22)
PAINTED = {2: (3, 11, 18), 1: (6, 17), 0: (8,)}

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.fixture
def files(tmp_path):
    """An image of two nested balls, its paint as an editor leaves it, and the truth."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    truth = np.select([radius < 0.45, radius < 0.8], [2, 1], 0).astype(np.uint8)
    grey = 80 * truth + np.random.default_rng(0).normal(0, 25, SIZE) + 20
    like = Volume(np.clip(grey, 0, 255).astype(np.uint8)[None], np.eye(4), "mm")
    paint = np.zeros_like(truth)
    for axis, indices in PAINTED.items():
        for index in indices:
            where = (slice(None),) * axis + (index,)
            paint[where] = truth[where]
    write_volume(tmp_path / "image.nii.gz", like.array[0], like)
    write_volume(tmp_path / "paint.nii.gz", paint, like)
    return tmp_path / "image.nii.gz", tmp_path / "paint.nii.gz", truth


def given(call):
    """What a stand-in for :func:`densify` was called with."""
    image, labels, output = call.pop("image"), call.pop("labels"), call.pop("output")
    return [str(image), str(labels), str(output)], call


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for, without doing it."""
    calls = []

    def noted(**settings):
        calls.append(settings)
        return run.Densified({}, None, {}, {}, "", ())

    monkeypatch.setattr("volseg.densification.densify", noted)
    return calls


def test_the_command_passes_everything_on(volseg, asked, monkeypatch):
    words = "a.nii b.nii -o out --minutes 2.5 --unlabelled 9 --names 1=a 2=b --method interpolate --folds 5 "
    words += "--learner unet "
    words += "--no-keep-painted --no-compare --no-suggest --continue old --device cpu --seed 3 --force "
    words += "--apply other --resume "
    words += "--spacing 4,4,50nm --colours 00=0,ff=1 "
    monkeypatch.setattr(sys, "argv", ["/usr/bin/volseg", "densify", *words.split()])
    assert volseg("densify", *words.split(), "--overwrite")[0] == 0
    files, settings = given(asked[0])
    assert files == ["a.nii", "b.nii", "out"]
    assert str(settings.pop("continue_from")) == "old"
    assert str(settings.pop("apply")) == "other"
    assert settings.pop("command") == f"volseg densify {words.strip()}"
    assert settings.pop("began") <= time.monotonic()
    assert settings == {
        "minutes": 2.5, "spacing": "4,4,50nm", "colours": "00=0,ff=1",
        "unlabelled": 9, "painted_only": False, "names": ["1=a", "2=b"],
        "method": "interpolate", "learner": "unet", "folds": 5, "keep_painted": False,
        "compare": False, "suggest_next": False,
        "device": "cpu", "seed": 3, "force": True, "resume": True, "overwrite": True, "finished": False,
    }  # fmt: skip


def test_without_options_the_command_leaves_everything_to_the_function(volseg, asked):
    import inspect

    assert volseg("densify", "a.nii", "b.nii", "-o", "out")[0] == 0
    _, settings = given(asked[0])
    del settings["command"], settings["began"]
    defaults = {name: p.default for name, p in inspect.signature(densify).parameters.items()}
    assert {name: value or defaults[name] for name, value in settings.items()} == {
        name: defaults[name] for name in settings
    }


def test_without_a_name_everything_goes_into_a_folder_named_after_the_image(volseg, asked):
    code, _, said = volseg("densify", "some/where/embryo.ome.tif", "b.nii")
    assert code == 0
    assert str(asked[0]["output"]) == "embryo.ome_densified"
    assert "Everything goes into the folder embryo.ome_densified; -o names another." in said
    assert volseg("densify", "scan.nii.gz", "--apply", "old")[0] == 0
    assert str(asked[1]["output"]) == "scan_densified"
    assert asked[1]["labels"] is None


def test_an_earlier_result_knows_its_image_and_paint(volseg, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size in ((12, 10, 8), (20, 16)):
        image, out = tmp_path / f"i{len(size)}.nii.gz", tmp_path / f"o{len(size)}"
        grey = np.random.default_rng(0).random(size).astype(np.float32)
        write_volume(image, grey, Volume(grey[None], np.eye(len(size) + 1)))
        with Session(image, out) as session:
            mask = np.zeros(size[:2], bool)
            mask[:3] = True
            session.paint(2, 0, mask, 1)
            session.paint(2, 0, mask[::-1], 0)
            session.learn(steps=2)
        code, _, said = volseg("densify", "--continue", out)
        assert code == 0, said
        settings = asked.pop()
        assert settings["image"] == image
        assert settings["labels"] == out / f"i{len(size)}_paint.nii.gz"
        assert settings["continue_from"] == out
        assert settings["output"].name == f"i{len(size)}_densified"
        assert volseg("densify", "--continue", out, "--spacing", "2,2,2mm")[0] == 0
        assert asked.pop()["spacing"] == "2,2,2mm"
    (out / "settings.json").unlink()
    code, _, said = volseg("densify", "--continue", out)
    assert code == 3
    assert "holds no paint that was learnt from. Name the image and the file with its paint before" in said


@pytest.mark.parametrize("words", [[], ["--continue", "old", "--channels", "a.nii"]])
def test_without_an_image_the_command_says_what_to_name(volseg, asked, words):
    code, _, said = volseg("densify", *words)
    assert code == 2
    assert "name the image and the file with its paint" in said
    assert not asked


def test_channels_in_files_of_their_own_follow_the_image(volseg, asked):
    assert volseg("densify", "a.nii", "b.nii", "-o", "out", "--channels", "t1.nii", "t2.nii")[0] == 0
    assert [str(path) for path in asked[0]["image"]] == ["a.nii", "t1.nii", "t2.nii"]


@pytest.mark.slow
def test_the_command_learns_scores_writes_and_lists_what_it_wrote(volseg, files, tmp_path):
    image, paint, truth = files
    out = tmp_path / "out"
    code, printed, said = volseg("densify", image, paint, "-o", out, "--minutes", "0.25", "--suggest")
    assert code == 0, said
    names = [os.path.relpath(line, out) for line in printed.splitlines()]
    assert [name for name in names if name != "figures/curve.png"] == [  # a busy machine has no curve
        "image_segmentation.nii.gz", "image_confidence.nii.gz", "figures/overview.png", "figures/scores.png",
        "figures/calibration.png", "report.html",
    ]  # fmt: skip
    assert all((out / name).stat().st_size > 0 for name in names)
    result = read_volume(out / names[0], labels=True).array[0]
    assert np.mean(result == truth) > 0.8
    scores = json.loads((out / "scores.json").read_text())
    assert scores["scores"]["volseg"]["mean IoU"]["value"] > 0.35
    assert scores["suggestion"]["axis"] in "xyz"
    order = ["Image: ", "Paint: ", "Understood: xy: 3, 11, 18 · xz: 6, 17 · yz: 8; classes 1, 2", "Audit",
             "Learning on the ", "Fold 1 of 3: without ", "Fold 3 of 3", "The result: ", "\nclass ",
             "Each of 6 painted slices", "Paint next: ", "Wrote ", "To look around in"]  # fmt: skip
    places = [said.index(text) for text in order]
    assert places == sorted(places)


def test_a_refusal_ends_with_5_and_a_wrong_file_with_3(volseg, files, tmp_path):
    image, paint, _ = files
    code, _, said = volseg("densify", image, tmp_path / "paint.nii", "-o", tmp_path / "out")
    assert code == 3
    assert "Did you mean paint.nii.gz?" in said
    code, _, said = volseg("densify", image, paint, "-o", tmp_path / "image.nii.gz", "--overwrite")
    assert code == 5
    assert "is what the result is made from" in said
    assert volseg("densify", image, paint, "-o", "/")[0] == 5


def test_the_current_folder_is_a_folder(volseg, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report.html").touch()
    code, _, said = volseg("densify", *files[:2], "-o", ".")
    assert code == 5
    assert f"{tmp_path / 'report.html'} exists already" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_something_to_go_on_with(files, tmp_path, number):
    image, paint, _ = files
    out = tmp_path / "out"
    words = [
        "densify",
        str(image),
        str(paint),
        "-o",
        str(out),
        "--minutes",
        "30",
        "--folds",
        "0",
        "--no-compare",
    ]
    code = f"import sys; from volseg.cli import main; sys.exit(main({words!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if line.startswith("The result"):
                break
        time.sleep(5)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "repeat the command with --resume" in said
    assert {path.name for path in out.iterdir()} == {"log.txt", "model_partial.pt", "settings.json"}


def test_a_second_signal_does_not_wait():
    before = signal.getsignal(signal.SIGTERM)
    with Stopping() as stopping, stopping.patient():
        signal.raise_signal(signal.SIGINT)
        assert stopping.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    with Stopping(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_bundle_says_what_the_function_takes(root):
    assert check_bundle([root / "bundles" / "densify.json"]) == []
    entries = json.loads((root / "bundles" / "densify.json").read_text())
    import inspect

    given = {key for key in entries["densify"] if not key.startswith("_")}
    of_the_caller = {"command", "began", "on_progress", "should_stop"}  # which no file can say
    assert given == set(inspect.signature(densify).parameters) - of_the_caller
    assert all(entries["densify"][key] == f"@{key}" and key in entries for key in given)


def test_the_bundle_densifies_its_phantom_or_ones_own(root, files, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("volseg.densify", lambda **settings: calls.append(settings), raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("volseg.data.phantoms.XENOPUS_SIZES", [(16, 16, 16)] * 3)
    config = {
        "run_id": "densifying",
        "config_file": str(root / "bundles" / "densify.json"),
        "logging_file": False,
    }
    run_bundle(**config, phantom_dir=str(tmp_path / "phantom"))
    assert calls[0]["image"] == (tmp_path / "phantom" / "images" / "kidney_1.tif",)
    assert calls[0]["labels"] == tmp_path / "phantom" / "labels" / "kidney_1.tif"
    assert calls[0]["minutes"] in (10, 15)
    run_bundle(**config, phantom_dir="nowhere", image=str(files[0]), labels=str(files[1]), unlabelled="$None")
    assert calls[1]["image"] == str(files[0])
    assert calls[1]["unlabelled"] is None
    assert not (tmp_path / "nowhere").exists()


# --- methods without a network ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [pytest.param("interpolate", marks=pytest.mark.slow), "random-walker"])
def test_other_methods_give_the_same_files_and_a_score(files, tmp_path, method, monkeypatch):
    if method == "interpolate":
        pytest.importorskip("itk", reason="interpolation needs ITK, which .ci/run installs")
    monkeypatch.setattr(run, "write_figures", lambda *_, **__: [])
    image, paint, truth = files
    done = densify(image, paint, tmp_path / "out", method=method)
    painted = read_volume(paint).array[0]
    on = painted > 0
    np.testing.assert_array_equal(done.labels[on], painted[on])
    assert np.mean(done.labels == truth) > 0.8
    (scores,) = done.scores.values()
    assert scores["mean IoU"]["value"] > 0.3
    assert {path.name for path in done.folder.iterdir()} == {
        "image_confidence.nii.gz", "image_segmentation.nii.gz", "log.txt", "report.html", "scores.json",
        "settings.json",
    }  # fmt: skip


@pytest.fixture
def compared(files, monkeypatch):
    """Starts the process that compares, by itself or (if ``here``) as a function."""

    def start(here, **settings):
        image, paint, _ = files
        labels = read_volume(paint).array[0].copy()
        on = np.zeros(SIZE, bool)
        for axis, indices in PAINTED.items():
            on[(slice(None),) * axis + (list(indices),)] = True
        labels[~on] = IGNORE_INDEX
        if here:
            monkeypatch.setattr("os.nice", lambda _: None)
            monkeypatch.setattr(subprocess, "Popen", Here)
        read = [] if settings.pop("in_memory", False) else [image]
        folds = make_folds(labels).folds
        return comparing(read_volume(image), labels, folds, files=read, classes=3, background=0)

    class Here:
        def __init__(self, words, **_):
            self.words = words
            self.code = None

        def wait(self, patience=None):
            if self.code is None:
                work(self.words[-1])
                self.code = 0

        def poll(self):
            return self.code

        def kill(self):
            self.code = 0

    return start


def collect(others, patience):
    scorer = Scorer(others._labels, (1.0, 1.0, 1.0), Headline(["background", "shell", "core"]))
    return others.collect(scorer, patience)


@pytest.mark.parametrize("in_memory", [False, True])
def test_other_methods_are_scored_on_the_same_slices(compared, in_memory, monkeypatch):
    def interpolate(labels, classes, *, spacing, background):  # ITK takes its time to be loaded
        return random_walk(np.zeros((1, *SIZE)), labels, classes, spacing=spacing)

    monkeypatch.setattr("volseg.densification.comparison.interpolate", interpolate)
    with compared(True, in_memory=in_memory) as others:
        found, reasons = collect(others, 1)
    assert reasons == []
    assert [one.method for one in found] == ["random walker", "interpolation"]
    assert all(one.estimate.mean_iou.value > 0.3 and one.estimate.slices == 6 for one in found)


def test_what_is_missing_to_compare_is_told(compared, monkeypatch):
    from volseg.errors import ResourceError

    def interpolate(*_, **__):
        raise ResourceError("this needs a package.")

    monkeypatch.setattr("volseg.densification.comparison.interpolate", interpolate)
    with compared(True) as others:
        found, reasons = collect(others, 1)
    assert [one.method for one in found] == ["random walker"]
    assert reasons == ["No interpolation to compare with: this needs a package."]


def test_a_method_that_is_not_installed_is_not_said_to_take_too_long(compared, monkeypatch):
    monkeypatch.setattr("volseg.densification.comparison.missing", lambda: "ITK is not installed.")
    with compared(False) as others:
        _, reasons = collect(others, 0)
    assert reasons == [
        "No random walker to compare with: it takes longer than there was time.",
        "No interpolation to compare with: ITK is not installed.",
    ]


def test_a_comparison_that_fails_or_takes_too_long_is_told(compared, monkeypatch):
    monkeypatch.setattr("volseg.densification.comparison.missing", lambda: "")
    with compared(False) as others:
        _, reasons = collect(others, 0)
        process = others._process
    assert process.returncode is not None  # it was ended
    assert len(reasons) == 2
    assert all(reason.endswith("to compare with: it takes longer than there was time.") for reason in reasons)
    monkeypatch.setattr("volseg.densification.comparison._START", "raise SystemExit(1)")
    with compared(False) as others:
        _, reasons = collect(others, 60)
    assert [re.sub("No .* to", "No X to", reason) for reason in reasons] == [
        "No X to compare with: it failed."
    ] * 2


@pytest.mark.slow
def test_the_process_that_compares_does_so(compared):
    with compared(False) as others:
        found, reasons = collect(others, 120)
    has_itk = importlib.util.find_spec("itk") is not None
    assert [one.method for one in found] == ["random walker", "interpolation"][: 1 + has_itk]
    assert has_itk == (reasons == [])
    assert all("itk-morphologicalcontourinterpolation" in reason for reason in reasons)


# --- time -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that one sets."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


@pytest.mark.parametrize("folds", [0, 2, 3, 5])
@pytest.mark.parametrize("segmenting", [2.0, 30.0, 120.0])
@pytest.mark.parametrize("late", [1.0, 1.2])
@pytest.mark.parametrize("started", [0.0, 60.0])
def test_everything_is_done_when_the_minutes_are(clock, folds, segmenting, late, started):
    """Whatever segmenting takes, and however late learning is, which is known after the first time only."""
    began = time.monotonic()
    clock(started)  # libraries, reading
    table = Timetable(900, folds, voxels=10**6, began=began)
    clock(7)  # looking at the image
    table.prepared(segmenting)
    learnt = []
    for _ in range(folds):
        learnt.append(table.of_fold(0.1))
        clock(late * learnt[-1])
        table.learnt(learnt[-1], late * learnt[-1])
        with table.testing(0.1):  # voxel by voxel, which takes longer
            clock(0.2 * segmenting)
    table.now("scoring")
    clock(folds * 0.3)
    result = table.of_result()
    clock((late if folds else 1.0) * result + segmenting)
    assert -1e-6 <= table.left - table.for_ending <= 0.1 * segmenting + 1e-6
    free = 900 - started
    spent = late * sum(learnt) + folds * (0.2 * segmenting + 0.3)
    assert 0.4 * free <= spent <= 0.55 * free or not folds


def test_time_of_a_stopped_run_counts(clock):
    table = Timetable(900, 3, voxels=1000)
    table.prepared(0.0)
    before = Timetable(900, 3, voxels=1000)
    before.prepared(0.0)
    slot = before.of_fold(0.1)
    table.count_earlier(slot)  # of the first fold
    assert table.of_fold(0.1) == pytest.approx(slot)
    clock(300)
    assert table.of_result() < 600 - slot
    clock(900)
    assert table.of_result() == 1.0  # late, but not for nothing


def test_a_fold_that_is_late_shortens_the_others_and_not_the_result(clock):
    table = Timetable(900, 3, voxels=1000)
    table.prepared(0.0)
    first = table.of_fold(0.1)
    clock(2 * first)
    assert table.of_fold(0.1) == pytest.approx(first / 2, rel=0.01)
    clock(first / 2)
    assert table.of_fold(0.1) == pytest.approx(first / 2, rel=0.01)
    clock(first / 2)
    assert table.of_result() == pytest.approx(450, rel=0.02)


@pytest.mark.parametrize("speed", [1.0, 0.2])
def test_time_left_is_told_from_what_was_measured(clock, speed):
    """Where painted voxels have been seen often enough, learning ends before its time; that is foreseen."""
    table = Timetable(900, 3, voxels=1000)
    assert table.expected() == Forecast(900, is_most=True)
    table.prepared(0.0)
    for number in range(3):
        slot = table.of_fold(0.1)
        assert table.expected().is_most == (number == 0)
        clock(speed * slot / 2)
        table.learning(0.5)
        left = (3.5 - number) * speed * slot + table.for_ending
        assert table.expected().seconds == pytest.approx(left if speed < 1 else table.left, rel=0.05)
        clock(speed * slot / 2)
        table.learning(1.0)
        table.learnt(slot, speed * slot)
    slot = table.of_result()
    clock(speed * slot / 4)
    table.learning(0.25)
    left = 0.75 * speed * slot + table.for_ending
    assert table.expected() == Forecast(pytest.approx(left if speed < 1 else table.left, rel=0.05))
    clock(2000)  # late
    assert table.expected().seconds >= table.for_ending


def test_what_cannot_be_cut_short_is_in_the_time_left_from_the_first_second(clock):
    """30 s for what takes much longer, and 37 s went to reading: never is the time left said to be 0."""
    began = time.monotonic()
    clock(37)
    table = Timetable(30, 3, voxels=10**7, painted=10**5, began=began)
    least = table.least
    assert least > 40
    assert table.expected() == Forecast(least)
    table.now("looking")
    clock(3)
    assert table.expected().seconds == pytest.approx(least - 3)
    table.prepared(12.0)
    for _ in range(3):
        asked = table.of_fold(0.1)
        assert asked == 1.0  # as short as it can be
        before = table.expected().seconds
        clock(1.5)
        assert table.expected().seconds == pytest.approx(before - 1.5)
        table.learnt(asked, 1.5)
    asked = table.of_result()
    clock(1.5)
    table.learnt(asked, 1.5)
    table.now("segmenting")
    assert table.expected().seconds == pytest.approx(1.1 * 12 + table.for_ending)
    clock(5)
    assert table.expected().seconds == pytest.approx(1.1 * 12 - 5 + table.for_ending)
    table.now("ending")
    clock(1)
    assert table.expected().seconds == pytest.approx(table.for_ending - 1)


def test_no_time_is_kept_for_a_page_that_is_not_written(clock):
    """Without an output, and where segmenting all is quicker than voxel by voxel, learning has that time."""
    learnt = []
    for page in (True, False):
        table = Timetable(60, 2, voxels=10**6, page=page)
        table.prepared(1.0)
        table.of_fold(0.1)
        with table.testing(0.1):
            clock(1)  # at this rate all would take 10 s
        table.now("scoring")
        learnt.append(table.of_result())
        clock(1e4)
    assert learnt[1] == pytest.approx(60 - 1 - 1.1 - 0.2)
    assert learnt[0] == pytest.approx(learnt[1] - 3)


def test_what_cannot_be_cut_short_is_told_before_it_begins(files, tmp_path, caplog, monkeypatch):
    image, paint, _ = files
    monkeypatch.setattr("volseg.densification.training.Learning.prepare", stop)
    with caplog.at_level("INFO", "volseg"), pytest.raises(KeyboardInterrupt):
        densify(image, paint, tmp_path / "out", minutes=0.05, compare=False)
    assert re.search(
        r"0:03 minutes are too few: reading took 0:0\d of them, and looking at the image, 3 folds of "
        r"100 steps, segmenting it, and the page take about 0:1\d more",
        caplog.text,
    )
    assert "folds=0 leaves out the score" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "volseg"), pytest.raises(KeyboardInterrupt):
        densify(image, paint, tmp_path / "out2", minutes=5, compare=False)
    assert "too few" not in caplog.text


def stop(*_):
    raise KeyboardInterrupt


# --- progress ---------------------------------------------------------------------------------------------


def test_progress_says_what_is_done_and_how_long_it_takes(clock):
    progress = Progress(900)
    clock(192)
    progress.now("learning, fold 2 of 4")
    progress(0.35)
    assert progress.in_words() == "3:12 of 15:00 minutes, about 11:48 left: learning, fold 2 of 4 (35% of it)"
    progress.expected = lambda: Forecast(61.0, is_most=True)
    assert "of 15:00 minutes, at most 1:01 left" in progress.in_words()
    progress.expected = lambda: Forecast(61.0)
    clock(900)
    assert progress.in_words().startswith("18:12 minutes, about 1:01 left, 15:00 were asked for: learning")
    progress.expected = None  # still reading
    assert progress.in_words().startswith("18:12 minutes, 15:00 were asked for: learning")
    assert Progress(None).in_words() == "0:00 minutes: starting"


def test_where_there_is_no_terminal_a_line_now_and_then_tells(monkeypatch, caplog):
    monkeypatch.setattr("volseg.densification.schedule._SOONEST", 0.05)
    with caplog.at_level("INFO", "volseg"), Progress(1.0).shown() as progress:
        progress.now("reading")
        time.sleep(0.3)
    said = [record.message for record in caplog.records]
    assert said
    assert all(re.fullmatch(r"0:0\d of 0:01 minutes, about 0:0\d left: reading.", text) for text in said)


def test_on_a_terminal_a_bar_moves_while_nothing_is_reported(monkeypatch, capsys):
    monkeypatch.setattr("volseg.densification.schedule._BAR", 0.05)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(60.0).shown() as progress:
        progress.now("looking at the image")
        time.sleep(0.3)
    said = capsys.readouterr().err
    assert said.count("\r") > 3
    assert "looking at the image" in said
    assert "of 1:00 minutes, about" in said


def test_ctrl_c_says_what_it_does_before_and_when_it_is_pressed(files, tmp_path, caplog, monkeypatch):
    image, paint, _ = files
    monkeypatch.setattr("volseg.densification.training.Learning.prepare", stop)
    with caplog.at_level("INFO", "volseg"), pytest.raises(KeyboardInterrupt):
        densify(image, paint, tmp_path / "out", minutes=5, compare=False)
    assert "Ctrl-C ends it after the step at hand and keeps what was learnt, for resume=True." in caplog.text
    assert f"What was learnt before is kept in {tmp_path / 'out'}; repeat the command with r" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", "volseg"), pytest.raises(KeyboardInterrupt):
        densify(image, paint, minutes=5, compare=False)
    assert "Ctrl-C ends it after the step at hand; nothing is kept." in caplog.text


# --- more paint -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_paint_is_better_in_a_quarter_of_the_time(files, tmp_path):
    image, paint, truth = files
    unseen = np.ones(SIZE, bool)
    few = np.zeros_like(truth)
    for axis, indices in PAINTED.items():
        unseen[(slice(None),) * axis + (list(indices),)] = False
    few[..., 11], few[..., 3] = truth[..., 11], truth[..., 3]
    write_volume(paint, few, read_volume(image), overwrite=True)
    first = densify(image, paint, tmp_path / "first", minutes=0.4, folds=0)
    more = few.copy()
    more[..., 18] = truth[..., 18]
    more[:, 6] = truth[:, 6]
    write_volume(paint, more, read_volume(image), overwrite=True)
    second = densify(
        image, paint, tmp_path / "second", minutes=0.1, folds=0, continue_from=tmp_path / "first"
    )
    # Both are right for 99.6 % of the voxels, and learn by the clock: a few voxels more or less are chance.
    right = [np.mean((done.labels == truth)[unseen]) for done in (first, second)]
    assert right[1] >= right[0] - 0.002
