"""Painting that is killed at random moments: what of the strokes is lost, and what cannot be read.

    python benchmarks/killed_painting.py [--tries 200] [--seed 1]
    python benchmarks/killed_painting.py --browser [--tries 60] [--seed 1]

Each try starts a server on the same folder (forked, so that libraries are loaded once), sends strokes over
HTTP as the page does, one after another, and kills the server (SIGKILL) at a random moment, which may be
while it starts, learns, or answers. Then the folder is opened again: every stroke that the server had called
saved has to be there, voxel for voxel, and nothing else but the one in progress.

With ``--browser`` the server lives, and a headless Chromium is killed in which strokes are drawn with the
mouse; then another one opens the page with what the first had kept. What the page had called saved has to be
there, and nothing else but the stroke in progress, whole: in a session opened anew, too.
"""

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "help"))
from browser import BROWSERS, Browser
from painted import served
from paper import AXES, Paper

from volseg.page import serve
from volseg.session import Session
from volseg.session.shapes import brush

SIZE = (48, 40, 12)
CLASSES = {1: "bright", 2: "dark"}


def start(image: np.ndarray, folder: Path) -> tuple[int, int]:
    """A server's process, and where it writes its address to."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        with Session(image, folder, CLASSES) as session:
            serve(session, on_ready=lambda address: os.write(writing, address.encode()))
    finally:
        os._exit(1)


def draw(address: str, expected: list[tuple], dice: random.Random) -> None:
    """Strokes one after another until the server is gone; ``expected`` gets each, and whether it is saved."""
    parts = urlsplit(address)
    host = f"127.0.0.1:{parts.port}"
    try:
        connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=20)
        connection.request("GET", f"/?{parts.query}", headers={"Host": host})
        answer = connection.getresponse()
        answer.read()
        cookie = answer.getheader("Set-Cookie", "").partition(";")[0]
        while True:
            axis = dice.randrange(3)
            index = dice.randrange(SIZE[axis])
            points = [[dice.uniform(0, 40), dice.uniform(0, 12)] for _ in range(dice.randrange(1, 6))]
            stroke = [axis, index, points, dice.uniform(0.3, 4), dice.choice((0, 1, 2, 255)), False]
            expected.append(stroke)
            keys = ("axis", "index", "points", "radius", "value")
            body = dict(zip(keys, stroke[:5], strict=True)) | {"id": f"{dice.random()}", "client": "sweep"}
            headers = {
                "Host": host,
                "Cookie": cookie,
                "Origin": f"http://{host}",
                "Content-Type": "application/json",
            }
            connection.request("POST", "/stroke", json.dumps(body), headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            if answer.status != 200:
                print(answer.status, said, flush=True)
                return
            stroke[5] = True
    except (OSError, http.client.HTTPException):
        pass


def painted(strokes: list[tuple]) -> np.ndarray:
    labels = np.full(SIZE, 255, np.uint8)
    for axis, index, points, radius, value, _ in strokes:
        shape = [n for a, n in enumerate(SIZE) if a != axis]
        labels[(slice(None),) * axis + (index,)][brush(shape, points, radius)] = value
    return labels


def draw_with_mouse(paper: Paper, expected: list[list], dice: random.Random) -> None:
    """Strokes with the mouse until the browser is gone; ``expected`` gets each before it begins."""
    radius = 0.5 * (max(SIZE) / 8 / 0.5) ** 0.3  # the slider is at 30 of 100
    with suppress(OSError, AssertionError):
        while True:
            view, value = dice.choice([*AXES]), dice.choice((0, 1, 2, 255))
            axis = ({0, 1, 2} - {*AXES[view]}).pop()
            paper.press(view, "e" if value == 255 else f"{value}")
            places = [[dice.uniform(0, SIZE[a] - 1) for a in AXES[view]] for _ in range(dice.randrange(1, 6))]
            pixels = [tuple(map(round, paper.place(view, *place))) for place in places]
            points = [paper.voxel(view, *pixel) for pixel in pixels]
            expected.append([axis, SIZE[axis] // 2, points, radius, value, False])
            paper.browser.drag(pixels)
            paper.wait()
            expected[-1][5] = True


def kill_browsers(given: argparse.Namespace) -> None:
    """The server lives, browsers are killed."""
    dice = random.Random(given.seed)
    image = np.random.default_rng(0).normal(size=(1, *SIZE)).astype(np.float32)
    program = next(filter(None, map(shutil.which, BROWSERS)))
    saved: list[list] = []
    pending: list[list] = []
    lost = kept = wrong = early = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "out"
        with Session(image, folder, CLASSES) as session, served(session) as serving:
            for number in range(given.tries + 1):
                browser, expected = Browser(program, Path(name) / "home"), []
                is_last = number == given.tries
                after = threading.Timer(dice.uniform(0.5, 6), browser.process.kill)
                if not is_last:
                    after.start()
                with suppress(OSError, AssertionError):
                    browser.start()
                    paper = Paper(browser, session, serving.address)  # what the one before had kept is sent
                    if paper.browser.run("!document.getElementById('other').hidden"):
                        paper.browser.click_on("#take")
                        paper.wait()
                    now = session.labels
                    if pending and np.array_equal(now, painted([*saved, *pending])):
                        saved, kept = [*saved, *pending], kept + len(pending)
                    elif np.array_equal(now, painted(saved)):
                        lost += len(pending)
                    else:
                        wrong += 1
                        print(
                            f"try {number}: WRONG, {(now != painted(saved)).sum()} voxels differ", flush=True
                        )
                    pending = []
                    if not is_last:
                        draw_with_mouse(paper, expected, dice)
                early += not expected
                saved += [one for one in expected if one[5]]
                pending += [one for one in expected if not one[5]]
                after.join() if not is_last else browser.process.kill()
                browser.close()
        with Session(image, folder, CLASSES) as session:
            wrong += not np.array_equal(session.labels, painted(saved))
    print(
        f"{given.tries} kills of the browser, {early - 1} before a stroke; {len(saved)} strokes saved, "
        f"{kept} of them kept by the browser and sent by the next one, {lost} in progress lost, "
        f"{wrong} times anything else"
    )


def kill_servers(given: argparse.Namespace) -> None:
    """A client goes on, servers are killed."""
    dice = random.Random(given.seed)
    image = np.random.default_rng(0).normal(size=(1, *SIZE)).astype(np.float32)
    saved: list[tuple] = []
    lost = wrong = early = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        for number in range(given.tries):
            child, reading = start(image, folder)
            moment = time.monotonic() + dice.uniform(0, 2.5)
            expected: list[tuple] = []
            thread = None
            with os.fdopen(reading, "rb", buffering=0) as pipe:
                os.set_blocking(reading, False)
                while time.monotonic() < moment and thread is None:
                    address = pipe.read(500)
                    if address:
                        thread = threading.Thread(target=draw, args=(address.decode(), expected, dice))
                        thread.start()
                    time.sleep(0.002)
                time.sleep(max(moment - time.monotonic(), 0))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                if thread is not None:
                    thread.join()
            early += thread is None
            saved += [one for one in expected if one[5]]
            pending = [one for one in expected if not one[5]]
            with Session(image, folder, CLASSES) as session:
                labels = session.labels
            if pending and np.array_equal(labels, painted([*saved, *pending])):
                saved += pending
            elif not np.array_equal(labels, painted(saved)):
                wrong += 1
                print(
                    f"try {number}: WRONG, {np.count_nonzero(labels != painted(saved))} voxels differ",
                    flush=True,
                )
            else:
                lost += len(pending)
    print(
        f"{given.tries} kills, {early} before the page could be opened; {len(saved)} strokes saved, "
        f"{lost} in progress lost, {wrong} times anything else"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--browser", action="store_true", help="kill browsers, not servers")
    parser.add_argument("--tries", type=int, help="kills (200 of servers, 60 of browsers)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.tries = given.tries or (60 if given.browser else 200)
    (kill_browsers if given.browser else kill_servers)(given)


if __name__ == "__main__":
    main()
