"""What follows from the paint: rounds of learning, and slices of the result."""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.errors import InputError
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import Live, PaintedVoxels
from volseg.session.canvas import Canvas

__all__ = ["Confidence", "Found", "Known", "Plane", "Result"]

_KEPT = 64  # slices of the result that are kept
_ALL = 2**26  # voxels up to which slices are segmented whole; of a larger volume, around the person's place
_AROUND = 160  # voxels of the finest axis, on either side

Plane = npt.NDArray[np.uint8]
Confidence = npt.NDArray[np.float32]
Block: TypeAlias = tuple[slice, ...]


class Result(NamedTuple):
    """A slice of the result.

    Attributes:
        values: as painted; 255 where nothing is known yet.
        confidence: probability of that value, 0 to 1; 1 where it was painted.
    """

    values: Plane
    confidence: Confidence


class Known(NamedTuple):
    """The same, and after how many rounds the model found it; 0 for what ``densify`` has written."""

    values: Plane
    confidence: Confidence
    revision: int


class Found(Canvas):
    """The learning half of :class:`volseg.Session`, which says what its arguments are."""

    def __init__(
        self,
        image: Any,
        folder: str | os.PathLike[str] | None,
        classes: Mapping[int, str] | None,
        paint: str | os.PathLike[str] | None,
        read: Mapping[str, Any] | None,
        spacing: str | Sequence[float] | None,
        seed: int,
    ) -> None:
        super().__init__(image, folder, classes, paint, read, spacing)
        self.seed = seed
        self._learning = threading.RLock()
        self._live: Live | None = None
        self._learnt = -1  # revision of the paint that the model has seen
        self._model = 0  # rounds of learning
        self._planes: OrderedDict[tuple[int, int], Known] = OrderedDict()
        self._whole: tuple[Plane, Confidence] | None = None  # what densify made of the same paint
        self._whole_of = -1  # revision of that
        self._focus: Block | None = None

    def learn(self, seconds: float = 1.0, *, steps: int | None = None, **watched: Any) -> None:
        """Learn from the paint at hand, going on from what was learnt before.

        Args:
            steps: instead of ``seconds``; the same steps from the same paint and seed give the same model.
            watched: ``progress``, ``should_stop``, as of :meth:`volseg.learning.Learner.learn`.

        Raises:
            InputError: if fewer than two classes are painted.
        """
        with self._learning:
            with self._lock:
                revision = self._painting.revision
                values = list(self._painting.classes)
                places, painted = self._painting.labels.voxels()
            table = np.full(256, IGNORE_INDEX, np.uint8)
            table[values] = np.arange(len(values))
            if len(np.unique(painted)) < 2:
                raise InputError(
                    "Only one class is painted, so there is nothing to tell apart. Paint a second one, or "
                    "background."
                )
            voxels = np.ravel_multi_index(tuple(places.T), self.size)
            order = np.argsort(voxels)
            live = self._learner(len(values))
            before = _steps(live)
            paint = PaintedVoxels(voxels[order], table[painted[order]])
            live.learn(paint, seconds=seconds, steps=steps, **watched)
            steps_taken = _steps(live) - before
            self._learnt = revision
            self._model += 1
            self._planes.clear()
            if self._whole_of != revision:
                self._whole = None
            self._note({"do": "learn", "steps": steps_taken, "revision": revision})

    def prepare(self) -> Live:
        """What learns, before there is anything to learn from: it can look at the image."""
        with self._learning:
            return self._learner(len(self.classes))

    def learning(self) -> threading.RLock:
        """Held while the model is used, which one thread at a time can."""
        return self._learning

    @property
    def is_learnt(self) -> bool:
        """Whether the model has seen all paint."""
        return self._model > 0 and self._learnt == self._painting.revision

    @property
    def can_learn(self) -> bool:
        """Whether two classes are painted."""
        with self._lock:
            return sum(count > 0 for count in self.counts().values()) > 1

    @property
    def model(self) -> int:
        """How many rounds have been learnt."""
        return self._model

    @property
    def is_done(self) -> bool:
        """Whether more learning would take no steps without new paint."""
        return self.is_learnt and self._live is not None and self._live.is_done

    @property
    def live(self) -> Live | None:
        """What learns; ``None`` before the first round."""
        return self._live

    def slice(self, axis: int | None, index: int) -> Result:
        """Values and confidence of a slice; what was painted is as painted, and certain.

        They are computed if need be. With fewer than two classes painted nothing else is known, whatever was
        learnt before.
        """
        axis, index = self._painting.place(axis, index)
        return Result(*self._as_painted(axis, index, self._found(axis, index))[:2])

    def _found(self, axis: int, index: int) -> Known:
        """The same without what was painted."""
        block = self._painting.plane(axis, index)
        with self._learning:
            if not self.can_learn:
                self._planes.clear()
                return self._unknown(axis)
            found = self._planes.get((axis, index))
            if found is None:
                found = self._find(axis, block)
                self._planes[axis, index] = found
                while len(self._planes) > _KEPT:
                    self._planes.popitem(last=False)
            return found

    def look(self, position: Sequence[int]) -> None:
        """Where the person looks, a voxel: of a volume too large to be segmented slice by slice, only what
        lies around it is."""
        if np.prod(self.size, dtype=float) <= _ALL:
            return
        finest = min(self.spacing)
        reach = [max(round(_AROUND * finest / s), 1) for s in self.spacing]
        focus = tuple(
            slice(max(p - r, 0), min(p + r, n)) for p, r, n in zip(position, reach, self.size, strict=True)
        )
        with self._learning:
            if focus != self._focus:
                self._focus = focus
                self._planes.clear()

    def known_slice(self, axis: int | None, index: int) -> Known | None:
        """The same if it is at hand, without waiting."""
        axis, index = self._painting.place(axis, index)
        if not self.can_learn:
            anything = self._model or self._whole is not None
            return self._as_painted(axis, index, self._unknown(axis)) if anything else None
        found = self._planes.get((axis, index))
        if found is None and self._whole is not None:
            found = self._find(axis, self._painting.plane(axis, index))
        return None if found is None else self._as_painted(axis, index, found)

    def _find(self, axis: int, block: Block, *, whole: bool = False) -> Known:
        """A slice of what densify made, or else by the model, ``whole`` or around where the person looks."""
        shape = self._painting.shape(axis)
        painted = np.array(list(self.counts().values())) > 0
        made = self._whole
        if made is not None and painted.sum() > 1:
            return Known(made[0][block].reshape(shape), made[1][block].reshape(shape), 0)
        if self._live is None or not self._model or painted[: self._live.classes].sum() < 2:
            return self._unknown(axis)
        inner = block if whole or self._focus is None else tuple(map(_common, block, self._focus))
        if any(part.start >= part.stop for part in inner):
            return self._unknown(axis)
        scores: npt.NDArray[np.float32] = self._live.predict(inner)
        scores[~painted[: len(scores)]] = -np.inf  # nothing can have been learnt of it
        values = np.array(list(self._painting.classes), np.uint8)[: len(scores)]
        scores = np.exp(scores - scores.max(0))
        found = np.full([part.stop - part.start for part in block], IGNORE_INDEX, np.uint8)
        confidence = np.zeros(found.shape, np.float32)
        there = tuple(slice(i.start - b.start, i.stop - b.start) for i, b in zip(inner, block, strict=True))
        found[there] = values[scores.argmax(0)]
        confidence[there] = scores.max(0) / scores.sum(0)
        return Known(found.reshape(shape), confidence.reshape(shape), self._model)

    def _unknown(self, axis: int) -> Known:
        """A slice of which nothing is known."""
        shape = self._painting.shape(axis)
        return Known(np.full(shape, IGNORE_INDEX, np.uint8), np.zeros(shape, np.float32), self._model)

    def _as_painted(self, axis: int, index: int, found: Known) -> Known:
        paint = self.paint_slice(axis, index)
        on = paint != IGNORE_INDEX
        return Known(
            np.where(on, paint, found.values), np.where(on, np.float32(1), found.confidence), found.revision
        )

    def _learner(self, classes: int) -> Live:
        if self._live is None:
            self._live = Live(self.image.voxels, self.spacing, classes, seed=self.seed)
        while self._live.classes < classes:
            self._live.add_class()
        return self._live


def _steps(live: Live) -> int:
    return live.curve.iterations[-1] if live.curve.iterations else 0


def _common(one: slice, other: slice) -> slice:
    return slice(max(one.start, other.start), min(one.stop, other.stop))
