"""Densify before and after a change: two checkouts, the same paint, the same seconds of processor.

    python benchmarks/before_after.py --data DATA -o OUT BEFORE AFTER [--directions 1] [--seeds 0 1 2]

BEFORE and AFTER are checkouts of this repository. Every run is a process of its own with one thread, in which
``time.monotonic`` counts seconds of processor, so that other work on the machine takes nothing away. Four
slices per direction are painted at (1, 3, 5, 7)/8 of the way. A line of JSON per run goes to OUT, which is
resumed: mean IoU over foreground off the paint, and the seconds of processor that were used.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

SETS = ("nuclei", "medulla", "plant", "brain")
PLACES = (1, 3, 5, 7)


def scene(name: str, data: Path):
    """Image, truth and voxel size."""
    import tifffile

    from volseg.io import read_volume

    if name == "brain":
        folder = data / "med_single_cases_3d" / "brain_mri_8label"
        image, label = read_volume(folder / "image.nii.gz"), read_volume(folder / "label.nii.gz").array[0]
        truth = np.searchsorted(np.unique(label), label).astype(np.uint8)
        middle = tuple(slice(n // 2 - min(n, 128) // 2, n // 2 + min(n, 128) // 2) for n in truth.shape)
        return image.array[0][middle], truth[middle], image.spacing
    if name == "medulla":
        folder, part = data / "medulla_fibsem_3d", np.s_[:64, :128, :128]
        image, label = (tifffile.imread(folder / f"{n}.tif")[part] for n in ("raw", "labels_boundary"))
        return image.T, (label > 0).T.astype(np.uint8), (10.0, 10.0, 10.0)
    folder, spacing = {
        "nuclei": ("mouse_embryo_nuclei_3d", (0.8, 0.8, 1.75)),
        "plant": ("plant_confocal_3d", (1.0, 1.0, 1.0)),
    }[name]
    image, label = (tifffile.imread(min((data / folder / kind).iterdir())) for kind in ("images", "labels"))
    return image.T, (label > 0).T.astype(np.uint8), spacing


def one(checkout: str, name: str, seed: int, given: argparse.Namespace) -> None:
    """A run in this process; the clock is the processor's."""
    sys.path.insert(0, checkout)
    began = time.monotonic()
    time.monotonic = lambda: began + time.process_time()
    import torch

    torch.set_num_threads(1)
    import volseg
    from volseg.io import Volume
    from volseg.metrics import confusion_matrix, iou

    assert volseg.__file__.startswith(checkout), volseg.__file__
    image, truth, spacing = scene(name, given.data)
    paint = np.full(truth.shape, 255, np.uint8)
    for axis in (2, 0, 1)[: given.directions]:
        for place in PLACES:
            plane = (slice(None),) * axis + (place * truth.shape[axis] // 8,)
            paint[plane] = truth[plane]
    affine = np.diag([*spacing, 1.0])
    volume = Volume(np.ascontiguousarray(image[None]).astype(np.float32), affine, "um")
    used = time.process_time()
    done = volseg.densify(
        volume, Volume(paint[None], affine, "um"), minutes=given.seconds / 60, folds=given.folds, seed=seed,
        compare=False, unlabelled=255, force=True,
    )  # fmt: skip
    used = time.process_time() - used
    found = np.asarray(done.labels).reshape(-1)
    hidden = np.where(paint == 255, truth, 255).reshape(-1)
    score = np.nanmean(iou(confusion_matrix(found, hidden, int(truth.max()) + 1))[1:])
    print(json.dumps({"iou": round(float(score), 4), "used": round(used, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs=2, metavar="CHECKOUT")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--directions", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one[0], given.one[1], int(given.one[2]), given)
        return
    rest = ["--data", given.data, "-o", given.output, "--directions", given.directions]
    rest += ["--seconds", given.seconds, "--folds", given.folds]
    lines = given.output.read_text().splitlines() if given.output.exists() else []
    done = {tuple(json.loads(line)["run"]): json.loads(line) for line in lines}
    for name in given.sets:
        for seed in given.seeds:
            for which, checkout in zip(("before", "after"), given.checkouts, strict=True):
                run = (which, name, seed, given.directions, given.seconds)
                if run in done:
                    continue
                command = [
                    sys.executable,
                    "-P",
                    __file__,
                    *given.checkouts,
                    *rest,
                    "--one",
                    Path(checkout).resolve(),
                    name,
                    seed,
                ]
                text = subprocess.run(
                    [str(c) for c in command],
                    check=True,
                    stdout=subprocess.PIPE,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                ).stdout
                done[run] = {"run": run} | json.loads(text.splitlines()[-1])
                with given.output.open("a") as file:
                    file.write(json.dumps(done[run]) + "\n")
    rows = defaultdict(list)
    for (which, name, _, directions, seconds), found in done.items():
        if (directions, seconds) == (given.directions, given.seconds):
            rows[name, which].append(found)
    print("| set | before | after | used, before | after |\n|---|---|---|---|---|")
    for name in given.sets:
        scores = [[one["iou"] for one in rows[name, which]] for which in ("before", "after")]
        used = [np.mean([one["used"] for one in rows[name, which]]) for which in ("before", "after")]
        cells = [f"{np.mean(s):.4f} ± {np.std(s, ddof=1) if len(s) > 1 else 0:.4f}" for s in scores]
        print(f"| {name} | {' | '.join(cells)} | {used[0]:.1f} s | {used[1]:.1f} s |")


if __name__ == "__main__":
    main()
