"""What a person or a script may give that nobody expects: it is refused in a sentence, or does no harm."""

import numpy as np
import pytest

from volseg.densification.strokes import live_score
from volseg.errors import InputError, RefusedError, VolsegError
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
