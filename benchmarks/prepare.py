"""Dataset folders for the figures in docs/results.md, made from volumes with dense ground truth.

    python benchmarks/prepare.py medulla SOURCE data/medulla
    python benchmarks/prepare.py hippocampus SOURCE data/hippocampus

``SOURCE`` is a folder with ``raw.tif`` and ``labels_boundary.tif`` (medulla), or with ``imagesTr/`` and
``labelsTr/`` of the Medical Segmentation Decathlon's Task04 (hippocampus).
Only the slices named here are left in the labels to train on; the rest becomes 255, unlabelled.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from volseg import LabelScheme, read_volume, write_volume
from volseg.annotation import keep_slices

TRAINING_CASES = 40  # of the hippocampus, in the order of their names; the others are scored


def sparse_copy(source: Path, target: Path, slices: Sequence[int]) -> None:
    """Write the label ``source`` with only some slices annotated."""
    volume = read_volume(source, labels=True)
    values = [int(v) for v in np.unique(volume.array)]
    scheme = LabelScheme([str(v) for v in values], values, 255)
    kept = keep_slices(scheme.encode(volume.array[0], source=str(source)), slices)
    write_volume(target, scheme.decode(kept), volume)


def medulla(source: Path, target: Path, per_direction: int) -> None:
    """One volume, ``per_direction`` slices in each direction; the dense truth beside it."""
    for part in ("images", "labels", "truth"):
        (target / part).mkdir(parents=True)
    shutil.copyfile(source / "raw.tif", target / "images" / "medulla.tif")
    shutil.copyfile(source / "labels_boundary.tif", target / "truth" / "medulla.tif")
    sparse_copy(source / "labels_boundary.tif", target / "labels" / "medulla.tif", [per_direction] * 3)


def hippocampus(source: Path, target: Path, per_direction: int) -> None:
    """40 cases with sparse labels in ``train``, the other 20 with dense labels in ``test``."""
    labels = sorted((source / "labelsTr").glob("*.nii.gz"))
    for index, label in enumerate(labels):
        is_training = index < TRAINING_CASES
        folder = target / ("train" if is_training else "test")
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "imagesTr" / label.name, folder / "images" / label.name)
        if is_training:
            sparse_copy(label, folder / "labels" / label.name, [per_direction] * 3)
        else:
            shutil.copyfile(label, folder / "labels" / label.name)


def main() -> None:
    """Read the command line and make the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("medulla", "hippocampus"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--slices", type=int, help="annotated slices per direction (4 for medulla, 2 otherwise)"
    )
    given = parser.parse_args()
    if given.target.exists():
        parser.error(f"{given.target} exists already.")
    if given.which == "medulla":
        medulla(given.source, given.target, given.slices or 4)
    else:
        hippocampus(given.source, given.target, given.slices or 2)


if __name__ == "__main__":
    main()
