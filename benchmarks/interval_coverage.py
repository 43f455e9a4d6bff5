"""How often the interval that densify reports holds the true score, on small volumes with dense truth.

    python benchmarks/interval_coverage.py -o runs/coverage
    python benchmarks/interval_coverage.py -o runs/coverage_1 --directions 1 --runs 15
    python benchmarks/interval_coverage.py -o runs/coverage_more --continued --runs 4
    python benchmarks/interval_coverage.py -o runs/strokes --strokes --runs 6 --seconds 0.2

Per run: a volume, a few painted slices, one short training per fold, the interval; then the final training
on all slices and its true IoU on all voxels that nobody painted. Slices are painted in three directions, or
in one (xy, xz and yz in turn; 3 to 8 slices, two thirds of the stacks evenly spread, the others not).

``--continued`` does all that twice, as ``--continue`` does: one slice more per direction (two where there is
one direction) is painted only the second time, but for one of these of which a part, a third to two thirds,
is there from the first; every model goes on from that of its fold. What is scored is the second time.

``--strokes`` paints strokes, on phantoms and real sets, half of them on errors: :mod:`stroke_coverage`.

One JSON line per run, so the same command goes on where it was stopped. What was predicted is kept beside
it: ``--table`` computes the intervals anew, with the code as it is, and prints the table.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from small_volumes import BACKGROUND, KINDS, make
from stroke_coverage import REAL, estimated_from_strokes, run_live, run_on_strokes
from study import study

from volseg.annotation import find_slices, hold_out, keep_slices
from volseg.densification.calibration import calibrate, held_out_sample
from volseg.densification.folds import Fold, make_folds
from volseg.densification.intervals import Estimate, estimate, slice_confusions
from volseg.densification.scoring import Scorer, Tested
from volseg.labels import IGNORE_INDEX
from volseg.metrics import Headline, confusion_matrix, iou, mean_score
from volseg.pixelwise.model import Model, Task, learn

SIZE = (48, 48, 48)
SPACING = (1.0, 1.0, 1.0)
SLICES = {3: (2, 3, 4), 1: (3, 4, 5, 6, 7, 8)}  # per direction, in turn
FOLDS = {3: 4, 1: 3}
STEPS = 40  # of a training at least, also on a busy machine
APART = 3  # uneven slices lie at least so far from each other
MORE = {3: 1, 1: 2}  # per direction, painted before it is gone on with

Labels = npt.NDArray[np.uint8]


def slices_of(seed: int, directions: int, *, continued: bool = False) -> int:
    """How many are painted per direction."""
    return SLICES[directions][seed % len(SLICES[directions])] + continued * MORE[directions]


def painted(truth: Labels, seed: int, directions: int, *, continued: bool = False) -> Labels:
    """What somebody painted of it."""
    count = slices_of(seed, directions, continued=continued)
    if directions == 3:
        return keep_slices(truth, (count,) * 3)
    axis = seed // 2 % 3
    if (seed + seed // 6) % 3 != 2:
        return keep_slices(truth, [count * (a == axis) for a in range(3)])
    rng = np.random.default_rng([8, seed])
    while True:
        chosen = np.sort(rng.choice(np.arange(2, SIZE[axis] - 2), count, replace=False))
        if np.diff(chosen).min() >= APART:
            return hold_out(truth, {"xyz"[axis]: chosen.tolist()})[1]


def first_of(labels: Labels, seed: int, directions: int) -> Labels:
    """What was painted of it the first time: slices are missing, and of one of them a part is there."""
    rng = np.random.default_rng([9, seed])
    first = labels.copy()
    missing = [
        ("xyz".index(axis), int(index))
        for axis, slices in find_slices(labels).items()
        if slices
        for index in rng.choice(slices, MORE[directions], replace=False)
    ]
    partial = int(rng.integers(len(missing)))
    for number, (axis, index) in enumerate(missing):
        first = hold_out(first, {"xyz"[axis]: [index]})[0]
        if number == partial:
            on: list[Any] = [slice(None)] * 3
            on[axis] = index
            on[(axis + 1) % 3] = slice(int(rng.uniform(0.3, 0.7) * SIZE[0]))
            first[tuple(on)] = labels[tuple(on)]
    return first


def folds_of(kept: Mapping[str, Any], directions: int) -> list[tuple[int, Fold]]:
    """The numbered folds that are scored: those of the second time where there was a first one."""
    count = FOLDS[directions]
    previous = make_folds(kept["first"], count).folds if "first" in kept else ()
    folds = make_folds(kept["labels"], count, previous=previous).folds
    return [(number, fold) for number, fold in enumerate(folds) if fold.slices]


def run(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One volume."""
    if given.strokes:
        return (run_live if given.live else run_on_strokes)(kind, seed, given)
    began = time.time()
    image, truth = make(kind, seed, SIZE)
    labels = painted(truth, seed, given.directions, continued=given.continued)
    task = Task(image, SPACING, int(truth.max()) + 1, seed=seed)
    kept: dict[str, Any] = {"truth": truth, "labels": labels}

    def learnt(paint: Labels, start: Model | None = None) -> Model:
        return learn(task, paint, slices=find_slices(paint), seconds=given.seconds, fewest=STEPS, start=start)

    models: list[Model] = []
    first = None
    if given.continued:
        paint = kept["first"] = first_of(labels, seed, given.directions)
        models = [learnt(fold.split(paint)[0]) for fold in make_folds(paint, FOLDS[given.directions]).folds]
        first = learnt(paint)
    samples = []
    for number, fold in folds_of(kept, given.directions):
        train, test = fold.split(labels)
        scores = learnt(train, models[number] if models else None).predict(task)
        samples.append(held_out_sample(scores, test))
        kept[f"fold_{number}"] = np.where(test != IGNORE_INDEX, scores.argmax(0), 0).astype(np.uint8)
    kept["result"] = learnt(labels, first).predict(task).argmax(0).astype(np.uint8)
    np.savez_compressed(given.output / f"{kind}_{seed}.npz", **kept)
    chart = calibrate(samples).chart
    return {
        "kind": kind,
        "seed": seed,
        "directions": given.directions,
        "slices": slices_of(seed, given.directions, continued=given.continued),
        "calibration": [chart.error_before, chart.error_after] if chart else None,
        "seconds": round(time.time() - began, 1),
    }


def estimated(folder: Path, result: dict[str, Any], plain: bool = False) -> tuple[Estimate, list[float]]:
    """What densify would have reported, and the truth: headline, mean over all classes, every class.

    Args:
        plain: held-out slices alone, without what makes up for the paint that is held out.
    """
    kind, directions = result["kind"], result["directions"]
    with np.load(folder / f"{kind}_{result['seed']}.npz") as kept:
        arrays = dict(kept)
    truth, labels = arrays["truth"], arrays["labels"]
    classes = int(truth.max()) + 1
    headline = Headline([f"{c}" for c in range(classes)], BACKGROUND[kind])
    parts = []
    for number, fold in folds_of(arrays, directions):
        test = fold.split(labels)[1]
        on = test != IGNORE_INDEX
        parts.append(Tested(fold, test, np.eye(classes, dtype=np.float32)[arrays[f"fold_{number}"][on]].T))
    if plain:
        confusions = []
        for part in parts:
            prediction = np.zeros(truth.shape, np.uint8)
            prediction[part.where] = part.scores.argmax(0)
            whole = hold_out(part.test, part.fold.slices)[1]
            confusions += slice_confusions(prediction, whole, part.fold.slices, classes)
        found = estimate(confusions, classes, foreground=headline.classes)
    else:
        found = Scorer(labels, SPACING, headline).estimate(parts)[0]
    unseen = np.where(labels == IGNORE_INDEX, truth, IGNORE_INDEX)
    true = iou(confusion_matrix(arrays["result"], unseen, classes))
    return found, [headline.mean(true), mean_score(true), *true]


def row(name: str, pairs: Sequence[tuple[Estimate, list[float]]]) -> str:
    """Coverage and width of one kind."""
    cells = [f"{len(pairs)}"]
    for part in (slice(0, 1), slice(1, 2), slice(2, None)):
        scores: list[tuple[float, float, float, float]] = []
        for found, true in pairs:
            reported = [found.foreground_iou, found.mean_iou, *found.iou]
            for score, value in zip(reported[part], true[part], strict=True):
                if score.value is not None and score.low is not None and score.high is not None:
                    scores.append((score.value, score.low, score.high, value))
        if not scores:
            cells += ["–"] * 3
            continue
        estimates, lows, highs, truths = np.array(scores).T
        inside = np.count_nonzero((lows <= truths) & (truths <= highs))
        cells.append(f"{inside} of {len(scores)}")
        cells += [f"{np.mean(highs - lows):.3f}", f"{np.mean(estimates - truths):+.3f}"]
    return f"| {name} | " + " | ".join(cells) + " |"


def table(results: list[dict[str, Any]], given: argparse.Namespace) -> str:
    """Coverage and width per kind and number of slices, with and without what makes up for the paint."""
    columns = [f"{what} inside | width | estimate - truth" for what in ("headline", "mean", "classes")]
    head = "| volumes | runs | " + " | ".join(columns) + " |\n" + "|---" * 11 + "|"
    if given.strokes:
        return "\n".join([head, *rows_of_strokes(results, given.output)])
    parts = []
    for plain in (False, True):
        found = [(r, estimated(given.output, r, plain)) for r in results]
        groups = {kind: [pair for r, pair in found if r["kind"] == kind] for kind in KINDS}
        for slices in sorted({r["slices"] for r in results}):
            groups[f"{slices} slices"] = [pair for r, pair in found if r["slices"] == slices]
        groups["all"] = [pair for _, pair in found]
        rows = [row(name, pairs) for name, pairs in groups.items() if pairs]
        parts += ["Held-out slices alone:"] * plain + ["\n".join([head, *rows])]
    errors = np.array([r["calibration"] for r in results if r["calibration"]])
    parts.append("Calibration error {:.3f} before, {:.3f} after.".format(*errors.mean(0)))
    return "\n\n".join(parts)


def rows_of_strokes(results: list[dict[str, Any]], folder: Path) -> list[str]:
    """The same per kind and person, and how often nothing could be told."""
    pairs = [(r, estimated_from_strokes(folder, r)) for r in results]
    groups = {kind: [p for r, p in pairs if r["kind"] == kind] for kind in kinds_of_strokes()}
    for person in ("anywhere", "on errors"):
        groups[f"strokes {person}"] = [p for r, p in pairs if r["person"] == person]
    groups["on one slice of a volume"] = [p for r, p in pairs if r["one_slice"]]
    groups["all"] = [p for _, p in pairs]
    rows = []
    for name, among in groups.items():
        told = [p for p in among if p is not None and p[0].foreground_iou.value is not None]
        if among:
            rows.append(row(f"{name} ({len(among) - len(told)} not told)", told))
    return rows


def kinds_of_strokes() -> list[str]:
    """Phantoms and real sets."""
    return [*KINDS, *REAL]


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark alone."""
    parser.add_argument("--continued", action="store_true", help="paint more, and go on, before it is scored")
    parser.add_argument("--strokes", action="store_true", help="paint strokes, not slices")
    parser.add_argument("--live", action="store_true", help="with --strokes: as a session learns and scores")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="where real sets are")


if __name__ == "__main__":
    study(__doc__, "runs/coverage", run, table, options, lambda g: kinds_of_strokes() if g.strokes else KINDS)
