"""A page in a headless Chromium, with real mouse and key events, for the tests of pages.

Chromium is spoken to over its debugging pipe, so nothing but the browser is needed. Without one, tests are
skipped; Debian and Ubuntu have it as ``apt-get install chromium``.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

__all__ = ["Browser", "started"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--window-size=1280,900",
    "--remote-debugging-pipe",
)
PATIENCE = 90  # seconds
KEYS = {
    "ArrowRight": 39,
    "ArrowDown": 40,
    "PageUp": 33,
    "Enter": 13,
    "Escape": 27,
    "[": 219,
    "]": 221,
    "?": 191,
}
SHIFT, CTRL = 8, 2


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, program, home):
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *FLAGS, f"--user-data-dir={home}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.out, self.into = ours, theirs
        self.buffer = b""
        self.numbers = itertools.count(1)
        self.session = None
        self.events = []

    def start(self):
        """Begin to talk to a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        # Or the page would still be scrolling, on a busy machine, when the next click comes.
        calm = [{"name": "prefers-reduced-motion", "value": "reduce"}]
        self.call("Emulation.setEmulatedMedia", features=calm)

    def call(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self.buffer:
            assert select.select([self.into], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self.into, 1 << 20)
            assert part, "the browser has ended"
            self.buffer += part
        answer, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(answer)

    def run(self, code):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url):
        """Load a page and wait until it says that it is ready."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=url)
        end = time.monotonic() + PATIENCE
        found = "document.documentElement?.dataset"
        while not self.run(f"{found}?.ready ?? {found}?.errors ?? ''"):
            assert time.monotonic() < end, "the page does not become ready"
            time.sleep(0.05)
        self.settle()

    def settle(self):
        """Wait until what was asked for is drawn."""
        self.run("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => r(1))))")

    def box(self, selector):
        """Left, top, width and height of an element, brought into sight."""
        code = "e.scrollIntoView({behavior: 'instant', block: 'center'})"
        code = f"(() => {{ const e = document.querySelector({json.dumps(selector)}); {code}; "
        code += "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; })()"
        return self.run(code)

    def complaints(self):
        """Exceptions, messages on the console, and addresses asked for beside the page itself."""
        self.settle()
        bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        found = [event for event in self.events if event.get("method") in bad]
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        outside = [url for url in asked if not url.startswith("data:")]
        return found + outside[1:] + ([self.run("document.documentElement.dataset.errors")])

    def close(self):
        os.close(self.out)
        os.close(self.into)
        self.process.terminate()
        self.process.wait(PATIENCE)

    def picture(self, path):
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def press(self, selector, key, modifiers=0):
        """A key on an element, which gets the focus."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus({{preventScroll: true}})")
        common = {
            "key": key,
            "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper())),
            "modifiers": modifiers,
        }
        text = {"text": key} if len(key) == 1 and not modifiers & CTRL else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def mouse(self, kind, x, y, **more):
        """One event of the mouse: ``Pressed``, ``Moved``, ``Released`` or ``Wheel``."""
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def click(self, x, y):
        for kind in ("Pressed", "Released"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def click_on(self, selector):
        left, top, width, height = self.box(selector)
        self.click(left + width / 2, top + height / 2)

    def drag(self, points, button="left"):
        """Down at the first of the points, over the others, and up at the last."""
        held = {"left": 1, "right": 2, "middle": 4}[button]
        self.mouse("Moved", *points[0])
        self.mouse("Pressed", *points[0], button=button, buttons=held, clickCount=1)
        for point in points[1:]:
            self.mouse("Moved", *point, button=button, buttons=held)
        self.mouse("Released", *points[-1], button=button, clickCount=1)


@contextmanager
def started(home):
    """A browser that keeps what it needs in a folder; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    browser = Browser(program, home)
    try:
        browser.start()
        yield browser
    finally:
        browser.close()
