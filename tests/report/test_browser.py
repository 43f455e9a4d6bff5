"""The page about a result in a real browser: what is drawn, and what keys, clicks and sliders do."""

import base64
import dataclasses
import json

import numpy as np
import pytest
from browser import started

from volseg.annotation import Finding
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.report import Report, Suggestion, class_colours, write_report

pytestmark = pytest.mark.slow

SIZE = (12, 10, 8)
CLASSES = LabelScheme(["lumen", "wall", "background"], [0, 1, 2])


class Viewer:
    """What the page about a result shows in a browser."""

    def __init__(self, browser):
        self.browser = browser

    def __getattr__(self, name):
        return getattr(self.browser, name)

    def open(self, path, fragment=""):
        self.browser.open(path.as_uri() + fragment)

    def state(self):
        self.settle()
        return json.loads(self.run("document.getElementById('viewer').dataset.state"))

    def go(self, fragment):
        self.run(f"void (location.hash = {json.dumps(fragment)})")
        return self.state()

    def press(self, view, key, modifiers=0):
        self.browser.press(f"[data-view={view}] canvas", key, modifiers)
        return self.state()

    def click(self, x, y):
        self.browser.click(x, y)
        return self.state()

    def pixels(self, view, size):
        """The colours drawn at the middle of each voxel of a view, ``(height, width, 3)``."""
        width, height = size
        code = f"""(() => {{
            const canvas = document.querySelector('[data-view={view}] canvas'), found = [];
            const context = canvas.getContext('2d');
            for (let v = 0; v < {height}; v++) for (let h = 0; h < {width}; h++)
                found.push(...context.getImageData((h + 0.5) * canvas.width / {width},
                    (v + 0.5) * canvas.height / {height}, 1, 1).data.slice(0, 3));
            return found; }})()"""
        return np.array(self.run(code)).reshape(height, width, 3)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield Viewer(found)


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    result = rng.integers(0, 3, SIZE).astype(np.uint8)
    truth = np.where(rng.random(SIZE) < 0.2, (result + 1) % 3, result).astype(np.uint8)
    paint = np.full(SIZE, IGNORE_INDEX, np.uint8)
    paint[..., 2], paint[..., 6], paint[3] = truth[..., 2], truth[..., 6], truth[3]
    return Report(
        "kidney.tif",
        rng.normal(size=(3, *SIZE)),
        CLASSES,
        result,
        spacing=(1.5, 1.5, 2.0),
        unit="um",
        paint=paint,
        truth=truth,
        confidence=np.where(np.arange(SIZE[0]) < 5, 1.0, 0.4)[:, None, None] * np.ones(SIZE),
        findings=[Finding("speck", "note", "a small one", slices=(("x", 3),), voxel=(3, 7, 1))],
        suggestion=Suggestion("z", 5, 0.02, "unsure"),
        command="volseg densify 'a b.tif'",
    )


@pytest.fixture(scope="module")
def path(report, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("pages") / "a page, 50 % #1.html", report)


def test_a_page_opens_from_the_disk_without_a_network_and_without_a_complaint(browser, path):
    browser.open(path)
    assert browser.state()["position"] == [6, 5, 4]
    assert browser.complaints() == [None]


def test_the_cross_tells_what_is_there(browser, path, report):
    browser.open(path)
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y, z = (int(rng.integers(n)) for n in SIZE)
        state = browser.go(f"#x={x}&y={y}&z={z}")
        assert state["position"] == [x, y, z]
        for name in ("paint", "result", "truth"):
            assert state["values"][name] == getattr(report, name)[x, y, z]
        assert state["values"]["confidence"] == pytest.approx(100 * report.confidence[x, y, z], abs=6)
        told = browser.run("document.getElementById('readout').textContent")
        assert f"result {CLASSES.names[report.result[x, y, z]]}" in told
        assert told.endswith(f"confidence{state['values']['confidence']} %")


@pytest.mark.parametrize("orientation", ["", "RAS"])
def test_every_view_shows_its_slice_the_right_way_round(browser, report, orientation, tmp_path):
    page = write_report(tmp_path / "page.html", dataclasses.replace(report, orientation=orientation, unit=""))
    position = (2, 4, 5)
    browser.open(page, "#x=2&y=4&z=5&image=0&overlay=result&opacity=100")
    assert browser.press("xy", "c")["layers"] == ["result"]  # without the cross
    sign = -1 if orientation else 1
    for view, across, down, normal in (("xy", 0, 1, 2), ("xz", 0, 2, 1), ("yz", 1, 2, 0)):
        classes = np.moveaxis(report.result, (normal, down, across), (0, 1, 2))[position[normal]]
        found = browser.pixels(view, (SIZE[across], SIZE[down]))[::sign, ::sign]
        wanted = np.where((classes == 2)[..., None], [21, 24, 28], class_colours(3)[classes])
        same = (np.abs(found - wanted) <= 2).all(axis=-1)
        assert same.mean() > (0.85 if orientation else 0.999)  # letters lie over a few voxels


@pytest.mark.parametrize(
    ("overlay", "changes"),
    [
        ("paint", lambda r: r.paint[..., 2] < 2),
        ("truth", lambda r: r.truth[..., 2] < 2),
        ("errors", lambda r: r.result[..., 2] != r.truth[..., 2]),
        ("confidence", lambda r: r.confidence[..., 2] < 0.9),
    ],
)
def test_a_layer_changes_the_picture_where_it_has_something_to_say(browser, path, report, overlay, changes):
    browser.open(path, "#z=2&image=0&overlay=&opacity=80")
    browser.press("xy", "c")
    bare = browser.pixels("xy", SIZE[:2])
    browser.go(f"#z=2&image=0&overlay={overlay}&style=filled")
    changed = (np.abs(browser.pixels("xy", SIZE[:2]) - bare).max(axis=-1) > 25).T
    wanted = changes(report)
    corner = np.s_[:5, -4:]  # the scale bar lies there
    wanted[corner] = changed[corner]
    assert (changed == wanted).mean() > 0.97


def test_outlines_run_along_borders_only(browser, report, tmp_path):
    halves = np.zeros(SIZE, np.uint8)
    halves[6:] = 2
    page = write_report(tmp_path / "page.html", Report("halves", report.image, CLASSES, halves))
    browser.open(page, "#x=0&y=0&image=0&overlay=result&style=outline&opacity=100")
    browser.press("xy", "c")
    code = "(() => { const c = document.querySelector('[data-view=xy] canvas'); "
    code += "const d = c.getContext('2d').getImageData(0, c.height >> 1, c.width, 1).data; "
    code += "return Array.from({length: c.width}, (_, i) => d[4 * i] > 150); })()"
    lit = np.flatnonzero(browser.run(code))
    width = browser.run("document.querySelector('[data-view=xy] canvas').width")
    assert 1 <= len(lit) <= 4
    assert np.abs(lit - width / 2).max() <= 3


def test_keys_move_the_cross_and_switch_layers(browser, path):
    browser.open(path, "#x=4&y=4&z=4")
    assert browser.press("xy", "ArrowRight")["position"] == [5, 4, 4]
    assert browser.press("yz", "ArrowRight")["position"] == [5, 5, 4]
    assert browser.press("xz", "ArrowDown")["position"] == [5, 5, 5]
    assert browser.press("xy", "PageUp")["position"] == [5, 5, 6]
    assert browser.press("xy", "ArrowRight", modifiers=8)["position"] == [11, 5, 6]
    browser.go("#x=4&y=4&z=3")
    assert browser.press("xy", "n")["position"] == [4, 4, 6]
    assert "result" not in browser.press("xy", "2")["layers"]
    assert "result" in browser.press("xy", "2")["layers"]


def test_a_click_in_one_view_moves_the_others_and_the_address(browser, path):
    browser.open(path)
    left, top, width, height = browser.box("[data-view=xz] canvas")
    state = browser.click(left + width * 2.5 / SIZE[0], top + height * 6.5 / SIZE[2])
    assert state["position"] == [2, 5, 6]
    captions = browser.run("[...document.querySelectorAll('figcaption output')].map((e) => e.textContent)")
    assert captions == [
        f"{axis} = {i} ({i + 1} of {SIZE['xyz'.index(axis)]})" for axis, i in (("z", 6), ("y", 5), ("x", 2))
    ]
    browser.run("new Promise((r) => setTimeout(r, 400))")
    assert browser.run("location.hash") == "#x=2&y=5&z=6&overlay=result"


def test_sliders_buttons_and_class_boxes_work(browser, path):
    browser.open(path)
    browser.run(
        "(() => { const s = document.querySelector('[data-view=yz] input'); s.value = 9; "
        "s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    assert browser.state()["position"] == [9, 5, 4]

    def click(selector):
        left, top, width, height = browser.box(selector)
        return browser.click(left + width / 2, top + height / 2)

    assert click("[data-view=xy] .previous-painted")["position"] == [9, 5, 2]
    assert browser.run("document.querySelector('[data-view=xy] .previous-painted').disabled")
    assert click("#next button.jump")["position"] == [9, 5, 5]
    assert browser.run("document.activeElement.closest('.view')?.dataset.view") == "xy"
    assert click("#findings button.jump")["position"] == [3, 5, 5]
    assert click("#findings button.jump:last-child")["position"] == [3, 7, 1]
    assert "result" not in click(".layer[data-layer=result] input")["layers"]
    click(".layer[data-layer=result] input")
    before = browser.pixels("xy", SIZE[:2])
    click(".class:nth-child(2) input")
    assert (browser.pixels("xy", SIZE[:2]) != before).any()
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite"])
    click("button.copy")
    assert browser.run("document.querySelector('button.copy').textContent") == "Copied"


def test_hostile_names_do_nothing(browser, report, tmp_path):
    hostile = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\" onclick='hacked=1'"
    page = write_report(
        tmp_path / "page.html",
        dataclasses.replace(
            report,
            title=hostile,
            unit=hostile,
            labels=LabelScheme([hostile, "<b>", "background"], [0, 1, 2]),
            findings=[Finding(hostile, "note", hostile, hostile, hostile, slices=(("x", 3),), file=hostile)],
            warnings=[hostile],
            command=hostile,
        ),
    )
    browser.open(page)
    assert browser.run("document.title") == browser.run("document.querySelector('h1').textContent") == hostile
    assert browser.run("typeof hacked") == "undefined"
    assert browser.complaints() == [None]


def test_a_coarser_volume_keeps_the_numbers_of_the_whole(browser, tmp_path):
    size = (530, 40, 3)
    result = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    page = write_report(tmp_path / "page.html", Report("long", np.zeros((1, *size)), CLASSES, result))
    browser.open(page, "#x=301&y=7&z=1")
    state = browser.state()
    assert state["position"] == [301, 7, 1]
    assert state["values"]["result"] == result[300, 7, 1]  # every second voxel along x
    assert browser.press("xy", "ArrowRight")["position"] == [303, 7, 1]


def test_an_image_has_one_view(browser, report, tmp_path):
    flat = {name: getattr(report, name)[..., 2] for name in ("image", "result", "paint", "confidence")}
    page = write_report(tmp_path / "page.html", Report("section.png", labels=CLASSES, **flat))
    browser.open(page, "#x=3&y=7")
    state = browser.press("xy", "ArrowDown")
    assert state["position"] == [3, 8]
    assert state["values"]["result"] == flat["result"][3, 8]
    assert browser.run("document.querySelectorAll('canvas').length") == 1
    assert browser.complaints() == [None]


def test_a_damaged_page_says_so(browser, path, tmp_path):
    text = path.read_text(encoding="utf-8")
    start = text.index('id="data-result">') + len('id="data-result">')
    end = text.index("</script>", start)
    damaged = base64.b64encode(base64.b64decode(text[start:end])[:-20]).decode()
    page = tmp_path / "page.html"
    page.write_text(text[:start] + damaged + text[end:], encoding="utf-8")
    browser.open(page)
    assert browser.run("document.getElementById('trouble').textContent").startswith(
        "The views cannot be shown"
    )
    assert not browser.run("document.getElementById('trouble').hidden")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_sideways(browser, path, width):
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=width < 500
    )
    try:
        browser.open(path)
        assert browser.run("document.documentElement.scrollWidth") <= width
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
