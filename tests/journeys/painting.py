"""A biologist with one TIFF stack paints in the browser's page, with nothing but the wheel.

The page's requests are sent by hand: strokes, the result that follows, adopting a slice, saving, the end by
Ctrl-C, the folder opened again, and the whole volume from what lies there.
"""

import http.client
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import tifffile
from traveller import expect, nuclei, volseg

image, inside = nuclei((56, 48, 24), seed=3)
tifffile.imwrite("stack.tif", image.T, imagej=True, metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"},
                 resolution=(2.0, 2.0))  # fmt: skip


class Page:
    """A page that is open: the server behind it, and requests as the page makes them."""

    def __init__(self, *words: str) -> None:
        command = [str(Path(sys.executable).with_name("volseg")), "paint", *words, "--no-browser"]
        sys.stdout.write(f"$ volseg paint {' '.join(words)} --no-browser\n")
        sys.stdout.flush()
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout is not None
        self.address = next(
            line.strip() for line in self.server.stdout if line.startswith("http://127.0.0.1:")
        )
        parts = urlsplit(self.address)
        self.host = f"127.0.0.1:{parts.port}"
        self.line = http.client.HTTPConnection(self.host, timeout=120)
        status, _, headers = self.ask("GET", f"/?{parts.query}")
        expect(status == 303, "the token lets in", str(status))
        self.cookie = headers["Set-Cookie"].partition(";")[0]
        self.acts = 0

    def ask(self, method: str, path: str, body: dict | None = None):
        headers = {"Host": self.host, "Origin": f"http://{self.host}", "Content-Type": "application/json"}
        headers |= {"Cookie": self.cookie} if hasattr(self, "cookie") else {}
        self.line.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.line.getresponse()
        return answer.status, answer.read(), answer.headers

    def do(self, act: str, **fields: object) -> dict:
        self.acts += 1
        body = fields | {"client": "journey"}
        if act not in ("look", "save"):
            body["id"] = f"{act} {self.acts}"  # sent again, it would be done once
        status, said, _ = self.ask("POST", f"/{act}", body)
        expect(status == 200, f"{act} is done", f"{status} {said.decode()}")
        return json.loads(said)

    def result(self, axis: int, index: int, shape: tuple[int, int]) -> np.ndarray:
        """The result of a slice, when it is there."""
        for _ in range(600):
            status, data, _ = self.ask("GET", f"/layer/result/{axis}/{index}")
            if status == 200:
                return np.frombuffer(data, np.uint8).reshape(shape[::-1]).T
            time.sleep(0.2)
        raise SystemExit("WANTED: a result within two minutes")

    def leave(self) -> None:
        self.server.send_signal(signal.SIGINT)
        expect(self.server.wait(60) in (0, 130), "Ctrl-C ends it", str(self.server.returncode))


page = Page("stack.tif", "-o", "painting", "--names", "1=nucleus")
status, _, _ = page.ask("GET", "/state")
expect(status == 200, "the state of the page", str(status))
for path in ("/", "/static/main.js", "/static/paint.css", "/static/base.css"):
    status, said, _ = page.ask("GET", path)
    expect(status == 200 and len(said) > 500, f"{path} in the wheel", f"{status} {len(said)}")
stranger = http.client.HTTPConnection(page.host, timeout=20)
stranger.request("GET", "/state", headers={"Host": page.host})
expect(stranger.getresponse().status == 403, "nobody without the token is let in")

# Strokes of both classes where the person sees them, on two slices.
random = np.random.default_rng(0)
for z in (8, 16):
    for value in (0, 1):
        places = np.argwhere(inside[:, :, z] == bool(value))
        for place in places[random.integers(0, len(places), 5)].tolist():
            page.do("stroke", axis=2, index=z, points=[place, place], radius=1.0, value=value)
page.do("look", x=28, y=24, z=8, axis=2)
overlap = 0.0
for _ in range(60):  # until it has learnt from the last stroke, too
    values = page.result(2, 8, inside.shape[:2])
    overlap = np.sum((values == 1) & inside[:, :, 8]) / np.sum((values == 1) | inside[:, :, 8])
    if overlap > 0.3:
        break
    time.sleep(1)
sys.stdout.write(f"IoU of the slice after 20 strokes: {overlap:.2f}\n")
expect(overlap > 0.3, "a result that looks like nuclei", f"{overlap}")
page.do("adopt", axis=2, index=8)
page.do("finish", axis=2, index=8)
page.do("undo")
page.do("redo")
page.do("save", what="paint", path="paint.nii.gz", overwrite=False)
page.leave()

# It goes on where it was, and the file is what was painted.
page = Page("painting")
page.do("save", what="paint", path="again.nii.gz", overwrite=False)
page.leave()
first, second = Path("paint.nii.gz"), Path("again.nii.gz")
expect(first.is_file() and second.is_file(), "files beside the folder", str(list(Path().iterdir())))
paint, again = (np.asarray(nib.load(path).dataobj).squeeze() for path in (first, second))
expect(paint.shape == inside.shape, f"the size of the image, {inside.shape}", str(paint.shape))
expect(np.array_equal(paint, again), "the same paint after it was opened again")
expect((paint[:, :, 8] != 255).all() and (paint[:, :, 12] == 255).all(), "slice 8 finished, slice 12 blank")

# The whole volume, from the command line, going on from what the page learnt.
volseg(
    "densify", "stack.tif", "painting/stack_paint.tif", "--continue", "painting", "-o", "volume",
    "--minutes", 0.4, "--no-compare",
)  # fmt: skip
found = tifffile.imread("volume/stack_segmentation.tif").T
overlap = np.sum((found == 1) & inside) / np.sum((found == 1) | inside)
sys.stdout.write(f"IoU of the volume: {overlap:.2f}\n")
expect(overlap > 0.3, "the volume", f"{overlap}")
