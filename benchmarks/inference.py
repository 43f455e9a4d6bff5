"""What inference costs: time, memory and agreement, against the published tiles and against other inferers.

    python benchmarks/inference.py                # everything, three times
    python benchmarks/inference.py plans windows  # some parts of it
    python benchmarks/inference.py peers --repeats 1 --size 192 192 192 --inferers volseg:float32 monai:0.25

Every figure of time and memory is from a process of its own: seconds of the second call (of a small one
before, libraries get ready), and resident memory above what the process had before. The jobs of a part take
turns; told are medians and the ratio to volseg in float32. Networks have random weights: neither time nor
memory depends on them. nnU-Net's predictor is measured where the package is installed (benchmarks/peers.txt).
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from pathlib import Path
from types import SimpleNamespace

import torch
from monai.inferers import PatchInferer, SlidingWindowSplitter, ZarrAvgMerger, sliding_window_inference
from torch import Tensor

from volseg.inferers import OverlapTileInferer
from volseg.inferers.blocks import BlockRunner
from volseg.inferers.planning import make_plan, operations
from volseg.machine import release_freed_memory
from volseg.networks import UNet, unet3d_2016

SIZE = (248, 244, 64)  # a kidney of the 2016 paper
HALF = [(16, 32), (32, 64), (64, 128), (128, 256)]  # its network at half its width
WINDOW = 96
PUBLISHED, WRITTEN = (132, 132, 116), (44, 44, 28)
LIMIT = 3 * 10**9
PEERS = (
    "volseg:float32", "volseg:bf16", "volseg-same:float32", "volseg-same:bf16",
    "monai:0.25", "monai-bf16:0.25", "monai:0.5", "zarr:0.5", "nnunet:0.5",
)  # fmt: skip


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


# --- the inferers ------------------------------------------------------------------------------------

Inferer = Callable[[Tensor, UNet], object]


def window_of(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(n, WINDOW) for n in size)


def volseg_inferer(option: str) -> Inferer:
    return OverlapTileInferer(None, LIMIT, amp=option == "bf16")


def monai_inferer(option: str, *, half: bool = False) -> Inferer:
    def call(x: Tensor, network: UNet) -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return sliding_window_inference(
                x, window_of(x.shape[2:]), 1, network, overlap=float(option), mode="gaussian"
            )

    return call


def zarr_inferer(option: str) -> Inferer:
    def call(x: Tensor, network: UNet) -> object:
        with tempfile.TemporaryDirectory() as folder:
            stores = {
                f"{name}store": f"{folder}/{name or 'merged_'}.zarr" for name in ("", "value_", "count_")
            }
            splitter = SlidingWindowSplitter(window_of(x.shape[2:]), float(option), pad_mode="constant")
            inferer = PatchInferer(splitter, ZarrAvgMerger, match_spatial_shape=True, **stores)
            return inferer(x, network)

    return call


def nnunet_inferer(option: str) -> Inferer:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    def call(x: Tensor, network: UNet) -> object:
        predictor = nnUNetPredictor(
            tile_step_size=1 - float(option), use_gaussian=True, use_mirroring=False,
            perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False,
        )  # fmt: skip
        predictor.network = network
        predictor.configuration_manager = SimpleNamespace(patch_size=list(window_of(x.shape[2:])))
        predictor.label_manager = SimpleNamespace(num_segmentation_heads=network.out_channels)
        return predictor.predict_sliding_window_return_logits(x[0])

    return call


def inferer_of(name: str, option: str) -> Inferer:
    makers: dict[str, Callable[[str], Inferer]] = {
        "volseg": volseg_inferer, "volseg-same": volseg_inferer,
        "monai": monai_inferer, "zarr": zarr_inferer, "nnunet": nnunet_inferer,
        "monai-bf16": lambda option: monai_inferer(option, half=True),
    }  # fmt: skip
    return makers[name](option)


# --- one measurement, in a process of its own ---------------------------------------------------------


@torch.no_grad()
def measure_here(job: str, size: Sequence[int], channels: int) -> dict[str, float]:
    name, _, option = job.partition(":")
    torch.manual_seed(0)
    if name == "memory":
        return measure_memory(*(float(part) for part in option.split("/")))
    wide = channels == 3
    widths = [(2 * a, 2 * b) for a, b in HALF] if wide else HALF
    padding = "valid" if name in ("volseg", "published") else "same"
    network = UNet(3, channels, 3, channels=widths, padding=padding, norm="batch").eval()
    if name == "published":  # one of the published tiles, as the papers ran them
        network(torch.randn(1, channels, 92, 92, 92))
        block = torch.randn(1, channels, *PUBLISHED)
        with Peak() as peak:
            network(block)
        peak.seconds *= prod(-(-n // t) for n, t in zip(size, WRITTEN, strict=True))
    else:
        x = torch.randn(1, channels, *size)
        inferer = inferer_of(name, option)
        inferer(x[..., :40, :40, :40], network)
        with Peak() as peak:
            inferer(x, network)
    return {"seconds": peak.seconds, "bytes": peak.highest}


def measure_memory(limit: float, width: float) -> dict[str, float]:
    """A tile of the 2016 network at a part of its width: what was foretold, and what it took."""
    release_freed_memory()  # as every streamed run does
    runner = BlockRunner(unet3d_2016(width=width).eval())
    runner.prepare()
    plan = make_plan(runner, 3, (512, 512, 512), int(limit))
    runner.by_rows = plan.by_rows
    volume = torch.zeros(3, 1, 1, 1).expand(3, 512, 512, 512)
    with Peak() as peak:
        for number, _ in enumerate(runner.pieces(volume, plan.tiles[0])):
            if number == 3:  # rows come out, so memory no longer grows
                break
    return {"predicted": plan.bytes, "measured": peak.highest}


def measure(job: str, size: Sequence[int], channels: int = 1) -> dict[str, float]:
    words = [sys.executable, __file__, "--job", job, "--channels", str(channels), "--size", *map(str, size)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# --- the parts ---------------------------------------------------------------------------------------


def compare(jobs: Sequence[str], size: Sequence[int], repeats: int, channels: int) -> None:
    """The jobs in turn, and their medians."""
    found: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for _ in range(repeats):
        for job in jobs:
            found[job].append(measure(job, size, channels))
    first = statistics.median(one["seconds"] for one in found[jobs[0]])
    for job, all_of_it in found.items():
        seconds = statistics.median(one["seconds"] for one in all_of_it)
        memory = statistics.median(one["bytes"] for one in all_of_it)
        print(
            f"  {job:16s} {seconds:7.1f} s  {1e6 * seconds / prod(size):6.2f} us/voxel "
            f"{memory / 2**20:6.0f} MiB  {seconds / first:5.2f} x",
            flush=True,
        )


def whole(size: Sequence[int], repeats: int, *_: object) -> None:
    """The 2016 network in full on a whole volume, against the published tiles in float32."""
    print(f"  {size} voxels, 3 channels, {torch.get_num_threads()} threads")
    compare(("volseg:float32", "volseg:bf16", "published:"), size, repeats, 3)


def peers(size: Sequence[int], repeats: int, wanted: Sequence[str]) -> None:
    """Other inferers, with the padded network of the same channels, which ``volseg-same`` runs as well."""
    print(f"  {size} voxels, 1 channel, U-Net of {HALF}, windows of {window_of(size)}")
    jobs = [
        job
        for job in wanted
        if (not job.startswith("nnunet") or importlib.util.find_spec("nnunetv2"))
        and (not job.startswith("zarr") or importlib.util.find_spec("zarr"))
    ]
    compare(jobs, size, repeats, 1)


@torch.no_grad()
def windows(*_: object) -> None:
    """The largest difference of probabilities between two sizes of tile or window."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 96, 80, 64)
    ours, theirs = (
        UNet(3, 1, 3, channels=HALF[:3], padding=p, norm="batch").eval() for p in ("valid", "same")
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
    print(
        f"  bf16 against float32: logits differ by {(half - exact).abs().max() / exact.std():.1e} of their "
        f"spread at most, classes of {(half.argmax(1) != exact.argmax(1)).float().mean():.1e} of the voxels"
    )
    runner = BlockRunner(ours)
    runner.prepare()
    assert runner.quick is not None
    legal = [
        2 * c + r + 8 * s
        for c, r, s in zip(ours.context, runner.required.remainder, ours.stride, strict=True)
    ]
    block = torch.randn(1, 1, *legal)
    plain, quick = ours(block), runner.quick(block)
    print(
        f"  folded, channels last, against the network as it is: {(quick - plain).abs().max():.1e} in logits"
    )


def plans(*_: object) -> None:
    """Operations at 2048^3 with the 2016 network, against the published tiles."""
    runner = BlockRunner(unet3d_2016().eval())
    runner.prepare()
    published = prod(-(-2048 // n) for n in WRITTEN) * operations(runner.network, PUBLISHED)
    for limit in (2 * 10**9, 8 * 10**9, 80 * 10**9):
        plan = make_plan(runner, 3, (2048,) * 3, limit)
        print(
            f"  {limit / 1e9:3.0f} GB: {len(plan.tiles):4d} tiles of {plan.tile}, "
            f"{plan.operations:.3g} operations, {published / plan.operations:.2f} times fewer"
        )


def memory(*_: object) -> None:
    """The planner's forecast against resident memory, 2016 network at three widths."""
    for width, limit in product((1, 0.5, 0.25), (0.5, 1, 2)):
        found = measure(f"memory:{limit * 10**9}/{width}", SIZE)
        foretold, measured = (found[key] / 2**20 for key in ("predicted", "measured"))
        print(
            f"  width {width:4g}, limit {limit:3g} GB: predicted {foretold:.0f} MiB, "
            f"measured {measured:.0f} MiB ({foretold / measured:.2f})",
            flush=True,
        )


PARTS = {"plans": plans, "windows": windows, "memory": memory, "whole": whole, "peers": peers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which (default: all)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help="of the volume, in voxels")
    parser.add_argument("--inferers", nargs="+", choices=PEERS, default=PEERS, help="of the part peers")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--channels", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measure_here(given.job, given.size, given.channels)))
        return
    for part in given.parts or PARTS:
        start = time.perf_counter()
        print(part, flush=True)
        PARTS[part](tuple(given.size), given.repeats, given.inferers)
        print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
