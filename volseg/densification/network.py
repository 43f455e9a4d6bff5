"""The network's way: a model per fold for the score, one for the result; each kept as soon as it is there.

A run that was stopped goes on behind the last model that it kept. With ``--continue``, every model goes on
from the one of the same fold. With each model lies a record of all that it has ever learnt from
(:attr:`Fold.learnt <volseg.densification.folds.Fold>`), so that it is never scored on that.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from volseg.densification.folds import Fold
from volseg.densification.learning import Model, Task, learn, seconds_to_look
from volseg.densification.outputs import Outputs
from volseg.densification.progress import Progress
from volseg.densification.scoring import Tested
from volseg.densification.stopping import Stopping
from volseg.densification.timing import Timetable
from volseg.engines.checkpoint import load_checkpoint, save_checkpoint
from volseg.errors import InputError
from volseg.io import SUFFIXES
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.report import LearningCurve

__all__ = ["Earlier", "Networks", "load_earlier"]

logger = logging.getLogger(__name__)

Labels = npt.NDArray[np.uint8]

_LOOKS = 1.5  # times as long as the first look at all voxels takes, where there is a second one


@dataclass(frozen=True, eq=False)
class Earlier:
    """The models of an earlier result."""

    model: Model
    folds: tuple[Fold, ...]
    of_folds: tuple[Model, ...]


def load_earlier(source: Path, scheme: LabelScheme, channels: int) -> Earlier:
    """What to go on from.

    Args:
        source: the folder of a result, or its segmentation.

    Raises:
        InputError: if there is nothing, or it was learnt for other classes or channels.
    """
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if source.name.lower().endswith(s)), "")
    folder = source.with_name(source.name[: -len(suffix)]) if suffix else source
    if not (folder / "model.pt").is_file():
        raise InputError(
            f"{source} holds no model.pt to go on from. Name the folder of an earlier volseg densify, or "
            "leave --continue out."
        )
    content = load_checkpoint(folder / "model.pt")
    for what, now in (("values", list(scheme.values)), ("channels", channels)):
        if content.get(what) != now:
            raise InputError(
                f"{folder} was learnt with other {what}: {content.get(what)} then, {now} now. Paint the same "
                "classes, or leave --continue out."
            )
    folds: list[Fold] = []
    models: list[Model] = []
    for path in sorted((folder / "folds").glob("fold_*.pt"), key=lambda p: int(p.stem[5:])):
        part = load_checkpoint(path)
        if "fold" not in part:
            logger.warning(
                "%s comes from an earlier volseg, which kept no record of what its folds had learnt from. "
                "They are learnt anew, so that the score is of slices that were never learnt from.",
                folder,
            )
            return Earlier(Model.from_state(content), (), ())
        folds.append(Fold.from_json(part["fold"]))
        models.append(Model.from_state(part))
    return Earlier(Model.from_state(content), tuple(folds), tuple(models))


class Networks:
    """Learns, segments, and keeps what it learnt.

    Args:
        outputs: where to keep it; ``None`` for nowhere.
        resume: take what a stopped run kept there.
    """

    def __init__(
        self,
        task: Task,
        scheme: LabelScheme,
        *,
        timetable: Timetable,
        progress: Progress,
        stopping: Stopping,
        outputs: Outputs | None,
        earlier: Earlier | None,
        resume: bool,
    ) -> None:
        self.task = task
        self.scheme = scheme
        self.timetable = timetable
        self.progress = progress
        self.stopping = stopping
        self.outputs = outputs
        self.earlier = earlier
        self.resume = resume
        self.curve: LearningCurve | None = None
        self._last: Model | None = None

    def prepare(self) -> None:
        """See the image once for all."""
        logger.info("Looking at the image.")
        self.progress.now("looking at the image")
        self.task.bank  # noqa: B018 - computed when it is first asked for
        self.timetable.prepared(_LOOKS * seconds_to_look(self.task))

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
                self._last = Model.from_state(content)
                self.timetable.count_earlier(content["seconds"])
                logger.info("Fold %d: kept from the run that was stopped.", number + 1)
                return Tested(fold, test, content["scores"].numpy())
        began = time.monotonic()
        start = self.earlier.of_folds[number] if self.earlier and self.earlier.folds else None
        where = test != IGNORE_INDEX
        share = np.count_nonzero(where) / where.size
        seconds = self.timetable.of_fold(share)
        model = self._learn(
            f"fold {number + 1} of {self.timetable.folds}", train, seconds, start, held_out=test
        )
        if self.stopping.asked:
            self._leave("before fold %d was done", number + 1)
        self.progress.now(f"scoring, fold {number + 1} of {self.timetable.folds}")
        with self.timetable.segmenting(share):
            found = Tested(fold, test, model.predict_at(self.task, where))
        if path is not None:
            path.parent.mkdir(exist_ok=True)
            kept = {"fold": parts, "scores": torch.from_numpy(found.scores)}
            save_checkpoint(path, model.state() | kept | {"seconds": time.monotonic() - began})
        self._last = model
        return found

    def result(self, labels: Labels) -> npt.NDArray[np.float32]:
        """Learn from all slices, and segment the whole volume: scores, ``(C, *spatial)``.

        It goes on from the last fold's model, so that the time for the score is not lost for the result.
        """
        start = self._last if self.earlier is None else self.earlier.model
        if self.outputs is not None and self.resume and self.outputs.partial.is_file():
            content = load_checkpoint(self.outputs.partial)
            start = Model.from_state(content)
            self.timetable.count_earlier(content["seconds"])
            logger.info("The result: going on from the model of the run that was stopped.")
        began = time.monotonic()
        model = self._learn("the result", labels, self.timetable.of_result(), start)
        about = {"values": list(self.scheme.values), "channels": len(self.task.image)}
        about["names"] = list(self.scheme.names)
        content = model.state() | about | {"seconds": time.monotonic() - began}
        if self.outputs is not None:
            save_checkpoint(self.outputs.partial if self.stopping.asked else self.outputs.model, content)
        if self.stopping.asked:
            self._leave("before the result was done")
        if self.outputs is not None:
            self.outputs.partial.unlink(missing_ok=True)
        self.curve = _curve(model)
        self.progress.now("segmenting")
        return model.predict(self.task, progress=self.progress)

    def _learn(
        self, what: str, labels: Labels, seconds: float, start: Model | None, held_out: Labels | None = None
    ) -> Model:
        began = time.monotonic()
        self.progress.now(f"learning, {what}")
        self.timetable.learning(0.0)
        with self.stopping.patient():
            model = learn(
                self.task,
                labels,
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
        kept = "" if self.outputs is None else " What was learnt is kept; repeat the command with --resume."
        logger.warning(f"Stopped {where}.{kept}", *words)
        raise KeyboardInterrupt


def _curve(model: Model) -> LearningCurve | None:
    """That of the result, which began as a fold's, when slices were held out from it."""
    curve = model.curve
    if not curve.iterations:
        return None
    tested = curve.iterations[: len(curve.validation)]
    return LearningCurve(curve.iterations, curve.loss, tested, curve.validation, "loss on held-out slices")
