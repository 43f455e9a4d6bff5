"""Methods that learn nothing on the same held-out slices, while the learner is at work.

They run in a process of their own, which takes what the learner leaves of the processors and is ended when
the result is there: no one waits for a figure to compare with.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.densification.baselines import interpolate, missing, random_walk
from volseg.densification.calibration import log_scores
from volseg.densification.folds import Fold
from volseg.densification.scoring import Measured, Scorer, Tested, tested
from volseg.errors import VolsegError
from volseg.io import Volume, read_channels, read_json, read_text, write_json, write_text
from volseg.io.text import read_arrays, write_arrays

__all__ = ["NAMES", "Comparison", "comparing", "segment_by"]

logger = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8]

NAMES: Mapping[str, str] = {"random-walker": "random walker", "interpolate": "interpolation"}

_START = "import sys; from volseg.densification.comparison import work; work(sys.argv[1])"
_REQUEST, _GIVEN = "request.json", "given.npz"  # what the process is handed
_NICENESS = 10
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def segment_by(
    method: str,
    image: npt.NDArray[Any],
    labels: Labels,
    *,
    classes: int,
    background: int,
    spacing: Sequence[float],
) -> npt.NDArray[np.float32]:
    """Scores ``(C, *spatial)`` of a method, given class indices with 255 where unlabelled."""
    if method == "interpolate":
        found = interpolate(labels, classes, spacing=spacing, background=background)
    else:
        found = random_walk(image, labels, classes, spacing=spacing)
    return log_scores(found.probabilities)


class Comparison:
    """The process, and what it has found so far."""

    def __init__(
        self, folder: Path, process: "subprocess.Popen[bytes]", folds: Sequence[Fold], labels: Labels
    ):
        self._folder = folder
        self._process = process
        self._folds = folds
        self._labels = labels

    def collect(self, scorer: Scorer, patience: float) -> tuple[list[Measured], list[str]]:
        """What was measured, and in a sentence why something was not.

        Args:
            patience: seconds to wait for what is still to come.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(patience, 0))
        found, reasons = [], []
        for method, name in NAMES.items():
            path, trouble = self._folder / f"{method}.npz", self._folder / f"{method}.txt"
            if path.is_file():
                scores = read_arrays(path)
                parts = [
                    Tested(fold, fold.split(self._labels)[1], scores[f"fold_{i}"])
                    for i, fold in enumerate(self._folds)
                ]
                found.append(scorer.measure(name, parts))
            elif trouble.is_file():
                reasons.append(f"No {name} to compare with: {read_text(trouble)}")
            elif method == "interpolate" and self._labels.ndim == 2:
                continue  # there are no slices to interpolate between
            elif method == "interpolate" and (lacking := missing()):
                reasons.append(f"No {name} to compare with: {lacking}")
            elif self._process.poll() is None:
                reasons.append(f"No {name} to compare with: it takes longer than there was time.")
            else:
                reasons.append(f"No {name} to compare with: it failed.")
        return found, reasons


@contextlib.contextmanager
def comparing(
    image: Volume,
    labels: Labels,
    folds: Sequence[Fold],
    *,
    files: Sequence[Path],
    classes: int,
    background: int,
) -> Iterator[Comparison]:
    """Runs the methods for as long as the block lasts.

    Args:
        files: that the image was read from, if it was.
    """
    with tempfile.TemporaryDirectory(prefix="volseg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        given = {"labels": labels} if files else {"labels": labels, "image": image.array}
        write_arrays(folder / _GIVEN, given)
        request = {
            "image": [str(path.resolve()) for path in files],
            "spacing": list(image.spacing),
            "classes": classes,
            "background": background,
            "folds": [fold.as_json() for fold in folds],
        }
        write_json(folder / _REQUEST, request)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(folder)],
            env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Comparison(folder, process, folds, labels)
        finally:
            process.kill()
            process.wait()


def work(name: str) -> None:
    """What the process does in a folder: every method on every fold, one file for each method."""
    folder = Path(name)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    request, given = read_json(folder / _REQUEST), read_arrays(folder / _GIVEN)
    labels = given["labels"]
    array = read_channels(request["image"]).array if request["image"] else given["image"]
    folds = [Fold.from_json(parts) for parts in request["folds"]]
    for method in NAMES:
        found: dict[str, Any] = {}
        try:
            for i, fold in enumerate(folds):
                train, test = fold.split(labels)
                scores = segment_by(
                    method,
                    array,
                    train,
                    classes=request["classes"],
                    background=request["background"],
                    spacing=request["spacing"],
                )
                found[f"fold_{i}"] = tested(fold, test, scores).scores
        except VolsegError as error:
            write_text(folder / f"{method}.txt", str(error))
        else:
            write_arrays(folder / f"{method}.npz", found)
