"""The folder of an experiment, and a sweep as a study of Optuna.

A sweep as a study of Optuna, in an SQLite file that its tools (``optuna-dashboard``) can show.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

from volseg.arguments import option
from volseg.errors import RefusedError, VolsegError
from volseg.experiments.cells import Cell, Result, finished, run_cell
from volseg.installation import install_line
from volseg.io import read_json, write_text
from volseg.runs.claim import claim, release
from volseg.runs.folder import differences

__all__ = ["Book", "Results", "open_campaign", "run_cells", "write_text"]

logger = logging.getLogger(__name__)

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
