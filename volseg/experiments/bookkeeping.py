"""A sweep as a study of Optuna, in an SQLite file that its tools (``optuna-dashboard``) can show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volseg.errors import VolsegError
from volseg.installation import install_line

__all__ = ["Book"]

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
