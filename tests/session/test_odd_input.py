"""What a person or a script may give that nobody expects: it is refused in a sentence, or does no harm."""

import numpy as np
import pytest

from volseg.densification.strokes import live_score
from volseg.errors import InputError, RefusedError, VolsegError
from volseg.io import Volume, write_volume
from volseg.session import Session
from volseg.session.shapes import flooded
from volseg.session.worker import Worker

SIZES = ((24, 20, 12), (30, 26))


@pytest.fixture(params=SIZES, ids=["3D", "2D"])
def image(request):
    """Two halves ``(1, *spatial)``, dark and bright."""
    grey = np.random.default_rng(0).normal(0, 0.2, request.param)
    grey[: len(grey) // 2] += 1
    return grey[None].astype(np.float32)


def plane_of(session, index=0):
    return 2, index if len(session.size) == 3 else 0


def paint_both(session, index=0, values=(0, 1)):
    axis, index = plane_of(session, index)
    mask = np.zeros(session.paint_slice(axis, index).shape, bool)
    mask[:4] = True
    assert session.paint(axis, index, mask, values[0])
    assert session.paint(axis, index, mask[::-1], values[1])


def refusal(do):
    """What is said."""
    with pytest.raises((VolsegError, ValueError)) as caught:
        do()
    return str(caught.value)


@pytest.mark.parametrize("undone", [1, 2])
def test_without_two_painted_classes_nothing_is_known_whatever_was_learnt(image, tmp_path, undone):
    session = Session(image, tmp_path / "out", {1: "a"})
    paint_both(session)
    session.learn(steps=20)
    shown, other = plane_of(session), plane_of(session, 5)
    assert (session.slice(*shown).values != 255).all()
    for _ in range(undone):
        session.undo()
    for place in (shown, other):
        painted = session.paint_slice(*place)
        for found in (session.slice(*place), session.known_slice(*place)):
            np.testing.assert_array_equal(found.values, painted)
            np.testing.assert_array_equal(found.confidence, painted != 255)
    with pytest.raises(RefusedError, match="Paint two classes"):
        session.adopt(*other)
    with pytest.raises(RefusedError, match="Paint two classes"):
        session.export(tmp_path / "r.tif")
    assert session.suggest() is None
    for _ in range(undone):
        session.redo()
    assert (session.slice(*shown).values != 255).all()
    session.set_class(2, name="b")
    session.set_class(3, name="c")
    for _ in range(2):
        session.undo()
    assert (session.slice(*shown).values == 255).all()
    paint_both(session, values=(2, 3))  # what was learnt is of other classes
    assert (session.slice(*other).values[4:-4] == 255).all()
    session.close()


def test_a_window_hears_when_the_result_is_no_longer_known(image):
    session, news = Session(image), []
    worker = Worker(session, news.append)
    paint_both(session)
    session.learn(steps=5)
    worker._next()
    session.undo()
    news.clear()
    while worker._next() and not news:
        pass
    assert news[0]["kind"] == "model"


@pytest.mark.parametrize("size", [(30, 30), (30, 30, 1)])
@pytest.mark.parametrize("seed", [3, 4])
def test_paint_that_touches_everywhere_is_too_little_to_tell(size, seed):
    labels = np.random.default_rng(seed).integers(0, 2, size).astype(np.uint8)

    def learn_without(left_out):
        assert len(np.unique(labels[~left_out])) == 2
        return lambda where: np.zeros((2, where.sum()), np.float32)

    found = live_score(labels, (1.0,) * len(size), learn_without, names=["a", "b"])
    assert found.value is None
    assert "Too little paint to tell" in found.reason
    assert "all paint of every class but one touches it" in found.reason


@pytest.mark.parametrize("failing", ["learn", "slice", "score", "build"])
def test_what_fails_beside_painting_is_said_once(image, monkeypatch, failing):
    session, news = Session(image), []
    worker = Worker(session, news.append)
    monkeypatch.setattr("volseg.session.worker._PAUSE", 0)
    monkeypatch.setattr("volseg.session.worker._TICK", 0)
    monkeypatch.setattr("volseg.session.worker._AHEAD", 0)

    def fail(*_, **__):
        raise InputError("It cannot be done.")

    if failing == "build":
        monkeypatch.setattr(session.prepare(), "build", fail)
    else:
        paint_both(session)
        if failing != "learn":
            session.learn(steps=5)
            monkeypatch.setattr(Session, "is_done", True)
        monkeypatch.setattr(session, failing, fail)
    looks = iter(range(400))
    worker._over = type("Over", (), {"is_set": lambda _: next(looks, None) is None})()
    worker._run()
    said = [each for each in news if each["kind"] == "trouble"]
    assert len(said) == (len(worker._visible) if failing == "slice" else 1), said


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_a_fill_that_begins_at_a_value_that_is_not_finite_stays_there(image, odd):
    session = Session(image)
    image[(0, 3, 3, 0)[: image.ndim]] = odd
    axis, index = plane_of(session)
    assert session.fill(axis, index, (3, 3), 1, 0.5)
    assert session.counts()[1] == 1
    plane = np.zeros((1, 6, 6))
    plane[0, 2:4, 2:4] = odd
    assert flooded(plane, (2, 2), 0).sum() == (1 if np.isnan(odd) else 4)
    assert flooded(plane, (0, 0), 1e9).sum() == 32


@pytest.mark.parametrize("tolerance", [-1, np.nan])
def test_a_tolerance_is_at_least_zero(image, tolerance):
    session = Session(image)
    with pytest.raises(ValueError, match=r"tolerance = .* must be a difference of grey values, at least 0"):
        session.fill(*plane_of(session), (3, 3), 1, tolerance)
    assert session.counts()[1] == 0


@pytest.mark.parametrize("given", [None, 5, [], [np.zeros((1, 8, 8))], b"x", object()])
def test_what_is_no_image_is_refused_by_name(given):
    assert "cannot be painted on. Give a file, several files" in refusal(lambda: Session(given))


@pytest.mark.parametrize("dtype", [complex, object, "U3", "datetime64[s]"])
def test_an_image_holds_whole_or_real_numbers(image, dtype):
    said = refusal(lambda: Session(image.astype(int).astype(dtype)))
    assert "cannot be painted on" in said
    assert "whole or real numbers" in said


@pytest.mark.parametrize("shape", [(0, 8, 8, 8), (1, 8, 0), (1, 0, 8, 8)])
def test_an_image_has_a_voxel(shape):
    assert "at least one voxel" in refusal(lambda: Session(np.zeros(shape)))


def test_of_a_volume_of_one_slice_that_slice_is_suggested():
    grey = np.random.default_rng(0).normal(0, 0.2, (1, 40, 30, 1)).astype(np.float32)
    grey[:, :20] += 1
    session = Session(grey)
    paint_both(session)
    session.learn(steps=20)
    place = session.suggest()
    assert (place.axis, place.index) == (2, 0)


CLASS_SETS = (
    {1: "a", 7: "b", 253: "c", 254: "d"},
    {0: "rest", 1: "background"},
    {0: "void", 2: "rest", 3: "background"},
    {0: "never painted", 3: "nor this", 200: "x y"},
    {value: f"class {value}" for value in range(1, 254)},
)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("classes", CLASS_SETS, ids=range(len(CLASS_SETS)))
def test_paint_in_a_segmentation_comes_back_as_it_was(image, tmp_path, monkeypatch, classes, whole, large):
    session = Session(image, classes=classes)
    random = np.random.default_rng(0)
    used = [v for v, info in session.classes.items() if not info.name.startswith(("never", "nor"))]
    for index in range(session.size[2] if len(session.size) == 3 else 1):
        values = random.choice([*used, *([] if whole else [255])], session.paint_slice(2, index).shape)
        for value in used:
            session.paint(2, index, values == value, value)
    for value in session.classes:
        session.set_class(value, colour=random.integers(0, 256, 3))
    if large:
        monkeypatch.setattr("volseg.session.session.DENSE", 100)
    path = session.export(tmp_path / "p.seg.nrrd", "paint")
    again = Session(image, paint=path)
    np.testing.assert_array_equal(again.labels, session.labels)
    assert again.classes == session.classes


def test_a_segmentation_has_no_value_for_background_where_all_are_classes(image, tmp_path):
    session = Session(image, classes={value: f"class {value}" for value in range(1, 255)})
    paint_both(session)
    said = refusal(lambda: session.export(tmp_path / "p.seg.nrrd", "paint"))
    assert "there are 254 classes, which leaves no value for background" in said
    assert "Choose a name that ends in" in said
    assert session.export(tmp_path / "p.nrrd", "paint").exists()


def test_how_paint_is_read_names_what_there_is(image, tmp_path):
    session = Session(image)
    paint_both(session)
    path = session.export(tmp_path / "p.tif", "paint")
    said = refusal(lambda: Session(image, paint=path, read={"bogus": 1}))
    assert said == (
        "read = {'bogus': ...} is not known; there are unlabelled, painted_only, finished, names, colours."
    )


def written(path, labels):
    write_volume(path, labels, Volume(labels[None], np.eye(labels.ndim + 1)))
    return path


def test_an_unlabelled_value_among_classes_is_asked_for(image, tmp_path):
    labels = np.full(image.shape[1:], 255, np.uint16)
    plane = labels[..., 4] if labels.ndim == 3 else labels
    plane[3:8, 3:8], plane[12:18, 3:8] = 254, 7
    labels[(slice(3, 5), slice(12, 18), 7)[: labels.ndim]] = 7
    path = written(tmp_path / "p.tif", labels)
    said = refusal(lambda: Session(image, paint=path))
    assert "holds the value 255" in said
    assert "say so: unlabelled=255" in said
    session = Session(image, paint=path, read={"unlabelled": 255})
    np.testing.assert_array_equal(session.labels, labels)


def test_paint_in_which_nothing_is_painted_is_a_session_like_any(image, tmp_path):
    path = written(tmp_path / "p.tif", np.zeros(image.shape[1:], np.uint8))
    names = {value: info.name for value, info in Session(image, paint=path).classes.items()}
    assert names == {0: "background", 1: "class 1"}


@pytest.mark.parametrize(
    "classes", [{np.int64(1): "a", np.uint8(2): "b"}, {"1": "a", "2": "b"}, {1: "a", 2: "b"}, {1: 5, 2: "b"}]
)
def test_classes_are_taken_the_second_time_as_the_first(image, tmp_path, classes):
    names = {}
    for _ in range(2):
        with Session(image, tmp_path / "out", classes) as session:
            names = {value: info.name for value, info in session.classes.items()}
        assert names == {0: "background", 1: str(next(iter(classes.values()))), 2: "b"}
    journal = (tmp_path / "out" / "paint.jsonl").read_text()
    assert journal.count('"class"') == 3


def test_two_classes_can_swap_their_names(image, tmp_path):
    for classes in ({1: "a", 2: "b"}, {1: "b", 2: "a"}, {1: "b", 2: "a"}):
        with Session(image, tmp_path / "out", classes) as session:
            assert {v: session.classes[v].name for v in (1, 2)} == classes
    with pytest.raises(ValueError, match="the name 'a' is empty or that of another class"):
        Session(image, tmp_path / "out", {1: "a"})


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        ({1.5: "a"}, r"value = 1\.5 must be a whole number from 0 to 254"),
        ({True: "a"}, "value = True must be a whole number"),
        ({255: "a"}, "value = 255 must be a whole number from 0 to 254"),
        ({"x": "a"}, "value = 'x' must be a whole number"),
        ({1: "a", "1": "b"}, "names the value 1 twice"),
        ({1: "a", 2: "a"}, "the name 'a' is empty or that of another class"),
        ({1: " "}, "the name ' ' is empty"),
        ({1: "a\nb"}, r"the name 'a\\nb' holds a line break"),
        ({1: "a\ud800"}, "holds half a character, which no file can"),
    ],
)
def test_what_cannot_be_a_class_is_refused(image, classes, why):
    with pytest.raises(ValueError, match=why):
        Session(image, classes=classes)


@pytest.mark.parametrize(
    ("axis", "index"),
    [(2, 12), (3, 0), (-1, 0), (1.7, 0), (2, 1.5), (2, "1"), ("2", 0), (2, None), (True, 0)],
)
def test_a_slice_that_there_is_not_is_refused_by_every_act(image, axis, index):
    session = Session(image)
    mask = np.ones(session.paint_slice(2, 0).shape, bool)
    acts = {
        "paint": lambda: session.paint(axis, index, mask, 1),
        "stroke": lambda: session.stroke(axis, index, [(1, 1)], 1, 1),
        "polygon": lambda: session.polygon(axis, index, [(1, 1)], 1),
        "fill": lambda: session.fill(axis, index, (1, 1), 1, 1),
        "erase": lambda: session.erase(axis, index, mask),
        "finish": lambda: session.finish_slice(axis, index),
        "adopt": lambda: session.adopt(axis, index),
        "slice": lambda: session.slice(axis, index),
        "known": lambda: session.known_slice(axis, index),
        "image": lambda: session.image_slice(axis, index),
        "labels": lambda: session.paint_slice(axis, index),
    }
    for name, act in acts.items():
        with pytest.raises(ValueError, match=r"must be|is outside: slices along|one plane") as caught:
            act()
        assert type(caught.value) is ValueError, name
    assert session.revision == 0
    assert session.finish_slice(np.int64(2), np.uint8(0))


@pytest.mark.parametrize("where", ["a" * 300 + ".tif", "/proc/x.tif"])
def test_a_name_that_no_file_can_have_is_refused_for_what_it_is(image, tmp_path, where):
    session = Session(image)
    said = refusal(lambda: session.export(tmp_path / where, "paint"))
    assert "disk is full" not in said
    assert "name is too long. Choose a shorter one" in said or "No such file or directory" in said


def test_of_a_volume_too_large_it_is_said_what_can_be_done(image, monkeypatch):
    session = Session(image)
    paint_both(session)
    assert "Learn first" in refusal(lambda: session.adopt(*plane_of(session, 5)))
    session.learn(steps=5)
    monkeypatch.setattr("volseg.session.judging._DENSE", 100)
    assert "Make the volume: that is scored" in session.score().reason
    monkeypatch.setattr("volseg.session.judging.DENSE", 100)
    assert "Cut the part that matters out of the image, and paint on that" in session.score().reason
    monkeypatch.setattr("volseg.session.canvas.DENSE", 100)
    assert "or cut the part that matters out of the image" in refusal(lambda: session.densify(0.1))
    if len(session.size) == 3:
        monkeypatch.setattr("volseg.session.found._ALL", 100)
        monkeypatch.setattr("volseg.session.found._AROUND", 2)
        session.look([12, 10, 9])
        said = refusal(lambda: session.adopt(2, 3))
        assert "lies outside of the part that is segmented" in said
        assert "two classes" not in said


def test_undo_takes_back_paint_of_a_class_that_was_locked_since(image):
    session = Session(image)
    paint_both(session)
    session.set_class(1, locked=True)
    assert session.undo()
    assert session.counts() == {0: session.counts()[0], 1: 0}
    assert session.redo()
    assert session.counts()[1] > 0
