"""What every learner is asked, and what it answers, whatever is inside.

A *learner* turns an image and the painted voxels of it into something *trained*, in a given time; what is
trained scores any voxel of an image. Learners are peers: whatever deals with folds, scores, minutes and files
speaks to all of them through these classes, and imports none (:mod:`volseg.learners` names them).

What holds for all of them, and is tested for all of them:

* the same seed and the same number of steps give the same scores;
* nothing but painted voxels decides what is learnt: ``held_out`` labels are looked at for the curve alone;
* ``state`` and ``from_state`` lose nothing but rounding, so that a run can be resumed and continued;
* it ends in time, or after the step at hand when asked to stop.

Scores are ``(classes, n)`` or ``(classes, *spatial)``, float32: log probabilities up to a constant per voxel,
so that their softmax over classes are probabilities.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Block", "Curve", "Labels", "Learner", "Progress", "Scores", "Task", "Trained", "mixed"]

Labels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]
Block = tuple[slice, ...]
Progress = Callable[[float, str], None]


@dataclass
class Curve:
    """How the loss went down; ``validation`` is that of held-out voxels, if there are any."""

    iterations: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)  # points before which a new stage begins


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be segmented.

    Args:
        image: raw values ``(C, *spatial)``.
        spacing: voxel size per axis.
        classes: how many there are.
    """

    image: Any
    spacing: tuple[float, ...]
    classes: int
    seed: int = 0
    device: str | torch.device = "cpu"
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.image.shape[1:])

    def kept(self, name: str) -> Any:
        """What :meth:`once` computed under this name; ``None`` if nothing has been."""
        return self._kept.get(name)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What a learner computes of the image once: learning and segmenting both look at it."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]


def mixed(parts: Sequence[Scores] | Scores, share: float) -> Scores:
    """The weighted mean of two learners' log probabilities.

    Args:
        parts: two arrays of the same shape, or one ``(2, ...)``.
        share: of the second.
    """
    first, second = parts
    return (1 - np.float32(share)) * first + np.float32(share) * second


class Trained(Protocol):
    """What was learnt.

    Attributes:
        notes: what was left out for want of time or memory, in sentences.
    """

    curve: Curve
    notes: list[str]

    def predict(self, task: Task, block: Block | None = None, *, progress: Progress | None = None) -> Scores:
        """Scores of all voxels, ``(classes, *spatial)``, or of those in a block, one slice per axis."""

    def predict_at(self, task: Task, where: npt.NDArray[np.bool_]) -> Scores:
        """Scores of the voxels where a mask ``(*spatial)`` is true, in C order: ``(classes, n)``."""

    def without_prior(self, task: Task) -> "Trained":
        """The same for an image without paint: what was learnt from where paint lies is left out."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values; ``model`` holds tensors by name, ``learner`` the learner's name."""


class Learner(ABC):
    """A way to learn.

    Attributes:
        name: by which it is chosen, and known in files.
        title: for a person, in the middle of a sentence.
        methods: what it does, in one sentence for the methods section of a paper, with citations.
        sources: the works that ``methods`` cites, as a list of references has them.
        fewest: steps that are taken, however short the time.
        ends: in a sentence, when learning ends before its time, if it does.
        continues: the names of other learners whose models it can start from.
        patience: times as long as the quickest learner takes to come to something; models that are scored
            are the fewer, the longer each of them has to learn.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    methods: ClassVar[str]
    sources: ClassVar[tuple[str, ...]]
    fewest: ClassVar[int]
    ends: ClassVar[str] = ""
    continues: ClassVar[tuple[str, ...]] = ()
    patience: ClassVar[float] = 1.0

    def methods_with_sources(self) -> dict[str, Any]:
        """What a paper says, as plain values."""
        return {"sentence": self.methods, "sources": list(self.sources)}

    @abstractmethod
    def prepare(self, task: Task) -> float:
        """Compute what is needed of the image once for all; how many seconds scoring all voxels will take."""

    @abstractmethod
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
    ) -> Trained:
        """Learn from the painted voxels of one volume.

        Args:
            labels: class indices ``(*spatial)``, 255 where nothing is painted.
            slices: indices of the painted slices by the axis across them, ``{"z": [3, 9]}``, where whole
                slices are painted.
            seconds: of wall-clock time.
            fewest: steps that are taken, however short the time; ``None`` for what the learner needs.
            start: what to continue, of the same learner or one in ``continues``; it stays as it is.
            held_out: labels that nothing is learnt from, only looked at for the curve.
            progress: called with the share of the time that has gone, and what is being done.
            should_stop: asked after every step; what has been learnt by then is returned.

        Raises:
            InputError: if nothing is painted.
        """

    @abstractmethod
    def from_state(self, state: Mapping[str, Any]) -> Trained:
        """What :meth:`Trained.state` gave."""
