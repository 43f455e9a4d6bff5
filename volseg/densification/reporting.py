"""What a person is told at the end: a page, figures, and the same as numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation import Finding, numbered
from volseg.data.auditing import orientation_of
from volseg.densification.inputs import Inputs
from volseg.densification.nearness import Support
from volseg.densification.request import Method
from volseg.densification.scoring import Measured, lines
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.report import Amount, LearningCurve, Report, Suggestion

__all__ = ["Densified", "as_json", "note_of", "report_of", "summary_of"]

_WORTH_SAYING = 0.05  # of the unpainted voxels


@dataclass(frozen=True, eq=False)
class Densified:
    """What :func:`volseg.densify` found.

    Attributes:
        labels: of every voxel, ``(*spatial)``, values as in the painted file.
        confidence: probability that this is right, ``(*spatial)``, 0 to 1; 1 where somebody painted.
        names: of the classes, by value.
        scores: per method and class, on slices that were held out; see ``scores.json``.
        note: how far the scores can be trusted, or why there are none.
        folder: where everything was written; ``None`` if nothing was.
    """

    labels: npt.NDArray[Any]
    confidence: npt.NDArray[np.float32]
    names: Mapping[int, str]
    scores: Mapping[str, Any]
    note: str
    findings: Sequence[Finding]
    suggestion: Suggestion | None = None
    folder: Path | None = None
    written: Sequence[Path] = ()

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "scores": self.scores,
            "note": self.note,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "suggestion": None if self.suggestion is None else dataclasses.asdict(self.suggestion),
        }


def as_json(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, Any]:
    """The scores of all methods, as plain values."""
    return {
        one.method: {
            "IoU": {
                name: dataclasses.asdict(score) for name, score in zip(names, one.estimate.iou, strict=True)
            },
            "Dice": {
                name: dataclasses.asdict(score) for name, score in zip(names, one.estimate.dice, strict=True)
            },
            "mean IoU": dataclasses.asdict(one.estimate.mean_iou),
            "mean Dice": dataclasses.asdict(one.estimate.mean_dice),
            "headline": {
                "name": one.headline.title(),
                "classes": [names[i] for i in one.headline.classes],
                "background": names[one.headline.background] if one.headline.background is not None else None,
                "IoU": dataclasses.asdict(one.estimate.foreground_iou),
                "Dice": dataclasses.asdict(one.estimate.foreground_dice),
            },
            "support": dataclasses.asdict(one.support),
            "slices": one.estimate.slices,
            "folds": one.folds,
            "temperature": one.calibrator.temperature,
        }
        for one in measured
    }


def note_of(measured: Measured, method: Method, *, continued: bool) -> str:
    """On what the scores were measured."""
    with_what = "what the others say of it"
    if method == "network":
        with_what = "a model that had not seen it"
        with_what += "" if continued else ", and had less time than the final one"
    return (
        f"Each of {measured.estimate.slices} painted slices (neighbours count as one) was compared with "
        f"{with_what}. Voxels are weighted to lie as far from paint as those that nobody painted. "
        f"{_extrapolation(measured.support)}IoU is what is right, as a share of all that is the class or was "
        "taken for it: 1 is perfect."
    )


def _extrapolation(support: Support) -> str:
    """What of the score was not measured at the distances from paint that it is about."""
    said = ""
    if support.interpolated >= _WORTH_SAYING:
        said += (
            f"Part of this is an extrapolation: held-out slices lie farther from the paint that is left than "
            f"unpainted voxels do, so for {support.interpolated:.0%} of these the errors were interpolated "
            "between those on held-out slices and those in small holes that were left in the paint. A "
            "slice painted across the others would measure them. "
        )
    if support.farther >= _WORTH_SAYING:
        said += (
            f"{support.farther:.0%} of the unpainted voxels lie nearer to paint than anything that was held "
            "out and count as if they lay as far: the score is rather too low. "
        )
    if support.nearer >= _WORTH_SAYING:
        said += (
            f"{support.nearer:.0%} of the unpainted voxels lie farther from paint than anything held out: "
            "there the result may be worse, and the lower end of the interval takes all of them to be wrong. "
            "Paint a slice there. "
        )
    return said


def summary_of(done: Densified, measured: Sequence[Measured], scheme: LabelScheme) -> list[str]:
    """The figures for somebody who does not open the page."""
    found = lines(measured[0], scheme) if measured else []
    for other in measured[1:]:
        found.append(f"To compare with: {other.method}, {other.told()}.")
    found.append(done.note)
    if done.suggestion is not None:
        next_one = done.suggestion
        gain = "" if next_one.gain is None else f" (at most {100 * next_one.gain:+.1f} points of mean IoU)"
        size = done.labels.shape["xyz".index(next_one.axis)]
        where = numbered(next_one.axis, next_one.index, size)
        found.append(f"Paint next: {where}{gain}. {next_one.text}".rstrip())
        if next_one.todo:
            found.append(f"{next_one.todo} {next_one.command}".rstrip())
    return found


def _facts(inputs: Inputs, measured: Sequence[Measured], minutes: float) -> dict[str, str]:
    facts = {}
    if measured and measured[0].estimate.foreground_iou.value is not None:
        name, _, told = measured[0].told().partition(": ")
        figure, _, beside = told.partition("; with background ")
        facts[f"{name}, held out"] = figure
        if beside:
            facts["the same with background"] = beside
    facts["painted"] = f"{np.mean(inputs.paint.labels != IGNORE_INDEX):.1%}"
    facts["minutes"] = f"{minutes:.1f}"
    return facts


def report_of(
    inputs: Inputs,
    result: npt.NDArray[np.uint8],
    done: Densified,
    measured: Sequence[Measured],
    *,
    curves: Sequence[LearningCurve],
    minutes: float,
    warnings: Sequence[str],
    versions: Mapping[str, Any],
    command: str,
    date: str,
    amounts: Sequence[Amount],
    changes: Sequence[str],
) -> Report:
    """The page about a result.

    Args:
        result: class indices.
    """
    image = inputs.image
    return Report(
        image.path.name if image.path else "densified",
        image.array,
        inputs.scheme,
        result,
        spacing=image.spacing,
        unit=image.unit,
        orientation=orientation_of(image),
        background=inputs.paint.background,
        paint=inputs.paint.labels,
        confidence=done.confidence,
        scores=[one.as_scores() for one in measured],
        scores_note=done.note,
        curves=curves,
        amounts=amounts,
        changes=changes,
        figures=["figures/overview.png"],
        findings=inputs.findings,
        suggestion=done.suggestion,
        calibration=measured[0].calibrator.chart if measured else None,
        facts=_facts(inputs, measured, minutes) | {"begun": date.replace("T", " ").replace("+00:00", " UTC")},
        warnings=warnings,
        versions={name: str(value) for name, value in versions.items()},
        command=command,
    )
