"""What is learnt: a model per fold for the score, one for the result; each kept as soon as it is there.

Which learner does it is all the same here; see :mod:`volseg.learning`.

A run that was stopped goes on behind the last model that it kept. With ``continue_from``, every model goes on
from the one of the same fold. With each model lies a record of all that it has ever learnt from
(:attr:`Fold.learnt <volseg.densification.folds.Fold>`), so that it is never scored on that.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from volseg.annotation import annotation_counts, find_slices
from volseg.annotation.strokes import are_strokes
from volseg.arguments import option
from volseg.densification.earlier import Earlier, Seen, look_at
from volseg.densification.folds import Fold
from volseg.densification.outputs import Outputs
from volseg.densification.schedule import Progress, Timetable
from volseg.densification.scoring import Tested
from volseg.densification.shares import Joined, in_words, joined_folds
from volseg.densification.strokes import elsewhere, stroke_offsets
from volseg.io import Volume
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.learners.joined import SHARE
from volseg.learning import Learner, Task, Trained
from volseg.report import LearningCurve
from volseg.runs.checkpoint import load_checkpoint, save_checkpoint
from volseg.runs.stopping import Stopping

__all__ = ["Learning"]

logger = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8]


class Learning:
    """Learns, segments, and keeps what was learnt.

    Args:
        learner: who learns, all models.
        outputs: where to keep it; ``None`` for nowhere.
        resume: take what a stopped run kept there.
    """

    def __init__(
        self,
        learner: Learner,
        task: Task,
        image: Volume,
        scheme: LabelScheme,
        *,
        timetable: Timetable,
        progress: Progress,
        stopping: Stopping,
        outputs: Outputs | None,
        earlier: Earlier | None,
        resume: bool,
    ) -> None:
        self.learner = learner
        self.task = task
        self.image = image
        self.scheme = scheme
        self.timetable = timetable
        self.progress = progress
        self.stopping = stopping
        self.outputs = outputs
        self.earlier = earlier
        self.resume = resume
        self.curves: list[LearningCurve] = []
        self.notes: tuple[str, ...] = ()
        self._last: Trained | None = None
        self._share: float | None = None  # of the second of two joined learners, by the folds
        self._usual = SHARE  # without them
        self._right: float | None = None  # share of held-out strokes
        self._looks: Seen | None = None

    def prepare(self) -> None:
        """Compute once for all what every model needs of the image."""
        logger.info("Looking at the image.")
        self.progress.now("looking at the image")
        self.timetable.now("looking")
        seconds = self.learner.prepare(self.task)
        self._looks = look_at(self.task, self.image)
        self.timetable.prepared(seconds)

    def of_fold(self, number: int, fold: Fold, labels: Labels) -> Tested:
        """Learn from all slices but those of a fold, and segment these.

        Args:
            number: from 0 on.
        """
        train, test = fold.split(labels)
        path = None if self.outputs is None else self.outputs.fold(number + 1)
        parts = fold.as_json()
        if path is not None and self.resume and path.is_file():
            content = load_checkpoint(path)
            if content.get("fold") == parts:
                self._remember(self.learner.from_state(content), f"fold {number + 1}")
                self.timetable.count_earlier(content["seconds"])
                logger.info("Fold %d: kept from the run that was stopped.", number + 1)
                others = content["elsewhere"].numpy() if "elsewhere" in content else None
                return Tested(fold, test, content["scores"].numpy(), others)
        began = time.monotonic()
        start = self._start_of_fold(number)
        tested = test != IGNORE_INDEX
        where = tested if fold.strokes is None else tested | elsewhere(labels)
        share = np.count_nonzero(where) / where.size
        seconds = self.timetable.of_fold(share)
        model = self._learn(
            f"fold {number + 1} of {self.timetable.folds}", train, seconds, start, held_out=test
        )
        if self.stopping.asked:
            self._leave("before fold %d was done", number + 1)
        self.progress.now(f"scoring, fold {number + 1} of {self.timetable.folds}")
        with self.timetable.testing(share):
            if isinstance(model, Joined):
                scores = np.stack(model.parts_at(self.task, where))
            else:
                scores = model.predict_at(self.task, where)
        found = Tested(fold, test, scores)
        if fold.strokes is not None:
            on = tested[where]
            found = Tested(fold, test, scores[..., on], scores[..., ~on])
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            kept = {"fold": parts, "scores": torch.from_numpy(found.scores)}
            if found.elsewhere is not None:
                kept["elsewhere"] = torch.from_numpy(found.elsewhere)
            save_checkpoint(path, model.state() | kept | {"seconds": time.monotonic() - began})
        self._remember(model, f"fold {number + 1}")
        return found

    def _remember(self, model: Trained, name: str) -> None:
        self._last = model
        self.curves += _curve(model, name)
        if isinstance(model, Joined):
            self._usual = model.usual

    def decided(self, parts: Sequence[Tested], labels: Labels) -> list[Tested]:
        """The scores that count, ``(C, n)``: of joined learners, by shares that other folds chose.

        Of strokes, as if they showed each class as often as it occurs.

        How far that is done, for the result, too, depends on how much is right of all held-out strokes.
        """
        if parts and parts[0].scores.ndim == 3:
            parts, self._share = joined_folds(parts, self._usual)
        right = [
            part.scores.argmax(0) == part.test[part.where] for part in parts if part.elsewhere is not None
        ]
        if not right:
            return list(parts)
        self._right = float(np.mean(np.concatenate(right)))
        return [self._balanced(part, labels) for part in parts]

    def _balanced(self, part: Tested, labels: Labels) -> Tested:
        assert part.elsewhere is not None
        added = self._offsets(part.elsewhere, part.fold.split(labels)[0])
        return replace(part, scores=part.scores + added, elsewhere=part.elsewhere + added)

    def _offsets(self, scores: npt.NDArray[np.float32], painted: Labels) -> npt.NDArray[np.float32]:
        """What is added to scores ``(C, n)`` of unpainted voxels: ``(C, 1)``."""
        assert self._right is not None
        return stroke_offsets(scores, annotation_counts(painted, len(scores)), self._right)[:, None]

    def _start_of_fold(self, number: int) -> Trained | None:
        """What a fold continues: never from what has seen its slices."""
        if self.earlier is None:
            return None
        if self.earlier.is_applied:
            return self.earlier.model
        return self.earlier.of_folds[number] if self.earlier.folds else None

    @property
    def looks(self) -> Seen:
        """How the image looks, to be compared with others."""
        if self._looks is None:
            self._looks = look_at(self.task, self.image)
        return self._looks

    def applied(self) -> npt.NDArray[np.float32]:
        """Scores of every voxel by what was learnt from another image, without learning anything."""
        assert self.earlier is not None
        if self.outputs is not None:
            save_checkpoint(self.outputs.model, self._content(self.earlier.model, self.earlier.images))
        self.progress.now("segmenting")
        self.timetable.now("segmenting")
        model = self.earlier.model_for(self.task, self.looks.pixels)
        return model.predict(self.task, progress=self.progress)

    def _content(self, model: Trained, images: Sequence[Seen]) -> dict[str, Any]:
        """A model with all that has to be known to continue it."""
        about = {"values": list(self.scheme.values), "names": list(self.scheme.names)}
        about |= {"channels": len(self.task.image), "images": [seen.state() for seen in images]}
        return model.state() | about

    def result(self, labels: Labels) -> npt.NDArray[np.float32]:
        """Learn from all slices, and segment the whole volume: scores, ``(C, *spatial)``.

        It continues the last fold's model, so that the time for the score is not lost for the result.
        """
        start = self._last if self.earlier is None else self.earlier.model
        if self.outputs is not None and self.resume and self.outputs.partial.is_file():
            content = load_checkpoint(self.outputs.partial)
            start = self.learner.from_state(content)
            self.timetable.count_earlier(content["seconds"])
            logger.info("The result: going on from the model of the run that was stopped.")
        if start is not None:
            self._set_share(start)  # before it learns: what has no share need not
        began = time.monotonic()
        model = self._learn("the result", labels, self.timetable.of_result(), start)
        self.notes = tuple(model.notes)
        if isinstance(model, Joined):
            self._set_share(model)
            self.notes += (in_words(model.share, measured=self._share is not None),)
        before = () if self.earlier is None else self.earlier.images
        images = [*(seen for seen in before if seen.pixels != self.looks.pixels), self.looks]
        content = self._content(model, images) | {"seconds": time.monotonic() - began}
        if self.outputs is not None:
            save_checkpoint(self.outputs.partial if self.stopping.asked else self.outputs.model, content)
        if self.stopping.asked:
            self._leave("before the result was done")
        if self.outputs is not None:
            self.outputs.partial.unlink(missing_ok=True)
        self.curves += _curve(model, "result")
        self.progress.now("segmenting")
        self.timetable.now("segmenting")
        scores = model.predict(self.task, progress=self.progress)
        if self._right is not None:
            added = self._offsets(scores[:, elsewhere(labels)], labels)
            scores += added.reshape(-1, *[1] * labels.ndim)
        return scores

    def _set_share(self, model: Trained) -> None:
        if isinstance(model, Joined) and self._share is not None:
            model.share = self._share

    def _learn(
        self, what: str, labels: Labels, seconds: float, start: Trained | None, held_out: Labels | None = None
    ) -> Trained:
        began = time.monotonic()
        self.progress.now(f"learning, {what}")
        with self.stopping.patient():
            model = self.learner.learn(
                self.task,
                labels,
                slices={} if are_strokes(labels) else find_slices(labels),
                seconds=seconds,
                start=start,
                held_out=held_out,
                progress=self._tell,
                should_stop=lambda: self.stopping.asked,
            )
        self.timetable.learnt(seconds, time.monotonic() - began)
        return model

    def _tell(self, share: float, _: str = "") -> None:
        self.timetable.learning(share)
        self.progress(share)

    def _leave(self, where: str, *words: Any) -> None:
        kept = ""
        if self.outputs is not None:
            kept = f" What was learnt is kept; repeat the command with {option('resume', True)}."
        logger.warning(f"Stopped {where}.{kept}", *words)
        raise KeyboardInterrupt


def _curve(model: Trained, name: str) -> list[LearningCurve]:
    """How the loss went down; nothing if it was over before it was looked at."""
    curve = model.curve
    if not curve.iterations:
        return []
    tested = curve.iterations[: len(curve.validation)]
    held = "loss on what was held out"
    return [
        LearningCurve(curve.iterations, curve.loss, tested, curve.validation, held, name, tuple(curve.breaks))
    ]
