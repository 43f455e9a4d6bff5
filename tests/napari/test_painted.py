"""Paint in a napari layer is paint of the session, and the other way round; the result keeps off it."""

import numpy as np
import pytest

from volseg.io import Volume

pytest.importorskip("napari", reason="napari is an extra that .ci/run installs: pip install 'volseg[napari]'")
from volseg.napari.painted import PaintLayer, ResultLayers
from volseg.session import Session

SIZES = {"3D": (24, 20, 9), "2D": (24, 20)}


@pytest.fixture(params=SIZES, ids=str)
def session(request):
    size = SIZES[request.param]
    image = np.random.default_rng(0).normal(0, 0.1, (1, *size)).astype(np.float32)
    image[:, 10:] += 2
    affine = np.diag([0.5, 0.25, 2.0][: len(size)] + [1.0])
    return Session(Volume(image, affine, "um"), classes={1: "wall"})


@pytest.fixture
def painted(session):
    seen = []
    layer = PaintLayer(session, seen.append, seen.append)
    layer.seen = seen
    return layer


def agree(painted, session):
    np.testing.assert_array_equal(painted.layer.data, session.labels.T)


def start_of(session):
    """A voxel of napari, not in the middle of any axis."""
    return (3, 12, 6) if len(session.size) == 3 else (12, 6)


def test_a_brush_an_eraser_a_fill_and_undo_go_into_the_session(painted, session):
    layer = painted.layer
    layer.paint(start_of(session), 1)
    agree(painted, session)
    assert 0 < (session.labels == 1).sum() < 40
    where = (6, 12, 3)[: len(session.size)]
    assert session.labels[where] == 1
    assert painted.seen == [[(2, 3) if len(session.size) == 3 else (2, 0)]]
    layer.undo()
    agree(painted, session)
    assert (session.labels == 255).all()
    layer.redo()
    agree(painted, session)
    layer.brush_size = 2
    layer.paint(start_of(session), layer.colormap.background_value)  # what the eraser paints
    agree(painted, session)
    assert session.labels[where] == 255
    layer.fill((0,) * len(session.size), 0)
    agree(painted, session)
    assert session.counts()[0] > 100


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_stroke_is_one_act_whatever_the_plane(axis):
    session = Session(np.zeros((1, 24, 20, 9)), classes={1: "wall"})
    layer = PaintLayer(session, lambda _: None, lambda _: None)
    part = tuple(slice(4, 6) if a == axis else slice(2, 8) for a in range(3))
    part = tuple(slice(4, 5) if a == axis else p for a, p in enumerate(part))
    layer.layer.data[part[::-1]] = 1
    layer.layer.refresh()
    assert (session.labels[part] == 1).all()
    assert (session.labels == 1).sum() == 36
    assert session.undo()
    assert not session.can_undo
    layer.show([(axis, 4)])
    assert (layer.layer.data == 255).all()


def test_a_ball_is_painted_slice_by_slice(painted, session):
    painted.layer.n_edit_dimensions = len(session.size)
    painted.layer.brush_size = 20
    painted.layer.paint(start_of(session), 1)
    agree(painted, session)
    assert len(painted.seen[0]) == (3 if len(session.size) == 3 else 1)


def test_a_new_number_is_a_new_class(painted, session):
    painted.layer.paint(start_of(session), 7)
    assert session.classes[7].name == "class 7"
    assert painted.layer.colormap.map(7)[3] == 1
    agree(painted, session)


def test_a_locked_class_stays_and_the_layer_shows_it(painted, session):
    painted.layer.paint(start_of(session), 1)
    session.set_class(1, locked=True)
    before = session.labels
    painted.layer.paint(start_of(session), 0)
    np.testing.assert_array_equal(session.labels, before)
    agree(painted, session)
    painted.layer.paint((0,) * len(session.size), 1)
    assert any("wall is locked" in text for text in painted.seen if isinstance(text, str))
    agree(painted, session)


def test_the_result_lies_over_the_image_and_never_changes_what_is_painted(painted, session):
    results = ResultLayers(session)
    assert (results.result.data == 255).all()
    painted.layer.brush_size = 3
    painted.layer.paint((3, 12, 3)[-len(session.size) :], 0)
    painted.layer.paint((3, 12, 18)[-len(session.size) :], 1)
    session.learn(steps=30)
    wrong = (6, 12, 3)[: len(session.size)]
    session.paint(2, wrong[2] if len(wrong) == 3 else 0, np.eye(24, 20, dtype=bool), 1)
    painted.show([(2, 3) if len(wrong) == 3 else (2, 0)])
    one = (2, 3) if len(session.size) == 3 else (2, 0)
    found = session.slice(*one)
    results.show([one])
    shown = results.result.data[3] if len(session.size) == 3 else results.result.data
    np.testing.assert_array_equal(shown, found.values.T)
    paint = session.paint_slice(*one).T
    np.testing.assert_array_equal(shown[paint != 255], paint[paint != 255])
    doubt = results.doubt.data[3] if len(session.size) == 3 else results.doubt.data
    np.testing.assert_allclose(doubt, 100 * (1 - found.confidence.T), atol=0.51)
    assert (doubt[paint != 255] == 0).all()
    for layer in (painted.layer, results.result, results.doubt):
        np.testing.assert_allclose(layer.scale, [2.0, 0.25, 0.5][-len(session.size) :])
        assert {str(unit) for unit in layer.units} == {"micrometer"}


def test_paint_is_shown_in_the_result_before_anything_is_learnt(painted, session):
    results = ResultLayers(session)
    painted.layer.paint(start_of(session), 1)
    results.show(painted.seen[0])
    np.testing.assert_array_equal(results.result.data, painted.layer.data)
