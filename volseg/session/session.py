"""One volume, its paint, what learns from it, and what it finds: all that a window shows, without one."""

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from volseg.densification import densify
from volseg.densification.reporting import Densified
from volseg.errors import InputError, RefusedError
from volseg.io import Volume, output_suffix, read_volume, suffix_of
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import Live, Paint
from volseg.runs.checkpoint import save_checkpoint
from volseg.session.advice import Place, suggest
from volseg.session.canvas import DENSE, Canvas
from volseg.session.folder import Folder, write_labels
from volseg.session.judging import Score, score
from volseg.session.painting import packed_values

__all__ = ["Known", "Result", "Session"]

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


class Session(Canvas):
    """Paint on a volume and see at once what follows from it.

    Slices are named by the axis across them, 0, 1, 2 for x, y, z, and an index from 0 on; a mask of one has
    the other two axes in the order x, y, z. An image in 2D has the slice ``(2, 0)``. Values are 0 for
    background, 1 to 254 for other classes, 255 for unlabelled.

    Every change is in the journal of the folder before the call returns; the same journal gives the same
    paint.
    Safe to call from several threads.

    Args:
        image: an array ``(C, *spatial)``, a path, several paths with a channel each, or a
            :class:`volseg.Volume`.
        folder: where everything is kept; a session or a result of ``volseg densify`` that lies there is
            continued. ``None`` keeps nothing.
        classes: names by value.
        paint: a file with paint to start from.
        read: how to read it: ``unlabelled``, ``painted_only``, ``finished``, ``names``, ``colours``.
        spacing: voxel size, where the image names none or a wrong one.
        seed: of all random numbers.
        device: of :meth:`densify`, ``"cpu"`` or ``"cuda"``; by itself a GPU if there is one. What is learnt
            while painting is learnt on the CPU.

    Attributes:
        image: the image and where it lies.
        trouble: why what was painted last is not on the disk; empty if it is.

    Raises:
        InputError: if a file cannot be read, or the folder belongs to another image.
        RefusedError: if another process has the folder.
    """

    def __init__(
        self,
        image: Any,
        folder: str | os.PathLike[str] | None = None,
        classes: Mapping[int, str] | None = None,
        *,
        paint: str | os.PathLike[str] | None = None,
        read: Mapping[str, Any] | None = None,
        spacing: str | Sequence[float] | None = None,
        seed: int = 0,
        device: str | None = None,
    ) -> None:
        super().__init__(image, folder, classes, paint=paint, read=read, spacing=spacing)
        self.seed, self.device = seed, device
        self._learning = threading.RLock()
        self._live: Live | None = None
        self._learnt = -1  # revision of the paint that the model has seen
        self._model = 0  # rounds of learning
        self._planes: OrderedDict[tuple[int, int], Known] = OrderedDict()
        self._whole: tuple[Plane, Confidence] | None = None  # what densify made of the same paint
        self._whole_of = -1  # revision of that
        self._focus: Block | None = None
        if self.folder is not None and self.is_result:
            self._whole = self._read_result()
            self._whole_of = self.revision

    @classmethod
    def open(cls, folder: str | os.PathLike[str], **given: Any) -> "Session":
        """Continue what lies in a folder: a session, or a result of ``volseg densify``."""
        files, spacing = Folder(Path(folder)).images()
        given.setdefault("spacing", spacing)
        return cls(files[0] if len(files) == 1 else list(files), folder, **given)

    def _read_result(self) -> tuple[Plane, Confidence] | None:
        """What densify has written here for the paint at hand."""
        assert self.folder is not None
        found = self.folder.result(self.image.name)
        if found is None:
            return None
        values, percent = (read_volume(path, labels=True).array[0] for path in found)
        if values.shape != self.image.size:
            return None
        return values.astype(np.uint8), percent.astype(np.float32) / 100

    def adopt(
        self, axis: int | None, index: int, mask: npt.ArrayLike | None = None, *, id: str | None = None
    ) -> bool:
        """Take the result of a slice as paint, where it is blank; then it can be corrected.

        Args:
            mask: where; everywhere if None.

        Raises:
            RefusedError: if there is no result yet.
        """
        axis = self._axis(axis)
        found = self.slice(axis, index)
        values = np.where(self.paint_slice(axis, index) == IGNORE_INDEX, found.values, np.uint8(IGNORE_INDEX))
        if mask is not None:
            values = np.where(np.asarray(mask, bool), values, np.uint8(IGNORE_INDEX))
        locked = [value for value, info in self.classes.items() if info.locked]
        values = np.where(np.isin(values, locked), np.uint8(IGNORE_INDEX), values)
        packed = packed_values(values)
        if packed is None:
            if (found.values == IGNORE_INDEX).any():
                raise RefusedError("There is no result to adopt yet. Paint two classes first.")
            return False
        return self._do({"do": "adopt", "axis": axis, "index": int(index), **packed}, id)

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
            paint = Paint(voxels[order], table[painted[order]])
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

        They are computed if need be.
        """
        axis = self._axis(axis)
        block = self._painting.plane(axis, index)
        with self._learning:
            found = self._planes.get((axis, index))
            if found is None:
                found = self._find(axis, block)
                self._planes[axis, index] = found
                while len(self._planes) > _KEPT:
                    self._planes.popitem(last=False)
        return Result(*self._as_painted(axis, index, found)[:2])

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
        axis = self._axis(axis)
        found = self._planes.get((axis, index))
        if found is None and self._whole is not None:
            found = self._find(axis, self._painting.plane(axis, index))
        return None if found is None else self._as_painted(axis, index, found)

    def _find(self, axis: int, block: Block) -> Known:
        shape = self._painting.shape(axis)
        whole = self._whole
        if whole is not None:
            return Known(whole[0][block].reshape(shape), whole[1][block].reshape(shape), 0)
        if self._live is None or not self._model:
            return Known(np.full(shape, IGNORE_INDEX, np.uint8), np.zeros(shape, np.float32), 0)
        inner = block if self._focus is None else tuple(map(_common, block, self._focus))
        if any(part.start >= part.stop for part in inner):
            return Known(np.full(shape, IGNORE_INDEX, np.uint8), np.zeros(shape, np.float32), self._model)
        scores: npt.NDArray[np.float32] = self._live.predict(inner)
        counts = self.counts()
        scores[
            [not count for count in list(counts.values())[: len(scores)]]
        ] = -np.inf  # never painted: not known
        values = np.array(list(self._painting.classes), np.uint8)[: len(scores)]
        scores = np.exp(scores - scores.max(0))
        found = np.full([part.stop - part.start for part in block], IGNORE_INDEX, np.uint8)
        confidence = np.zeros(found.shape, np.float32)
        there = tuple(slice(i.start - b.start, i.stop - b.start) for i, b in zip(inner, block, strict=True))
        found[there] = values[scores.argmax(0)]
        confidence[there] = scores.max(0) / scores.sum(0)
        return Known(found.reshape(shape), confidence.reshape(shape), self._model)

    def _as_painted(self, axis: int, index: int, found: Known) -> Known:
        paint = self.paint_slice(axis, index)
        on = paint != IGNORE_INDEX
        return Known(
            np.where(on, paint, found.values), np.where(on, np.float32(1), found.confidence), found.revision
        )

    def score(self, should_stop: Callable[[], bool] | None = None) -> Score | None:
        """How good the result is, with an interval, or that there is too little paint to tell.

        Four short trainings; ``None`` if ``should_stop`` ended them.
        """
        return score(self, should_stop)

    def suggest(self) -> Place | None:
        """Where to paint next: where the result is least sure; ``None`` before anything has been learnt."""
        return suggest(self)

    def densify(
        self, minutes: float | None = None, *, folder: str | os.PathLike[str] | None = None, **choices: Any
    ) -> Densified:
        """The whole volume with an honest score: :func:`volseg.densify` on the paint at hand.

        Args:
            folder: for the result; the session's own if None.
            choices: others of :func:`volseg.densify`, ``on_progress`` and ``should_stop`` among them.
        """
        revision = self.revision
        target = folder if folder is not None else (self.folder.path if self.folder else None)
        labels, like = self.labels, self.image.like
        if target is None:
            with tempfile.TemporaryDirectory() as temporary:
                done = self._densified(labels, like, Path(temporary) / "result", minutes, choices)
        else:
            done = self._densified(labels, like, Path(target), minutes, choices)
        if folder is None:
            self._note({"do": "densified", "revision": revision})
        with self._learning:
            self._whole = done.labels.astype(np.uint8), done.confidence
            self._whole_of = revision
            self._planes.clear()
        return done

    def _densified(
        self, labels: Plane, like: Volume, target: Path, minutes: float | None, choices: Mapping[str, Any]
    ) -> Densified:
        names = {value: info.name for value, info in self.classes.items() if (labels == value).any()}
        given: dict[str, Any] = {
            "unlabelled": IGNORE_INDEX,
            "names": names,
            "seed": self.seed,
            "device": self.device,
        }
        paint = Volume(labels[None], like.affine, like.unit)
        return densify(like, paint, target, minutes=minutes, overwrite=True, **given | dict(choices))

    def close(self) -> None:
        """Everything is on the disk, paint and model as files, too; another process may have the folder."""
        try:
            if self._journal is not None and self.revision and np.prod(self.size, dtype=float) <= DENSE:
                self.save()
        finally:
            super().close()

    def save(self) -> None:
        """Write the paint as a file beside the journal, and what was learnt for densify to continue.

        Where a whole result of densify lies in the folder, its model stays: it knows more.
        """
        if self.folder is None:
            return
        name = self.image.name
        stem = name[: len(name) - len(suffix_of(name))]
        suffix = output_suffix(name) if self.image.files else ".nii.gz"
        paint = self.folder.path / f"{stem}_paint{suffix}"
        write_labels(paint, self.labels, self.image.like, self.classes)
        if self._live is None or not self._model or (self.folder.path / "report.html").exists():
            return
        with self._learning:
            known = list(self.classes.items())
            painted = sorted((value, i) for i, (value, _) in enumerate(known) if self.counts()[value])
            model = self._live.as_model([i for _, i in painted])
        names = dict(known)
        about = {"values": [value for value, _ in painted], "names": [names[v].name for v, _ in painted]}
        about |= {"channels": self.image.channels, "images": []}
        save_checkpoint(self.folder.path / "model.pt", model.state() | about)
        self.folder.write_settings(self.image, paint, {value: names[value].name for value, _ in painted})

    def export(self, path: str | os.PathLike[str], what: str = "result", *, overwrite: bool = False) -> Path:
        """Write the paint or the result of the whole volume, in any format that volseg writes.

        Args:
            what: ``"paint"`` (255 where unlabelled) or ``"result"``.

        Raises:
            RefusedError: if the file exists and is not to be overwritten.
        """
        if what == "paint":
            return write_labels(path, self.labels, self.image.like, self.classes, overwrite=overwrite)
        if what != "result":
            raise ValueError(f"what = {what!r} must be 'paint' or 'result'.")
        stack = np.empty((*self.size[:2], *self.size[2:], 1)[:3], np.uint8)
        for index in range(stack.shape[2]):
            with self._learning:
                found = self._as_painted(2, index, self._find(2, self._painting.plane(2, index)))
            if (found.values == IGNORE_INDEX).any():
                raise RefusedError("There is no result to export yet. Paint two classes and learn first.")
            stack[..., index] = found.values
        values = stack.reshape(self.size)
        return write_labels(path, values, self.image.like, self.classes, overwrite=overwrite)

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
