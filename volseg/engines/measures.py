"""What to measure beside overlap: cells told apart by membranes, and objects one by one."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from volseg.engines.scores import plain
from volseg.instances import InstanceScheme
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.metrics import instance_scores, membrane_scores

__all__ = ["InstanceScores", "Measure", "MembraneScores"]


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
    challenge; see :func:`~volseg.metrics.membrane_scores`.

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

    Needs labels that are an :class:`~volseg.instances.InstanceScheme`. Means are over all objects of all
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
