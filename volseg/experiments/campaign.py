"""The cells of an experiment, each a bundle trained and scored in this process, and the folder they are in.

A cell runs as the command line would run it, or is resumed. A sweep is a study of Optuna besides, in an
SQLite file that its tools (``optuna-dashboard``) can show.
"""

import gc
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from monai.bundle import ConfigParser, ConfigWorkflow

from volseg.arguments import option
from volseg.errors import InputError, RefusedError, VolsegError, cause
from volseg.installation import install_line
from volseg.io import read_json, write_json, write_text
from volseg.runs.checkpoint import load_newest, past_checkpoints
from volseg.runs.claim import claim, release
from volseg.runs.folder import differences
from volseg.runs.log import announce_bundles, close_log

__all__ = [
    "Book",
    "Cell",
    "Result",
    "Results",
    "content_of",
    "finished",
    "open_campaign",
    "run_bundle",
    "run_cell",
    "run_cells",
    "write_text",
]

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


Results: TypeAlias = Mapping[str, Result]

_FILE = "experiment.json"


def open_campaign(folder: Path, settings: Mapping[str, Any], *, may_grow: str = "") -> None:
    """Make the folder, or go on in it if it holds the same experiment.

    Args:
        settings: everything that the figures depend on, as plain values.
        may_grow: the entry that may hold more, or other, parts than before; those it had are kept.

    Raises:
        RefusedError: if the folder holds an experiment with other settings, or something else.
    """
    asked = json.loads(json.dumps(settings, default=str))
    path = folder / _FILE
    if path.is_file():
        before = read_json(path, constant=float)["settings"]
        if may_grow:
            asked[may_grow] = {**before.get(may_grow, {}), **asked[may_grow]}
            before[may_grow] = {**asked[may_grow], **before.get(may_grow, {})}
        changes = [_without_variant(change) for change in differences(before, asked)]
        if changes:
            more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
            raise RefusedError(
                f"{folder} holds an experiment with other settings: {changes[0]}{more}. Its cells would not "
                f"be comparable with new ones. Name another folder ({option('output')}), or go back to the "
                "old settings."
            )
    elif folder.exists() and (not folder.is_dir() or any(p.name != ".lock" for p in folder.iterdir())):
        raise RefusedError(
            f"{folder} exists and holds no experiment. Name another folder ({option('output')})."
        )
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, "output")
    text = json.dumps(asked, sort_keys=True)
    content = {"hash": sha256(text.encode()).hexdigest(), "settings": asked}
    write_text(path, json.dumps(content, indent=1, default=str) + "\n")


def run_cells(
    folder: Path,
    cells: Sequence[Cell],
    report: Callable[[Results], None],
    *,
    before: Callable[[Cell], None] = lambda cell: None,
    after: Callable[[Cell, Result], None] = lambda cell, result: None,
) -> dict[str, Result]:
    """Run the cells that are not finished, with the table written again after each.

    Args:
        report: writes table and plot of what there is.
        before: called with each cell that is to be run.
        after: called with each cell that is finished, whether now or long ago.
    """
    results: dict[str, Result] = {}
    for cell in cells:
        found = finished(folder / "runs" / cell.name)
        if found is not None:
            results[cell.name] = found
            after(cell, found)
    left = [cell for cell in cells if cell.name not in results]
    if results:
        logger.info("%d of %d cells are finished already.", len(results), len(cells))
    report(results)
    for number, cell in enumerate(left):
        logger.info(
            "Cell %d of %d: %s%s.",
            len(results) + 1,
            len(cells),
            cell.title,
            _time_left(left[number:], cells, results),
        )
        before(cell)
        try:
            result = run_cell(cell, folder / "runs" / cell.name)
        except (KeyboardInterrupt, SystemExit):
            logger.warning("Stopped during %s. The same command resumes there.", cell.title)
            raise
        results[cell.name] = result
        after(cell, result)
        report(results)
        score = "no figure" if result.score is None else f"mean IoU {result.score:.3f}"
        logger.info("%s: %s, %s.", cell.title, score, _minutes(result.seconds))
    release(folder)
    logger.info("All %d cells are finished; see %s.", len(cells), folder / "table.md")
    return results


def _time_left(left: Sequence[Cell], cells: Sequence[Cell], results: Results) -> str:
    """How long the rest will take, judged by finished cells of the same column, else by all."""
    if not results:
        return ""
    times: dict[str, list[float]] = {}
    for cell in cells:
        if cell.name in results:
            times.setdefault(cell.column, []).append(results[cell.name].seconds)
    overall = mean(seconds for column in times.values() for seconds in column)
    return f", {_minutes(sum(mean(times.get(cell.column, [overall])) for cell in left))} left"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _without_variant(change: str) -> str:
    """``bundle#VARIANT#ENTRY was ...`` as ``ENTRY was ...``."""
    return change.split("#", 2)[2] if change.startswith("bundle#") and change.count("#") > 1 else change


_STUDY = "sweep"


class Book:
    """The trials of a sweep: one per cell, running while its cell is run, complete with its mean IoU.

    Args:
        path: of the SQLite file; made if it is not there.
        choices: the values, as text, that each varied entry takes.
        runs: the folder that the cells run in.
    """

    def __init__(self, path: Path, choices: Mapping[str, Sequence[str]], runs: Path) -> None:
        self.optuna = _optuna()
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.choices = {
            name: self.optuna.distributions.CategoricalDistribution(tuple(values))
            for name, values in choices.items()
        }
        self.runs = runs
        self.study = self.optuna.create_study(
            study_name=_STUDY,
            storage=f"sqlite:///{path.resolve()}",
            direction="maximize",
            load_if_exists=True,
        )

    def begin(self, name: str, values: Mapping[str, str]) -> None:
        """A cell is about to be run; its trial may be running already, from an attempt that was stopped."""
        states = self.optuna.trial.TrialState
        if self._find(values, states.RUNNING) is None:
            if self._find(values, states.WAITING) is None:
                self.study.enqueue_trial(dict(values), user_attrs={"run": str(self.runs / name)})
            self.study.ask(self.choices)

    def end(self, name: str, values: Mapping[str, str], score: float | None) -> None:
        """A cell is finished, now or long ago; without a score its trial has failed."""
        states = self.optuna.trial.TrialState
        state = states.FAIL if score is None else states.COMPLETE
        running = self._find(values, states.RUNNING)
        if running is not None:
            self.study.tell(running, score, state)
        elif self._find(values, state) is None:  # the file was removed
            trial = self.optuna.trial.create_trial(
                state=state,
                value=score,
                params=dict(values),
                distributions=self.choices,
                user_attrs={"run": str(self.runs / name)},
            )
            self.study.add_trial(trial)

    def _find(self, values: Mapping[str, str], state: Any) -> int | None:
        """The number of the trial with these values in this state."""
        for trial in self.study.get_trials(deepcopy=False, states=(state,)):
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            if params == dict(values):
                return int(trial.number)
        return None


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise VolsegError(
            "A sweep keeps its books with Optuna, which is not installed. "
            f"Install it with: {install_line('sweep')}."
        ) from error
    return optuna
