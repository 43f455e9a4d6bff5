"""From a volume and some painted slices to the class of every voxel, in a given time.

Small perceptrons see, of each voxel, filter responses at many scales (what it looks like) and how far the
nearest paint of each class is, or in what place it lies (where it is). They are trained on painted voxels
alone, a hundred thousand of which take a second, so that they are done where a network that starts from grey
values has hardly begun.

Where there is time, a second *stage* looks again, at the same and at filter responses to the probabilities
that the first one found (auto-context, Tu and Bai 2010): whether a membrane goes on, what lies beside.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.errors import InputError
from volseg.greyvalues import normalised
from volseg.labels import IGNORE_INDEX
from volseg.learning import Block, Curve, Labels, Learner, Progress, Scores, Task, Trained
from volseg.pixelwise.context import Context, context_of, finest_stride
from volseg.pixelwise.features import Bank, filter_bank, left_out, responses_at, responses_in
from volseg.pixelwise.members import Folded, LabelledVoxels, Members, train
from volseg.pixelwise.place import PlacePrior, measure_paint, prior_at

__all__ = ["Model", "PixelwiseLearner", "Task", "bank_of", "learn", "seconds_to_look"]

logger = logging.getLogger(__name__)

_BLIND = (False, True)  # per stage, perceptrons that see the prior and perceptrons that do not
_FIRST = 0.35  # share of the time for the first stage, where there are two
_CONTEXT = 0.35  # of the time, at most, may be spent on what the second stage looks at
_AT_ONCE = 2**15  # voxels
_FEWEST = 100  # steps, however short the time
_LOOKS = 1.5  # times as long as the first look at all voxels takes, where there is a second one
_ONE_STAGE = (
    "The second stage, which looks at what the first one found around each voxel, was left out: there was no "
    "time for it, or no memory."
)
_COARSE = (
    "The second stage looked at what the first one found on a grid of {} voxels: a finer one would have "
    "taken too long, or too much memory."
)
_OTHER_SCALES = (
    "what was learnt looks at {} filter responses of each voxel, but an image of {} voxels has {}: very "
    "small images lack the coarsest scales, very large ones the finest. Apply it to an image, or a crop, "
    "of about the size of the one it was learnt from, or paint some slices of this one and learn from these."
)
_FROM_NOTHING = (
    "What was learnt before could not be continued as a whole: it looks at other scales of the filters than "
    "there are for an image of this size."
)


def bank_of(task: Task, *, keep: bool = True) -> Bank:
    """Filter responses to the image, computed once: learning and segmenting both look at them.

    Args:
        keep: they stay in memory for as long as the task does.
    """

    def compute() -> Bank:
        return filter_bank(normalised(np.asarray(task.image)).to(task.device), task.spacing)

    bank: Bank = task.once("bank", compute) if keep else task.kept("bank") or compute()
    return bank


class Model:
    """What was learnt.

    Args:
        stages: one or two.
        paint: what distances are measured to.
        stride: of the grid that the second stage sees what the first one found on.

    Attributes:
        notes: what was left out for want of time or memory, in sentences.
    """

    def __init__(
        self, stages: Sequence[Members], paint: PlacePrior, curve: Curve, stride: Sequence[int] | None = None
    ) -> None:
        self.stages = list(stages)
        self.paint = paint
        self.curve = curve
        self.stride = tuple(stride or (1,) * len(paint.steps))
        self.notes: list[str] = []
        self.context: Context | None = None  # of the image it was trained on, as long as that is at hand

    def predict(self, task: Task, block: Block | None = None, *, progress: Progress | None = None) -> Scores:
        """Log probabilities ``(classes, *spatial)`` of every voxel, or of those in a block."""
        if block is not None:
            where = np.zeros(task.size, bool)
            where[block] = True
            return self.predict_at(task, where).reshape(-1, *where[block].shape)
        context = self._context(task, progress) if len(self.stages) > 1 else None
        return self._look(task, context, progress)

    def predict_at(self, task: Task, where: npt.NDArray[np.bool_]) -> Scores:
        """The same of the voxels where a mask is true, in C order: ``(classes, n)``."""
        bank = self._bank(task)
        if len(self.stages) > 1:
            self.context = self._context(task)
        context = self.context if len(self.stages) > 1 else None
        banks = [bank] if context is None else [bank, context.bank]
        known = None if context is None or context.found is None else context.found[:, where]
        found = np.empty((task.classes, np.count_nonzero(where)), np.float32)
        answer = self._answering(bank)
        done = 0
        for seen in _seen(banks, self.paint, where):
            part = slice(done, done + len(seen))
            found[:, part] = answer(seen, None if known is None else known[:, part])
            done += len(seen)
        return found

    def without_prior(self, task: Task) -> "Model":
        """The same for an image without paint: what the distance to paint says is left out."""
        paint = PlacePrior((), tuple(s / min(task.spacing) for s in task.spacing), task.classes)
        first = len(self.stages[0].mean) - paint.features
        prior = slice(first, first + paint.features)
        return Model([stage.without_prior(prior) for stage in self.stages], paint, self.curve, self.stride)

    def look_first(self, task: Task, progress: Progress | None = None) -> Context:
        """What the second stage has to know."""
        bank = self._bank(task)
        members = Folded(self.stages[0].to(bank.maps[0].device))

        def at(voxels: Tensor) -> Tensor:
            return members(torch.cat([responses_at(bank, voxels), prior_at(self.paint, voxels)], 1).T).T

        first = Model(self.stages[:1], self.paint, self.curve)
        return context_of(
            task, self.stride, lambda: first._look(task, None, progress), at, bank.maps[0].device
        )

    def _context(self, task: Task, progress: Progress | None = None) -> Context:
        """The same, of the image it was trained on only once."""
        if self.context is not None and self.context.task is task:
            return self.context
        return self.look_first(task, progress)

    def _bank(self, task: Task) -> Bank:
        bank = bank_of(task)
        seen, now = len(self.stages[0].mean) - self.paint.features, bank.features
        if seen != now:
            raise InputError(_OTHER_SCALES.format(seen, " × ".join(map(str, task.size)), now))
        return bank

    def _look(self, task: Task, context: Context | None, progress: Progress | None) -> Scores:
        bank = self._bank(task)
        banks = [bank] if context is None else [bank, context.bank]
        known = None if context is None else context.found
        answer = self._answering(bank)
        out = np.empty((task.classes, *bank.size), np.float32)
        for first, last in _slabs(bank.size):
            seen = _everything(banks, self.paint, first, last)
            found = answer(seen, None if known is None else known[:, first:last].reshape(len(known), -1))
            out[:, first:last] = found.reshape(task.classes, last - first, *bank.size[1:])
            if progress is not None:
                progress(last / bank.size[0], "segmenting")
        return out

    def _answering(self, bank: Bank) -> Callable[[Tensor, Scores | None], Scores]:
        """What says log probabilities ``(classes, n)`` of what is seen ``(n, features)``: the mean of all
        stages. Those of the first one may be known."""
        device = bank.maps[0].device
        first, *second = (Folded(stage.to(device)) for stage in self.stages)
        width = bank.features + self.paint.features

        def answer(seen: Tensor, known: Scores | None) -> Scores:
            if not second:
                return first(seen.T).cpu().numpy()
            found = second[0](seen.T).cpu().numpy()
            found += first(seen[:, :width].T).cpu().numpy() if known is None else known
            found /= 2
            return found

        return answer

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for :func:`volseg.runs.checkpoint.save_checkpoint`."""
        weights: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            weights |= {f"{number}.{name}": tensor for name, tensor in stage.state().items()}
        facts = {"stages": len(self.stages), "paint": self.paint.state(), "curve": asdict(self.curve)}
        facts |= {"stride": list(self.stride), "position": True, "notes": self.notes}
        return {"learner": PixelwiseLearner.name, "model": weights, **facts}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Model":
        """What :meth:`state` gave."""
        stages = []
        for number in range(state["stages"]):
            start = f"{number}."
            parts = {n.removeprefix(start): t for n, t in state["model"].items() if n.startswith(start)}
            stages.append(Members.from_state(parts))
        curve = Curve(**{name: list(values) for name, values in state["curve"].items()})
        paint = PlacePrior.from_state(state["paint"])
        if not state.get("position"):  # before models could see it
            dims, width = len(paint.steps), len(stages[0].mean)
            stages = [stage.with_blind(dims, at=width) for stage in stages]
        model = cls(stages, paint, curve, state.get("stride"))
        model.notes = list(state.get("notes", ()))
        return model


def seconds_to_look(task: Task, paint: PlacePrior | None = None) -> float:
    """How long it takes to look at every voxel once, from how long it takes for some of them."""
    bank = bank_of(task)
    if paint is None:
        paint = PlacePrior((), tuple(s / min(task.spacing) for s in task.spacing), task.classes)
    first, last = next(_slabs(bank.size))
    members = Members.new(
        _everything([bank], paint, first, last), slice(0), task.classes, blind=_BLIND, seed=0
    )
    began = time.monotonic()
    members(_everything([bank], paint, first, last))
    return (time.monotonic() - began) * bank.size[0] / (last - first)


def _sample(banks: Sequence[Bank], paint: PlacePrior, labels: Labels) -> LabelledVoxels:
    """What is seen of the painted voxels."""
    device = banks[0].maps[0].device
    painted = labels != IGNORE_INDEX
    seen = torch.cat(list(_seen(banks, paint, painted)))
    return LabelledVoxels(seen, torch.from_numpy(labels[painted].astype(np.int64)).to(device))


def _seen(banks: Sequence[Bank], paint: PlacePrior, where: npt.NDArray[np.bool_]) -> Iterator[Tensor]:
    """The same of the voxels where a mask is true, a few at a time."""
    places = torch.from_numpy(np.argwhere(where)).to(banks[0].maps[0].device)
    for part in places.split(_AT_ONCE):
        first, *rest = (responses_at(bank, part) for bank in banks)
        yield torch.cat([first, prior_at(paint, part), *rest], 1)


def _everything(banks: Sequence[Bank], paint: PlacePrior, first: int, last: int) -> Tensor:
    """The same of all voxels of some layers, which is quicker."""
    limits = [(first, last), *((0, n) for n in banks[0].size[1:])]
    device = banks[0].maps[0].device
    voxels = torch.cartesian_prod(*(torch.arange(low, high, device=device) for low, high in limits))
    seen, *rest = (responses_in(bank, first, last).flatten(1).T for bank in banks)
    return torch.cat([seen, prior_at(paint, voxels), *rest], 1)


def _slabs(size: Sequence[int]) -> Iterator[tuple[int, int]]:
    thickness = max(1, _AT_ONCE // math.prod(size[1:]))
    for first in range(0, size[0], thickness):
        yield first, min(first + thickness, size[0])


class PixelwiseLearner(Learner):
    """The per-voxel learner: there in seconds, on any machine."""

    name = "pixelwise"
    title = "the per-voxel learner"
    fewest = _FEWEST
    ends = "It ends sooner where more would not help: with little paint in a small volume."
    methods = (
        "Voxels were classified by small multilayer perceptrons on rotation-invariant filter responses at "
        "several scales (smoothed grey value, gradient magnitude, eigenvalues of the Hessian and of the "
        "structure tensor; as in Arganda-Carreras et al. 2017) and, where slices of several directions were "
        "painted, on the distance to the annotation of each class, else on the position, with auto-context "
        "(Tu and Bai 2010), trained on the annotated voxels alone."
    )
    sources = (
        "Arganda-Carreras I et al. Trainable Weka Segmentation: a machine learning tool for microscopy pixel "
        "classification. Bioinformatics 33, 2424–2426 (2017).",
        "Tu Z, Bai X. Auto-context and its application to high-level vision tasks and 3D brain image "
        "segmentation. IEEE Trans. Pattern Anal. Mach. Intell. 32, 1744–1757 (2010).",
    )

    def prepare(self, task: Task) -> float:
        """The filter bank, and the time of looking at all voxels, from that of some of them."""
        bank_of(task)
        return _LOOKS * seconds_to_look(task)

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
    ) -> Model:
        """Learn from the painted voxels of one volume, see :meth:`volseg.learning.Learner.learn`.

        Where a voxel lies is learnt from only where whole slices are painted, in ``slices``.
        """
        if start is not None and not isinstance(start, Model):
            raise ValueError(f"start was not learnt by {self.title}, which cannot continue it.")
        deadline = time.monotonic() + seconds
        if not (labels != IGNORE_INDEX).any():
            raise InputError("No voxel is painted, so there is nothing to learn from. Paint some slices.")
        bank = bank_of(task)
        device = bank.maps[0].device
        paint = measure_paint(labels, slices or {}, task.classes, task.spacing, device)
        random = torch.Generator(device).manual_seed(task.seed)
        banks = [bank]
        prior = slice(bank.features, bank.features + paint.features)
        position = slice(prior.start + paint.distances, prior.stop)
        earlier = [] if start is None else Model.from_state(start.state()).stages
        if start is not None:
            start.context = None
            earlier = [stage.in_units(position, start.paint.blur / paint.blur) for stage in earlier]
        model = Model([], paint, Curve())

        def add_stage(share_of: tuple[float, float], seconds: float) -> None:
            number = len(model.stages)
            if number:
                model.curve.breaks.append(len(model.curve.iterations))
            sample = _sample(banks, paint, labels)
            tested = None
            if held_out is not None and (held_out != IGNORE_INDEX).any():
                tested = _sample(banks, paint, held_out)
            is_alike = number < len(earlier) and len(earlier[number].mean) == sample.seen.shape[1]
            if number < len(earlier) and not is_alike and _FROM_NOTHING not in model.notes:
                model.notes.append(_FROM_NOTHING)
            if is_alike:
                members = earlier[number].to(device).looking_at(sample.seen, prior, paint.telling, _BLIND)
            else:
                seed = task.seed + number
                members = Members.new(
                    sample.seen, prior, task.classes, blind=_BLIND, seed=seed, telling=paint.telling
                )
            model.stages.append(members)
            low, high = share_of
            train(
                members,
                sample,
                seconds=seconds,
                random=random,
                curve=model.curve,
                fewest=_FEWEST if fewest is None else fewest,
                held_out=tested,
                blurred=position,
                progress=None if progress is None else lambda s: progress(low + s * (high - low), "learning"),
                should_stop=should_stop,
            )

        left = max(deadline - time.monotonic(), 1.0)
        model.notes += left_out(bank, task.spacing)
        grid = finest_stride(task, bank, seconds_to_look(task, paint), _CONTEXT * left)
        if grid is None:
            model.notes.append(_ONE_STAGE)
            add_stage((0.0, 1.0), left)
            return model
        model.stride, looking = grid
        if max(model.stride) > 1:
            model.notes.append(_COARSE.format(" × ".join(map(str, model.stride))))
        logger.debug("The second stage needs %.0f of %.0f s to begin, on %s.", looking, left, model.stride)
        middle = _FIRST + looking / left
        add_stage((0.0, _FIRST), _FIRST * left)
        if should_stop is None or not should_stop():
            model.context = model.look_first(task)
            banks.append(model.context.bank)
            add_stage((middle, 1.0), max(deadline - time.monotonic(), 0.2 * left))
        return model

    def from_state(self, state: Mapping[str, Any]) -> Model:
        """A model from a file."""
        return Model.from_state(state)


learn = PixelwiseLearner().learn
"""The same without a learner to hold."""
