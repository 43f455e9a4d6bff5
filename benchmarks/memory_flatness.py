"""Whether the memory of segmenting a volume from file to file depends on its size.

    python benchmarks/memory_flatness.py                        # 256, 512 and 1024 voxels along each axis
    python benchmarks/memory_flatness.py --sizes 128 256 --suffix .zarr

Each size is measured in a process of its own: the highest resident memory (pages of files included) above
what the process had before, with random grey values, a small network and tiles of a fixed size. A volume of
few tiles is segmented several times, so that all sizes see as many tiles: the allocator takes hundreds of
them to reach what it will hold. The files are deleted again; the largest takes twice its voxels in bytes.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from volseg.inferers import OverlapTileInferer
from volseg.io import Volume
from volseg.io.blocks import create_blocks
from volseg.networks import UNet
from volseg.streaming.run import predict_streamed

TILE = 128
LEAST = 512  # tiles: those of 1024 voxels along each axis


def make(path: Path, size: int) -> None:
    like = Volume(np.broadcast_to(np.uint8(0), (1, size, size, size)), np.eye(4))
    volume = create_blocks(path, like.array.shape, np.dtype(np.uint8), like, tile=(TILE,) * 3)
    noise = np.random.default_rng(0).integers(0, 255, (1, TILE, TILE, size), np.uint8)
    for x in range(0, size, TILE):
        for y in range(0, size, TILE):
            places = (slice(0, 1), slice(x, x + TILE), slice(y, y + TILE), slice(0, size))
            volume[places] = noise[:, : size - x, : size - y]


def highest() -> int:
    """The most that was ever resident in this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(size: int, suffix: str, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = UNet(3, 1, 2, channels=[(1, 1)], norm="batch").eval()
    inferer = OverlapTileInferer(TILE)
    image = folder / f"image{suffix}"
    warm = folder / f"warm{suffix}"
    make(warm, 32)  # the first time, libraries get ready
    predict_streamed(warm, folder / f"warm_out{suffix}", network=network, inferer=OverlapTileInferer(16))
    before, start = highest(), time.perf_counter()
    times = -(-LEAST // (-(-size // TILE)) ** 3)
    for _ in range(times):
        output = folder / f"out{suffix}"
        predict_streamed(image, output, network=network, inferer=inferer, overwrite=True)
    return {"bytes": highest() - before, "before": before, "seconds": (time.perf_counter() - start) / times}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024])
    parser.add_argument("--suffix", choices=[".tif", ".nii", ".nrrd", ".zarr"], default=".tif")
    parser.add_argument("--folder", type=Path, help="where the files go (default: that of the system)")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        print(json.dumps(measure(int(given.job[0]), given.suffix, Path(given.job[1]))))
        return
    found: list[tuple[int, float]] = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            make(Path(folder) / f"image{given.suffix}", size)
            words = [sys.executable, __file__, "--suffix", given.suffix, "--job", str(size), folder]
            done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        found.append((size, result["bytes"]))
        print(
            f"{size}^3 {given.suffix}: {result['bytes'] / 2**20:.1f} MiB above the start "
            f"({result['before'] / 2**20:.0f} MiB), {result['seconds']:.0f} s, "
            f"{1e9 * result['seconds'] / size**3:.0f} ns per voxel",
            flush=True,
        )
    voxels, peaks = np.array([[size**3, peak] for size, peak in found], float).T
    print(f"largest against smallest: {peaks[-1] / peaks[0]:.3f}")
    if len(found) > 1:
        slope, offset = np.polyfit(voxels, peaks, 1)
        print(
            f"extrapolated to 2048 x 2048 x 1000: {(offset + slope * 2048 * 2048 * 1000) / 2**30:.2f} GiB "
            "above the start"
        )


if __name__ == "__main__":
    main()
