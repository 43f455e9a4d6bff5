"""A training that is to replace another (``--overwrite True``) takes place in ``unfinished``, inside.

Until it is complete the earlier result stays as it is, to be segmented with, too. Then its files change
places with the new ones: a mark with their names is there first, so that what a kill interrupts is ended by
the next training. What an evaluation said of the earlier weights goes with them.
"""

import json
import logging
import os
import shutil
from pathlib import Path

from volseg.engines.checkpoint import past_checkpoints
from volseg.engines.claim import claim, release
from volseg.engines.pages import PAGES
from volseg.io import atomic_write, read_json

__all__ = [
    "FIGURES",
    "OWN",
    "STAGE",
    "complete_run",
    "is_trained",
    "say_what_is_older",
    "tidy_up",
    "working_folder",
]

logger = logging.getLogger(__name__)

STAGE = "unfinished"
OWN = ("model.pt", "best.pt", "progress.csv", "log.txt")
"""What a training leaves, beside the checkpoints to resume from and the description."""
FIGURES = ("metrics.json", "metrics.csv", "picture.png", *PAGES.values())
"""What an evaluation leaves."""

_MARK = "complete"


def working_folder(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where a training writes: its folder, or one inside while an earlier result has to stay."""
    stage = folder / STAGE
    if resume:
        return stage if past_checkpoints(stage / "last.pt") else folder
    return stage if overwrite and is_trained(folder) else folder


def complete_run(home: Path) -> None:
    """A training that was to replace another is complete: it takes its place, file by file.

    A mark with the names is there first; what a kill interrupts then is ended by :func:`tidy_up`.
    """
    stage = home / STAGE
    names = sorted(path.name for path in stage.iterdir())
    with atomic_write(stage / _MARK, overwrite=True) as temporary:
        temporary.write_text(json.dumps(names), encoding="utf-8")
    _move(home)


def tidy_up(home: Path) -> None:
    """End the move of a complete training that was interrupted, if there is one."""
    if (home / STAGE / _MARK).is_file():
        claim(home)
        _move(home)
        release(home)


def _move(home: Path) -> None:
    stage = home / STAGE
    names = read_json(stage / _MARK)
    for name in names:
        if (stage / name).exists():
            if (home / name).is_dir():
                shutil.rmtree(home / name)
            os.replace(stage / name, home / name)
    for path in [*(home / name for name in (*OWN, *FIGURES)), *past_checkpoints(home / "last.pt")]:
        if path.name not in names:  # the earlier training had it, this one has not
            path.unlink(missing_ok=True)
    shutil.rmtree(stage)


def say_what_is_older(home: Path, iteration: int) -> None:
    """Say what lies in the folder of a training that is complete, and was made with earlier weights."""
    metrics, results = home / "metrics.json", home / "segmentations"
    if metrics.is_file():
        before = read_json(metrics).get("iteration")
        if before != iteration:
            logger.warning(
                "The figures and pages of the evaluation in %s are those of iteration %s, not of these "
                "weights. Evaluate again with --overwrite True.", home, before,
            )  # fmt: skip
    if results.is_dir() and any(results.iterdir()):
        logger.warning(
            "What lies in %s was made with earlier weights. Segment again with --overwrite True, or into "
            "another --output_dir.", results,
        )  # fmt: skip


def is_trained(folder: Path) -> bool:
    return bool(past_checkpoints(folder / "last.pt")) or (folder / "model.pt").exists()
