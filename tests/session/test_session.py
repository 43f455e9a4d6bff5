"""The loop without a window: what is painted is learnt, seen, corrected, kept, and handed to densify."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import volseg
from volseg.errors import InputError, RefusedError, ResourceError
from volseg.io import Volume, read_volume, segments_of, write_volume
from volseg.session import Session
from volseg.session.folder import Folder
from volseg.session.painting import packed_values
from volseg.session.worker import Worker

SIZES = ((40, 36, 16), (64, 60))
CLASSES = {1: "spot"}


@pytest.fixture(params=SIZES, ids=["3D", "2D"])
def scene(request):
    """An image ``(C, *spatial)`` with bright spots, and where they are."""
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.standard_normal(request.param), 3)
    truth = (noise > np.quantile(noise, 0.8)).astype(np.uint8)
    image = 100 + 60 * truth + 10 * random.standard_normal(truth.shape)
    return image[None].astype(np.float32), truth


def strokes(session, truth, planes, seed=0):
    """A few of each class on each plane, as a person would draw them."""
    random = np.random.default_rng(seed)
    for axis, index in planes:
        here = truth.take(index, axis) if truth.ndim == 3 else truth
        for value in (0, 1):
            inside = ndimage.binary_erosion(here == value) if (here == value).sum() > 40 else here == value
            places = np.argwhere(inside)
            for _ in range(4):
                centre = places[random.integers(len(places))]
                near = places[np.abs(places - centre).sum(1) < 6]
                mask = np.zeros(here.shape, bool)
                mask[tuple(near.T)] = True
                session.paint(axis, index, mask, value)


def planes(truth):
    return [(2, 8), (0, 20)] if truth.ndim == 3 else [(2, 0)]


def taught(scene, folder=None):
    image, truth = scene
    session = Session(image, folder, CLASSES)
    strokes(session, truth, planes(truth))
    for _ in range(4):
        session.learn(steps=40)
    return session


def iou(found, truth):
    return np.sum(found & truth) / np.sum(found | truth)


def test_strokes_are_learnt_and_painted_voxels_come_back_as_painted(scene):
    session, truth = taught(scene), scene[1]
    for axis, index in planes(truth):
        values, confidence = session.slice(axis, index)
        here = truth.take(index, axis) if truth.ndim == 3 else truth
        assert iou(values == 1, here == 1) > 0.8
        paint = session.paint_slice(axis, index)
        np.testing.assert_array_equal(values[paint != 255], paint[paint != 255])
        assert (confidence[paint != 255] == 1).all()
        assert confidence.min() >= 0.5 - 1e-6
        assert session.known_slice(axis, index).revision == session.model == 4
    assert iou(values == 1, here == 1) > 0.8


def test_before_anything_is_learnt_a_slice_says_that_nothing_is_known(scene):
    image, truth = scene
    session = Session(image, classes=CLASSES)
    axis, index = planes(truth)[0]
    mask = np.zeros(session.paint_slice(axis, index).shape, bool)
    mask[3:5] = True
    session.paint(axis, index, mask, 1)
    values, confidence = session.slice(axis, index)
    np.testing.assert_array_equal(values, np.where(mask, 1, 255))
    np.testing.assert_array_equal(confidence, mask)
    assert not session.can_learn
    with pytest.raises(InputError, match=r"Only one class is painted.*Paint a second one, or background"):
        session.learn(0.1)
    with pytest.raises(RefusedError, match="no result to adopt yet"):
        session.adopt(axis, index)
    with pytest.raises(RefusedError, match="no result to export yet"):
        session.export("x.nii.gz")


def test_the_result_follows_undo(scene):
    session, truth = taught(scene), scene[1]
    axis, index = planes(truth)[0]
    session.paint(axis, index, np.ones(session.paint_slice(axis, index).shape, bool), 1)
    assert not session.is_learnt
    assert (session.slice(axis, index).values == 1).all()
    session.undo()
    assert not (session.slice(axis, index).values == 1).all()


@pytest.mark.parametrize("wrong", [0.08, 0.6])
def test_what_was_learnt_from_a_wrong_stroke_goes_with_it(scene, wrong):
    image, truth = scene
    session = Session(image, classes=CLASSES)
    strokes(session, truth, planes(truth))
    axis, index = planes(truth)[0]
    here = truth.take(index, axis) if truth.ndim == 3 else truth

    def found():
        while not session.is_done:
            session.learn(60)
        return iou(session.slice(axis, index).values == 1, here == 1)

    before = found()
    far = np.arange(len(here))[:, None] < wrong * len(here)
    assert session.paint(axis, index, (here == 0) & far, 1)
    assert found() < before - 0.05
    session.undo()
    assert found() > before - 0.05


def test_what_is_adopted_is_the_result_and_can_be_corrected_and_undone(scene):
    session, truth = taught(scene), scene[1]
    axis, index = planes(truth)[0]
    before = session.labels
    found = session.slice(axis, index).values
    assert session.adopt(axis, index)
    np.testing.assert_array_equal(session.paint_slice(axis, index), found)
    mask = (found == 0) & (np.indices(found.shape).sum(0) < 20)
    assert session.paint(axis, index, mask, 1)
    np.testing.assert_array_equal(session.paint_slice(axis, index), np.where(mask, 1, found))
    session.undo()
    session.undo()
    np.testing.assert_array_equal(session.labels, before)


def test_what_is_painted_while_a_result_is_adopted_stays(scene, monkeypatch):
    session, truth = taught(scene), scene[1]
    axis, index = planes(truth)[0]
    stroke = np.zeros(session.paint_slice(axis, index).shape, bool)
    stroke[:6] = True
    painting = threading.Thread(target=session.paint, args=(axis, index, stroke, 1))
    pack = packed_values

    def slow(values):
        painting.start()
        painting.join(0.3)
        return pack(values)

    monkeypatch.setattr("volseg.session.session.packed_values", slow)
    assert session.adopt(axis, index)
    painting.join()
    assert (session.paint_slice(axis, index)[stroke] == 1).all()


def test_a_name_with_brackets_finds_its_result(tmp_path):
    for name in ("im[1]_segmentation.tif", "im[1]_confidence.tif", "im1_segmentation.tif"):
        (tmp_path / name).touch()
    found = Folder(tmp_path).result("im[1].tif")
    assert found == (tmp_path / "im[1]_segmentation.tif", tmp_path / "im[1]_confidence.tif")
    assert Folder(tmp_path).result("im1.tif") is None


def test_densify_replaces_what_is_in_its_own_folder_only(scene, tmp_path, monkeypatch):
    session, given = Session(scene[0], tmp_path / "own", CLASSES), []
    (tmp_path / "own" / "settings.json").write_text('{"choices": {}}')  # of a result of densify

    def densify(image, paint, target, **choices):
        given.append((target, choices["overwrite"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("volseg.session.session.densify", densify)
    monkeypatch.chdir(tmp_path)
    for folder in (None, "own", "other"):
        with pytest.raises(KeyboardInterrupt):
            session.densify(folder=folder)
    assert given == [(tmp_path / "own", True), (Path("own"), True), (Path("other"), False)]


def test_the_same_acts_and_steps_give_the_same_model_bit_for_bit(scene):
    first, second = taught(scene), taught(scene)
    for axis, index in planes(scene[1]):
        for one, other in zip(first.slice(axis, index), second.slice(axis, index), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_class_that_is_not_painted_is_found_nowhere(scene):
    image, truth = scene
    session = Session(image, classes={2: "spot", 3: "rest", 4: "nothing"})
    for axis, index in planes(truth):
        here = truth.take(index, axis) if truth.ndim == 3 else truth
        session.paint(axis, index, ndimage.binary_erosion(here == 1), 2)
        session.paint(axis, index, ndimage.binary_erosion(here == 0, iterations=3), 3)
    session.learn(steps=1)
    for plane in planes(truth):
        values, confidence = session.slice(*plane)
        assert set(np.unique(values)) <= {2, 3}
        assert np.isfinite(confidence).all()


def test_a_class_that_comes_later_is_learnt_too(scene):
    session, truth = taught(scene), scene[1]
    session.set_class(5, name="corner")
    axis, index = planes(truth)[0]
    mask = np.zeros(session.paint_slice(axis, index).shape, bool)
    mask[:4, :4] = True
    session.paint(axis, index, mask, 5)
    session.learn(steps=20)
    assert set(np.unique(session.slice(axis, index).values)) <= {0, 1, 5}
    assert (session.slice(axis, index).values[mask] == 5).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".tif", ".nrrd", ".mha"])
def test_paint_and_result_are_written_in_every_format(scene, tmp_path, suffix):
    session = taught(scene)
    paint = read_volume(session.export(tmp_path / f"p{suffix}", "paint"), labels=True)
    np.testing.assert_array_equal(paint.array[0], session.labels)
    written = read_volume(session.export(tmp_path / f"r{suffix}"), labels=True).array[0]
    for axis, index in planes(scene[1]):
        plane = written.take(index, axis) if written.ndim == 3 else written
        np.testing.assert_array_equal(plane, session.slice(axis, index).values)
    with pytest.raises(RefusedError, match="exists"):
        session.export(tmp_path / f"r{suffix}")


def test_paint_too_large_for_an_array_is_written_piece_by_piece(scene, tmp_path, monkeypatch):
    session = taught(scene)
    labels = session.labels
    monkeypatch.setattr("volseg.session.session.DENSE", 100)
    monkeypatch.setattr("volseg.session.folder._SLAB", 7)
    for suffix in (".tif", ".nii", ".nrrd", ".mha"):
        path = session.export(tmp_path / f"p{suffix}", "paint")
        np.testing.assert_array_equal(read_volume(path, labels=True).array[0], labels)
    with pytest.raises(RefusedError, match="exists"):
        session.export(path, "paint")
    with pytest.raises(
        InputError, match=r"voxels are written piece by piece, which \.ome\.zarr.*Choose a name"
    ):
        session.export(tmp_path / "p.nii.gz", "paint")
    with pytest.raises(ResourceError, match=r"is found slice by slice only.*Cut the part that matters"):
        session.export(tmp_path / "r.nii")


def test_a_segmentation_of_slicer_has_names_and_colours_and_can_be_painted_on(tmp_path):
    image = np.zeros((1, 12, 10, 8), np.uint8)
    session = Session(image, classes=CLASSES)
    mask = np.zeros((12, 10), bool)
    mask[2:4] = True
    session.paint(2, 3, mask, 1)
    session.paint(2, 3, ~mask, 0)
    session.set_class(1, colour=(255, 0, 51))
    path = session.export(tmp_path / "p.seg.nrrd", "paint")
    segments = {s.name: s for s in segments_of(read_volume(path, labels=True))}
    assert segments["spot"].colour == pytest.approx((1, 0, 0.2))
    assert set(segments) == {"spot", "background"}
    write_volume(tmp_path / "i.nii.gz", image[0], Volume(image, np.eye(4)))
    again = Session(tmp_path / "i.nii.gz", paint=path)
    assert again.classes == session.classes
    np.testing.assert_array_equal(again.labels, session.labels)


def test_a_size_that_is_given_counts_for_paint_too_and_there_is_a_class_to_begin_with(tmp_path):
    image = np.random.default_rng(0).random((1, 20, 18, 9)).astype(np.float32)
    paint = np.zeros((20, 18, 9), np.uint8)
    paint[3:9, 4:8, 4] = 1
    for name, array in (("i.tif", image[0]), ("p.tif", paint)):
        write_volume(tmp_path / name, array, Volume(array[None], np.eye(4)))
    session = Session(tmp_path / "i.tif", paint=tmp_path / "p.tif", spacing="0.5,0.5,2um")
    assert session.spacing == pytest.approx((0.5, 0.5, 2))
    assert (session.labels == 1).sum() == 24
    assert {v: c.name for v, c in Session(image).classes.items()} == {0: "background", 1: "class 1"}


def test_paint_of_another_program_is_where_a_session_starts(tmp_path):
    image = np.random.default_rng(0).random((1, 20, 18, 9)).astype(np.float32)
    paint = np.zeros((20, 18, 9), np.uint8)
    paint[3:9, 4:8, 4] = 2
    write_volume(tmp_path / "i.nii.gz", image[0], Volume(image, np.eye(4)))
    write_volume(tmp_path / "p.nii.gz", paint, Volume(paint[None], np.eye(4)))
    session = Session(
        tmp_path / "i.nii.gz", tmp_path / "out", paint=tmp_path / "p.nii.gz", read={"names": {2: "x"}}
    )
    expected = np.full(paint.shape, 255, np.uint8)
    expected[..., 4] = paint[..., 4]
    np.testing.assert_array_equal(session.labels, expected)
    assert session.finished == {(2, 4)}
    assert {v: c.name for v, c in session.classes.items()} == {0: "background", 2: "x"}
    assert not session.undo()
    session.close()
    with Session.open(tmp_path / "out") as again:
        np.testing.assert_array_equal(again.labels, expected)
    with pytest.raises(RefusedError, match="holds a session already, which has its own paint"):
        Session(tmp_path / "i.nii.gz", tmp_path / "out", paint=tmp_path / "p.nii.gz")


@pytest.mark.slow
def test_densify_takes_the_paint_and_a_session_opens_what_it_made(scene, tmp_path):
    image, truth = scene
    name = tmp_path / "spots.nii.gz"
    write_volume(name, image[0], Volume(image, np.eye(image.ndim)))
    with Session(name, tmp_path / "out", CLASSES) as session:
        strokes(session, truth, planes(truth))
        labels = session.labels
        done = session.densify(0.05, folds=0, compare=False)
        session.learn(steps=20)  # as beside the page, from the same paint
        found = [session.known_slice(*plane) for plane in planes(truth)]
        assert all(one.revision == 0 for one in found)
        assert session.score().value is None
        assert "nothing could be held out" in session.score().reason
    on = labels != 255
    np.testing.assert_array_equal(done.labels[on], labels[on])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["choices"]["unlabelled"] == 255
    with Session.open(tmp_path / "out") as again:
        np.testing.assert_array_equal(again.labels, labels)
        for plane, before in zip(planes(truth), found, strict=True):
            np.testing.assert_array_equal(again.slice(*plane).values, before.values)


@pytest.mark.slow
def test_what_densify_made_by_itself_is_opened_and_opened_again(scene, tmp_path):
    image, truth = scene
    like = Volume(image, np.eye(image.ndim))
    with Session(like, classes=CLASSES) as session:
        strokes(session, truth, planes(truth))
        labels = session.labels
    write_volume(tmp_path / "i.nii.gz", image[0], like)
    write_volume(tmp_path / "p.nii.gz", labels, like)
    done = volseg.densify(
        tmp_path / "i.nii.gz", tmp_path / "p.nii.gz", tmp_path / "out", unlabelled=255,
        names={0: "background", 1: "spot"}, minutes=0.05, folds=0, compare=False,
    )  # fmt: skip
    axis, index = planes(truth)[0]
    found = done.labels.take(index, axis) if done.labels.ndim == 3 else done.labels
    for _ in range(2):
        with Session.open(tmp_path / "out") as session:
            np.testing.assert_array_equal(session.labels, labels)
            assert session.known_slice(axis, index).revision == 0
            np.testing.assert_array_equal(session.slice(axis, index).values, found)
    one = {"value": 0.7, "low": 0.6, "high": 0.8}
    reported = {"volseg": {"headline": {"IoU": one}, "IoU": {"background": one, "spot": one}}}
    (tmp_path / "out" / "scores.json").write_text(json.dumps({"scores": reported}))
    with Session.open(tmp_path / "out") as session:
        score = session.score()
        assert (score.value, score.low, score.high) == (0.7, 0.6, 0.8)
        assert score.per_class == dict.fromkeys((0, 1), (0.7, 0.6, 0.8))
    with Session.open(tmp_path / "out") as session:
        assert session.paint(axis, index, (found == 1) & (session.paint_slice(axis, index) == 255), 0)
        session.learn(steps=20)
        assert session.known_slice(axis, index) is None
        assert session.score().value != 0.7
    with Session.open(tmp_path / "out") as session:
        assert session.known_slice(axis, index) is None


@pytest.mark.slow
def test_densify_can_be_watched_and_stopped_from_another_thread(scene, tmp_path):
    image, truth = scene
    said, found, began = [], [], threading.Event()
    over = threading.Event()
    session = Session(image, tmp_path / "out", CLASSES)
    strokes(session, truth, planes(truth))

    def on_progress(share, words):
        said.append((share, words))
        if "learning" in words:
            began.set()

    def work():
        try:
            session.densify(5, folds=0, compare=False, on_progress=on_progress, should_stop=over.is_set)
        except KeyboardInterrupt:
            found.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(60)
    over.set()
    thread.join(60)
    assert found == ["stopped"]
    assert all(share is None or 0 <= share <= 1 for share, _ in said)
    assert session.known_slice(*planes(truth)[0]) is None
    session.close()
    assert not list((tmp_path / "out").glob("*_segmentation*"))


@pytest.mark.slow
def test_densify_continues_a_session(scene, tmp_path):
    image, truth = scene
    name = tmp_path / "spots.nii.gz"
    write_volume(name, image[0], Volume(image, np.eye(image.ndim)))
    with Session(name, tmp_path / "out", {3: "never painted", 1: "spot"}) as session:
        strokes(session, truth, planes(truth))
        for _ in range(4):
            session.learn(steps=40)
        found = session.slice(*planes(truth)[0]).values
        session.save()
    done = volseg.densify(
        name, tmp_path / "out" / "spots_paint.nii.gz", tmp_path / "more", continue_from=tmp_path / "out",
        minutes=0.01, folds=0, compare=False,
    )  # fmt: skip
    axis, index = planes(truth)[0]
    plane = done.labels.take(index, axis) if done.labels.ndim == 3 else done.labels
    assert np.mean(plane == found) > 0.85
    settings = json.loads((tmp_path / "more" / "settings.json").read_text())
    assert settings["unlabelled"] == 255
    more = volseg.densify(
        name, tmp_path / "out" / "spots_paint.nii.gz", tmp_path / "third", continue_from=tmp_path / "more",
        minutes=0.01, folds=0, compare=False,
    )  # fmt: skip
    assert set(np.unique(more.labels)) == {0, 1}
    with Session.open(tmp_path / "more") as opened:
        np.testing.assert_array_equal(opened.labels, read_volume(settings["labels"][0]["path"]).array[0])
    applied = volseg.densify(image=image, output=tmp_path / "alone", apply=tmp_path / "out")
    assert np.mean(applied.labels == truth) > 0.9


def test_a_place_is_suggested_where_the_result_is_least_sure(scene):
    session, truth = taught(scene), scene[1]
    place = session.suggest()
    assert set(place.classes) == {"background", "spot"}
    assert "background or spot?" in place.text or "spot or background?" in place.text
    doubt = 1 - session.slice(place.axis, place.index).confidence
    near = tuple(slice(max(p - 4, 0), p + 5) for p in place.point)
    assert doubt[near].mean() > doubt.mean()
    assert session.paint_slice(place.axis, place.index)[place.point] == 255
    assert Session(scene[0], classes=CLASSES).suggest() is None
    if truth.ndim == 3:
        tall = Session(Volume(scene[0], np.diag([1.0, 1.0, 5.0, 1.0])), classes=CLASSES)
        strokes(tall, truth, planes(truth))
        tall.learn(steps=40)
        assert tall.suggest().axis == 2


def test_there_is_no_number_before_there_is_enough_paint_and_one_with_an_interval_after(scene):
    image, truth = scene
    session = Session(image, classes=CLASSES)
    assert session.score().value is None
    strokes(session, truth, planes(truth)[:1])
    session.learn(steps=40)
    assert "Too little paint to tell" in session.score().reason or session.score().value is not None
    where = [(a, p) for a in range(3) for p in (3, 8, 13)] if truth.ndim == 3 else [(2, 0)] * 6
    for seed, plane in enumerate(where):
        strokes(session, truth, [plane], seed)
    for _ in range(3):
        session.learn(steps=40)
    found = session.score()
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert set(found.per_class) == {0, 1}
    stack = (
        [session.slice(2, i).values for i in range(truth.shape[2])]
        if truth.ndim == 3
        else [session.slice(2, 0).values]
    )
    right = iou(np.stack(stack, -1).reshape(truth.shape) == 1, truth == 1)
    assert abs(found.value - right) < 0.2
    assert json.loads(json.dumps(found.as_json()))["per_class"]["1"]["low"] <= found.per_class[1][0]
    assert session.score(should_stop=lambda: True) is None


def test_of_a_volume_too_large_only_what_is_around_the_person_is_segmented(scene, tmp_path, monkeypatch):
    _, truth = scene
    monkeypatch.setattr("volseg.session.found._ALL", 1000)
    monkeypatch.setattr("volseg.session.found._AROUND", 6)
    session = taught(scene)
    whole = session.slice(*planes(truth)[0]).values
    assert (whole != 255).all()
    position = [20, 18, 8][: truth.ndim]
    session.look(position)
    values, confidence = session.slice(*planes(truth)[0])
    around = np.zeros(values.shape, bool)
    around[14:26, 12:24] = True
    paint = session.paint_slice(*planes(truth)[0])
    np.testing.assert_array_equal(values, np.where(around | (paint != 255), whole, 255))
    np.testing.assert_array_equal(confidence == 0, ~around & (paint == 255))
    written = read_volume(session.export(tmp_path / "r.tif"), labels=True).array[0]  # all of it all the same
    np.testing.assert_array_equal(written.take(8, 2) if written.ndim == 3 else written, whole)


class TestWorker:
    @pytest.fixture
    def working(self, scene):
        import threading

        news, heard = [], threading.Condition()

        def on_news(item):
            with heard:
                news.append(dict(item))
                heard.notify_all()

        def wait_for(kind, **facts):
            def there():
                return any(n["kind"] == kind and facts.items() <= n.items() for n in news)

            with heard:
                assert heard.wait_for(there, timeout=60), (kind, facts, news[-5:])

        session = Session(scene[0], classes=CLASSES)
        worker = Worker(session, on_news)
        worker.start()
        yield session, worker, wait_for, news
        worker.stop()

    def test_after_a_stroke_what_is_visible_is_learnt_and_segmented(self, scene, working):
        session, worker, wait_for, news = working
        position = [20, 18, 8][: len(session.size)]
        worker.look(position)
        strokes(session, scene[1], planes(scene[1]))
        worker.painted()
        wait_for("model")
        visible = [(a, p) for a, p in enumerate(position)] if len(position) == 3 else [(2, 0)]
        for axis, index in visible:
            wait_for("plane", axis=axis, index=index)
            assert session.known_slice(axis, index) is not None
        assert not any(item["kind"] == "trouble" for item in news)

    def test_what_goes_wrong_is_reported_and_painting_goes_on(self, scene, working, monkeypatch):
        session, worker, wait_for, _ = working

        def fail(*_, **__):
            raise MemoryError("no memory left")

        monkeypatch.setattr(session, "learn", fail)
        strokes(session, scene[1], planes(scene[1]))
        worker.painted()
        wait_for("trouble", what="Learning has failed: MemoryError('no memory left'). Painting goes on.")
        monkeypatch.undo()
        strokes(session, scene[1], planes(scene[1]), seed=1)
        worker.painted()
        wait_for("model")
