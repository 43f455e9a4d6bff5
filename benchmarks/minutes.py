"""Whether ``volseg densify`` keeps its minutes: whole commands, by the wall clock, over sizes and budgets.

    python benchmarks/minutes.py [--sizes 64 96 128 192] [--minutes 0.5 1 2]

Nothing else should run on the machine. The volume is tubes in noise, four slices per direction are painted,
everything is as it is by default: folds, comparison, page. A row for each: minutes asked for, minutes that
the command took from its start to its end, and whether it said beforehand that they are too few.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from volseg.io import Volume, write_volume


def scene(folder: Path, size: int) -> list[str]:
    rng = np.random.default_rng(0)
    field = ndimage.gaussian_filter(rng.normal(size=(size,) * 3).astype(np.float32), size / 24, mode="wrap")
    truth = (np.abs(field) < 0.4 * field.std()).astype(np.uint8)
    image = (rng.normal(0, 25, truth.shape) + 70 * truth + 80).clip(0, 255).astype(np.uint8)
    paint = np.full_like(truth, 255)
    for axis in range(3):
        for place in (1, 3, 5, 7):
            plane = (slice(None),) * axis + (place * size // 8,)
            paint[plane] = truth[plane]
    like = Volume(image[None], np.diag([0.5, 0.5, 0.5, 1.0]), "um")
    for name, array in (("image.tif", image), ("paint.tif", paint)):
        write_volume(folder / name, array, like)
    return [str(folder / "image.tif"), str(folder / "paint.tif"), "--unlabelled", "255", "--force"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 96, 128, 192])
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    given = parser.parse_args()
    print("| size | asked | took | of it | said to be too few |\n|---|---|---|---|---|", flush=True)
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            words = scene(Path(name), size)
            for minutes in given.minutes:
                output = ["-o", f"{name}/out_{minutes}", "--minutes", str(minutes)]
                code = "import sys; from volseg.cli import main; sys.exit(main())"
                command = [sys.executable, "-W", "ignore", "-c", code, "densify", *words, *output]
                began = time.monotonic()
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                took = (time.monotonic() - began) / 60
                few = "yes" if "minutes are too few" in done.stderr else "no"
                print(f"| {size}³ | {minutes:g} | {took:.2f} | {took / minutes:.2f} | {few} |", flush=True)


if __name__ == "__main__":
    main()
