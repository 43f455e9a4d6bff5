"""A training that is to replace another (``--overwrite True``) takes place in ``unfinished``, inside.

Until it is complete the earlier result stays as it is, to be segmented with, too. Then its files change
places with the new ones: a mark with their names is there first, so that what a kill interrupts is ended by
the next training.
"""

import json
import os
import shutil
from pathlib import Path

from volseg.engines.checkpoint import past_checkpoints
from volseg.engines.claim import claim, release
from volseg.io import atomic_write, read_json

__all__ = ["OWN", "STAGE", "complete_run", "is_trained", "tidy_up", "working_folder"]

STAGE = "unfinished"
OWN = ("model.pt", "best.pt", "progress.csv", "log.txt")
"""What a training leaves, beside the checkpoints to resume from and the description."""

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
    for path in [*(home / name for name in OWN), *past_checkpoints(home / "last.pt")]:
        if path.name not in names:  # the earlier training had it, this one has not
            path.unlink(missing_ok=True)
    shutil.rmtree(stage)


def is_trained(folder: Path) -> bool:
    return bool(past_checkpoints(folder / "last.pt")) or (folder / "model.pt").exists()
