"""How often the interval that densify reports holds the true score, on small volumes with dense truth.

    python benchmarks/interval_coverage.py -o runs/coverage

Per run: a volume, a few painted slices, one short training per fold, the interval; then the final training
on all slices and its true IoU on all voxels that nobody painted. One JSON line per run, so the same command
goes on where it was stopped. ``--table`` prints the table of what is there.
"""

import time
from typing import Any

import numpy as np
from small_volumes import KINDS, make
from study import study

from volseg.annotation import keep_slices
from volseg.densification.calibration import calibrate, held_out_sample
from volseg.densification.folds import make_folds
from volseg.densification.intervals import Estimate, SliceConfusion, estimate, slice_confusions
from volseg.densification.learning import Task, learn
from volseg.densification.nearness import measure_nearness
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, iou, mean_score

SIZE = (48, 48, 48)
SLICES = (2, 3, 4)  # per direction, in turn
FOLDS = 4


def run(kind: str, seed: int, seconds: float) -> dict[str, Any]:
    """One volume; confusions are kept, so that another interval can be tried on them later."""
    began = time.time()
    image, truth = make(kind, seed, SIZE)
    per_direction = SLICES[seed % len(SLICES)]
    labels = keep_slices(truth, (per_direction,) * 3)
    classes = int(truth.max()) + 1
    task = Task(image, (1.0, 1.0, 1.0), classes, seed=seed)
    nearness = measure_nearness(labels)
    folds = make_folds(labels, FOLDS).folds
    confusions, samples = [], []
    for fold in folds:
        train, test = fold.split(labels)
        scores = learn(task, train, seconds=seconds).predict(task)
        bins, num_bins = nearness.bins(train), len(nearness.shares)
        confusions += slice_confusions(
            scores.argmax(0), test, fold.slices, classes, bins=bins, num_bins=num_bins
        )
        samples.append(held_out_sample(scores, test))
    scores = learn(task, labels, seconds=seconds).predict(task)
    true = confusion_matrix(scores.argmax(0), np.where(labels == IGNORE_INDEX, truth, IGNORE_INDEX), classes)
    calibrator = calibrate(samples)
    chart = calibrator.chart
    return {
        "kind": kind,
        "seed": seed,
        "slices": per_direction,
        "folds": len(folds),
        "shares": nearness.shares,
        "truth": true.tolist(),
        "held_out": [[c.axis, list(c.indices), c.matrices.tolist()] for c in confusions],
        "temperature": calibrator.temperature,
        "calibration": [chart.error_before, chart.error_after] if chart else None,
        "seconds": round(time.time() - began, 1),
    }


def estimated(result: dict[str, Any], plain: bool = False) -> Estimate:
    """What densify would have reported; ``plain``: without what makes up for the paint held out."""
    held_out = [SliceConfusion(axis, tuple(i), np.array(m)) for axis, i, m in result["held_out"]]
    if plain:
        held_out = [SliceConfusion(c.axis, c.indices, c.matrices.sum(0, keepdims=True)) for c in held_out]
        return estimate(held_out, len(result["truth"]))
    return estimate(held_out, len(result["truth"]), shares=result["shares"], folds=result["folds"])


def table(results: list[dict[str, Any]], plain: bool = False) -> str:
    """Coverage and width per kind."""
    lines = [
        "| kind | runs | true mean IoU inside | width | estimate - truth | classes inside | width |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in (*KINDS, "all"):
        rows = [r for r in results if kind in (r["kind"], "all")]
        inside, widths, bias, class_inside, class_widths = [], [], [], [], []
        for result in rows:
            found, true = estimated(result, plain), iou(np.array(result["truth"]))
            mean = found.mean_iou
            if mean.value is not None and mean.low is not None and mean.high is not None:
                inside.append(mean.low <= mean_score(true) <= mean.high)
                widths.append(mean.high - mean.low)
                bias.append(mean.value - mean_score(true))
            for score, value in zip(found.iou, true, strict=True):
                if score.low is not None and score.high is not None:
                    class_inside.append(score.low <= value <= score.high)
                    class_widths.append(score.high - score.low)
        if rows:
            lines.append(
                f"| {kind} | {len(rows)} ({len(inside)} with an interval) | {sum(inside)} of {len(inside)} "
                f"| {np.mean(widths):.3f} | {np.mean(bias):+.3f} "
                f"| {sum(class_inside)} of {len(class_inside)} | {np.mean(class_widths):.3f} |"
            )
    return "\n".join(lines)


def tables(results: list[dict[str, Any]]) -> str:
    """With and without what makes up for the paint held out, and how well calibrated."""
    errors = np.array([r["calibration"] for r in results if r["calibration"]])
    return (
        f"{table(results)}\n\nWithout what makes up for the paint held out:\n\n{table(results, True)}\n\n"
        + "calibration error {:.3f} before, {:.3f} after".format(*errors.mean(0))
    )


if __name__ == "__main__":
    study(__doc__, "runs/coverage", run, tables)
