"""Dice over minutes of training on the medulla, 4 annotated slices per direction: volseg and nnU-Net v2.

    python benchmarks/prepare.py medulla ../shared/data/medulla_fibsem_3d data/medulla
    python benchmarks/time_to_quality.py data/medulla -o runs/quality --peers .venv-peers/bin/python

Alone on one core (``taskset -c 0``, ``OMP_NUM_THREADS=1``): 17 minutes of training for volseg and 50 for
nnU-Net, and planning and scoring on top. Each figure is a run of its own, whose learning rate comes to its
end with its minutes, on both sides. What is done already is not done again. The environment of ``--peers``
is that of ``benchmarks/peers.txt``; without it volseg runs alone. Both are scored on all voxels that are
not annotated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from volseg import read_volume
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, dice

BUNDLE = "bundles/medulla.json"
MINUTES = {"volseg": (2, 5, 10), "nnU-Net": (5, 15, 30)}
MANY = 1000  # epochs: the minutes end the run


def volseg(minutes: float, data: Path, folder: Path, settings: list[str]) -> float:
    """Dice of the boundary after so many minutes of training."""
    run = folder / f"volseg_{minutes:g}"
    command = [sys.executable, "-W", "ignore", "-c", "from volseg.cli import main; raise SystemExit(main())"]
    words = [BUNDLE, "--dataset_dir", str(data), "--held_out", "0", "--output_dir", str(run), *settings]
    if not (run / "metrics.json").exists():
        length = ["--max_minutes", f"{minutes:g}", "--epochs", str(MANY), "--overwrite", "True"]
        subprocess.run([*command, "train", *words, *length], check=True)
        subprocess.run([*command, "evaluate", *words, "--overwrite", "True"], check=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["never annotated"]["mean foreground Dice"])


def nnunet(minutes: float, data: Path, folder: Path, peers: Path) -> float:
    """The same of nnU-Net, as it plans itself, with its ignore label."""
    image, label, truth = (
        read_volume(data / part / "medulla.tif", labels=part != "images")
        for part in ("images", "labels", "truth")
    )
    result = folder / f"nnunet_{minutes:g}.npz"
    if not result.exists():
        task = folder / "task.npz"
        facts = {"spacing": np.asarray(image.spacing), "classes": 2, "seed": 0}
        np.savez(task, image=image.array, labels=label.array[0], **facts)
        words = [Path(__file__).with_name("densify_peers.py"), "nnunet", task, result, "--seconds"]
        subprocess.run([str(word) for word in (peers, *words, 60 * minutes)], check=True)
    classes = np.load(result)["classes"].reshape(truth.array.shape[1:])
    unseen = np.where(label.array[0] == IGNORE_INDEX, truth.array[0], IGNORE_INDEX)
    return float(dice(confusion_matrix(classes, unseen, 2))[1])


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--peers", type=Path, help="the interpreter of an environment with nnU-Net")
    parser.add_argument("--minutes", type=float, nargs="+", help="instead of 2, 5, 10 and 5, 15, 30")
    given, settings = parser.parse_known_args()
    given.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| | minutes of training | Dice | minutes in all |\n|---|---|---|---|", flush=True)
    for method, all_minutes in MINUTES.items():
        if method == "nnU-Net" and given.peers is None:
            continue
        for minutes in given.minutes or all_minutes:
            began = time.monotonic()
            if method == "volseg":
                score = volseg(minutes, given.data, given.output, settings)
            else:
                score = nnunet(minutes, given.data, given.output, given.peers)
            took = (time.monotonic() - began) / 60
            print(f"| {method} | {minutes:g} | {score:.3f} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
