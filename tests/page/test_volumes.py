"""From the first stroke to the saved file, on real volumes, by mouse and wheel in a real browser.

What is expected is computed from where the mouse was, apart from the page and the server's acts.
"""

import json
import time

import numpy as np
import pytest
from browser import CTRL, started
from painted import served
from paper import AXES, PATIENCE, Paper
from scipy import ndimage

from volseg.io import read_volume
from volseg.labels import IGNORE_INDEX
from volseg.session import Session
from volseg.session.shapes import brush

pytestmark = pytest.mark.slow

BRAIN = "med_single_cases_3d/brain_mri_8label"
VOLUMES = {  # image, labels, the value that is painted (None: all but 0)
    "nuclei": ("mouse_embryo_nuclei_3d/images/16_cell.tif", "mouse_embryo_nuclei_3d/labels/16_cell.tif", 1),
    "medulla": ("medulla_fibsem_3d/raw.tif", "medulla_fibsem_3d/labels_boundary.tif", 1),
    "plant": ("plant_confocal_3d/images/nuclei_1135.tif", "plant_confocal_3d/labels/nuclei_1135.tif", None),
    "brain": (f"{BRAIN}/image.nii.gz", f"{BRAIN}/label.nii.gz", None),
    "axons": (*(f"axon_sem_2d/{what}/sub-rat2_sample-data5_SEM.tif" for what in ("images", "labels")), 2),
}
LONG = 10 * PATIENCE  # seconds until a volume is made
BRUSH = 12  # of the slider, 0 to 100


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(params=VOLUMES)
def volume(request, shared_data):
    """An image's file, and where the class that is painted is."""
    image, label, value = VOLUMES[request.param]
    if not (shared_data / image).is_file():
        pytest.skip(f"{shared_data / image} is not there")
    labels = read_volume(shared_data / label, labels=True).array[0]
    return shared_data / image, labels > 0 if value is None else labels == value


class Hand:
    """Draws with the mouse, and keeps apart what that has to come to."""

    def __init__(self, paper, truth):
        self.paper, self.truth = paper, truth
        self.expected = np.full(truth.shape, IGNORE_INDEX, np.uint8)
        session = paper.session
        least = min(session.spacing) / 2
        most = max(n * s for n, s in zip(session.size, session.spacing, strict=True)) / 8
        self.radius = least * (most / least) ** (BRUSH / 100)
        paper.browser.run(f"""(() => {{ const slider = document.querySelector('#size');
            slider.value = {BRUSH}; slider.dispatchEvent(new Event('input')); }})()""")

    def plane(self, volume, view):
        """The slice that a view shows of a volume; no copy."""
        if volume.ndim == 2:
            return volume
        axis = ({0, 1, 2} - {*AXES[view]}).pop()
        return np.moveaxis(volume, axis, 0)[self.paper.state()["position"][axis]]

    def stroke(self, view, value, where, button="left"):
        """A zigzag in the widest part of where something is true on the slice."""
        paper, plane = self.paper, self.plane(self.expected, view)
        depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
        middle, reach = np.unravel_index(depth.argmax(), depth.shape), 0.4 * depth.max()
        points = np.array(middle) + reach * np.array([(-1, -1), (0, 0.4), (1, 1), (1, -1)])
        pixels = [tuple(map(round, paper.place(view, *point))) for point in points]
        line = [paper.voxel(view, *pixel) for pixel in pixels]
        if button == "left":
            paper.press(view, str(value))
        paper.browser.drag(pixels, button)
        paper.wait()
        steps = [paper.session.spacing[a] for a in AXES[view]]
        mask = brush(plane.shape, self.moved(line), self.radius, steps)
        plane[mask] = value

    @staticmethod
    def moved(line):
        """A line without points that are too close to the last for the page."""
        kept = line[:1]
        for point in line[1:]:
            if np.linalg.norm(point - kept[-1]) >= 0.15:
                kept.append(point)
        return kept


def until(there, paper, patience=PATIENCE):
    end = time.monotonic() + patience
    while not there():
        assert time.monotonic() < end, [paper.text(name) for name in ("#doing", "#made-says", "#save-said")]
        time.sleep(0.1)


def save(paper, path):
    paper.press("xy", "s", CTRL)
    paper.browser.run(f"document.getElementById('path').value = {json.dumps(str(path))}")
    paper.browser.click_on("#save-now")
    until(lambda: paper.text("#save-said").startswith("Saved"), paper)
    paper.browser.click_on("#save-box .close")


def test_paint_result_adopt_correct_finish_make_save_reload(browser, volume, tmp_path):
    image, truth = volume
    flat, folder = truth.ndim == 2, tmp_path / "session"
    with Session(image, folder, {1: "it"}) as session, served(session) as serving:
        paper = Paper(browser, session, serving.address)
        hand = Hand(paper, truth)
        if not flat:  # by the wheel to the slice with most of it
            best, here = int(truth.sum((0, 1)).argmax()), paper.state()["position"][2]
            for _ in range(abs(best - here)):
                browser.mouse(
                    "Wheel", *paper.place("xy", 5, 5), deltaX=0, deltaY=120 if best < here else -120
                )
            assert paper.wait()["position"][2] == best
        for view in ["xy"] if flat else AXES:
            for value in (1, 0, 1, 0):
                blank = hand.plane(hand.expected, view) == IGNORE_INDEX
                hand.stroke(view, value, blank & (hand.plane(truth, view) == value))
        np.testing.assert_array_equal(session.labels, hand.expected)

        until(lambda: session.is_learnt and session.is_done, paper, LONG)
        until(lambda: not browser.run("document.getElementById('adopt').disabled"), paper)
        browser.picture(tmp_path / "result.png")
        paper.press("xy", "j")
        paper.wait()
        found, own = hand.plane(session.labels, "xy"), hand.plane(hand.expected, "xy")
        painted = own != IGNORE_INDEX
        np.testing.assert_array_equal(found[painted], own[painted])
        true = hand.plane(truth, "xy")
        assert {*np.unique(found)} == {0, 1}
        assert (found == true).mean() > max(true.mean(), 1 - true.mean()) - 0.15
        own[...] = found

        for value in (0, 1):
            hand.stroke("xy", value, (true == value) & (own != value))
        hand.stroke("xy", IGNORE_INDEX, own == 1, button="right")
        np.testing.assert_array_equal(session.labels, hand.expected)
        if not flat:
            paper.press("xy", "PageUp")
            paper.wait()
            hand.stroke("xy", 1, hand.plane(truth, "xy"))
        paper.press("xy", "k")
        assert len(paper.wait()["finished"]) == 1
        own = hand.plane(hand.expected, "xy")
        own[own == IGNORE_INDEX] = 0
        browser.picture(tmp_path / "finished.png")

        browser.click_on("#make")
        browser.run("document.getElementById('minutes').value = 0.2")
        browser.click_on("#make-now")
        until(lambda: not browser.run("document.getElementById('show-report').hidden"), paper, LONG)
        assert "The volume is made" in paper.text("#made-says")
        browser.click_on("#make-box .close")
        browser.picture(tmp_path / "made.png")
        names = ("paint.png" if flat else "paint.nii.gz", "paint.seg.nrrd", "paint.tif")
        for name in names:
            save(paper, tmp_path / name)
        paper = Paper(browser, session, serving.address)
        assert len(paper.state()["finished"]) == 1
        np.testing.assert_array_equal(session.labels, hand.expected)
        assert browser.run("document.documentElement.dataset.errors") is None
    with Session.open(folder) as session:
        np.testing.assert_array_equal(session.labels, hand.expected)
    for name in names:
        read = {} if name.endswith(".seg.nrrd") else {"unlabelled": IGNORE_INDEX}
        with Session(image, tmp_path / f"from {name}", paint=tmp_path / name, read=read) as again:
            np.testing.assert_array_equal(again.labels, hand.expected, name)
    np.testing.assert_array_equal(read_volume(tmp_path / names[0], labels=True).array[0], hand.expected)
