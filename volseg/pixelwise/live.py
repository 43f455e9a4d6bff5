"""The per-voxel learner while a person paints: rounds of half a second, predictions of what is visible.

Each round goes on from the weights of the one before. What is seen of painted voxels is kept, so that a
round costs the same however large the volume is, and only bricks of the filter bank that are painted on or
looked at are computed (:mod:`volseg.pixelwise.bricks`). The perceptrons are those of the first stage of
:mod:`volseg.pixelwise.model` that do not see where paint lies; :meth:`Live.as_model` hands them on.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.learning import Curve, Labels, Progress, Scores
from volseg.pixelwise.balance import offsets, trust_in
from volseg.pixelwise.bricks import Bricks, Span
from volseg.pixelwise.members import Folded, LabelledVoxels, Members, optimizer_of, take_step
from volseg.pixelwise.model import Model
from volseg.pixelwise.place import PlacePrior

__all__ = ["Live", "PaintedVoxels"]

_COUNT, _HIDDEN, _KEPT = 6, (64, 64), 0.5  # perceptrons, their units, and the share of responses each sees
_BATCH, _LARGE = 512, 4096  # voxels of a step; the more, the more are painted
_RATE = 3e-3
_NOISE = 0.2  # standard deviations
_CYCLE = 20  # steps in which the learning rate comes to its end; as many are taken for new paint
_PASSES = 25  # over the painted voxels, after which more steps do not help
_FULL = 0.8  # of the memory for filter responses: no more are computed ahead
_MOST, _CELL = 2**16, 8  # painted voxels that a round learns from; of more, some in cells of so many voxels
_UNLEARNT = 0.3  # of the paint: where more of it is taken back or changed, learning begins again
_POOL = 4096  # voxels without paint that are looked at, about
_UNLIKELY = 4.0  # by how much a new class begins below the others, in log probabilities


class PaintedVoxels(NamedTuple):
    """Painted voxels alone, for volumes too large for an array of labels.

    Args:
        voxels: flat indices in C order, ascending, ``(n,)``.
        classes: their class indices ``(n,)``.
    """

    voxels: npt.NDArray[np.int64]
    classes: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, labels: Labels) -> "PaintedVoxels":
        """Of an array of class indices with 255 where nothing is painted."""
        flat = labels.reshape(-1)
        voxels = np.flatnonzero(flat != IGNORE_INDEX)
        return cls(voxels, flat[voxels])

    def thinned(self, size: Sequence[int]) -> "PaintedVoxels":
        """As many as a round has time for: fewer of each class where it lies dense, as on an adopted slice.

        Strokes beside it stay as they are. The same paint gives the same voxels.
        """
        if len(self.voxels) <= _MOST:
            return self
        cells = np.stack(np.unravel_index(self.voxels, tuple(size)), 1) // _CELL
        keys = np.ravel_multi_index(tuple(cells.T), [-(-n // _CELL) for n in size]) * 256 + self.classes
        order = np.lexsort((self.voxels * 2654435761 % 2**32, keys))  # by chance (Knuth 1998, Sec. 6.4)
        first = np.flatnonzero(np.diff(keys[order], prepend=-1))
        rank = np.empty(len(keys), np.int64)
        rank[order] = np.arange(len(keys)) - np.repeat(first, np.diff(first, append=len(keys)))
        counts = np.cumsum(np.bincount(rank))
        chosen = rank <= max(int(np.searchsorted(counts, _MOST, "right")) - 1, 0)
        return PaintedVoxels(self.voxels[chosen], self.classes[chosen])


class Live:
    """Learns from paint in rounds, and predicts blocks of a volume in between.

    Args:
        image: raw values ``(C, *spatial)``; whatever gives a block for a tuple of slices.
        spacing: voxel size per axis.
        classes: how many there are; :meth:`add_class` adds one.
        seed: with the same one and the same rounds, weights are the same to the last bit.
        most_bytes: that filter responses may take, see :class:`volseg.pixelwise.bricks.Bricks`.
    """

    def __init__(
        self,
        image: Any,
        spacing: Sequence[float],
        classes: int,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        most_bytes: int | None = None,
    ) -> None:
        self.bricks = Bricks(image, spacing, most_bytes=most_bytes, device=device)
        self.spacing = tuple(float(s) for s in spacing)
        self.classes = classes
        self.seed = seed
        self.rounds = 0
        self.curve = Curve()
        self.agreement = (0, 0)  # painted voxels that had been predicted so, of how many
        self._owed = 0  # painted voxels that are yet to be seen, each as often as it is to be
        self._offset = torch.zeros(classes)
        self._members: Members | None = None
        self._folded: Folded | None = None
        self._paint = PaintedVoxels(np.empty(0, np.int64), np.empty(0, np.uint8))
        self._rows = torch.empty(0, self.bricks.features)
        self._pool: dict[tuple[int, ...], Tensor] = {}

    def add_class(self) -> None:
        """One more; what was learnt of the others is kept."""
        self.classes += 1
        self._offset = F.pad(self._offset, (0, 1))
        if self._members is None:
            return
        for perceptron in self._members.perceptrons:
            last = perceptron[-1]
            assert isinstance(last, nn.Linear)
            grown = nn.Linear(last.in_features, self.classes, device=last.weight.device)
            with torch.no_grad():
                grown.weight[:-1], grown.weight[-1] = last.weight, last.weight.mean(0)
                grown.bias[:-1], grown.bias[-1] = last.bias, last.bias.mean() - _UNLIKELY
            perceptron[-1] = grown
        self._fold()

    @property
    def is_done(self) -> bool:
        """Whether another round would take no steps unless there is new paint."""
        return self._members is not None and self._owed == 0

    def apart(self, classes: int) -> "Live":
        """One that has learnt nothing, and looks at the same filter responses, those of the paint kept."""
        other = copy.copy(self)
        other.classes, other.rounds, other.curve = classes, 0, Curve()
        other.agreement, other._owed, other._offset = (0, 0), 0, torch.zeros(classes)
        other._members, other._folded, other._pool = None, None, dict(self._pool)
        return other

    def at_hand(self, voxels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of some voxels ``(n, dims)`` have filter responses that are there."""
        bricks, which = np.unique(self.bricks.brick_of(voxels), axis=0, return_inverse=True)
        there = np.array([self.ready(self.bricks.span_of(index)) == 1 for index in bricks.tolist()], bool)
        found: npt.NDArray[np.bool_] = there[which.reshape(-1)]
        return found

    def build(self, block: Span, should_stop: Callable[[], bool] | None = None) -> bool:
        """Compute the filter responses that a block lacks; whether they are all there."""
        return self.bricks.build(block, should_stop)

    def ready(self, block: Span) -> float:
        """The share of a block whose filter responses are there."""
        return self.bricks.ready(block)

    def next_bricks(self, near: Sequence[float]) -> Iterator[Span]:
        """Blocks whose filter responses are not there yet, those nearest to a voxel first; no more when
        memory for them is used up."""
        for block in self.bricks.nearest(near):
            if self.bricks.bytes > _FULL * self.bricks.most_bytes:
                return
            if not self.bricks.has(block):
                yield block

    def learn(
        self,
        labels: Labels | PaintedVoxels,
        *,
        seconds: float,
        steps: int | None = None,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """One round: some steps for what is new, and more as long as painted voxels were not seen often.

        Without new paint more steps would not help, so that in the end none are taken. The learning rate
        comes to its end every few steps, so that a round can end there.

        Args:
            labels: class indices ``(*spatial)`` with 255 where nothing is painted, or the painted voxels.
            seconds: after which it ends.
            steps: that are taken, however long they take and whether they are needed.
            progress: called with the share that is done, and what is being done.
            should_stop: asked after every step.

        Raises:
            InputError: if nothing is painted.
        """
        began = time.monotonic()
        whole = labels if isinstance(labels, PaintedVoxels) else PaintedVoxels.of(labels)
        paint = whole.thinned(self.bricks.size)
        if not len(paint.voxels):
            raise InputError("No voxel is painted, so there is nothing to learn from. Paint some strokes.")
        is_new = self._gather(paint, whole)
        around = torch.cat(list(self._pool.values()))
        members = self._scaled_to(torch.cat([self._rows, around]))
        random = torch.Generator(self.bricks.device).manual_seed(self.seed + 1009 * self.rounds)
        self.rounds += 1
        sample = LabelledVoxels(
            members.scaled(self._rows.to(members.mean.device, copy=True)),
            torch.from_numpy(paint.classes.astype(np.int64)).to(members.mean.device),
        )
        size = min(max(_BATCH, 2 ** ((len(paint.voxels) - 1).bit_length() - 4)), _LARGE)
        needed = _CYCLE * max(int(is_new), math.ceil(self._owed / size / _CYCLE))
        noise = _NOISE * torch.randn(
            (2 * size, len(members.mean)), generator=random, device=members.mean.device
        )
        optimizer = optimizer_of(members)
        for perceptron in members.perceptrons:
            perceptron.train()
        planned, total, step = (needed if steps is None else steps), 0.0, 0
        for step in range(1, planned + 1):
            share = (step - 1) % _CYCLE / _CYCLE
            if steps is None and step > 1 and not share and time.monotonic() - began > seconds:
                step -= 1
                break
            for group in optimizer.param_groups:
                group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * share)) * min(1.0, 0.2 + 5 * share)
            chosen = torch.randint(len(sample.seen), (size,), generator=random, device=members.mean.device)
            batch = LabelledVoxels(sample.seen[chosen], sample.classes[chosen])
            total += take_step(members, optimizer, batch, noise, random)
            if progress is not None:
                progress(step / planned, "learning")
            if should_stop is not None and should_stop():
                break
        for perceptron in members.perceptrons:
            perceptron.eval()
        self._owed = max(self._owed - step * size, 0)
        if step:
            self.curve.iterations.append((self.curve.iterations or [0])[-1] + step)
            self.curve.loss.append(total / step / len(members.perceptrons))
        counts = np.bincount(paint.classes, minlength=self.classes)
        looked = Folded(members)(around.to(members.mean.device).T).cpu().numpy()
        trust = trust_in(self.agreement[0] / max(self.agreement[1], 1))
        self._offset = torch.from_numpy(offsets(looked, counts, trust))
        self._fold()

    def predict(self, block: Span) -> Scores:
        """Log probabilities ``(classes, *block)``; filter responses that are lacking are computed.

        Raises:
            InputError: if nothing has been learnt.
        """
        if self._folded is None:
            raise InputError("Nothing has been learnt yet, so nothing can be predicted. Paint some strokes.")
        limits = [part.indices(n)[:2] for part, n in zip(block, self.bricks.size, strict=True)]
        out = np.empty((self.classes, *(high - low for low, high in limits)), np.float32)
        for part in self.bricks.blocks(block):
            seen = self.bricks.responses_in(part)
            found = self._folded(seen.flatten(1)).unflatten(1, seen.shape[1:])
            where = (slice(p.start - low, p.stop - low) for p, (low, _) in zip(part, limits, strict=True))
            out[(slice(None), *where)] = found.cpu().numpy()
        return out

    def predict_at(self, voxels: npt.NDArray[np.int64]) -> Scores:
        """The same of single voxels ``(n, dims)``: ``(classes, n)``."""
        if self._folded is None:
            raise InputError("Nothing has been learnt yet, so nothing can be predicted. Paint some strokes.")
        found: Scores = self._folded(self.bricks.responses_at(torch.from_numpy(voxels)).T).cpu().numpy()
        return found

    def as_model(self, classes: Sequence[int] | None = None) -> Model:
        """What was learnt, for :func:`volseg.pixelwise.learn` to continue and for whole volumes.

        Args:
            classes: those that it is to know, in this order; all of them if None.

        Raises:
            InputError: if nothing has been learnt.
        """
        if self._members is None:
            raise InputError("Nothing has been learnt yet. Paint some strokes.")
        chosen = range(self.classes) if classes is None else classes
        steps = tuple(s / min(self.spacing) for s in self.spacing)
        prior = PlacePrior((), steps, len(chosen))
        members = (
            self._members.shifted(self._offset.to(self._members.mean.device))
            .with_classes(chosen)
            .with_blind(prior.features)
        )
        return Model([members], prior, copy.deepcopy(self.curve))

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, for :func:`volseg.runs.checkpoint.save_checkpoint`."""
        weights = {} if self._members is None else self._members.state()
        weights |= {
            "voxels": torch.from_numpy(self._paint.voxels),
            "paint": torch.from_numpy(self._paint.classes),
        }
        curve = {"iterations": [*self.curve.iterations], "loss": [*self.curve.loss]}
        facts = {"classes": self.classes, "seed": self.seed, "rounds": self.rounds, "curve": curve}
        facts |= {"agreement": [*self.agreement], "offset": self._offset.tolist(), "owed": self._owed}
        return {"learner": "live", "model": weights, **facts}

    @classmethod
    def from_state(cls, image: Any, spacing: Sequence[float], state: Mapping[str, Any], **how: Any) -> "Live":
        """What :meth:`state` gave, for the same image."""
        live = cls(image, spacing, state["classes"], seed=state["seed"], **how)
        live.rounds = state["rounds"]
        live.curve = Curve(**{name: list(values) for name, values in state["curve"].items()})
        agreed, judged = state["agreement"]
        live.agreement = (agreed, judged)
        live._offset, live._owed = torch.tensor(state["offset"]), state["owed"]
        weights = dict(state["model"])
        live._paint = PaintedVoxels(weights.pop("voxels").numpy(), weights.pop("paint").numpy())
        if weights:
            live._members = Members.from_state(weights).to(live.bricks.device)
            live._fold()
        return live

    def _fold(self) -> None:
        """Make what was learnt ready to predict with."""
        assert self._members is not None  # something has been learnt
        self._folded = Folded(self._members.shifted(self._offset.to(self._members.mean.device)))

    def _gather(self, paint: PaintedVoxels, whole: PaintedVoxels) -> bool:
        """What is seen of the painted voxels, computed for those that are new, and of some around.

        Args:
            whole: with those that are left out because there are many.

        Returns:
            Whether anything was painted or erased since the last round.
        """
        old = self._paint.voxels
        place = np.searchsorted(old, paint.voxels)
        is_old = np.zeros(len(paint.voxels), bool)
        if len(old):
            is_old = old[np.minimum(place, len(old) - 1)] == paint.voxels
        known = torch.from_numpy(is_old if len(self._rows) == len(old) else np.zeros_like(is_old))
        voxels = np.stack(np.unravel_index(paint.voxels, self.bricks.size), 1)
        rows = torch.empty(len(paint.voxels), self.bricks.features)
        rows[known] = self._rows[torch.from_numpy(place)[known]]
        rows[~known] = self.bricks.responses_at(torch.from_numpy(voxels)[~known]).cpu()
        added = torch.from_numpy(~is_old)
        if self._folded is not None and added.any():
            found = self._folded(rows[added].to(self.bricks.device).T).argmax(0).cpu()
            agreed = int((found == torch.from_numpy(paint.classes)[added]).sum())
            self.agreement = (self.agreement[0] + agreed, self.agreement[1] + len(found))
        changed = int((paint.classes[is_old] != self._paint.classes[place[is_old]]).sum())
        removed = int(np.isin(old, whole.voxels, assume_unique=True, invert=True).sum())
        is_new = bool(changed or added.any() or removed)
        self._owed += _PASSES * (changed + int(added.sum()) + removed)
        if changed + removed > _UNLEARNT * len(paint.voxels):
            self._members, self.agreement, self._owed = None, (0, 0), _PASSES * len(paint.voxels)
        self._paint, self._rows = paint, rows
        touched = np.unique(self.bricks.brick_of(voxels), axis=0)
        if len(touched) > _POOL // 64:
            touched = np.random.default_rng(self.seed).permutation(touched)[: _POOL // 64]
        count = max(64, 1024 // len(touched))
        keys = [(count, *(int(i) for i in index)) for index in touched]
        self._pool = {key: self._pool[key] if key in self._pool else self._around(key) for key in keys}
        return is_new

    def _around(self, key: tuple[int, ...]) -> Tensor:
        """What is seen of random voxels of a brick."""
        count, *index = key
        block = self.bricks.span_of(index)
        rng = np.random.default_rng([self.seed, *index])
        voxels = rng.integers([p.start for p in block], [p.stop for p in block], (count, len(block)))
        return self.bricks.responses_at(torch.from_numpy(voxels)).cpu()

    def _scaled_to(self, seen: Tensor) -> Members:
        """The perceptrons, which from now on see in standard deviations of these voxels."""
        if self._members is None:
            self._members = Members.new(
                seen,
                slice(0),
                self.classes,
                blind=(True,) * _COUNT,
                seed=self.seed,
                hidden=_HIDDEN,
                kept=_KEPT,
            ).to(self.bricks.device)
        else:
            self._members = self._members.rescaled(seen.mean(0), seen.std(0).clamp(min=1e-3))
        return self._members
