"""Adding up scores over cases: pooled over voxels, and averaged over cases as medicine does."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import Headline, boundary_f1, confusion_matrix, dice, iou, mean_score

__all__ = ["Scores", "plain"]

_NOT_IN_NAMES = re.compile(r"[^\w\-./ :]")  # of figures: MLflow refuses everything else


class Scores:
    """Confusion matrices by kind of voxel (``"held out"``, ``"never annotated"``) and by case.

    Args:
        tolerance: in voxels; also score each class but the background as a thin structure.
    """

    def __init__(self, labels: LabelScheme, *, tolerance: float | None = None) -> None:
        self.labels = labels
        self.headline = Headline(labels.names)
        self.tolerance = tolerance
        self.matrices: dict[str, dict[str, np.ndarray[Any, np.dtype[np.int64]]]] = {}
        self.tolerant: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self.matrices.clear()
        self.tolerant.clear()

    def add(self, case: str, kind: str, prediction: Tensor, target: Tensor) -> None:
        """Count the voxels of one case whose target is not ``IGNORE_INDEX``; nothing if there is none."""
        matrix = confusion_matrix(prediction, target, len(self.labels))
        if not matrix.sum():
            return
        self.matrices.setdefault(kind, {})[case] = matrix
        if self.tolerance is not None:
            mask = (target != IGNORE_INDEX).numpy()[0]
            self.tolerant.setdefault(kind, {})[case] = {
                name: boundary_f1(
                    (prediction == index).numpy()[0],
                    (target == index).numpy()[0],
                    tolerance=self.tolerance,
                    mask=mask,
                )
                for index, name in enumerate(self.labels.names)
                if not (self.headline.leaves_out and index == self.headline.background)
            }

    def merge(self, matrices: Mapping[str, Mapping[str, Any]], tolerant: Mapping[str, Any]) -> None:
        """Take over the cases that another process has scored."""
        for own, other in ((self.matrices, matrices), (self.tolerant, tolerant)):
            for kind, cases in other.items():
                own.setdefault(kind, {}).update(cases)

    def summary(self) -> dict[str, float]:
        """One line of figures, by kind: the headline, the mean over all classes, then each class."""
        figures: dict[str, float] = {}
        for kind, cases in self.matrices.items():
            scores = iou(sum(cases.values()))
            if self.headline.leaves_out:
                figures[f"mean foreground IoU: {kind}"] = self.headline.mean(scores)
            figures[f"mean IoU: {kind}"] = mean_score(scores)
            for name, score in zip(self.labels.names, scores, strict=True):
                if np.isfinite(score):
                    figures[_NOT_IN_NAMES.sub("-", f"IoU of {name}: {kind}")] = float(score)
        return figures

    def report(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""
        return {kind: self._kind(kind) for kind in self.matrices}

    def _kind(self, kind: str) -> dict[str, Any]:
        cases = self.matrices[kind]
        pooled: Any = sum(cases.values())
        per_case = {case: dice(matrix) for case, matrix in cases.items()}
        foreground = self.headline.classes
        means = [mean_score(scores[foreground]) for scores in per_case.values()]  # NaN: no foreground at all
        found: dict[str, Any] = {
            "voxels": int(pooled.sum()),
            "headline": {
                "name": self.headline.title(),
                "IoU": plain(self.headline.mean(iou(pooled))),
                "classes": [self.labels.names[i] for i in foreground],
            },
            "mean IoU": plain(mean_score(iou(pooled))),
            "IoU": self._named(iou(pooled)),
            "Dice": self._named(dice(pooled)),
            "mean foreground Dice": plain(mean_score(dice(pooled)[foreground])),
            "mean foreground Dice over cases": plain(mean_score(means)),
            "Dice by case": {case: self._named(scores) for case, scores in per_case.items()},
        }
        if kind in self.tolerant:
            found[f"precision, recall, F1 within {self.tolerance:g} voxel(s)"] = {
                case: {name: [plain(score) for score in scores] for name, scores in by_name.items()}
                for case, by_name in self.tolerant[kind].items()
            }
        return found

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The report as a table: kind, case, class, IoU, Dice."""
        yield "voxels", "case", "class", "IoU", "Dice"
        for kind, cases in self.matrices.items():
            for case, matrix in [*cases.items(), ("all", sum(cases.values()))]:
                for name, a, b in zip(self.labels.names, iou(matrix), dice(matrix), strict=True):
                    yield kind, case, name, f"{a:.4f}", f"{b:.4f}"

    def table(self) -> Iterator[str]:
        """A few lines for a person."""
        for kind, found in self.report().items():
            scores = {name: value for name, value in found["IoU"].items() if value is not None}
            classes = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            missing = f"; {len(found['IoU']) - len(scores)} of {len(found['IoU'])} classes are nowhere"
            of_some = missing if len(scores) < len(found["IoU"]) else ""
            told = self.headline.told(found["headline"]["IoU"], mean_of_all=found["mean IoU"])
            yield f"Voxels {kind} ({found['voxels']}): {told}{of_some}. By class: {classes}."
            mean = found["mean foreground Dice over cases"]
            if mean is not None:
                yield f"Mean foreground Dice over cases, voxels {kind}: {mean:.3f}."

    def _named(self, values: Any) -> dict[str, float | None]:
        return {name: plain(value) for name, value in zip(self.labels.names, values, strict=True)}


def plain(value: float) -> float | None:
    """A score for JSON, which knows no NaN."""
    return round(float(value), 5) if np.isfinite(value) else None
