"""Scores of an evaluation: of classes, of membranes between cells, of objects."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from volseg.instances import InstanceScheme
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import (
    TOLERANCE,
    Headline,
    boundary_f1,
    confusion_matrix,
    dice,
    instance_scores,
    iou,
    mean_score,
    membrane_scores,
    pooled_surface_dice,
    surface_faces,
)

__all__ = ["InstanceScores", "Measure", "MembraneScores", "Scores", "plain"]

_NOT_IN_NAMES = re.compile(r"[^\w\-./ :]")  # of figures: MLflow refuses everything else


class Scores:
    """Confusion matrices and surfaces by kind of voxel (``"held out"``, ``"never annotated"``) and by case.

    Args:
        tolerance: in voxels; also score each class but the background as a thin structure.
    """

    def __init__(self, labels: LabelScheme, *, tolerance: float | None = None) -> None:
        self.labels = labels
        self.headline = Headline(labels.names)
        self.tolerance = tolerance
        self.matrices: dict[str, dict[str, np.ndarray[Any, np.dtype[np.int64]]]] = {}
        self.surfaces: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
        self.tolerant: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}

    @property
    def found(self) -> tuple[dict[str, dict[str, Any]], ...]:
        """All that there is so far, for :meth:`merge`."""
        return self.matrices, self.surfaces, self.tolerant

    def clear(self) -> None:
        """Forget everything."""
        for found in self.found:
            found.clear()

    def add(
        self,
        case: str,
        kind: str,
        prediction: Tensor,
        target: Tensor,
        spacing: Sequence[float] | None = None,
    ) -> None:
        """Count the voxels of one case whose target is not ``IGNORE_INDEX``; nothing if there is none.

        Args:
            prediction, target: class indices, ``(1, *spatial)``.
            spacing: voxel size along each axis; all alike if None. Areas are counted in the finest of them:
                cases weigh by their voxels, whatever the size of these, as in a confusion matrix.
        """
        matrix = confusion_matrix(prediction, target, len(self.labels))
        if not matrix.sum():
            return
        self.matrices.setdefault(kind, {})[case] = matrix
        sizes = None if spacing is None else [size / min(spacing) for size in spacing]
        faces = surface_faces(prediction[0], target[0], len(self.labels), spacing=sizes)
        self.surfaces.setdefault(kind, {})[case] = faces[0]
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

    def merge(self, found: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        """Take over the cases that another process has scored."""
        for own, other in zip(self.found, found, strict=True):
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
        surfaces = pooled_surface_dice(sum(self.surfaces[kind].values()))
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
            "surface Dice": self._named(surfaces),
            "mean foreground surface Dice": plain(mean_score(surfaces[foreground])),
            "surface Dice by case": {
                case: self._named(pooled_surface_dice(faces)) for case, faces in self.surfaces[kind].items()
            },
            "tolerance of surface Dice in voxels": TOLERANCE,
        }
        if kind in self.tolerant:
            found[f"precision, recall, F1 within {self.tolerance:g} voxel(s)"] = {
                case: {name: [plain(score) for score in scores] for name, scores in by_name.items()}
                for case, by_name in self.tolerant[kind].items()
            }
        return found

    def rows(self) -> Iterator[tuple[str, ...]]:
        """The report as a table: kind, case, class, IoU, Dice, surface Dice."""
        yield "voxels", "case", "class", "IoU", "Dice", "surface Dice"
        for kind, cases in self.matrices.items():
            surfaces = self.surfaces[kind]
            rows = [(case, matrix, surfaces[case]) for case, matrix in cases.items()]
            for case, matrix, faces in [*rows, ("all", sum(cases.values()), sum(surfaces.values()))]:
                scores = iou(matrix), dice(matrix), pooled_surface_dice(faces)
                for name, *figures in zip(self.labels.names, *scores, strict=True):
                    yield kind, case, name, *(f"{figure:.4f}" for figure in figures)

    def table(self) -> Iterator[str]:
        """A few lines for a person."""
        for kind, found in self.report().items():
            scores = {name: value for name, value in found["IoU"].items() if value is not None}
            classes = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
            missing = f"; {len(found['IoU']) - len(scores)} of {len(found['IoU'])} classes are nowhere"
            of_some = missing if len(scores) < len(found["IoU"]) else ""
            headline = self.headline.in_words(found["headline"]["IoU"], mean_of_all=found["mean IoU"])
            yield f"Voxels {kind} ({found['voxels']}): {headline}{of_some}. By class: {classes}."
            mean = found["mean foreground Dice over cases"]
            if mean is not None:
                yield f"Mean foreground Dice over cases, voxels {kind}: {mean:.3f}."
            mean = found["mean foreground surface Dice"]
            if mean is not None:
                title = self.headline.in_words(mean, measure=f"surface Dice at {TOLERANCE:g} voxel")
                yield f"Voxels {kind}: {title}."

    def _named(self, values: Any) -> dict[str, float | None]:
        return {name: plain(value) for name, value in zip(self.labels.names, values, strict=True)}


def plain(value: float) -> float | None:
    """A score for JSON, which knows no NaN."""
    return round(float(value), 5) if np.isfinite(value) else None


class Measure(Protocol):
    """Collects cases, then reports."""

    def clear(self) -> None:
        """Forget everything."""

    def add(
        self, case: str, probabilities: Tensor, held: Tensor, instances: Tensor | None, labels: LabelScheme
    ) -> None:
        """One case.

        Args:
            probabilities: ``(C, *spatial)``.
            held: ``(*spatial)``, class indices of what was held out, ``IGNORE_INDEX`` elsewhere.
            instances: ``(1, *spatial)``, ids of the true objects, where the labels have them.
        """

    def report(self) -> dict[str, Any]:
        """Everything, as plain values for JSON."""

    def table(self, report: Mapping[str, Any]) -> Iterator[str]:
        """A few lines for a person, out of what :meth:`report` gave."""


class MembraneScores:
    """Pixel, Rand and warping error, V_Rand and V_Info of membranes, over all images held out as a whole.

    The best of ten thresholds on the probability of the inside, one for all images, as in the ISBI 2012
    challenge; see :func:`volseg.metrics.membrane_scores`.

    Args:
        inside: name of the class that lies between the membranes.
    """

    def __init__(self, inside: str) -> None:
        self.inside = inside
        self.clear()

    def clear(self) -> None:
        self.probabilities: list[npt.NDArray[np.float32]] = []
        self.truths: list[npt.NDArray[np.bool_]] = []

    def add(
        self, case: str, probabilities: Tensor, held: Tensor, instances: Tensor | None, labels: LabelScheme
    ) -> None:
        if self.inside not in labels.names:
            raise ValueError(
                f"inside = {self.inside!r} is none of the classes ({', '.join(labels.names)}): name the one "
                "that lies between the membranes."
            )
        if bool((held == IGNORE_INDEX).any()):
            return  # segments cannot be compared where parts of them are unknown
        index = labels.names.index(self.inside)
        self.probabilities.append(probabilities[index].numpy())
        self.truths.append((held == index).numpy())

    def report(self) -> dict[str, Any]:
        if not self.truths:
            return {}
        scores = membrane_scores(self.probabilities, self.truths)
        found = {
            name: {"best": plain(best.value), "threshold": best.threshold} for name, best in scores.items()
        }
        return {"membranes": {"images": len(self.truths), **found}}

    def table(self, report: Mapping[str, Any]) -> Iterator[str]:
        found = report.get("membranes")
        if found:
            parts = (f"{name} {part['best']}" for name, part in found.items() if name != "images")
            yield f"Membranes of {found['images']} image(s): {', '.join(parts)}."


class InstanceScores:
    """How well single objects are found: SEG of the cell tracking challenge, precision, merged, split.

    Needs labels that are an :class:`volseg.instances.InstanceScheme`. Means are over all objects of all
    images held out, ``average_precision`` over images as in the 2018 Data Science Bowl.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.cases: dict[str, dict[str, Any]] = {}

    def add(
        self, case: str, probabilities: Tensor, held: Tensor, instances: Tensor | None, labels: LabelScheme
    ) -> None:
        if instances is None or not isinstance(labels, InstanceScheme):
            raise ValueError(
                "InstanceScores needs to know which voxels are one object: let labels be an InstanceScheme, "
                "and the label files hold an id per object."
            )
        if not bool((held != IGNORE_INDEX).any()):
            return
        truth = np.where(held.numpy() == IGNORE_INDEX, -1, instances[0].numpy())
        prediction = labels.decode(probabilities.argmax(0).numpy()).astype(np.int32)
        self.cases[case] = instance_scores(prediction, truth)

    def report(self) -> dict[str, Any]:
        if not self.cases:
            return {}
        cases = list(self.cases.values())
        objects = np.array([case["objects"] for case in cases])
        some = objects > 0
        segs = np.array([case["seg"] for case in cases])[some]
        precision = np.array([(case["precision_50"], case["average_precision"]) for case in cases])
        precision_50, average = np.nanmean(precision, 0) if np.isfinite(precision).any() else (math.nan,) * 2
        return {
            "objects": {
                "images": len(cases),
                "objects": int(objects.sum()),
                "SEG": plain(np.average(segs, weights=objects[some]) if some.any() else math.nan),
                "precision at IoU 0.5": plain(precision_50),
                "average precision": plain(average),
                "merged": sum(int(case["merged"]) for case in cases),
                "split": sum(int(case["split"]) for case in cases),
                "by image": {
                    name: {key: plain(value) for key, value in case.items()}
                    for name, case in self.cases.items()
                },
            }
        }

    def table(self, report: Mapping[str, Any]) -> Iterator[str]:
        found = report.get("objects")
        if found:
            yield (
                f"{found['objects']} objects in {found['images']} image(s): SEG {found['SEG']}, average "
                f"precision {found['average precision']}, {found['merged']} merged, {found['split']} split."
            )
