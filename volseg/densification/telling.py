"""What is said beside the scores: how much there is, what is new, and how to go on."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from volseg.annotation import COUNTED, find_slices, numbered_slices
from volseg.densification.earlier import Earlier
from volseg.densification.inputs import Inputs
from volseg.densification.outputs import Outputs
from volseg.densification.reporting import Densified
from volseg.densification.request import Choices
from volseg.report import Amount, Suggestion

__all__ = ["amounts_in_words", "amounts_of", "changes_since", "going_on", "painted_of"]


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
        size = "" if amount.size is None else f" ({amount.size:,.6g} {amount.told_unit})"
        parts.append(f"{amount.name} {amount.voxels:,} voxels{size}")
    return f"In the result: {'; '.join(parts)}."


def painted_of(inputs: Inputs) -> dict[str, Any]:
    """Which slices are painted, and how many voxels of each class: what a later result is compared with."""
    slices = find_slices(inputs.paint.labels)
    names = dict(zip(inputs.scheme.values, inputs.scheme.names, strict=True))
    return {
        "slices": {axis: [int(i) for i in indices] for axis, indices in slices.items()},
        "voxels": {names[value]: n for value, n in inputs.paint.counts.items()},
    }


def changes_since(earlier: Earlier, inputs: Inputs, done: Densified) -> list[str]:
    """What is new since an earlier result, a sentence each: paint, and the scores before and after."""
    found = []
    before = earlier.scores.get("painted", {}).get("slices")
    if not earlier.is_applied and isinstance(before, Mapping):
        now = painted_of(inputs)["slices"]
        new = {axis: sorted(set(now[axis]) - set(before.get(axis, []))) for axis in now}
        gone = {axis: sorted(set(old) - set(now.get(axis, []))) for axis, old in before.items()}
        told = [f"new: {numbered_slices(new)}"] if any(new.values()) else []
        told += [f"no longer painted: {numbered_slices(gone)}"] if any(gone.values()) else []
        found.append(f"Painted slices since {earlier.folder}: {'; '.join(told) or 'the same'}.")
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


def going_on(suggestion: Suggestion, inputs: Inputs, choices: Choices, outputs: Outputs | None) -> Suggestion:
    """The suggestion with what to do: where to paint it, and the command to go on with."""
    if outputs is None or not inputs.image_files:
        return suggestion
    if inputs.label_files:
        paint = inputs.label_files[0]
        todo = (
            f"Paint it into {paint}, beside what is painted there, and save that as another file or the same."
        )
        back = "--continue"
    else:
        paint = Path("painted.nii.gz")
        todo = f"Paint it, and two or three more far from it, into a new file such as {paint}."
        back = "--apply"
    source = outputs.folder
    words: list[Any] = ["volseg", "densify", inputs.image_files[0], paint]
    if len(inputs.image_files) > 1:
        words += ["--channels", *inputs.image_files[1:]]
    if back == "--apply" and inputs.learnt_in is not None:
        source = inputs.learnt_in
    words += ["-o", _next_name(outputs.folder), back, source]
    if choices.names:
        words += ["--names", *(f"{value}={name}" for value, name in choices.names.items())]
    if choices.unlabelled is not None:
        words += ["--unlabelled", choices.unlabelled]
    words += ["--painted-only"] * choices.painted_only + ["--finished"] * choices.finished
    command = shlex.join(map(str, words))
    return dataclasses.replace(suggestion, todo=f"{todo} {COUNTED} Then:", command=command)


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
