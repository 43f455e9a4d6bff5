"""Painting in a real browser, by mouse and keyboard: what is drawn is what is kept, and nothing is lost."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
from browser import CTRL, SHIFT, started
from painted import CLASSES, Client, image_of, served
from paper import AXES, PATIENCE, Paper

from volseg.io import read_volume
from volseg.labels import IGNORE_INDEX
from volseg.session import Session
from volseg.session.judging import Score
from volseg.session.shapes import brush, outline

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(params=[(30, 24), (30, 24, 16)], ids=["2d", "3d"])
def paper(request, browser, tmp_path):
    session = Session(image_of(request.param), tmp_path / "session", CLASSES)
    with session, served(session) as serving:
        yield Paper(browser, session, serving.address)
        own = serving.address.partition("?")[0]
        assert not [one for one in browser.complaints() if one and not str(one).startswith(own)]


@pytest.fixture
def volume(browser, tmp_path):
    session = Session(image_of((30, 24, 16)), tmp_path / "session", CLASSES)
    with session, served(session) as serving:
        yield Paper(browser, session, serving.address)


def test_what_is_painted_with_the_mouse_is_what_is_kept(paper):
    for view in AXES if len(paper.session.size) == 3 else ["xy"]:
        axis = ({0, 1, 2} - {*AXES[view]}).pop()
        index = paper.session.size[axis] // 2 if len(paper.session.size) == 3 else 0
        paper.browser.press("body", "1")
        paper.draw(view, (4, 5), (9, 5), (9, 11))
        paper.wait()
        plane = paper.session.paint_slice(axis, index)
        assert plane[4, 5] == plane[7, 5] == plane[9, 11] == 1
        assert plane[4, 11] == IGNORE_INDEX
        paper.press(view, "e")
        paper.draw(view, (7, 5), (7, 5.4))
        paper.wait()
        assert paper.session.paint_slice(axis, index)[7, 5] == IGNORE_INDEX
        paper.press(view, "2")
        paper.draw(view, (9, 11), (9, 11.4))
        paper.wait()
        assert paper.session.paint_slice(axis, index)[9, 11] == 2
        paper.draw(view, (9, 11), (9, 11.4), button="right")
        paper.wait()
        assert paper.session.paint_slice(axis, index)[9, 11] == IGNORE_INDEX
        before = paper.session.labels
        paper.press(view, "z", CTRL)
        paper.wait()
        assert paper.session.paint_slice(axis, index)[9, 11] == 2
        paper.press(view, "z", CTRL | SHIFT)
        paper.wait()
        np.testing.assert_array_equal(paper.session.labels, before)


def test_what_is_under_the_brush_appears_before_the_server_has_answered(paper, monkeypatch):
    before, stroke, answers = paper.colour("xy", 6, 6), paper.session.stroke, threading.Event()
    monkeypatch.setattr(paper.session, "stroke", lambda *a, **k: answers.wait() and stroke(*a, **k))
    paper.draw("xy", (6, 6), (6, 6.4))
    assert paper.state()["waiting"] == 1
    assert "saving" in paper.text("#saved")
    assert np.abs(paper.colour("xy", 6, 6) - before).max() > 60
    answers.set()
    paper.wait()
    assert paper.text("#saved") == "saved"


def test_the_page_paints_by_the_rules_of_the_session(paper):
    rng = np.random.default_rng(0)
    shape, steps = (23, 17), (1.0, 2.5)
    code = """(async () => {{ const s = await import('/static/shapes.js'), found = [];
        const put = (h, v) => found.push([h, v]); {call}; return found; }})()"""
    for _ in range(25):
        points = rng.uniform(-4, 24, (3, 2)).round(rng.integers(0, 4))
        radius = float(rng.uniform(0, 5))
        line = "; ".join(
            f"s.alongLine({shape[0]}, {shape[1]}, {a.tolist()}, {b.tolist()}, {radius}, {[*steps]}, put)"
            for a, b in itertools.pairwise(points)
        )
        for call, wanted in (
            (line, brush(shape, points, radius, steps)),
            (f"s.within({shape[0]}, {shape[1]}, {points.tolist()}, put)", outline(shape, points)),
        ):
            mask = np.zeros(shape, bool)
            for h, v in paper.browser.run(code.format(call=call)):
                mask[h, v] = True
            on_the_line = np.zeros(shape, bool) if "alongLine" in call else borderline(shape, points)
            np.testing.assert_array_equal(mask | on_the_line, wanted | on_the_line)


def borderline(shape, points):
    """Voxels through whose centre an outline passes: which side they are on is rounding."""
    return brush(shape, [*points, points[0]], 1e-6) & ~brush(shape, points, 0)


def test_zoomed_and_moved_the_brush_still_paints_where_it_is(paper):
    x, y = paper.place("xy", 20, 7)
    for _ in range(8):
        paper.browser.mouse("Wheel", x, y, deltaX=0, deltaY=-120, modifiers=CTRL)
    paper.press("xy", "[")
    paper.browser.drag([(x, y), (x + 1, y)])
    paper.wait()
    index = paper.state()["position"][2] if len(paper.session.size) == 3 else 0
    plane = paper.session.paint_slice(2, index)
    assert plane[20, 7] == 1
    paper.browser.drag([(x, y), (x - 40, y + 60)], "middle")
    paper.press("xy", "e")
    paper.browser.drag([(x - 40, y + 60), (x - 39, y + 60)])
    paper.wait()
    assert paper.session.paint_slice(2, index)[20, 7] == IGNORE_INDEX
    assert (paper.session.labels == IGNORE_INDEX).sum() >= paper.session.labels.size - plane.size


def test_outlines_and_fills(paper):
    index = paper.state()["position"][2] if len(paper.session.size) == 3 else 0
    paper.press("xy", "o")
    paper.draw("xy", (4, 4), (8, 3.6), (12, 4), (12.3, 8), (12, 12), (4, 12), (3.7, 8))
    paper.wait()
    plane = paper.session.paint_slice(2, index)
    assert (plane[5:12, 5:12] == 1).all()
    assert (plane[:3] == IGNORE_INDEX).all()
    paper.press("xy", "f")
    paper.press("xy", "2")
    assert paper.state()["tool"] == "fill"
    paper.draw("xy", (25, 12))
    paper.wait()
    plane = paper.session.paint_slice(2, index)
    assert (plane[15:] == 2).mean() > 0.5
    assert (plane[:15] != 2).all()
    paper.press("xy", "l")
    paper.draw("xy", (6, 6))
    assert paper.wait()["value"] == 1


def test_by_keyboard_alone(volume):
    volume.press("xy", "2")
    position = volume.state()["position"]
    volume.press("xy", "ArrowRight")
    volume.press("xy", "ArrowDown", SHIFT)
    volume.press("xy", "PageUp")
    volume.wait()
    volume.press("xy", "Enter")
    state = volume.wait()
    x, y, z = (a + b for a, b in zip(position, (1, 10, 1), strict=True))
    assert state["position"] == [x, y, z]
    assert volume.session.paint_slice(2, z)[x, y] == 2
    volume.press("xy", "ArrowLeft", SHIFT)
    volume.press("xy", "Enter", SHIFT)
    volume.wait()
    assert (volume.session.paint_slice(2, z)[x - 10 : x + 1, y] == 2).all()
    volume.press("xy", "k")
    assert volume.wait()["finished"] == [f"2/{z}"]
    assert (volume.session.paint_slice(2, z) != IGNORE_INDEX).all()
    volume.press("xy", "z", CTRL)
    assert volume.wait()["finished"] == []


def test_an_answer_that_was_overtaken_changes_nothing(browser, tmp_path):
    session = Session(image_of((30, 24, 16)), tmp_path / "session", CLASSES)
    with session, served(session) as serving:
        volume = Paper(browser, session, serving.address)
        browser.run("""(() => { const real = fetch; window.held = []; window.fetch = async (url, ...more) => {
            const found = await real(url, ...more);
            if (url === '/state') await new Promise((go) => window.held.push(go));
            return found; }; })()""")
        serving._desk.hub.publish({"kind": "missed"})
        end = time.monotonic() + PATIENCE
        while not browser.run("window.held.length"):
            assert time.monotonic() < end
            time.sleep(0.02)
        volume.press("xy", "m")
        volume.wait(value=3)
        browser.run("window.held.forEach((go) => go())")
        time.sleep(0.3)
        assert volume.wait()["value"] == 3
        assert "class 3" in volume.browser.run(
            "document.querySelector('#classes .on input[type=text]').value"
        )


def test_classes(volume):
    volume.press("xy", "m")
    volume.wait(value=3)
    volume.browser.run("""(() => { const box = document.querySelector('#classes .on input[type=text]');
        box.focus(); box.value = 'nerve <b>'; box.blur(); })()""")
    volume.wait()
    assert volume.session.classes[3].name == "nerve <b>"
    volume.draw("xy", (5, 5), (9, 5))
    volume.wait()
    volume.browser.click_on("#classes .on .lock")
    volume.wait()
    assert volume.session.classes[3].locked
    volume.press("xy", "1")
    volume.draw("xy", (7, 2), (7, 9))
    volume.wait()
    plane = volume.session.paint_slice(2, volume.state()["position"][2])
    assert plane[7, 5] == 3
    assert plane[7, 2] == plane[7, 9] == 1


def test_a_result_is_shown_and_adopted(volume):
    volume.draw("xy", (3, 3), (3, 20))
    volume.press("xy", "2")
    volume.draw("xy", (26, 3), (26, 20))
    end = time.monotonic() + PATIENCE
    while volume.browser.run("document.getElementById('adopt').disabled"):
        assert time.monotonic() < end
        time.sleep(0.05)
    index = volume.wait()["position"][2]
    volume.press("xy", "j")
    volume.wait()
    plane = volume.session.paint_slice(2, index)
    assert (plane[:12] == 1).mean() > 0.9
    assert (plane[18:] == 2).mean() > 0.9


def test_the_saved_file_equals_the_strokes(volume, tmp_path):
    volume.draw("xy", (3, 3), (12, 20))
    volume.press("xz", "2")
    volume.draw("xz", (20, 3), (26, 12))
    volume.press("xy", "s", CTRL)
    target = tmp_path / "mine.nii.gz"
    volume.browser.run(f"document.getElementById('path').value = {json.dumps(str(target))}")
    volume.browser.click_on("#save-now")
    end = time.monotonic() + PATIENCE
    while not volume.text("#save-said").startswith("Saved"):
        assert time.monotonic() < end, volume.text("#save-said")
        time.sleep(0.05)
    np.testing.assert_array_equal(read_volume(target, labels=True).array[0], volume.session.labels)
    assert {1, 2} < {*np.unique(volume.session.labels)}


def test_a_reload_in_the_middle_of_a_stroke_loses_nothing(volume):
    browser = volume.browser
    points = [volume.place("xy", h, 6) for h in (4, 8, 12)]
    browser.mouse("Moved", *points[0])
    browser.mouse("Pressed", *points[0], button="left", buttons=1, clickCount=1)
    for point in points[1:]:
        browser.mouse("Moved", *point, button="left", buttons=1)
    browser.call("Page.reload")
    time.sleep(0.5)
    browser.open(browser.run("location.href"))
    browser.mouse("Released", *points[-1], button="left", clickCount=1)
    index = volume.wait()["position"][2]
    assert (volume.session.paint_slice(2, index)[4:13, 6] == 1).all()
    assert len(np.unique(volume.session.labels)) == 2


def test_what_was_painted_while_the_server_was_gone_is_sent_when_it_is_back(browser, tmp_path):
    with Session(image_of((30, 24, 16)), tmp_path / "session", CLASSES) as session:
        with served(session) as serving:
            paper = Paper(browser, session, serving.address)
            port = Client(serving.address).port
        paper.draw("xy", (6, 6), (12, 6))
        end = time.monotonic() + PATIENCE
        while "kept here" not in paper.text("#saved"):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "does not answer" in paper.text("#trouble")
        paper.draw("xy", (6, 12), (12, 12))
        assert paper.state()["waiting"] == 2
        assert (session.labels == IGNORE_INDEX).all()
        with served(session, port) as serving:
            while "started again" not in paper.text("#trouble"):
                assert time.monotonic() < end
                time.sleep(0.05)
            Paper(browser, session, serving.address)
            plane = session.paint_slice(2, 8)
            assert plane[9, 6] == plane[9, 12] == 1


def test_a_second_tab_looks_until_it_takes_over(volume):
    client = Client(volume.browser.run("location.href"))
    client.cookie = None
    volume.draw("xy", (6, 6), (12, 6))
    volume.wait()
    cookies = volume.browser.call("Network.getCookies", urls=[client.origin])["cookies"]
    client.cookie = "; ".join(f"{one['name']}={one['value']}" for one in cookies)
    client.post("/claim", {"client": "another tab", "force": True})
    end = time.monotonic() + PATIENCE
    while volume.browser.run("document.getElementById('other').hidden"):
        assert time.monotonic() < end
        time.sleep(0.05)
    revision = volume.session.revision
    volume.draw("xy", (6, 12), (12, 12))
    assert volume.session.revision == revision
    assert client.act("undo", client="another tab").changed
    volume.browser.click_on("#take")
    volume.browser.settle()
    while not volume.browser.run("document.getElementById('other').hidden"):
        assert time.monotonic() < end
        time.sleep(0.05)
    volume.draw("xy", (6, 12), (12, 12))
    volume.wait()
    assert volume.session.paint_slice(2, 8)[9, 12] == 1


def test_a_full_disk_is_said_and_painting_goes_on(volume, monkeypatch):
    full = "No space left on device"
    monkeypatch.setattr(type(volume.session), "trouble", property(lambda _: full))
    volume.draw("xy", (6, 6), (12, 6))
    volume.wait()
    assert volume.text("#saved") == "not on the disk!"
    assert full in volume.text("#trouble")
    assert volume.session.paint_slice(2, 8)[9, 6] == 1
    monkeypatch.undo()
    volume.draw("xy", (6, 12), (12, 12))
    volume.wait()
    assert volume.text("#saved") == "saved"
    assert volume.browser.run("document.getElementById('trouble').hidden")


def test_the_volume_is_made_and_its_report_shown_in_the_page(volume):
    for index, value in ((4, 1), (11, 2)):
        volume.session.paint(2, index, np.ones((30, 24), bool), value)
    volume.browser.click_on("#make")
    volume.browser.run("document.getElementById('minutes').value = 0.1")
    volume.browser.click_on("#make-now")
    end = time.monotonic() + 4 * PATIENCE
    while volume.browser.run("document.getElementById('show-report').hidden"):
        assert time.monotonic() < end, volume.text("#made-says")
        time.sleep(0.2)
    assert "The volume is made" in volume.text("#made-says")
    volume.browser.click_on("#show-report")
    volume.browser.run(
        "new Promise((done) => document.querySelector('iframe').addEventListener('load', done))"
    )
    # It is of no origin: neither can the page look into it, nor it into the page.
    assert volume.browser.run("document.querySelector('iframe').contentDocument") is None
    assert volume.browser.run("document.getElementById('report-box').open")


def test_the_score_and_the_next_place_are_shown(volume, monkeypatch):
    found = Score(0.625, 0.5, 0.75, {1: (0.6, 0.4, 0.7), 2: (None, None, None)}, "Two places only.", 1)
    monkeypatch.setattr(type(volume.session), "score", lambda *_, **__: found)
    volume.draw("xy", (3, 3), (3, 20))
    volume.press("xy", "2")
    volume.draw("xy", (26, 3), (26, 20))
    end = time.monotonic() + PATIENCE
    while volume.text("#score") != "IoU 0.63":
        assert time.monotonic() < end, (volume.text("#score"), volume.text("#doing"))
        time.sleep(0.1)
    assert volume.text("#score-more") == "probably between 0.50 and 0.75; lumen 0.60; Two places only."
    volume.press("xy", "n")
    while not volume.text("#next").startswith("Paint near"):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert volume.browser.run("document.documentElement.dataset.errors") is None


def test_contrast_layers_and_finished_slices_change_the_picture(volume):
    dark = volume.colour("xy", 4, 4)
    volume.browser.run("""(() => { const s = document.querySelector('#channels input[type=range]');
        s.value = 1000; s.dispatchEvent(new Event('input')); })()""")
    volume.browser.settle()
    assert (volume.colour("xy", 25, 4) < 20).all()
    assert (volume.colour("xy", 4, 4) <= dark).all()
    volume.draw("xy", (4, 4), (4, 10))
    volume.wait()
    painted = volume.colour("xy", 4, 4)
    volume.press("xy", "s")
    volume.browser.settle()
    assert (volume.colour("xy", 4, 4) < 20).all()
    volume.press("xy", "s")
    volume.browser.settle()
    np.testing.assert_array_equal(volume.colour("xy", 4, 4), painted)
    before = volume.colour("xy", 20, 12)
    volume.browser.click_on("#finish")
    volume.wait()
    assert (volume.colour("xy", 20, 12) > before).all()
    assert volume.text("#finish") == "✓ finished"


@pytest.mark.parametrize("width", [360, 640, 1280])
def test_nothing_sticks_out_sideways(volume, width):
    volume.browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=width < 500
    )
    try:
        assert volume.browser.run("document.documentElement.scrollWidth") <= width
    finally:
        volume.browser.call("Emulation.clearDeviceMetricsOverride")
