"""The painting page of a session in a browser, for the tests that paint there."""

import json
import time

import numpy as np

from volseg.data.auditing import orientation_of
from volseg.report.picture import planes_of

__all__ = ["AXES", "PATIENCE", "Paper"]

PATIENCE = 30  # seconds
AXES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


class Paper:
    """The painting page of a session in a browser."""

    def __init__(self, browser, session, address):
        self.browser, self.session = browser, session
        self.planes = planes_of(session.size, orientation_of(session.image.like))
        browser.open(address)
        self.wait()

    def state(self):
        self.browser.settle()
        return json.loads(self.browser.run("document.documentElement.dataset.state"))

    def wait(self, **wanted):
        """Until slices are shown, everything is saved, and the state is as wanted."""
        end = time.monotonic() + PATIENCE
        while True:
            state = self.state()
            if state["ready"] and not state["waiting"] and wanted.items() <= state.items():
                return state
            assert time.monotonic() < end, (state, self.text("#trouble"))
            time.sleep(0.02)

    def text(self, selector):
        return self.browser.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def _shown(self, view):
        """Of a view that shows the whole slice: its middle on the screen, the slice's middle, and how far a
        voxel reaches on the screen along both axes."""
        box = np.array(self.browser.box(f"[data-view={view}] .over")).reshape(2, 2)
        canvas = f"document.querySelector('[data-view={view}] .picture')"
        pixels = np.array(self.browser.run(f"[{canvas}.width, {canvas}.height]"))  # whole ones
        plane = next(one for one in self.planes if one.name == view)
        size, spacing = (np.take(each, AXES[view]) for each in (self.session.size, self.session.spacing))
        steps = 0.97 * min(pixels / (size * spacing)) * spacing * np.where(plane.flipped, -1, 1)
        return box[0] + box[1] / 2, (size - 1) / 2, steps * box[1] / pixels

    def place(self, view, h, v):
        """Where a point of a slice, in voxels, is on the screen while the whole slice is shown."""
        centre, middle, steps = self._shown(view)
        x, y = centre + ([h, v] - middle) * steps
        return float(x), float(y)

    def voxel(self, view, x, y):
        """The point of the slice there, in voxels."""
        centre, middle, steps = self._shown(view)
        return middle + ([x, y] - centre) / steps

    def draw(self, view, *points, button="left"):
        self.browser.drag([self.place(view, *point) for point in points], button)

    def press(self, view, key, modifiers=0):
        self.browser.press(f"[data-view={view}] .over", key, modifiers)

    def colour(self, view, h, v):
        """Red, green, blue of what is drawn at a voxel."""
        x, y = self.place(view, h, v)
        code = f"""(() => {{ const c = document.querySelector('[data-view={view}] .picture');
            const b = c.getBoundingClientRect(), one = document.createElement('canvas');
            const context = one.getContext('2d', {{ willReadFrequently: true }});
            context.drawImage(c, -({x} - b.left) * c.width / b.width, -({y} - b.top) * c.height / b.height);
            return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)]; }})()"""
        return np.array(self.browser.run(code))
