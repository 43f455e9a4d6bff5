"""The folder of a run, and how a new run takes the place of an old one.

A training that is to replace another (``overwrite``) takes place in ``unfinished``, inside.

Until it is complete the earlier result stays as it is, to be segmented with, too. Then its files change
places with the new ones (:mod:`volseg.runs.replacing`); what a kill interrupts is ended by the next training.
What an evaluation said of the earlier weights goes with them.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.arguments import option
from volseg.errors import InputError, RefusedError
from volseg.io import read_json, write_json
from volseg.machine import library_versions
from volseg.runs import processes
from volseg.runs.checkpoint import past_checkpoints
from volseg.runs.claim import claim, release
from volseg.runs.log import is_monais_command, open_log, running_bundle
from volseg.runs.replacing import install, is_decided, settle

__all__ = [
    "FIGURES",
    "OWN",
    "PAGES",
    "STAGE",
    "RunFolder",
    "check_run",
    "complete_run",
    "differences",
    "is_trained",
    "new_file",
    "open_run",
    "say_what_is_older",
    "tidy_up",
    "working_folder",
]

logger = logging.getLogger(__name__)

STAGE = "unfinished"
OWN = ("model.pt", "best.pt", "progress.csv", "log.txt")
"""What a training leaves, beside the checkpoints to resume from and the description."""
PAGES = {"worst": "report.html", "median": "report_median.html", "best": "report_best.html"}
"""The pages of an evaluation."""

FIGURES = ("metrics.json", "metrics.csv", "picture.png", *PAGES.values())
"""What an evaluation leaves."""

_FORMER_MARK = "complete"  # of a volseg that moved file by file: with their names


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training.

    Attributes:
        home: as the run was given it.
        stage: where it takes place: ``home``, or a folder inside while an earlier result has to stay.
    """

    home: Path
    stage: Path
    resume: bool
    overwrite: bool

    @classmethod
    def at(cls, folder: str | Path, *, resume: bool, overwrite: bool) -> "RunFolder":
        """The folder of a training to come; of several processes the first ends an interrupted move."""
        home = Path(folder)
        processes.from_first(lambda: tidy_up(home))
        return cls(home, working_folder(home, resume=resume, overwrite=overwrite), resume, overwrite)

    def check(self) -> None:
        """See :func:`check_run`."""
        check_run(self.home, resume=self.resume, overwrite=self.overwrite)

    def open(self, data: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> Callable[[], None]:
        """See :func:`open_run`."""
        return open_run(self.home, self.stage, resume=self.resume, data=data, facts=facts)

    def complete(self) -> None:
        """The training is done: it takes the place of the earlier result, if there is one."""
        if self.stage != self.home:
            complete_run(self.home)

    def release(self) -> None:
        """Others may have the folder now."""
        release(self.home)


def working_folder(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where a training writes: its folder, or one inside while an earlier result has to stay."""
    stage = folder / STAGE
    if resume:
        return stage if past_checkpoints(stage / "last.pt") else folder
    return stage if overwrite and is_trained(folder) else folder


def complete_run(home: Path) -> None:
    """A training that was to replace another is complete: it takes its place, file by file.

    What a kill interrupts then is ended by :func:`tidy_up`.
    """
    install(home / STAGE, home, _replaced(home))


def tidy_up(home: Path) -> None:
    """End the move of a complete training that was interrupted, if there is one."""
    stage = home / STAGE
    former = stage / _FORMER_MARK
    if not (former.is_file() or is_decided(home, stage)):
        return
    claim(home)
    if former.is_file():
        names = read_json(former)  # of the new result; what is not on the stage has its place already
        replaced = [
            path
            for path in _replaced(home)
            if path.parts[0] not in names or os.path.lexists(stage / path.parts[0])
        ]
        install(stage, home, replaced, apart=[_FORMER_MARK])
    settle(home, stage)
    release(home)


def _replaced(home: Path) -> list[Path]:
    """What belongs to the training in a folder and to its weights, relative to it."""
    curves = (path for path in (home / "tensorboard").rglob("*") if not path.is_dir())
    own = [*(home / name for name in (*OWN, *FIGURES)), *past_checkpoints(home / "last.pt"), *curves]
    return [path.relative_to(home) for path in own]


def say_what_is_older(home: Path, iteration: int) -> None:
    """Say what lies in the folder of a training that is complete, and was made with earlier weights."""
    metrics, results = home / "metrics.json", home / "segmentations"
    if metrics.is_file():
        before = read_json(metrics).get("iteration")
        if before != iteration:
            logger.warning(
                "The figures and pages of the evaluation in %s are those of iteration %s, not of these "
                "weights. Evaluate again with %s.", home, before, option("overwrite", True),
            )  # fmt: skip
    if results.is_dir() and any(results.iterdir()):
        logger.warning(
            "What lies in %s was made with earlier weights. Segment again with %s, or into another %s.",
            results, option("overwrite", True), option("output_dir"),
        )  # fmt: skip


def is_trained(folder: Path) -> bool:
    """Whether a training left something in a run's folder: a checkpoint, or a finished model."""
    return bool(past_checkpoints(folder / "last.pt")) or (folder / "model.pt").exists()


_ALWAYS = ("resume", "overwrite")  # settings that differ between the parts of a run by their nature
_NAMED = 8  # of the settings that changed


def check_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Whether a training may run in this folder.

    Raises:
        RefusedError: if it holds a trained model, or figures of one, and neither ``resume`` nor ``overwrite``
            is given.
        InputError: if there is nothing to resume.
    """
    stage = folder / STAGE
    begun = stage.is_dir() and any(stage.iterdir())
    if resume and begun and not past_checkpoints(stage / "last.pt"):
        raise InputError(
            f"{stage}, a training that was to replace this one, holds no checkpoint yet. Begin it again by "
            f"{option('overwrite', True)}, or remove that folder to go on with the earlier training."
        )
    if resume and not past_checkpoints(working_folder(folder, resume=True, overwrite=False) / "last.pt"):
        raise InputError(
            f"{folder} holds no last.pt: there is nothing to resume. Train without {option('resume')} first."
        )
    if is_trained(folder) and not resume and not overwrite:
        raise RefusedError(
            f"{folder} holds a training already, complete or stopped. Go on with it by "
            f"{option('resume', True)}, train in another folder by {option('output_dir', 'NAME')}, or "
            f"replace it by {option('overwrite', True)}."
        )
    if (folder / "metrics.json").exists() and not resume and not overwrite:
        raise RefusedError(
            f"{folder} holds metrics.json, figures of other weights than those to come. Train in another "
            f"folder by {option('output_dir', 'NAME')}, or replace what is there by "
            f"{option('overwrite', True)}."
        )


def open_run(
    home: Path, folder: Path, *, resume: bool, data: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> Callable[[], None]:
    """Make the folder of a training run, with its log file and all that is needed to repeat the run.

    What an earlier run left there is removed first, unless it is resumed. Of a run that is resumed the
    description is kept until there is something new to describe: what is returned writes the new one.

    Args:
        home: the folder that the run was given.
        folder: where it takes place, see :func:`working_folder`.
        data: what ``data.json`` lists: the files of each case, with the SHA-256 of each.
        facts: what else ``versions.json`` holds beside the versions of the libraries.
    """
    home.mkdir(parents=True, exist_ok=True)
    claim(home)
    if folder != home and not resume:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    if not resume:
        stale = [*(folder / name for name in (*OWN, *FIGURES)), *past_checkpoints(folder / "last.pt")]
        for path in [*stale, *(folder / "tensorboard").glob("events.out.tfevents.*")]:
            path.unlink(missing_ok=True)
    open_log(folder / "log.txt")
    if folder != home:
        logger.info("Training in %s; the earlier result in %s stays until it is complete.", folder, home)
    versions = {**library_versions(), **facts}
    description = {"versions.json": versions, "data.json": list(data)}
    config = running_bundle()
    if config is not None:
        description["config.json"] = json.loads(json.dumps(config, default=str))
    elif is_monais_command():
        logger.warning(
            "The settings of this run are not kept as config.json, as its bundle does not call volseg.begin. "
            'Add "initialize": ["$volseg.begin(@seed)"] to it, so that volseg.load and export know the '
            "network later."
        )

    def describe() -> None:
        for name, content in description.items():
            write_json(folder / name, content, default=str)

    if resume:
        _say_changes(folder, description)
    else:
        describe()
    return describe


def _say_changes(folder: Path, description: Mapping[str, Any]) -> None:
    """What differs from the earlier part of a run that is resumed."""
    for name, what in (("config.json", "Settings"), ("data.json", "Data")):
        if name not in description or not (folder / name).is_file():
            continue
        before, now = read_json(folder / name), description[name]
        if name == "data.json":
            before, now = ({one["name"]: _hashes(one) for one in listed} for listed in (before, now))
        else:
            before, now = ({k: v for k, v in one.items() if k not in _ALWAYS} for one in (before, now))
        changes = differences(before, now)
        if changes:
            more = [f"and {len(changes) - _NAMED} more"] if len(changes) > _NAMED else []
            logger.warning("%s changed since: %s.", what, "; ".join([*changes[:_NAMED], *more]))


def _hashes(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Of a case in data.json, what its files hold, in short, wherever they lie."""
    parts = {key: value for key, value in listed.items() if key != "name"}
    files = {key: value if isinstance(value, list) else [value] for key, value in parts.items()}
    return {key: " ".join(one["sha256"][:8] for one in found) for key, found in files.items()}


def differences(before: Any, now: Any, entry: str = "") -> list[str]:
    """What differs between two configurations, one part of a sentence per entry."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            text
            for key in keys
            for text in differences(before.get(key), now.get(key), f"{entry}#{key}" if entry else str(key))
        ]
    if before == now:
        return []
    return [f"{entry} was {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def new_file(path: Path, *, overwrite: bool, source: Path | None = None) -> Path:
    """``path``, if it may be written.

    Raises:
        RefusedError: if it exists and is not to be overwritten, or is the ``source`` of what goes there.
    """
    if source is not None and path.exists() and path.samefile(source):
        raise RefusedError(f"{path} is the image itself: name another {option('output_dir')} for the result.")
    if path.exists() and not overwrite:
        raise RefusedError(
            f"{path} exists already and is not overwritten. Choose another {option('output_dir')}, "
            f"or add {option('overwrite', True)}."
        )
    return path
