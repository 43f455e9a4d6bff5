"""What the templates of the page show and no attribute of a report holds: tables, sums, and charts."""

import math
from collections.abc import Sequence
from typing import Any

from volseg.report.chart_svg import svg
from volseg.report.charts import calibration_chart, curve_charts, scores_chart
from volseg.report.colours import class_colours
from volseg.report.parts import ClassScore, Report

__all__ = ["sections", "unit_of"]


def sections(report: Report) -> dict[str, Any]:
    """Values for the templates, by the names that these use."""
    sizes = [amount for amount in report.amounts if amount.size is not None]
    return {
        "subtitle": _subtitle(report),
        "names": report.labels.names,
        "colours": class_colours(len(report.labels)).tolist(),
        "scores": _scores(report) if report.scores else None,
        "voxels": _voxels(report),
        "units": list(dict.fromkeys(amount.told_unit for amount in sizes)),
        "mean_of": _mean_of(report),
        "curves": [svg(chart) for chart in curve_charts(report.curves)] if report.curves else [],
        "calibration": report.calibration and svg(calibration_chart(report.calibration)),
    }


def unit_of(report: Report) -> str:
    """The unit as people write it; empty where the voxel size is unknown."""
    return "" if report.spacing is None else {"um": "µm", "micron": "µm"}.get(report.unit, report.unit)


def _voxels(report: Report) -> str:
    return "voxels" if len(report.size) == 3 else "pixels"


def _mean_of(report: Report) -> str:
    return "mean over foreground classes" if report.headline.leaves_out else "mean over all classes"


def _subtitle(report: Report) -> str:
    size = f"{' × '.join(map(str, report.size))} {_voxels(report)}"
    if report.spacing is not None:
        size += f" of {' × '.join(f'{s:.4g}' for s in report.spacing)} {unit_of(report)}".rstrip()
    channels, classes = report.image.shape[0], len(report.labels)
    return (
        f"{size} · {channels} {'channel' if channels == 1 else 'channels'} · "
        f"{classes} {'class' if classes == 1 else 'classes'}"
    )


def _scores(report: Report) -> dict[str, Any]:
    """The table of scores: a row per class, then the means, with the best of each marked."""
    names, methods = report.score_rows()
    with_dice = any(score.dice is not None for score in methods[0].classes)
    rows = [_row(name, [method.classes[i] for method in methods]) for i, name in enumerate(names)]
    leaves_out = report.headline.leaves_out
    if any(method.headline is not None for method in methods):
        rows.append(_row(_mean_of(report), [_or_none(method.headline) for method in methods], "mean"))
    if any(method.mean is not None for method in methods) and (leaves_out or len(rows) == len(names)):
        kind = "" if len(rows) > len(names) else "mean"
        name = "with background" if leaves_out else "mean over all classes"
        rows.append(_row(name, [_or_none(method.mean) for method in methods], kind))
    intervals = any(score.interval for method in methods for score in method.classes)
    return {
        "caption": "In brackets and as bars: the confidence interval over slices."
        if intervals
        else "IoU by class.",
        "heads": [("IoU", method.method) for method in methods]
        + ([("Dice", methods[0].method)] if with_dice else []),
        "rows": rows,
        "with_dice": with_dice,
        "methods": [method.method for method in methods],
        "chart": svg(scores_chart(names, methods)),
    }


def _or_none(score: ClassScore | None) -> ClassScore:
    return score or ClassScore(None)


def _row(name: str, scores: Sequence[ClassScore], kind: str = "") -> dict[str, Any]:
    known = [score.iou for score in scores if score.iou is not None and math.isfinite(score.iou)]
    return {"name": name, "scores": scores, "kind": kind, "best": max(known) if len(known) > 1 else None}
