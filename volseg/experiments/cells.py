"""One cell: a bundle trained and scored in this process, as the command line would, or resumed."""

import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from volseg.errors import InputError, VolsegError, cause
from volseg.io import read_json, write_json
from volseg.runs.checkpoint import load_newest, past_checkpoints
from volseg.runs.log import announce_bundles, close_log

__all__ = ["Cell", "Result", "content_of", "finished", "run_bundle", "run_cell"]

logger = logging.getLogger(__name__)

_STATE = "cell.json"  # how far a cell has come: trained, or finished


@dataclass(frozen=True)
class Cell:
    """One training of an experiment.

    ``dataset`` is the folder it trains on, ``test`` the one it is scored on; ``None`` stands for what the
    bundle says. ``images``, if any, are segmented.
    """

    name: str  # of its folder
    title: str
    row: str
    column: str
    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    dataset: Path | None = None
    test: Path | None = None
    images: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a finished cell came to; ``trouble`` if the training failed."""

    metrics: Mapping[str, Any]
    seconds: float
    trouble: str = ""

    @property
    def score(self) -> float | None:
        """Mean IoU on what was held out."""
        return self.kind("held out").get("mean IoU")

    def kind(self, name: str) -> Mapping[str, Any]:
        """The figures for one kind of voxel, none if it was not scored."""
        found = self.metrics.get(name, {})
        return found if isinstance(found, Mapping) else {}


def finished(folder: Path) -> Result | None:
    """What lies in the folder of a finished cell; ``None`` if it has yet to be run, or to be resumed."""
    state = _state(folder)
    if not state.get("finished"):
        return None
    metrics = {} if state["trouble"] else read_json(folder / "metrics.json", constant=float)
    return Result(metrics, state["seconds"], state["trouble"])


def run_cell(cell: Cell, folder: Path) -> Result:
    """Train, score and segment, from where an earlier attempt stopped.

    A training that went astray (its loss is no longer finite) is a result, too; any other error is raised.
    """
    began, earlier = time.perf_counter(), float(_state(folder).get("seconds", 0.0))
    settings = {**cell.settings, "output_dir": str(folder)}
    on = {} if cell.dataset is None else {"dataset_dir": str(cell.dataset)}

    def note(*, finished: bool, trouble: str = "") -> None:
        seconds = round(earlier + time.perf_counter() - began, 1)
        state = {"title": cell.title, "finished": finished, "seconds": seconds, "trouble": trouble}
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _STATE, state, indent=1)

    try:
        if not _state(folder):
            iteration = _iteration(folder)
            if iteration < _iterations(cell.files, {**settings, **on}):
                run = {"resume": iteration > 0, "overwrite": iteration == 0}
                run_bundle("training", cell.files, {**settings, **on, **run})
            note(finished=False)
        test = on if cell.test is None else {"dataset_dir": str(cell.test)}
        run_bundle("evaluating", cell.files, {**settings, **test, "overwrite": True})
        if cell.images is not None:
            images = {"images": str(cell.images), "overwrite": True}
            run_bundle("predicting", cell.files, {**settings, **on, **images})
        note(finished=True)
    except Exception as error:  # MONAI wraps what went wrong in errors of its own
        fixable = cause(error)
        if type(fixable) is not VolsegError:
            raise
        logger.warning("%s failed: %s", cell.title, fixable)
        note(finished=True, trouble=str(fixable))
    result = finished(folder)
    assert result is not None
    return result


def run_bundle(run_id: str, files: Sequence[Path], settings: Mapping[str, Any]) -> None:
    """Run one part of a bundle; what it changes in the process is undone."""
    announce_bundles()
    with _as_it_was():
        workflow = ConfigWorkflow(
            config_file=[str(path) for path in files],
            logging_file=False,  # whoever called has set up logging
            run_id=run_id,
            **dict(settings),
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    del workflow
    gc.collect()  # networks, datasets and engines refer to each other


def content_of(files: Sequence[Path], settings: Mapping[str, Any], *entries: str) -> list[Any]:
    """Entries of a bundle, built, and nothing else of it."""
    with _as_it_was():
        parser = ConfigParser()
        parser.read_config([str(path) for path in files])
        parser.update(dict(settings))
        return [parser.get_parsed_content(entry.replace("#", "::")) for entry in entries]


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Running a bundle sets the search path, warnings and what is logged where."""
    paths = sys.path[:]
    loggers = [
        logging.getLogger(name) for name in ("volseg", "monai.bundle.scripts", "monai.bundle.workflows")
    ]
    before = [(one, one.handlers[:], one.level) for one in loggers]
    for one in loggers[1:]:
        one.setLevel(logging.ERROR)  # they repeat what was typed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
            yield
    finally:
        close_log()
        sys.path[:] = paths
        for one, handlers, level in before:
            one.handlers[:] = handlers
            one.setLevel(level)


def _state(folder: Path) -> dict[str, Any]:
    """How far the cell in a folder has come; empty while it is still to be trained."""
    path = folder / _STATE
    found: dict[str, Any] = read_json(path, constant=float) if path.is_file() else {}
    return found


def _iteration(folder: Path) -> int:
    """How far the training in a folder has come."""
    if not past_checkpoints(folder / "last.pt"):
        return 0
    return int(load_newest(folder / "last.pt")[1]["iteration"])


def _iterations(files: Sequence[Path], settings: Mapping[str, Any]) -> int:
    """How far it shall go."""
    epochs, length = content_of(files, settings, "train#trainer#max_epochs", "train#trainer#epoch_length")
    if not isinstance(epochs, int) or not isinstance(length, int):
        raise InputError(
            "train#trainer of the bundle has no max_epochs and epoch_length: nothing can be run."
        )
    return epochs * length
