"""The painting page on an OME-Zarr of 2048³ voxels of 16 bits: seconds per slice, and the server's memory.

    python benchmarks/huge_page.py [--places 4] [--seconds 40]

``volseg paint`` runs in a process of its own. At some places strokes of two classes are painted, other slices
are asked for while the learner is at work, and some time is left for it. Memory is what the server and its
children have resident together, looked at twenty times a second.

All chunks of the file hold the same balls in noise, and are one file on the disk.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import zarr

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "help"))
from painted import Client

SIZE, CHUNK = 2048, (64, 128, 128)


def make(folder: Path) -> None:
    """The image."""
    z, y, x = np.ogrid[tuple(slice(n) for n in CHUNK)]
    balls = sum((a % 64 - 32) ** 2 for a in (x, y, z)) < 400
    noise = np.random.default_rng(0).integers(0, 600, CHUNK)
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    array = group.create_array(
        "0",
        shape=(SIZE,) * 3,
        chunks=CHUNK,
        dtype="uint16",
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    array[tuple(slice(n) for n in CHUNK)] = (1000 + 900 * balls + noise).astype(np.uint16)
    first = folder / "0" / "0" / "0" / "0"
    for place in np.ndindex(*(SIZE // n for n in CHUNK)):
        other = folder.joinpath("0", *map(str, place))
        if other != first:
            other.parent.mkdir(parents=True, exist_ok=True)
            os.link(first, other)


def family(root: int) -> list[int]:
    """A process and all that come from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [root]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


class Memory(threading.Thread):
    """The most that a process and its children have had resident together, in GB."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.most = root, 0.0

    def run(self) -> None:
        while True:
            pages = 0
            for process in family(self.root):
                try:
                    pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
                except OSError:
                    continue
            self.most = max(self.most, pages * os.sysconf("SC_PAGE_SIZE") / 1e9)
            time.sleep(0.05)


def lasts(do) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--places", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=40, help="at each, for the learner (40)")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        make(Path(name) / "huge.ome.zarr")
        command = [sys.executable, "-m", "volseg", "paint", f"{name}/huge.ome.zarr", "-o", f"{name}/out"]
        server = subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, text=True)
        try:
            address = next(line.strip() for line in server.stdout if line.startswith("http://"))
            memory = Memory(server.pid)
            memory.start()
            client = Client(address)
            client.enter()
            print(f"opened: {memory.most:.2f} GB", flush=True)
            quiet, beside, busy, first = [], [], [], []
            for _ in range(given.places):
                x, y, z = (int(n) for n in rng.integers(200, SIZE - 200, 3))
                x, y, z = (n // 64 * 64 + 32 for n in (x, y, z))  # the middle of a ball
                quiet.append(lasts(lambda z=z: client.get(f"/image/2/{z}?channel=0")))
                for near in range(z + 1, z + 11):
                    beside.append(lasts(lambda near=near: client.get(f"/image/2/{near}?channel=0")))
                client.post("/look", {"client": "a tab", "x": x, "y": y, "z": z, "axis": 2})
                began = time.perf_counter()
                for value, off in ((1, 0), (0, 28)):
                    line = [[x + off, y + off], [x + off + 3, y + off]]
                    done = client.act("stroke", axis=2, index=z, points=line, radius=2.0, value=value)
                    assert done.status == 200, done
                model = 0
                while time.perf_counter() < began + given.seconds:
                    busy.append(lasts(lambda z=z: client.get(f"/image/2/{z + len(busy) % 90 + 1}?channel=0")))
                    answer = client.get(f"/layer/result/2/{z}")
                    now = int(answer.headers.get("X-Model") or 0)
                    if now > model and not model:
                        first.append(time.perf_counter() - began)
                    model = max(now, model)
                    time.sleep(0.5)
                print(f"{x}, {y}, {z}: {memory.most:.2f} GB, doing {client.state()['doing']}", flush=True)
            for what, times in {
                "a slice somewhere else": quiet,
                "slices beside it": beside,
                "slices in a row, with the learner at work": busy,
                "first result": first,
            }.items():
                if not times:
                    print(f"{what}: none")
                    continue
                median, late = np.percentile(times, (50, 95))
                print(f"{what}: {median:.2f} s, 95 % {late:.2f} s, of {len(times)}")
            print(f"server and children: {memory.most:.2f} GB at most")
        finally:
            server.kill()
            server.wait(60)


if __name__ == "__main__":
    main()
