"""What is reported at the end: scores, amounts, changes, and how to go on."""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation import COUNTED, find_slices, numbered_slices
from volseg.annotation.slices import along
from volseg.annotation.strokes import are_strokes, strokes_of
from volseg.arguments import command
from volseg.data.auditing import orientation_of
from volseg.densification.earlier import Earlier
from volseg.densification.inputs import Choices, Inputs
from volseg.densification.nearness import Support
from volseg.densification.outputs import Outputs
from volseg.densification.places import cannot_know
from volseg.densification.scoring import Measured, lines
from volseg.densification.strokes import NO_SURFACE
from volseg.findings import Finding
from volseg.geometry import AXES
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.learning import Learner
from volseg.report import Amount, LearningCurve, Report, Suggestion

__all__ = [
    "Densified",
    "amounts_in_words",
    "amounts_of",
    "as_json",
    "changes_since",
    "going_on",
    "note_of",
    "painted_of",
    "report_of",
    "summary_of",
]

_MEASURES = {"IoU": "iou", "Dice": "dice", "surface Dice": "surface"}  # by their names in an estimate
_WORTH_SAYING = 0.05  # of the unpainted voxels


@dataclass(frozen=True, eq=False)
class Densified:
    """What :func:`volseg.densify` found.

    Attributes:
        labels: of every voxel, ``(*spatial)``, values as in the painted file.
        confidence: probability that this is right, ``(*spatial)``, 0 to 1; 1 where it is painted.
        names: of the classes, by value.
        scores: per method and class, on slices that were held out; see ``scores.json``.
        note: how far the scores can be trusted, or why there are none.
        folder: where everything was written; ``None`` if nothing was.
        learner: that the result was learnt by; ``None`` if nothing was learnt.
        remarks: on how it was learnt, and what was left out for want of time or memory, in sentences.
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
    learner: Learner | None = None
    remarks: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {
            "scores": self.scores,
            "note": self.note,
            "findings": [
                dataclasses.asdict(finding) | {"message": finding.message} for finding in self.findings
            ],
            "suggestion": None if self.suggestion is None else dataclasses.asdict(self.suggestion),
            "learner": self.learner and self.learner.name,
            "methods": self.learner and self.learner.methods_with_sources(),
            "remarks": list(self.remarks),
        }


def as_json(measured: Sequence[Measured], names: Sequence[str]) -> dict[str, Any]:
    """The scores of all methods, as plain values."""
    return {
        one.method: {
            **{name: dict(zip(names, found[key], strict=True)) for name, key in _MEASURES.items()},
            **{f"mean {name}": found[f"mean_{key}"] for name, key in _MEASURES.items()},
            "headline": {
                "name": one.headline.title(),
                "classes": [names[i] for i in one.headline.classes],
                "background": names[one.headline.background] if one.headline.background is not None else None,
                **{name: found[f"foreground_{key}"] for name, key in _MEASURES.items()},
            },
            "support": dataclasses.asdict(one.support),
            "slices": one.estimate.slices,
            "folds": one.folds,
            "temperature": one.calibrator.temperature,
        }
        for one in measured
        for found in [dataclasses.asdict(one.estimate)]
    }


def note_of(measured: Measured, *, learns: bool, continued: bool, flat: bool = False) -> str:
    """On what the scores were measured; of a ``flat`` image, which has no slices, parts were held out."""
    if measured.strokes is not None:
        paint = measured.strokes.in_words(measured.headline.names)
        return (
            f"The paint is {paint}. {measured.folds} models learnt without a part of the places each. Where "
            "two of them differ on unpainted voxels, at least one is wrong: the score is how far they agree, "
            f"less what such models agree too much. {cannot_know(measured.strokes)}".rstrip()
            + f" {NO_SURFACE}"
        )
    parts = "parts of the painted image" if flat else "painted slices (neighbours count as one)"
    extrapolated = _extrapolation(measured.support, "parts" if flat else "slices")
    with_what = "what the others say of it"
    if learns:
        with_what = "a model that had not seen it"
        with_what += "" if continued else ", and had less time than the final one"
    return (
        f"Each of {measured.estimate.slices} {parts} was compared with "
        f"{with_what}. Voxels are weighted to lie as far from paint as unlabelled ones. "
        f"{extrapolated}IoU is what is right, as a share of all that is the class or was "
        "taken for it: 1 is perfect. Surface Dice is the share of its border that is off by one voxel at "
        f"most, in the plane of {'the image' if flat else 'each slice, over all slices'}; it has no interval."
    )


def _extrapolation(support: Support, parts: str) -> str:
    """What of the score was not measured at the distances from paint that it is about."""
    said = ""
    if support.interpolated >= _WORTH_SAYING:
        said += (
            f"Part of this is an extrapolation: held-out {parts} lie farther from the paint that is left "
            f"than unpainted voxels do, so for {support.interpolated:.0%} of these the errors were "
            f"interpolated between those on held-out {parts} and those in small holes that were left in the "
            "paint. A slice painted across the others would measure them. "
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
            "Paint there. "
        )
    return said


def summary_of(done: Densified, measured: Sequence[Measured], scheme: LabelScheme) -> list[str]:
    """The figures for those who do not open the page."""
    found = lines(measured[0], scheme) if measured else []
    for other in measured[1:]:
        found.append(f"To compare with: {other.method}, {other.in_words()}.")
    found.append(done.note)
    if done.suggestion is not None:
        next_one = done.suggestion
        gain = "" if next_one.gain is None else f" (at most {100 * next_one.gain:+.1f} points of mean IoU)"
        where = next_one.in_words(done.labels.shape)
        end = "" if f"{where}{gain}".endswith("?") else "."
        found.append(f"Paint next: {where}{gain}{end} {next_one.text}".rstrip())
        if next_one.todo:
            found.append(f"{next_one.todo} {next_one.command}".rstrip())
    found += done.remarks
    if done.learner is not None:
        found.append(f"Learnt by {done.learner.title}. For a methods section: {done.learner.methods}")
    return found


def _facts(inputs: Inputs, measured: Sequence[Measured], minutes: float, done: Densified) -> dict[str, str]:
    facts = {}
    if measured and measured[0].estimate.foreground_iou.value is not None:
        name, _, rest = measured[0].in_words().partition(": ")
        figure, _, beside = rest.partition("; with background ")
        facts[f"{name}, held out"] = figure
        if beside:
            facts["the same with background"] = beside
    facts["painted"] = f"{np.mean(inputs.paint.labels != IGNORE_INDEX):.1%}"
    facts["minutes"] = f"{minutes:.1f}"
    if done.learner is not None:
        facts["learnt by"] = done.learner.title
    if done.remarks:
        facts["learning"] = " ".join(done.remarks)
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
        facts=_facts(inputs, measured, minutes, done)
        | {"begun": date.replace("T", " ").replace("+00:00", " UTC")},
        warnings=warnings,
        versions={name: str(value) for name, value in versions.items()},
        command=command,
        methods=done.learner.methods if done.learner else "",
        sources=done.learner.sources if done.learner else (),
    )


def amounts_of(inputs: Inputs, classes: npt.NDArray[np.uint8]) -> list[Amount]:
    """Voxels of each class of the result, and their volume (of an image, area) where a unit is known.

    A class that is neither painted nor in the result is left out.
    """
    image = inputs.image
    counts = np.bincount(classes.reshape(-1), minlength=len(inputs.scheme))
    one = math.prod(float(s) for s in image.spacing)
    unit = f"{image.unit}^{image.spatial_dims}" if image.unit else ""
    return [
        Amount(name, int(n), float(n) * one if unit else None, unit)
        for name, value, n in zip(inputs.scheme.names, inputs.scheme.values, counts, strict=True)
        if n or inputs.paint.counts.get(value)
    ]


def amounts_in_words(amounts: Sequence[Amount]) -> str:
    """One line for a terminal."""
    parts = []
    for amount in amounts:
        size = "" if amount.size is None else f" ({amount.size:,.6g} {amount.unit_in_words})"
        parts.append(f"{amount.name} {amount.voxels:,} voxels{size}")
    return f"In the result: {'; '.join(parts)}."


def painted_of(inputs: Inputs) -> dict[str, Any]:
    """Which slices (with a hash of each), or how many strokes, and how many voxels are painted: to compare a
    later result with."""
    labels = inputs.paint.labels
    strokes = strokes_of(labels, inputs.image.spacing) if are_strokes(labels) else None
    slices = find_slices(labels) if strokes is None else {}
    names = dict(zip(inputs.scheme.values, inputs.scheme.names, strict=True))
    return {
        "slices": {axis: [int(i) for i in indices] for axis, indices in slices.items()},
        "hashes": {
            axis: {str(i): zlib.crc32(labels[along(AXES.index(axis), [i])].tobytes()) for i in indices}
            for axis, indices in slices.items()
        },
        "strokes": None if strokes is None else {"count": strokes.count, "places": strokes.places},
        "voxels": {names[value]: n for value, n in inputs.paint.counts.items()},
    }


def changes_since(earlier: Earlier, inputs: Inputs, done: Densified) -> list[str]:
    """What is new since an earlier result, a sentence each: paint, and the scores before and after."""
    found = []
    painted, paint = earlier.scores.get("painted", {}), painted_of(inputs)
    before, now = painted.get("slices"), paint["slices"]
    then, strokes = painted.get("strokes"), paint["strokes"]
    if not earlier.is_applied and then and strokes:
        found.append(
            f"Paint since {earlier.folder}: {then['count']} strokes at {then['places']} places before, "
            f"{strokes['count']} at {strokes['places']} now."
        )
    elif not earlier.is_applied and isinstance(before, Mapping):
        new = {axis: sorted(set(now[axis]) - set(before.get(axis, []))) for axis in now}
        gone = {axis: sorted(set(old) - set(now.get(axis, []))) for axis, old in before.items()}
        changed = [f"new: {numbered_slices(new)}"] if any(new.values()) else []
        changed += [f"no longer painted: {numbered_slices(gone)}"] if any(gone.values()) else []
        hashes, same = painted.get("hashes"), "the same"
        if not isinstance(hashes, Mapping):  # of an earlier volseg, which kept the numbers of slices only
            hashes, same = paint["hashes"], "the same numbers; it is not known whether they were repainted"
        other = {
            axis: [i for i in now[axis] if hashes.get(axis, {}).get(str(i), one[str(i)]) != one[str(i)]]
            for axis, one in paint["hashes"].items()
        }
        changed += [f"painted differently: {numbered_slices(other)}"] if any(other.values()) else []
        found.append(f"Painted slices since {earlier.folder}: {'; '.join(changed) or same}.")
    then, after = (scores.get("volseg") for scores in (earlier.scores.get("scores", {}), done.scores))
    if then and after and "headline" in then:
        pairs = [(after["headline"]["name"], then["headline"]["IoU"], after["headline"]["IoU"])]
        pairs += [
            (f"IoU of {name}", then["IoU"][name], score)
            for name, score in after["IoU"].items()
            if name in then["IoU"]
        ]
        found += [f"{name}: {_figure(old)} before, {_figure(new)} now." for name, old, new in pairs]
        found.append(
            "Each score is of the slices that were painted at its time, so part of a change is theirs."
        )
    return found


def going_on(
    suggestion: Suggestion, inputs: Inputs, choices: Choices, outputs: Outputs | None, *, is_known: bool
) -> Suggestion:
    """The suggestion with what to do: where to paint it, and the command for that.

    Args:
        is_known: whether the earlier result was learnt from this very image.
    """
    if outputs is None or not inputs.image_files:
        return suggestion
    if inputs.label_files:
        paint = inputs.label_files[0]
        what = "a stroke of what is there" if suggestion.point else "it"
        todo = (
            f"Paint {what} into {paint}, beside what is painted, and save that as another file or the same."
        )
        back = "continue_from"
    else:
        paint = Path("painted.nii.gz")
        todo = f"Paint it, and two or three more far from it, into a new file such as {paint}."
        back = "continue_from" if is_known else "apply"
    source = outputs.folder
    if inputs.learnt_in is not None:
        source = inputs.learnt_in
    line = command(
        "densify",
        inputs.image_files[0],
        paint,
        channels=list(inputs.image_files[1:]),
        output=_next_name(outputs.folder),
        **{back: source},
        names=choices.names,
        unlabelled=choices.unlabelled,
        painted_only=choices.painted_only,
        finished=choices.finished,
        spacing=_as_option(choices.spacing),
        colours=_as_option(choices.colours),
    )
    return dataclasses.replace(suggestion, todo=f"{todo} {COUNTED} Then:", command=line)


def _as_option(value: Any) -> str | None:
    """A voxel size or a table of colours as one word; ``None`` where there is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ",".join(f"{key}={number}" for key, number in value.items())
    return ",".join(str(float(size)) for size in value)


def _next_name(folder: Path) -> Path:
    """``first_2`` after ``first``, ``first_3`` after that: one that is not there yet."""
    stem, _, number = folder.name.rpartition("_")
    stem, n = (stem, int(number) + 1) if stem and number.isdecimal() else (folder.name, 2)
    while (target := folder.with_name(f"{stem}_{n}")).exists():
        n += 1
    return target


def _figure(score: Mapping[str, Any]) -> str:
    if score["value"] is None:
        return "unknown"
    interval = "" if score["low"] is None else f" ({score['low']:.2f} – {score['high']:.2f})"
    return f"{score['value']:.3f}{interval}"
