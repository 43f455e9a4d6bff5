"""What inference costs: time, memory and agreement, against MONAI's sliding window and the published tiles.

    python benchmarks/inference.py            # everything, some five minutes on two processor cores
    python benchmarks/inference.py peers      # one part of it

Every figure of memory is resident memory above what the process had before, each measured in a process of
its own. Networks have random weights: neither time nor memory depends on them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from math import prod
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from volseg.engines.streaming import predict_streamed
from volseg.inferers import OverlapTileInferer
from volseg.inferers.planning import make_plan
from volseg.inferers.work import Work
from volseg.io import Volume
from volseg.io.mapped import create_mapped
from volseg.networks import UNet, unet3d_2016
from volseg.networks.costs import operations

SIZE = (128, 128, 64)
CHANNELS = [(16, 32), (32, 64), (64, 128), (128, 256)]  # the 2016 network at half its width
PUBLISHED = (132, 132, 116)


class Peak:
    """Seconds, and the highest resident memory above the start."""

    def __enter__(self) -> "Peak":
        self.start, self.highest, self.over = resident(), 0, False
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.over = True
        self.thread.join()

    def _watch(self) -> None:
        while not self.over:
            self.highest = max(self.highest, resident() - self.start)
            time.sleep(0.005)


def resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def network(padding: str) -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=CHANNELS, padding=padding, norm="batch").eval()


@torch.no_grad()
def run(job: str) -> dict[str, float]:
    """One measurement; ``peers`` compares them."""
    x = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    name, _, option = job.partition(":")
    if name == "volseg":
        inferer, net = OverlapTileInferer(None, 10**9, amp=option == "bf16"), network("valid")
        inferer(x[..., :40, :40, :20], net)
        with Peak() as peak:
            inferer(x, net)
    elif name == "published":  # one of the published tiles, as the papers ran them
        net = network("valid")
        block = torch.randn(1, 1, *PUBLISHED)
        net(block[..., :92])
        with Peak() as peak:
            net(block)
        peak.seconds *= prod(-(-n // t) for n, t in zip(SIZE, (44, 44, 28), strict=True))
    elif name == "monai":
        net = network("same")
        sliding_window_inference(x[..., :64, :64, :64], (64, 64, 64), 1, net)
        with Peak() as peak:
            sliding_window_inference(x, (64, 64, 64), 1, net, overlap=float(option), mode="gaussian")
    elif name == "memory":
        limit = int(float(option))
        work = Work(unet3d_2016().eval())
        work.prepare()
        plan = make_plan(work, 3, (512, 512, 512), limit)
        work.by_rows = plan.by_rows
        volume = torch.zeros(3, 1, 1, 1).expand(3, 512, 512, 512)
        with Peak() as peak:
            for number, _ in enumerate(work.pieces(volume, plan.tiles[0])):
                if number == 3:  # rows come out, so memory no longer grows
                    break
        return {"predicted": plan.bytes, "measured": peak.highest}
    else:
        net = UNet(3, 1, 2, channels=[(2, 4), (4, 4)], norm="batch").eval()
        inferer = OverlapTileInferer(None, 100 * 2**20)
        with tempfile.TemporaryDirectory() as folder:
            for size in (64, int(option)):  # the first time, libraries get ready
                image = Path(folder) / f"{size}.tif"
                like = Volume(np.broadcast_to(np.uint8(0), (1, size, size, size)), np.eye(4))
                create_mapped(image, like.array.shape, np.dtype(np.uint8), like)
                with Peak() as peak:
                    predict_streamed(image, Path(folder) / f"{size}_out.tif", network=net, inferer=inferer)
    return {"seconds": peak.seconds, "bytes": peak.highest}


def measure(job: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def peers() -> None:
    print(f"{SIZE} voxels, U-Net of {CHANNELS}, {torch.get_num_threads()} threads")
    for job in ("volseg:float32", "volseg:bf16", "published:", "monai:0.25", "monai:0.5"):
        found = measure(job)
        print(
            f"  {job:16s} {1e6 * found['seconds'] / prod(SIZE):7.2f} us/voxel"
            f" {found['bytes'] / 2**20:7.0f} MiB",
            flush=True,
        )


@torch.no_grad()
def windows() -> None:
    """The largest difference of probabilities between two sizes of tile or window."""
    x = torch.randn(1, 1, 96, 80, 64, generator=torch.Generator().manual_seed(1))
    ours, theirs = (
        UNet(3, 1, 3, channels=CHANNELS[:3], padding=p, norm="batch").eval() for p in ("valid", "same")
    )
    results = [OverlapTileInferer(tile)(x, ours).softmax(1) for tile in (32, 64)]
    print(f"  volseg, tiles of 32 and 64     {(results[0] - results[1]).abs().max():.1e}")
    results = [
        sliding_window_inference(x, (n,) * 3, 1, theirs, overlap=0.25, mode="gaussian").softmax(1)
        for n in (32, 64)
    ]
    print(f"  MONAI, windows of 32 and 64    {(results[0] - results[1]).abs().max():.1e}")
    exact = OverlapTileInferer(64)(x, ours)
    half = OverlapTileInferer(64, amp=True)(x, ours)
    print(f"  bf16 against float32: {(half.argmax(1) != exact.argmax(1)).float().mean():.1e} of the classes")


def plans() -> None:
    """Operations at 2048^3 with the 2016 network, against the published tiles."""
    work = Work(unet3d_2016().eval())
    work.prepare()
    published = 47 * 47 * 74 * operations(work.network, PUBLISHED)
    for limit in (2 * 10**9, 8 * 10**9, 80 * 10**9):
        plan = make_plan(work, 3, (2048,) * 3, limit)
        print(
            f"  {limit / 1e9:3.0f} GB: {len(plan.tiles):4d} tiles of {plan.tile}, "
            f"{plan.operations:.3g} operations, {published / plan.operations:.2f} times fewer"
        )


def memory() -> None:
    """The planner's forecast against resident memory, 2016 network in full."""
    for limit in ("5e8", "1e9", "2e9"):
        found = measure(f"memory:{limit}")
        print(
            f"  limit {float(limit) / 1e9} GB: predicted {found['predicted'] / 2**20:.0f} MiB, "
            f"measured {found['measured'] / 2**20:.0f} MiB ({found['predicted'] / found['measured']:.2f})",
            flush=True,
        )


def flat() -> None:
    """Memory of a streamed run as the volume grows, small network."""
    for size in (256, 384, 512):
        found = measure(f"stream:{size}")
        print(f"  {size}^3: {found['bytes'] / 2**20:.0f} MiB, {found['seconds']:.0f} s", flush=True)


PARTS = {"plans": plans, "windows": windows, "peers": peers, "memory": memory, "flat": flat}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which (default: all)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(run(given.job)))
    else:
        for part in given.parts or PARTS:
            print(part, flush=True)
            PARTS[part]()
