"""The state of a training: what a checkpoint holds, and the statistics gathered at its end.

Statistics of batch normalisation again, once a network has learnt.

What a training leaves are running means of what the network was trained on: patches that were deformed,
hence interpolated and smoothed, with contrast and noise changed. Images that are segmented later are none of
that. So the statistics are gathered once more, from blocks of the training images as they are, with the
weights as they are in the end.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from volseg.arguments import option
from volseg.data import TrainingPatches
from volseg.engines.step import Step
from volseg.errors import InputError, RefusedError
from volseg.geometry import mirror_indices
from volseg.inferers.statistics import clean_statistics, load_statistics, statistics_of
from volseg.runs import processes
from volseg.runs.checkpoint import load_newest
from volseg.runs.stopping import Budget, Improvement, stretch

__all__ = ["RunState", "undeformed_blocks"]

logger = logging.getLogger(__name__)

_VOXELS = 4_000_000  # that are looked at, in all blocks
_FEWEST, _MOST = 8, 40  # blocks


def undeformed_blocks(dataset: TrainingPatches, seed: int = 0) -> Iterator[Tensor]:
    """Blocks of the training images as they are, ``(1, C, *spatial)``, as large as the patches and drawn as
    they are: first a class, then one of its annotated voxels."""
    size = tuple(dataset[0]["image"].shape[1:])
    random = np.random.default_rng(seed)
    for _ in range(min(max(_VOXELS // prod(size), _FEWEST), _MOST)):
        case = dataset.cases[random.integers(len(dataset.cases))]
        image = torch.as_tensor(case["image"])
        classes = [voxels for voxels in case["label_voxels"] if len(voxels)]
        voxels = classes[random.integers(len(classes))]
        place = np.unravel_index(int(voxels[random.integers(len(voxels))]), image.shape[1:])
        for axis, (at, length, n) in enumerate(zip(place, size, image.shape[1:], strict=True), start=1):
            start = int(at) - int(random.integers(length // 4, length - length // 4))
            start = min(max(start, 0), n - length) if length <= n else (n - length) // 2
            index = torch.from_numpy(mirror_indices(start, start + length, n)).to(image.device)
            image = image.index_select(axis, index)
        yield image[None]


@dataclass
class RunState:
    """The parts of a training that change while it runs.

    There are no states of random generators among them: patches, grey values and dropout of an iteration
    are functions of the seed and its number.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    step: Step
    budget: Budget
    best: Improvement
    seed: int
    dataset: TrainingPatches
    statistics: Literal["running", "clean"] = "running"

    def __post_init__(self) -> None:
        self.trained_on = self.dataset.trained_on()

    @contextmanager
    def in_use(self, *, done: bool) -> Iterator[dict[str, Any]]:
        """The network as one segments with it: its weights averaged if they are, and, of a run that is done,
        with the statistics that batch norm is to have. Yields what a checkpoint says of these."""
        with self.step.averaged(self.network):
            before = statistics_of(self.network)
            if not done or not before or self.statistics == "running":
                yield {"statistics": {"running": before}} if done and before else {}
                return
            device = next(self.network.parameters()).device
            blocks = (block.to(device) for block in undeformed_blocks(self.dataset, self.seed))
            clean = clean_statistics(self.network, blocks)
            load_statistics(self.network, clean)
            try:
                yield {"statistics": {"running": before, "clean": clean}}
            finally:
                load_statistics(self.network, before)

    def weights(self, iteration: int, *, done: bool) -> dict[str, Any]:
        """What one segments with, and what it was trained on."""
        with self.in_use(done=done) as facts:
            weights = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        return {"model": weights, "iteration": iteration, **facts, **self._learnt()}

    def content(self, iteration: int) -> dict[str, Any]:
        """What is resumed from."""
        average, schedule = self.step.average, self.lr_scheduler
        return {
            "model": self.network.state_dict(),
            "average": None if average is None else average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": None if schedule is None else schedule.state_dict(),
            "iteration": iteration,
            "best": self.best.state_dict(),
            **self._learnt(),
            **self._conditions(),
        } | ({} if self.budget.max_minutes is None else {"minutes": self.budget.minutes})

    def facts(self, device: torch.device) -> dict[str, Any]:
        """For the run's folder: what, beside the configuration, its result depends on."""
        return {"seed": self.seed, "device": str(device), "processes": processes.count()} | {
            "precision": "bfloat16" if self.step.amp else "float32"
        }

    def restore(self, path: Path, *, precision: str) -> int:
        """Put everything back as the newest readable checkpoint has it; the iteration is returned.

        Args:
            precision: ``"auto"`` to go on in the number format that the run was begun in.

        Raises:
            InputError: if it does not fit, or the run has come to its end already.
            RefusedError: if the classes are others.
        """
        path, content = load_newest(path)
        self._refuse_other_classes(path, content.get("classes"))
        try:
            self.network.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            if self.step.average is not None:
                self.step.average.load_state_dict(content["average"])
            if self.lr_scheduler is not None:
                stretch(self.lr_scheduler, content["lr_scheduler"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} belongs to a run with another network or optimiser ({error}). "
                "Resume with the settings of that run; they stand in config.json beside it."
            ) from error
        self.budget.clock.earlier = 60 * content.get("minutes", 0.0)
        self.best.load_state_dict(content.get("best", self.best.state_dict()))
        self.dataset.go_on_from(content["trained_on"])
        self.trained_on = self.dataset.trained_on()
        if precision == "auto":
            self.step.amp = content.get("amp", self.step.amp)
        self._compare(path, content)
        iteration = int(content["iteration"])
        self._refuse_finished(path, iteration)
        return iteration

    def _learnt(self) -> dict[str, Any]:
        """What the weights come from, and what they say."""
        labels = self.dataset.labels
        return {"trained_on": self.trained_on} | {
            "classes": {"names": list(labels.names), "values": list(labels.values)}
        }

    def _refuse_other_classes(self, path: Path, before: Mapping[str, Any] | None) -> None:
        """Weights of one meaning are not trained on with another."""
        now = self._learnt()["classes"]
        if before is None or before == now:  # checkpoints of earlier versions do not say
            return
        was, are = (
            ", ".join(f"{name} = {value}" for name, value in zip(one["names"], one["values"], strict=True))
            for one in (before, now)
        )
        raise RefusedError(
            f"{path} was trained for the classes {was}; now they are {are}. Its outputs would change their "
            "meaning. Go back to the classes of that run, which stand in config.json beside it, or start "
            f"again in another folder ({option('output_dir')})."
        )

    def _conditions(self) -> dict[str, Any]:
        """On which the result depends, to the bit."""
        return {
            "amp": self.step.amp,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
        }

    def _compare(self, path: Path, content: Mapping[str, Any]) -> None:
        for name, value in self._conditions().items():
            before = content.get(name, value)
            if before != value:
                logger.warning(
                    "%s has %s = %s, now it is %s: the result is not that of an uninterrupted run.",
                    path.name,
                    name,
                    before,
                    value,
                )

    def _refuse_finished(self, path: Path, iteration: int) -> None:
        if iteration >= self.budget.iterations:
            raise InputError(
                f"{path} has {iteration} iterations, no fewer than the {self.budget.iterations} asked for: "
                f"there is nothing to resume. Raise {option('max_epochs')} to train on."
            )
        if self.budget.is_spent:
            raise InputError(
                f"{path} has trained for {self.budget.minutes:.1f} minutes, no less than the "
                f"{self.budget.max_minutes:g} asked for: there is nothing to resume. Raise "
                f"{option('max_minutes')}."
            )
        if self.best.is_over:
            raise InputError(
                f"{path} has stopped improving: {self.best.since} validations brought no better score, and "
                f"patience is {self.best.patience}. Raise {option('patience')} to train on."
            )
