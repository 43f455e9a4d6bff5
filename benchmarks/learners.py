"""What the parts of densify's learners give, on volumes that no result is reported on.

    python benchmarks/learners.py shares --data ../shared/data
    python benchmarks/learners.py grids --data ../shared/data
    python benchmarks/learners.py position --data ../shared/data --seeds 0 1 2

Settings are chosen here. ``shares``: the per-voxel learner, the U-Net, and both joined with every share of
the U-Net, which looks at blocks of the volume or at sections. ``grids``: auto-context on the finest grid, on
one twice as coarse, and none. ``position``: of a stack painted in one direction, with and without where
voxels lie. Four xy slices, and for ``grids`` two per direction, too. IoU over foreground on all unlabelled
voxels. Seconds are those of this process's processor, on one thread.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from densify import Set, from_files, phantom
from scipy.special import log_softmax

from volseg.annotation import find_slices, keep_slices
from volseg.labels import IGNORE_INDEX
from volseg.learners import UNetLearner, sections
from volseg.learning import Scores, Task, mixed
from volseg.metrics import confusion_matrix, iou, mean_score
from volseg.pixelwise import PixelwiseLearner, bank_of, context
from volseg.pixelwise.place import PlacePrior

SHARES = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
XY, CROSSED = (0, 0, 4), (2, 2, 2)


def volumes(data: Path) -> dict[str, tuple[Callable[[], Set], tuple[int, ...]]]:
    """What settings are chosen on, by name, and the middle that is taken of it."""
    single, lesion = data / "med_single_cases_3d" / "spleen_ct", data / "ms_lesion_3d" / "patient26"
    brain = sorted((data / "msd_hippocampus_3d" / "imagesTr").glob("*"))[3]  # any one
    stardist, isbi = data / "stardist_nuclei", data / "isbi2012_em"
    return {
        "stardist": (
            lambda: from_files(
                [stardist / "stardist_img3d.tif"], stardist / "stardist_mask3d.tif", is_binary=True
            ),
            (999, 999, 999),
        ),
        "hippocampus": (
            lambda: from_files([brain], data / "msd_hippocampus_3d" / "labelsTr" / brain.name),
            (999, 999, 999),
        ),
        "isbi2012": (
            lambda: from_files([isbi / "train-volume.tif"], isbi / "train-labels.tif", is_binary=True),
            (200, 200, 24),
        ),
        "spleen": (lambda: from_files([single / "image.nii.gz"], single / "label.nii.gz"), (110, 110, 110)),
        "lesions": (
            lambda: from_files([lesion / "FLAIR.nii.gz", lesion / "T1.nii.gz"], lesion / "label.nii.gz"),
            (100, 100, 80),
        ),
        "phantom2": (lambda: phantom(2), (100, 100, 100)),
    }


class Case:
    """A volume with its paint."""

    def __init__(self, data: Set, slices: tuple[int, ...], seed: int) -> None:
        self.data, self.labels = data, keep_slices(data.truth, slices)
        self.task = Task(data.image, data.spacing, int(data.truth.max()) + 1, seed)
        self.slices = find_slices(self.labels)

    def score(self, scores: Scores) -> float:
        """IoU over the foreground, on what is not painted."""
        truth = np.where(self.labels == IGNORE_INDEX, self.data.truth, IGNORE_INDEX)
        found = iou(confusion_matrix(scores.argmax(0), truth, self.task.classes))
        return mean_score([v for c, v in enumerate(found) if c != self.data.background])

    def learnt(self, learner: PixelwiseLearner | UNetLearner, seconds: float) -> Scores:
        """Scores of every voxel; features are computed before the time begins."""
        if isinstance(learner, PixelwiseLearner):
            bank_of(self.task)
        return learner.learn(self.task, self.labels, slices=self.slices, seconds=seconds).predict(self.task)


def cases(given: argparse.Namespace, slices: tuple[int, ...]) -> Iterator[tuple[str, int, Case]]:
    """Every volume with every seed."""
    for name, (make, most) in volumes(given.data).items():
        if given.only and name not in given.only:
            continue
        data = make()
        starts = [max(0, (n - m) // 2) for n, m in zip(data.truth.shape, most, strict=True)]
        where = tuple(slice(start, start + m) for start, m in zip(starts, most, strict=True))
        data = data._replace(image=data.image[:, *where], truth=data.truth[where])
        for seed in given.seeds:
            yield name, seed, Case(data, slices, seed)


def shares(given: argparse.Namespace) -> None:
    """The per-voxel learner and the U-Net, joined by every share."""
    print("| volume | fewest voxels | seed | U-Net | " + " | ".join(f"{share:g}" for share in SHARES) + " |")
    print("|---" * (len(SHARES) + 4) + "|")
    for name, seed, case in cases(given, XY):
        fewest = np.bincount(case.labels[case.labels != IGNORE_INDEX]).min()
        alone = log_softmax(case.learnt(PixelwiseLearner(), given.seconds), axis=0)
        for looks_at, sections.ENOUGH in (("blocks", 10**9), ("sections", 1)):
            parts = [alone, log_softmax(case.learnt(UNetLearner(), 10 * given.seconds), axis=0)]
            found = [f"{case.score(mixed(parts, share)):.3f}" for share in SHARES]
            print(f"| {name} | {fewest} | {seed} | {looks_at} | " + " | ".join(found) + " |", flush=True)


def grids(given: argparse.Namespace) -> None:
    """Auto-context on the finest grid, on a coarser one, and none."""
    print("| volume | slices | seed | finest | coarser | none |")
    print("|---|---|---|---|---|---|")
    for slices in (XY, CROSSED):
        for name, seed, case in cases(given, slices):
            found = []
            for share in (2.0, 0.5, 0.0):  # of the numbers on the finest grid, that there is room for
                finest = context.values_of(case.task, (1,) * len(case.task.size))
                context.MOST_VALUES = share * finest
                found.append(f"{case.score(case.learnt(PixelwiseLearner(), given.seconds)):.3f}")
            print(f"| {name} | {slices} | {seed} | " + " | ".join(found) + " |", flush=True)


def position(given: argparse.Namespace) -> None:
    """The per-voxel learner with and without the position, on one painted direction."""
    print("| volume | seed | with | without |")
    print("|---|---|---|---|")
    told = PlacePrior.telling
    for name, seed, case in cases(given, XY):
        found = []
        for telling in (told, property(lambda _: slice(0, 0))):
            PlacePrior.telling = telling  # type: ignore[assignment,misc]
            found.append(f"{case.score(case.learnt(PixelwiseLearner(), given.seconds)):.3f}")
        PlacePrior.telling = told  # type: ignore[method-assign]
        print(f"| {name} | {seed} | " + " | ".join(found) + " |", flush=True)


def main() -> None:
    """One of the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("shares", "grids", "position"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", help="these volumes")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    parser.add_argument(
        "--seconds", type=float, default=12, help="per voxel; the U-Net has ten times as long"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    time.monotonic = lambda: began + time.process_time()
    {"shares": shares, "grids": grids, "position": position}[given.table](given)


if __name__ == "__main__":
    main()
