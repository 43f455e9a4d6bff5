"""The widget in a viewer: start, paint, learn, see, finish, make the volume, save, continue."""

import os
import subprocess
import sys

import numpy as np
import pytest

from volseg.errors import ResourceError
from volseg.io import Volume, read_volume
from volseg.session import Session

pytest.importorskip("napari", reason="napari is an extra that .ci/run installs: pip install 'volseg[napari]'")
from volseg.napari.layers import placement, turned
from volseg.napari.widget import PaintPanel

pytestmark = pytest.mark.slow  # a viewer takes its seconds

if not os.environ.get("DISPLAY") and os.environ.get("QT_QPA_PLATFORM") != "offscreen":
    pytest.skip("a viewer needs a display: run 'xvfb-run -a pytest tests/napari'", allow_module_level=True)

SIZE = (24, 20, 9)


@pytest.fixture
def volume():
    image = np.random.default_rng(0).normal(0, 0.1, (2, *SIZE)).astype(np.float32)
    image[:, 12:] += 2
    return Volume(image, np.diag([0.5, 0.25, 2.0, 1.0]), "um")


@pytest.fixture
def viewer(make_napari_viewer, volume):
    viewer = make_napari_viewer()
    viewer.add_image(turned(volume.array[0]), name="cells", **placement(volume))
    return viewer


@pytest.fixture
def panel(viewer):
    panel = PaintPanel(viewer)
    viewer.window.add_dock_widget(panel, name="volseg")
    panel.names.value = "left, right"
    yield panel
    panel.end()


def stroke(panel, voxel, value):
    panel.chosen.value = value
    panel.paint.layer.paint(voxel, panel.paint.layer.selected_label)


def two_classes(panel, z=4):
    stroke(panel, (z, 10, 4), 1)
    stroke(panel, (z, 10, 18), 2)


def errors(panel, monkeypatch):
    said = []
    monkeypatch.setattr("volseg.napari.widget.show_error", said.append)
    return said


def test_the_plugin_opens_from_napari(make_napari_viewer):
    viewer = make_napari_viewer()
    _, widget = viewer.window.add_plugin_dock_widget("volseg", "Paint and segment")
    assert isinstance(widget, PaintPanel)
    viewer.open_sample("volseg", "kidney")
    assert [str(one) for one in widget.image.choices] == ["kidney", "kidney [1]", "kidney [2]"]
    widget.start()
    assert widget.session.image.channels == 3
    widget.end()


def test_what_is_painted_is_learnt_and_the_result_shown(panel, viewer, qtbot):
    panel.start_button.native.click()
    assert [layer.name for layer in viewer.layers] == ["cells", "doubt", "result", "paint"]
    assert viewer.layers.selection.active is panel.paint.layer
    assert panel.paint.layer.mode == "paint"
    assert [info.name for info in panel.session.classes.values()] == ["background", "left", "right"]
    viewer.dims.set_point(0, 8.0)  # in micrometres, slice 4
    two_classes(panel)
    result = panel.results.result.data
    qtbot.waitUntil(lambda: bool((result[4] != 255).all()), timeout=60_000)
    qtbot.waitUntil(lambda: panel.session.is_learnt, timeout=60_000)
    qtbot.waitUntil(
        lambda: np.array_equal(result[4].T, panel.session.known_slice(2, 4).values), timeout=60_000
    )
    paint = panel.paint.layer.data
    np.testing.assert_array_equal(result[paint != 255], paint[paint != 255])
    assert result[4, 0, 0] == 1
    assert result[4, 0, 23] == 2
    viewer.dims.order = (2, 0, 1)  # slices across x
    viewer.dims.set_point(2, 10.0)
    qtbot.waitUntil(lambda: bool((result[:, :, 20] != 255).all()), timeout=60_000)


def test_learning_can_be_cancelled_and_go_on(panel, viewer, qtbot):
    panel.start()
    panel.cancel_button.native.click()
    assert not panel.live.value
    two_classes(panel)
    qtbot.wait(800)
    assert panel.session.model == 0
    panel.live.value = True
    qtbot.waitUntil(lambda: panel.session.model > 0, timeout=60_000)


def test_finish_and_adopt_act_on_the_slice_that_is_shown(panel, viewer, qtbot, monkeypatch):
    panel.start()
    said = errors(panel, monkeypatch)
    viewer.dims.set_point(0, 6.0)
    panel.adopt_button.native.click()
    assert said == ["This slice has no result yet. Paint two classes, and wait for it."]
    two_classes(panel, 3)
    qtbot.waitUntil(lambda: panel.session.known_slice(2, 5) is not None, timeout=60_000)
    panel.live.value = False
    viewer.dims.set_point(0, 10.0)
    panel.adopt_button.native.click()
    assert (panel.paint.layer.data[5] != 255).all()
    viewer.dims.order = (1, 0, 2)  # across y
    viewer.dims.set_point(1, 0.5)
    panel.finish_button.native.click()
    assert panel.session.finished == {(1, 2)}
    assert (panel.paint.layer.data[:, 2] != 255).all()
    np.testing.assert_array_equal(panel.paint.layer.data, panel.session.labels.T)
    viewer.dims.ndisplay = 3
    panel.finish_button.native.click()
    assert "shown in 3D" in said[-1]
    viewer.layers.clear()
    panel.finish_button.native.click()
    assert said[-1] == "The layer that was painted on is gone. Start again."


def test_the_suggested_place_is_shown(panel, viewer, qtbot):
    panel.start()
    assert not panel.go_button.enabled
    news = {"kind": "suggestion", "axis": 0, "index": 7, "point": (5, 2), "text": "Paint near y = 5"}
    panel._bridge.came.emit(news)
    assert panel.suggestion.value == "Paint near y = 5"
    panel.go_button.native.click()
    assert viewer.dims.order == (2, 0, 1)
    assert panel._slice()[1] == (0, 7)
    assert panel._position() == [7, 5, 2]
    panel._bridge.came.emit({"kind": "score", "value": 0.5, "low": 0.25, "high": 0.75})
    assert panel.score.value == "IoU 0.50 (95 %: 0.25 to 0.75)"
    panel._bridge.came.emit({"kind": "score", "value": None, "reason": "Too little paint to tell."})
    assert panel.score.value == "Too little paint to tell."


def test_closing_the_widget_closes_the_session_and_leaves_its_layers(panel, viewer, tmp_path, qtbot):
    panel.folder.value = tmp_path
    panel.start()
    worker = panel._worker
    stroke(panel, (4, 10, 4), 1)
    painted, image = panel.paint.layer, np.array(panel.session.image.voxels)
    viewer.window.remove_dock_widget("all")
    qtbot.waitUntil(lambda: panel.session is None, timeout=10_000)
    assert not worker._thread.is_alive()
    assert painted in viewer.layers
    painted.paint((4, 10, 18), 2)  # a layer like any other
    with Session(image, tmp_path) as again:
        assert again.counts()[1] > 0
        assert again.counts()[2] == 0


def test_what_is_only_in_memory_is_not_closed(panel, tmp_path, monkeypatch):
    panel.folder.value = tmp_path
    panel.live.value = False
    panel.start()
    monkeypatch.setattr(panel.session, "flush", lambda: False)
    with pytest.raises(ResourceError, match=r"only in memory: .*Make room, then close it"):
        panel.end()
    assert panel.session is not None
    monkeypatch.undo()


def test_a_session_is_kept_and_continued(panel, viewer, tmp_path, qtbot):
    panel.folder.value = tmp_path / "kept"
    panel.live.value = False
    panel.start()
    two_classes(panel)
    labels = panel.session.labels
    panel.end()
    panel.names.value = "other names"
    panel.start()
    np.testing.assert_array_equal(panel.paint.layer.data, labels.T)
    assert [info.name for info in panel.session.classes.values()] == ["background", "left", "right"]
    panel.save("paint", str(tmp_path / "paint.nii.gz"))
    qtbot.waitUntil(lambda: panel._job is None, timeout=60_000)
    np.testing.assert_array_equal(read_volume(tmp_path / "paint.nii.gz", labels=True).array[0], labels)


HOLDER = """
import sys, pathlib
from volseg.runs.claim import PAINT_LOCK, claim
claim(pathlib.Path(sys.argv[1]), "output", lock=PAINT_LOCK)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_is_refused_in_words(panel, viewer, tmp_path, monkeypatch):
    said = errors(panel, monkeypatch)
    panel.folder.value = tmp_path
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        panel.start_button.native.click()
        assert panel.session is None
        holder.stdin.close()
    (text,) = said
    assert "in use by another run" in text
    panel.start_button.native.click()
    assert panel.session is not None


def test_a_folder_of_another_panel_is_refused(panel, viewer, tmp_path, monkeypatch):
    said = errors(panel, monkeypatch)
    other = PaintPanel(viewer)
    viewer.window.add_dock_widget(other, name="other")
    for one in (panel, other):
        one.live.value, one.folder.value = False, tmp_path
        one.start_button.native.click()
    assert other.session is None
    assert said == [f"{tmp_path} is open in another panel. Close that, or choose another folder."]
    panel.end()
    other.start_button.native.click()
    assert other.session is not None
    other.end()


def test_a_viewer_without_image_says_so(panel, viewer, monkeypatch):
    said = errors(panel, monkeypatch)
    viewer.layers.clear()
    panel.start_button.native.click()
    assert said == ["There is no image. Open one, or a sample, and choose it."]


@pytest.mark.slow
def test_the_volume_is_made_saved_and_can_be_cancelled(panel, viewer, tmp_path, qtbot):
    panel.start()
    for z in (1, 4, 7):
        two_classes(panel, z)
        panel.session.finish_slice(2, z)
    labels = panel.session.labels
    panel.minutes.value = 5
    panel.make_button.native.click()
    assert not panel.make_button.enabled
    panel.cancel_button.native.click()
    qtbot.waitUntil(lambda: panel._job is None, timeout=120_000)
    assert (panel.results.result.data[0] == 255).any()
    panel.minutes.value = 0.3
    panel.make_button.native.click()
    qtbot.waitUntil(lambda: panel._job is None, timeout=300_000)
    result = panel.results.result.data.T
    assert (result != 255).all()
    np.testing.assert_array_equal(result[labels != 255], labels[labels != 255])
    panel.save("result", str(tmp_path / "a.seg.nrrd"))
    qtbot.waitUntil(lambda: panel._job is None, timeout=60_000)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.seg.nrrd", labels=True).array[0], result)
