"""Two learners that err differently, asked together: the weighted mean of their log probabilities.

The per-voxel learner is there in seconds, knows what few voxels of a rare class look like, and nothing that
its fixed filters do not show; the U-Net learns its own filters, in minutes. Each gets a share of the time.
What the U-Net is worth beside the other depends on image, paint and time: where slices are held out, its
share is chosen on them (:mod:`volseg.densification.shares`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from volseg.learners.unet import UNetLearner, UNetModel
from volseg.learning import Block, Curve, Labels, Learner, Progress, Scores, Task, Trained, mixed
from volseg.pixelwise import Model, PixelwiseLearner

__all__ = ["SHARE", "SHARE_OF_SECTIONS", "JoinedLearner", "JoinedModel"]

_PARTS: tuple[Learner, ...] = (PixelwiseLearner(), UNetLearner())
_TIMES = (0.3, 0.7)  # shares of the time
SHARE = 0.3  # of the U-Net in the mean, where nothing else is known: settled on six volumes, docs/results.md
SHARE_OF_SECTIONS = 0.5  # where it looks at sections


class JoinedModel:
    """What each of them learnt, in the order of the learners.

    Attributes:
        share: of the U-Net in the mean; :attr:`usual` if not given.
    """

    def __init__(self, parts: Sequence[Trained], share: float | None = None) -> None:
        self.parts = list(parts)
        self.share = self.usual if share is None else share
        self.notes = [note for part in parts for note in part.notes]
        self.curve = _joined([part.curve for part in parts])

    @property
    def usual(self) -> float:
        """The share of such a U-Net, settled on other volumes."""
        network = self.parts[1]
        return SHARE_OF_SECTIONS if isinstance(network, UNetModel) and network.architecture.axes else SHARE

    def predict(self, task: Task, block: Block | None = None, *, progress: Progress | None = None) -> Scores:
        """Mean log probabilities of every voxel, or of those in a block, ``(classes, *spatial)``."""
        if self.share == 0:
            return log_softmax(self.parts[0].predict(task, block, progress=progress), axis=0)
        half = 1 / len(self.parts)
        found = (
            log_softmax(part.predict(task, block, progress=_share_of(progress, number * half, half)), axis=0)
            for number, part in enumerate(self.parts)
        )
        return mixed(list(found), self.share)

    def predict_at(self, task: Task, where: npt.NDArray[np.bool_]) -> Scores:
        """The same of the voxels where a mask is true, in C order: ``(classes, n)``."""
        return mixed(self.parts_at(task, where), self.share)

    def parts_at(self, task: Task, where: npt.NDArray[np.bool_]) -> list[Scores]:
        """The same of each part alone."""
        return [log_softmax(part.predict_at(task, where), axis=0) for part in self.parts]

    def without_prior(self, task: Task) -> "JoinedModel":
        """The same for an image without paint."""
        return JoinedModel([part.without_prior(task) for part in self.parts], self.share)

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        weights: dict[str, Any] = {}
        facts: dict[str, Any] = {}
        for learner, part in zip(_PARTS, self.parts, strict=True):
            state = part.state()
            weights |= {f"{learner.name}.{name}": t for name, t in state.pop("model").items()}
            facts[learner.name] = state
        curve = facts[_PARTS[0].name]["curve"]
        return {
            "learner": JoinedLearner.name,
            "model": weights,
            "parts": facts,
            "share": self.share,
            "curve": curve,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "JoinedModel":
        """What :meth:`state` gave."""
        parts = []
        for learner in _PARTS:
            start = f"{learner.name}."
            found = {n.removeprefix(start): t for n, t in state["model"].items() if n.startswith(start)}
            parts.append(learner.from_state({**state["parts"][learner.name], "model": found}))
        return cls(parts, state["share"])


class JoinedLearner(Learner):
    """The per-voxel learner, then the U-Net; see above."""

    name = "joined"
    title = "the per-voxel learner and the U-Net, joined"
    methods = (
        " ".join(learner.methods for learner in _PARTS) + " The log probabilities of both were averaged."
    )
    sources = tuple(source for learner in _PARTS for source in learner.sources)
    fewest = sum(learner.fewest for learner in _PARTS)
    continues = (PixelwiseLearner.name,)
    patience = max(learner.patience for learner in _PARTS)

    def prepare(self, task: Task) -> float:
        """What each of them needs of the image; the seconds that both take to look at all voxels."""
        return sum(learner.prepare(task) for learner in _PARTS)

    def learn(
        self,
        task: Task,
        labels: Labels,
        *,
        slices: Mapping[str, Sequence[int]] | None = None,
        seconds: float,
        fewest: int | None = None,
        start: Trained | None = None,
        held_out: Labels | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> JoinedModel:
        """One after the other, see :meth:`volseg.learning.Learner.learn`.

        From a start in which the U-Net has no share, the per-voxel learner alone continues, all of the time.
        """
        if not isinstance(start, JoinedModel | Model | None):
            raise ValueError(f"start was not learnt by {self.title}, which cannot continue it.")
        begun = start if isinstance(start, JoinedModel) else None
        before: Sequence[Trained | None] = [start, None] if begun is None else begun.parts
        share = None if begun is None else begun.share
        times = (1.0, 0.0) if share == 0 else _TIMES
        parts: list[Trained] = []
        for learner, part, earlier in zip(_PARTS, times, before, strict=True):
            if earlier is not None and part == 0:
                parts.append(earlier)
                continue
            parts.append(
                learner.learn(
                    task,
                    labels,
                    slices=slices,
                    seconds=part * seconds,
                    fewest=fewest,
                    start=earlier,
                    held_out=held_out,
                    progress=_share_of(progress, times[0] * len(parts), part),
                    should_stop=should_stop,
                )
            )
        return JoinedModel(parts, share)

    def from_state(self, state: Mapping[str, Any]) -> JoinedModel:
        """A model from a file."""
        return JoinedModel.from_state(state)


def _share_of(progress: Progress | None, before: float, share: float) -> Progress | None:
    """Progress of a part, as that of the whole."""
    if progress is None:
        return None
    return lambda done, what: progress(before + share * done, what)


def _joined(curves: Sequence[Curve]) -> Curve:
    """One behind the other."""
    whole = Curve()
    for curve in curves:
        offset, points = (whole.iterations[-1] if whole.iterations else 0), len(whole.iterations)
        whole.breaks += [*([points] if points else []), *(points + each for each in curve.breaks)]
        whole.iterations += [offset + each for each in curve.iterations]
        whole.loss += curve.loss
        if len(whole.validation) == points:
            whole.validation += curve.validation
    return whole
