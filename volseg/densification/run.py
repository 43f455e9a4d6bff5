"""One request on its way: read, score, learn, write, report."""

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation.strokes import are_strokes
from volseg.arguments import option
from volseg.densification.calibration import Calibrator
from volseg.densification.comparison import NAMES, Comparison, comparing, segment_by
from volseg.densification.earlier import load_earlier
from volseg.densification.folds import Fold, Folds, make_folds
from volseg.densification.inputs import Choices, ImageLike, Images, read_inputs
from volseg.densification.outputs import (
    Outputs,
    classes_of,
    outputs_for,
    settings_of,
    values_of,
    write_volumes,
)
from volseg.densification.reporting import (
    Densified,
    amounts_in_words,
    amounts_of,
    as_json,
    changes_since,
    going_on,
    note_of,
    painted_of,
    report_of,
    summary_of,
)
from volseg.densification.schedule import Progress, Timetable, affordable_folds, warn_of_too_little
from volseg.densification.scoring import Measured, Scorer, tested
from volseg.densification.suggestion import SUGGESTION_DEFAULT, suggest
from volseg.densification.training import Learning
from volseg.io import write_json
from volseg.labels import IGNORE_INDEX
from volseg.learners import choose_learner
from volseg.learning import Learner, Task
from volseg.metrics import Headline
from volseg.report import LearningCurve, Suggestion, write_figures, write_report
from volseg.runs.log import open_log
from volseg.runs.stopping import Stopping

__all__ = ["Run"]

logger = logging.getLogger(__name__)

_NOT_BY_PLACE = "Strokes are held out from what learns; of this method it is not known how good it is."
_PATIENCE = 0.2  # of the time that everything took, to wait at most for what is there to compare with

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Run:
    """The steps of one request, in order; the last one is :meth:`__call__`.

    Args:
        labels: ``None`` to take what was learnt from another image as it is.
        earlier: the folder of a result to continue.
        applied: the same, of another image.
        progress: given what is being done.
    """

    def __init__(
        self,
        choices: Choices,
        image: Images,
        labels: ImageLike | None,
        output: str | os.PathLike[str] | None,
        earlier: Path | None,
        applied: Path | None,
        stopping: Stopping,
        progress: Progress,
    ) -> None:
        self.choices = choices
        self.stopping = stopping
        self.progress = progress
        progress.now("reading")
        source = applied or earlier
        self.earlier = None if source is None else load_earlier(source, is_applied=applied is not None)
        self.seconds = choices.seconds(continued=self.earlier is not None)
        self.inputs = read_inputs(image, labels, choices, self.earlier)
        self.alone = labels is None  # no paint: nothing is learnt
        self.learner = (
            None
            if not choices.learns
            else self.earlier.learner
            if self.alone and self.earlier is not None
            else choose_learner(
                choices.learner,
                None if self.earlier is None else self.earlier.learner,
                seconds=self.seconds,
                voxels=math.prod(self.inputs.image.spatial_shape),
            )
        )
        self.outputs = None if output is None else outputs_for(output, self.inputs)
        self.place: Outputs | None = None  # where the files are made, until they are all there
        self.continued, self.applied = earlier, applied
        self.timetable: Timetable | None = None
        self.note = ""
        self.remarks: tuple[str, ...] = ()

    def __call__(self, *, resume: bool, overwrite: bool, command: str) -> Densified:
        """Do it all."""
        settings = settings_of(
            self.inputs, self.choices.as_json(), command, learner=self.learner.name if self.learner else None,
            earlier=self.earlier, continued=self.continued, applied=self.applied,
        )  # fmt: skip
        if self.outputs is None:
            return self._work(settings, resume=False)
        self.place = self.outputs.open(settings, resume=resume, overwrite=overwrite)
        try:
            open_log(self.place.log)
            done = self._work(settings, resume=resume)
            self.outputs.close(self.place)
        except KeyboardInterrupt:
            learns = self.choices.learns and not self.alone
            if learns and not self.stopping.asked and self.place is not None:
                logger.warning(
                    "Stopped while %s. What was learnt before is kept in %s; repeat the command with %s.",
                    self.progress.stage,
                    self.place.folder,
                    option("resume", True),
                )
            raise
        finally:
            self.outputs.release()
        logger.info(
            "Wrote %s, and how sure it is in percent: %s.", self.outputs.segmentation, self.outputs.confidence
        )
        logger.info("To look around in: %s.", self.outputs.report)
        return done

    def _work(self, settings: Mapping[str, Any], *, resume: bool) -> Densified:
        inputs = self.inputs
        parts = self._folds()
        folds = [(number, fold) for number, fold in enumerate(parts.folds) if fold.is_tested]
        names = inputs.scheme.names
        scorer = Scorer(inputs.paint.labels, inputs.image.spacing, Headline(names, inputs.paint.background))
        with self._comparing([fold for _, fold in folds]) as others:
            measured, scores, curves = self._segment(folds, scorer, resume)
            calibrator = self._calibrator(measured)
            keep = self.choices.keep_painted
            self.progress.now("writing")
            if self.timetable is not None:
                self.timetable.now("ending")
            classes, confidence = classes_of(inputs, scores, calibrator, keep_painted=keep)
            values = values_of(inputs, classes, keep_painted=keep)
            suggestion = self._suggestion(calibrator, scores, measured)
            del scores
            reasons: list[str] = []
            if others is not None:
                self.progress.now("waiting for the methods to compare with")
                found, reasons = others.collect(scorer, self._patience())
                measured += found
        inputs.check_unchanged()  # the methods read the files, too
        written = [] if self.place is None else write_volumes(self.place, inputs, values, confidence)
        note = self.note or parts.reason
        if measured:
            continued, flat = self.earlier is not None, inputs.image.spatial_dims == 2
            note = note_of(measured[0], learns=self.choices.learns, continued=continued, flat=flat)
        done = Densified(
            values,
            confidence,
            dict(zip(inputs.scheme.values, names, strict=True)),
            as_json(measured, names),
            " ".join([note, *reasons]),
            inputs.findings,
            suggestion,
            None if self.outputs is None else self.outputs.folder,
            written,
            self.learner,
            self.remarks,
        )
        return self._reported(done, classes, measured, curves, settings)

    def _calibrator(self, measured: Sequence[Measured]) -> Calibrator:
        """By the held-out slices, else by those of the earlier result."""
        if measured:
            return measured[0].calibrator
        return Calibrator() if self.earlier is None else Calibrator(self.earlier.temperature)

    def _reported(
        self,
        done: Densified,
        classes: Labels,
        measured: Sequence[Measured],
        curves: Sequence[LearningCurve],
        settings: Mapping[str, Any],
    ) -> Densified:
        """Say what was found, and write the scores, the figures and the page, if anything is written."""
        inputs, outputs = self.inputs, self.place
        amounts = amounts_of(inputs, classes)
        changes = [] if self.earlier is None else changes_since(self.earlier, inputs, done)
        for line in (*summary_of(done, measured, inputs.scheme), *changes, amounts_in_words(amounts)):
            logger.info("%s", line)
        if self.outputs is None or outputs is None:
            return done
        minutes = self.progress.gone / 60
        about = {
            "date": settings["begun"],
            "minutes": minutes,
            "command": settings["command"],
            "painted": painted_of(inputs),
            "amounts": [dataclasses.asdict(amount) for amount in amounts],
            "changes": changes,
        }
        write_json(outputs.scores, done.as_json() | about)
        self.progress.now("drawing the report")
        report = report_of(
            inputs,
            classes,
            done,
            measured,
            curves=curves,
            minutes=minutes,
            warnings=[] if measured else [done.note],
            versions=settings["versions"],
            command=settings["command"],
            date=settings["begun"],
            amounts=amounts,
            changes=changes,
        )
        written = [*done.written, *write_figures(outputs.figures, report, overwrite=True)]
        written.append(write_report(outputs.report, report, overwrite=True))
        return dataclasses.replace(done, written=[self.outputs.final(path, outputs) for path in written])

    def _folds(self) -> Folds:
        count = self.choices.folds
        if count is None:
            patience = 1.0 if self.learner is None else self.learner.patience
            count = affordable_folds(self.seconds / patience, math.prod(self.inputs.image.spatial_shape))
        if self.alone or not count:
            why = f"Nothing was held out ({option('folds', 0)}), so it is not known how good this is."
            return Folds((), "" if self.alone else why)
        previous = self.earlier.folds if self.earlier else ()  # none of another image
        paint, spacing, names = self.inputs.paint, self.inputs.image.spacing, self.inputs.scheme.names
        parts = make_folds(paint.labels, count, previous=previous, spacing=spacing, names=names)
        if self.learner is None and any(fold.strokes for fold in parts.folds):
            parts = Folds((), _NOT_BY_PLACE)
        if parts.reason:
            logger.warning("%s", parts.reason)
        return parts

    def _segment(
        self, folds: Sequence[tuple[int, Fold]], scorer: Scorer, resume: bool
    ) -> tuple[list[Measured], Floats, list[LearningCurve]]:
        """Scores of the method that was asked for: on held-out slices, and of every voxel."""
        labels = self.inputs.paint.labels
        learner = self.learner
        if learner is None:
            name = NAMES[self.choices.method]
            logger.info("Segmenting: %s, which learns nothing.", name)
            parts = []
            for _, fold in folds:
                train, test = fold.split(labels)
                parts.append(tested(fold, test, self._by_method(train)))
            return [scorer.measure(name, parts)] if parts else [], self._by_method(labels), []
        timetable = self.timetable = self._timetable(learner, len(folds))
        learning = self._learning(learner, timetable, resume)
        if self.alone:
            learning.prepare()
            scores = learning.applied()
            assert self.earlier is not None  # where nothing is painted there is something to apply
            self.note = self.earlier.without_paint(self.inputs.image, learning.looks.looks)
            return [], scores, []
        logger.info("%s", self._announcement(learner, len(folds)))
        warn_of_too_little(timetable, learner.fewest, page=self.place is not None)
        learning.prepare()
        if self.earlier is not None and self.earlier.is_applied:
            logger.info("%s", self.earlier.far(learning.looks.looks))
        parts = []
        for number, fold in folds:
            logger.info("Fold %d of %d: without %s.", number + 1, len(folds), fold.in_words())
            parts.append(learning.of_fold(number, fold, labels))
        parts = learning.decided(parts, labels)
        self.progress.now("scoring")
        timetable.now("scoring")
        measured = [scorer.measure("volseg", parts)] if parts else []
        del parts
        logger.info("The result: learning from all paint.")
        scores = learning.result(labels)
        self.remarks = learning.notes
        return measured, scores, learning.curves

    def _timetable(self, learner: Learner, folds: int) -> Timetable:
        image, labels = self.inputs.image, self.inputs.paint.labels
        timetable = Timetable(
            self.seconds,
            folds,
            math.prod(image.spatial_shape),
            image.channels,
            painted=int(np.count_nonzero(labels != IGNORE_INDEX)),
            page=self.place is not None,
            began=self.progress.clock.began,
            patience=learner.patience,
        )
        self.progress.expected = timetable.expected
        return timetable

    def _learning(self, learner: Learner, timetable: Timetable, resume: bool) -> Learning:
        image, scheme = self.inputs.image, self.inputs.scheme
        task = Task(image.array, image.spacing, len(scheme), self.choices.seed, self.choices.torch_device)
        return Learning(
            learner,
            task,
            image,
            scheme,
            timetable=timetable,
            progress=self.progress,
            stopping=self.stopping,
            outputs=self.place,
            earlier=self.earlier,
            resume=resume,
        )

    def _announcement(self, learner: Learner, folds: int) -> str:
        device = self.choices.torch_device
        where = "GPU" if device.type == "cuda" else "CPU"
        ends = "Ctrl-C ends it after the step at hand; nothing is kept."
        if self.place is not None:
            ends = "Ctrl-C ends it after the step at hand and keeps what was learnt, for "
            ends += f"{option('resume', True)}."
        half = f"; {folds} folds for the score take half of it, the result the rest" if folds else ""
        asked = "" if self.choices.minutes is not None else f" ({option('minutes')} changes that)"
        minutes = f"{self.seconds / 60:.3g} minute{'s' * (self.seconds != 60)}"
        time = f"{minutes} in all{asked}{half}."
        plan = f"Learning on the {where}: {time}"
        who = f"What learns is {learner.title} ({learner.name})."
        return " ".join(filter(None, [plan, who, learner.ends, ends]))

    @contextlib.contextmanager
    def _comparing(self, folds: Sequence[Fold]) -> Iterator[Comparison | None]:
        """Methods that learn nothing beside it, on the same slices."""
        if not (self.choices.compare and folds and self.choices.learns) or folds[0].strokes:
            yield None
            return
        paint, image = self.inputs.paint, self.inputs.image
        background = paint.background or 0
        files, classes = self.inputs.image_files, len(self.inputs.scheme)
        with comparing(
            image, paint.labels, folds, files=files, classes=classes, background=background
        ) as found:
            yield found

    def _by_method(self, labels: Labels) -> Floats:
        image = self.inputs.image
        return segment_by(
            self.choices.method,
            image.array,
            labels,
            classes=len(self.inputs.scheme),
            background=self.inputs.paint.background or 0,
            spacing=image.spacing,
        )

    def _patience(self) -> float:
        """Seconds of the time that are left for what is not the result."""
        if self.timetable is None:
            return 0.0
        return min(self.timetable.left - self.timetable.for_ending, _PATIENCE * self.progress.gone)

    def _suggestion(
        self, calibrator: Calibrator, scores: Floats, measured: Sequence[Measured]
    ) -> Suggestion | None:
        wanted = SUGGESTION_DEFAULT if self.choices.suggest is None else self.choices.suggest
        paint, spacing = self.inputs.paint.labels, self.inputs.image.spacing
        if not wanted or (paint.ndim == 2 and not are_strokes(paint)):
            return None
        missing = 1 - ((measured and measured[0].estimate.mean_iou.value) or 0.0)
        chances, names = calibrator.probabilities(scores), self.inputs.scheme.names
        found = suggest(chances, paint, spacing=spacing, missing=missing, names=names)
        if found is None:
            return None
        is_known = self.earlier is not None and self.earlier.knows(self.inputs.image)
        return going_on(found, self.inputs, self.choices, self.outputs, is_known=is_known)
