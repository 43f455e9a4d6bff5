"""The pages of an evaluation: the worst, the median and the best case, each with an index of all."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.data import LoadedCase, WholeVolumes
from volseg.data.auditing import orientation_of
from volseg.engines.scores import Scores
from volseg.metrics import Headline, dice, iou, mean_score, pooled_surface_dice
from volseg.report import CaseRow, ClassScore, MethodScores, Report, panel, save_picture, write_report
from volseg.runs.folder import PAGES

__all__ = ["Chosen", "choose_cases", "page_of", "write_pages"]


class Chosen(dict[str, str]):
    """Which case is the worst, the median, the best; of one case all are one, of two there is no median."""


def choose_cases(scores: Scores) -> Chosen:
    """By the headline of each case, on the first kind of voxels that was scored; ties by name."""
    kind = next(iter(scores.matrices), None)
    if kind is None:
        return Chosen()
    headline = Headline(scores.labels.names)
    ranked = sorted(
        (headline.mean(iou(matrix)), name)
        for name, matrix in scores.matrices[kind].items()
        if np.isfinite(headline.mean(iou(matrix)))
    )
    names = [name for _, name in ranked] or list(scores.matrices[kind])
    if len(names) == 1:
        return Chosen(worst=names[0])
    if len(names) == 2:
        return Chosen(worst=names[0], best=names[1])
    return Chosen(worst=names[0], median=names[(len(names) - 1) // 2], best=names[-1])


def page_of(item: LoadedCase, logits: Tensor, annotation: Tensor, dataset: WholeVolumes) -> Report:
    """One case to look around in: image, annotation, result, how sure it is, and the truth if there is."""
    truth = item.get("truth")
    return Report(
        item["name"],
        item["image"].numpy(),
        dataset.labels,
        logits.argmax(0).to(torch.uint8).numpy(),
        spacing=item["spacing"],
        unit=item["volume"].unit,
        orientation=orientation_of(item["volume"]),
        paint=annotation[0].numpy(),
        confidence=logits.softmax(0).amax(0).float().numpy(),
        truth=None if truth is None else truth[0].numpy(),
    )


def write_pages(
    folder: Path,
    scores: Scores,
    page: Callable[[str], Report],
    *,
    checkpoint: str,
    versions: Mapping[str, Any],
) -> list[Path]:
    """Write the page of each chosen case, and ``picture.png`` of the worst.

    Args:
        page: makes that of a case, by its name.
    """
    chosen = choose_cases(scores)
    written = []
    shared = _shared(scores, chosen, checkpoint, versions)
    for what, name in chosen.items():
        found = page(name)
        title = f"{name}: the {what} of {len(_cases(scores))} cases" if len(chosen) > 1 else name
        if what == "worst":
            has_truth = found.truth is not None
            save_picture(folder / "picture.png", _panel(found), scores.labels, title, has_truth=has_truth)
        written.append(
            write_report(folder / PAGES[what], replace(found, title=title, **shared), overwrite=True)
        )
    for what in PAGES.keys() - chosen.keys():  # of an evaluation before this one
        (folder / PAGES[what]).unlink(missing_ok=True)
    return written


def _panel(report: Report) -> Any:
    """A slice of a case, its parts side by side."""
    parts = [report.paint, report.result, report.truth]
    annotation, prediction, truth = (None if part is None else np.asarray(part)[None] for part in parts)
    return panel(report.image, annotation, prediction, truth, len(report.labels))


def _cases(scores: Scores) -> dict[str, Any]:
    return next(iter(scores.matrices.values()), {})


def _shared(scores: Scores, chosen: Chosen, checkpoint: str, versions: Mapping[str, Any]) -> dict[str, Any]:
    """What all pages say alike: scores over all cases, the index, the command."""
    headline, methods, notes = Headline(scores.labels.names), [], []
    facts: dict[str, str] = {}
    for kind, cases in scores.matrices.items():
        pooled: Any = sum(cases.values())
        by_measure = _measures(pooled, sum(scores.surfaces[kind].values()))
        classes = [_class_score(values) for values in zip(*by_measure, strict=True)]
        main, mean = (_class_score(map(over, by_measure)) for over in (headline.mean, mean_score))
        methods.append(MethodScores(f"voxels {kind}", classes, mean, main))
        notes.append(f"Voxels {kind}: {int(pooled.sum()):,} of {len(cases)} case(s), pooled.")
        facts[f"{headline.title()}, voxels {kind}"] = "unknown" if main.iou is None else f"{main.iou:.3f}"
        if beside := headline.beside(mean.iou):
            facts[f"the same {beside.rpartition(' ')[0]}, voxels {kind}"] = beside.rpartition(" ")[2]
    facts["cases"] = str(len(_cases(scores)))
    facts["date"] = time.strftime("%Y-%m-%d %H:%M")
    notes.append("The confidence is the network's own, not calibrated.")
    where = {name: (what, PAGES[what]) for what, name in reversed(chosen.items())}
    rows = []
    faces = next(iter(scores.surfaces.values()), {})
    for name, matrix in sorted(_cases(scores).items(), key=lambda case: _rank(headline, case[1])):
        what, link = where.get(name, ("", ""))
        by_measure = _measures(matrix, faces[name])
        figures = [*map(headline.mean, by_measure), *by_measure[0]]
        rows.append(CaseRow(name, tuple(map(_known, figures)), what, link))
    return {
        "facts": facts,
        "scores": methods,
        "scores_note": " ".join(notes),
        "cases": rows,
        "command": f"{shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}\n# weights: {checkpoint}",
        "versions": {name: str(value) for name, value in versions.items()},
    }


def _measures(matrix: Any, faces: Any) -> list[npt.NDArray[np.float64]]:
    """IoU, Dice and surface Dice of each class."""
    return [iou(matrix), dice(matrix), pooled_surface_dice(faces)]


def _class_score(values: Iterable[float]) -> ClassScore:
    overlap, twice, surface = map(_known, values)
    return ClassScore(overlap, twice, surface=surface)


def _rank(headline: Headline, matrix: Any) -> float:
    value = headline.mean(iou(matrix))
    return value if np.isfinite(value) else np.inf


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
