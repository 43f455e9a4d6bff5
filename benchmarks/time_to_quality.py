"""Dice over minutes on the medulla, 4 annotated slices per direction: volseg, nnU-Net v2 and a random forest.

    python benchmarks/prepare.py medulla ../shared/data/medulla_fibsem_3d data/medulla
    python benchmarks/time_to_quality.py data/medulla -o runs/quality --peers .venv-peers/bin/python

The same for slices in one direction, as a stack is painted section by section:

    python benchmarks/prepare.py medulla ../shared/data/medulla_fibsem_3d data/medulla_xy --slices 0,0,12
    python benchmarks/time_to_quality.py data/medulla_xy -o runs/quality_xy --peers .venv-peers/bin/python

With ``--crop 128`` of ``prepare.py`` and ``--minutes 0.5 1`` either is a matter of minutes.

Alone on one core (``taskset -c 0``, ``OMP_NUM_THREADS=1``), one hour and a half. Each figure is a run of its
own, whose learning rate comes to its end with its minutes. Those of ``volseg train`` (the U-Net of
``bundles/medulla.json``) and of nnU-Net are minutes of training, planning and segmenting on top; those of
``volseg densify`` are all that it takes; the forest takes what it needs. What is done already is not done
again. The environment of ``--peers`` is that of ``benchmarks/peers.txt``; without it volseg runs alone. All
are scored on the voxels that are not annotated.
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
MINUTES: dict[str, tuple[float, ...]] = {
    "volseg train": (2, 5, 10),
    "volseg densify": (2, 5, 10),
    "random forest": (0,),
    "nnU-Net": (5, 15, 30),
}
PEERS = {"random forest": "forest", "nnU-Net": "nnunet"}
MANY = 1000  # epochs: the minutes end the run


def unet(minutes: float, data: Path, folder: Path, settings: list[str]) -> float:
    """Dice of the boundary after so many minutes of training."""
    run = folder / f"train_{minutes:g}"
    command = [sys.executable, "-W", "ignore", "-c", "from volseg.cli import main; raise SystemExit(main())"]
    words = [BUNDLE, "--dataset_dir", str(data), "--held_out", "0", "--output_dir", str(run), *settings]
    if not (run / "metrics.json").exists():
        length = ["--max_minutes", f"{minutes:g}", "--epochs", str(MANY), "--overwrite", "True"]
        subprocess.run([*command, "train", *words, *length], check=True)
        subprocess.run([*command, "evaluate", *words, "--overwrite", "True"], check=True)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return float(metrics["never annotated"]["mean foreground Dice"])


def at_once(minutes: float, data: Path, folder: Path, method: str, words: list[str]) -> float:
    """The same of what learns from one volume alone, by the script that runs one such task."""
    image, label, truth = (
        read_volume(data / part / "medulla.tif", labels=part != "images")
        for part in ("images", "labels", "truth")
    )
    result = folder / f"{method}_{minutes:g}.npz"
    if not result.exists():
        task = folder / "task.npz"
        facts = {"spacing": np.asarray(image.spacing), "classes": 2, "seed": 0, "background": 0}
        np.savez(task, image=image.array, labels=label.array[0], **facts)
        subprocess.run([*words, method, str(task), str(result), "--seconds", f"{60 * minutes}"], check=True)
    found = np.load(result)
    unseen = np.where(label.array[0] == IGNORE_INDEX, truth.array[0], IGNORE_INDEX).reshape(-1)
    asked = found["voxels"] if len(found["voxels"]) else slice(None)  # the forest is asked about some
    return float(dice(confusion_matrix(found["classes"].reshape(-1), unseen[asked], 2))[1])


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--peers", type=Path, help="the interpreter of an environment with peers.txt")
    parser.add_argument("--methods", nargs="+", choices=tuple(MINUTES), default=tuple(MINUTES))
    parser.add_argument("--minutes", type=float, nargs="+", help="instead of 2, 5, 10 and 5, 15, 30")
    given, settings = parser.parse_known_args()
    given.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    here = Path(__file__).parent
    print("| | minutes | Dice | minutes in all |\n|---|---|---|---|", flush=True)
    for method in given.methods:
        if method in PEERS and given.peers is None:
            continue
        for minutes in given.minutes or MINUTES[method]:
            began = time.monotonic()
            if method == "volseg train":
                score = unet(minutes, given.data, given.output, settings)
            elif method == "volseg densify":
                words = [sys.executable, str(here / "densify.py"), "cell"]
                score = at_once(minutes, given.data, given.output, "volseg", words)
            else:
                words = [str(given.peers), str(here / "densify_peers.py")]
                score = at_once(minutes, given.data, given.output, PEERS[method], words)
            took = (time.monotonic() - began) / 60
            print(f"| {method} | {minutes:g} | {score:.3f} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
