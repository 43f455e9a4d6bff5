"""Whether painting the suggested slice helps more than painting another one, on small volumes.

    python benchmarks/suggestion.py -o runs/suggestion
    python benchmarks/suggestion.py -o runs/suggestion_1 --directions 1 --runs 4

Per run: a volume with one painted slice in each direction, or three xy slices, at random; a short training;
one more slice of any direction, chosen in each way below; a training with it. What counts is the true mean
IoU on all voxels that nobody painted, after minus before. One JSON line per run, so the same command goes on
where it was stopped.

* ``suggested``   what ``volseg densify`` suggests
* ``errors``      the slice with most expected errors, whatever their class
* ``random``      any slice not beside a painted one
* ``even``        the slice farthest from painted ones of its direction
* ``foreground``  any slice, in proportion to the voxels found to be no background

The suggestion was developed on ``cells``, so the others say how good it is.
"""

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special
from small_volumes import KINDS, make
from study import study

from volseg.annotation import find_slices, hold_out
from volseg.densification.suggestion import Candidate, expected_gains
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, iou, mean_score
from volseg.pixelwise.model import Task, learn

SIZE = (48, 48, 48)
STEPS = 40  # of a training at least, also on a busy machine
WAYS = ("suggested", "errors", "random", "even", "foreground")
DEVELOPED_ON = "cells"


def choose(
    way: str,
    candidates: list[Candidate],
    probabilities: npt.NDArray[np.float32],
    painted: dict[str, list[int]],
    rng: np.random.Generator,
) -> Candidate:
    """The slice that one way would paint next."""

    def on_slice(values: npt.NDArray[Any], candidate: Candidate) -> float:
        return float(np.take(values, candidate.index, "xyz".index(candidate.axis)).sum())

    def apart(candidate: Candidate) -> int:
        return min(abs(candidate.index - i) for i in (*painted[candidate.axis], -1, SIZE[0]))

    if way == "suggested":
        return max(candidates, key=lambda c: c.gain)
    if way == "errors":
        return max(candidates, key=lambda c: on_slice(1 - probabilities.max(0), c))
    if way == "even":
        most = max(map(apart, candidates))
        return candidates[rng.choice([i for i, c in enumerate(candidates) if apart(c) == most])]
    weights = np.ones(len(candidates))
    if way == "foreground":
        found = probabilities.argmax(0)
        background = np.bincount(found.ravel()).argmax()
        weights = np.array([on_slice(found != background, c) for c in candidates]) + 1
    return candidates[rng.choice(len(candidates), p=weights / weights.sum())]


def run(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One volume and one more slice in each way."""
    began = time.time()
    rng = np.random.default_rng([7, seed])
    image, truth = make(kind, seed, SIZE)
    task = Task(image, (1.0, 1.0, 1.0), int(truth.max()) + 1, seed=seed)
    painted = {axis: [int(rng.integers(6, n - 6))] for axis, n in zip("xyz", SIZE, strict=True)}
    if given.directions == 1:
        painted = {"x": [], "y": [], "z": [int(i) + int(rng.integers(-3, 4)) for i in (8, 24, 40)]}

    def trained(slices: dict[str, list[int]]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        labels = hold_out(truth, slices)[1]
        return learn(task, labels, slices=find_slices(labels), seconds=given.seconds, fewest=STEPS).predict(
            task
        ), labels

    def score(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
        unseen = np.where(labels == IGNORE_INDEX, truth, IGNORE_INDEX)
        return mean_score(iou(confusion_matrix(scores.argmax(0), unseen, task.classes)))

    scores, labels = trained(painted)
    probabilities = special.softmax(scores, 0)
    candidates = expected_gains(probabilities, labels)
    result: dict[str, Any] = {"kind": kind, "seed": seed, "before": score(scores, labels)}
    for way in WAYS:
        chosen = choose(way, candidates, probabilities, painted, rng)
        more = painted | {chosen.axis: [*painted[chosen.axis], chosen.index]}
        result[way] = score(*trained(more))
        result[f"slice {way}"] = [chosen.axis, chosen.index, chosen.gain]
    result["seconds"] = round(time.time() - began, 1)
    return result


def table(results: list[dict[str, Any]], _: argparse.Namespace) -> str:
    """Mean rise per kind, and how often and by how much each control is beaten elsewhere."""
    lines = ["| kind | runs | before | " + " | ".join(WAYS) + " |", "|---" * (3 + len(WAYS)) + "|"]
    groups = [(k, [r for r in results if r["kind"] == k]) for k in KINDS]
    groups.append((f"all but {DEVELOPED_ON}", [r for r in results if r["kind"] != DEVELOPED_ON]))
    for name, rows in groups:
        if rows:
            rises = " | ".join(f"{np.mean([r[w] - r['before'] for r in rows]):+.3f}" for w in WAYS)
            lines.append(f"| {name} | {len(rows)} | {np.mean([r['before'] for r in rows]):.3f} | {rises} |")
    rows = groups[-1][1]
    for way in WAYS[1:] if len(rows) > 1 else ():
        more = np.array([r["suggested"] - r[way] for r in rows])
        error = more.std(ddof=1) / np.sqrt(len(more))
        lines.append(
            f"\nsuggested minus {way}, all but {DEVELOPED_ON}: {more.mean():+.4f} ± {error:.4f} "
            f"(standard error), ahead in {np.count_nonzero(more > 0)} of {len(more)}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    study(__doc__, "runs/suggestion", run, table)
