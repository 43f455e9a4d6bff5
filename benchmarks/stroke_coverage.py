"""How often the interval from strokes holds the true score: for interval_coverage.py, with --strokes.

A simulated person (:mod:`person`) draws strokes on phantoms of four kinds and on real volumes and images: at
random places where the seed is even, on errors of what was learnt so far where it is odd; all on one slice
where it is a multiple of three. The seed also says for how long.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from densify import Set, from_files, middle, sets
from person import Person
from small_volumes import BACKGROUND, make

from volseg.annotation import annotation_counts
from volseg.annotation.strokes import strokes_of
from volseg.densification.folds import make_folds
from volseg.densification.intervals import Estimate
from volseg.densification.strokes import Compared, agreement, elsewhere, stroke_offsets
from volseg.labels import IGNORE_INDEX
from volseg.learning import Scores
from volseg.metrics import Headline, confusion_matrix, iou, mean_score
from volseg.pixelwise import Live
from volseg.pixelwise.model import Model, Task, learn

__all__ = ["REAL", "estimated_from_strokes", "run_on_strokes"]

REAL = ("nuclei", "plant", "medulla", "lesion", "axons", "hela")
SIZE, CROP = 64, {3: 96, 2: 384}  # voxels of phantoms, and of real ones at most, along each axis
TURNS, AT_ONCE = (5, 8, 12), 4  # of the person, and strokes in each
STEPS, ROUNDS = 40, 3  # of a training at least, and of one of a session

Labels = npt.NDArray[np.uint8]


def data_of(kind: str, seed: int, data: Path) -> Set:
    """Image and truth."""
    if kind in BACKGROUND:
        image, truth = make(kind, seed, (SIZE,) * 3)
        return Set(image, truth, (1.0,) * 3, BACKGROUND[kind])
    if kind == "axons":
        images = sorted((data / "axon_sem_2d" / "images").glob("*.tif"))
        path = images[seed % len(images)]
        found = from_files([path], path.parent.with_name("labels") / path.name)
    elif kind == "hela":
        stacks = [data / "hela_dic_2d" / name for name in ("images.tif", "labels.tif")]
        found = from_files(stacks[:1], stacks[1], is_binary=True)
        page = 4 * seed % found.truth.shape[2]
        found = Set(found.image[..., page], found.truth[..., page], found.spacing[:2])
    else:
        found = sets(data)[kind]()
    return middle(found, CROP[found.truth.ndim])


def drawn(person: Person, slice_by: Callable[..., Scores], seed: int) -> Labels:
    """What the person painted in the end."""
    if seed % 3 == 0:
        person.look_elsewhere = lambda: None  # type: ignore[method-assign]
    person.begin()
    for _ in range(TURNS[seed // 2 % len(TURNS)]):
        if seed % 2:
            person.correct(slice_by(person.labels, person.where).argmax(0), AT_ONCE)
        else:
            person.anywhere(AT_ONCE)
    return person.labels


class Densifying:
    """Learns as ``densify`` does: from nothing, each time."""

    corrects = True

    def __init__(self, task: Task, seconds: float) -> None:
        self.task, self.seconds = task, seconds

    def fresh(self, paint: Labels) -> Model:
        return learn(self.task, paint, seconds=self.seconds, fewest=STEPS)

    def at(self, model: Model, where: npt.NDArray[np.bool_]) -> Scores:
        return model.predict_at(self.task, where)

    def slice_by(self, paint: Labels, block: tuple[slice, ...]) -> Scores:
        return self.fresh(paint).predict(self.task, block)

    def result(self, paint: Labels) -> Scores:
        return self.fresh(paint).predict(self.task)


class Painting:
    """Learns as a session does: the result goes on from round to round, and the score learns from nothing."""

    corrects = False  # which the learner does

    def __init__(self, task: Task) -> None:
        self.task = task
        self.session = self.new()

    def new(self) -> Live:
        return Live(self.task.image, self.task.spacing, self.task.classes, seed=self.task.seed)

    def fresh(self, paint: Labels) -> Live:
        live = self.new()
        for _ in range(ROUNDS):
            live.learn(paint, seconds=0, steps=STEPS)
        return live

    def at(self, model: Live, where: npt.NDArray[np.bool_]) -> Scores:
        return model.predict_at(np.argwhere(where))

    def slice_by(self, paint: Labels, block: tuple[slice, ...]) -> Scores:
        self.session.learn(paint, seconds=10)
        return self.session.predict(block)

    def result(self, paint: Labels) -> Scores:
        self.session.learn(paint, seconds=10)
        return self.session.predict(tuple(slice(0, n) for n in self.task.size))


def run_on_strokes(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One volume."""
    began = time.time()
    data = data_of(kind, seed, given.data)
    classes = int(data.truth.max()) + 1
    task = Task(data.image, data.spacing, classes, seed=seed)
    how: Any = Painting(task) if given.live else Densifying(task, given.seconds)
    labels = drawn(Person(data.truth, seed, data.background or 0), how.slice_by, seed)
    strokes = strokes_of(labels, data.spacing)
    line = {"kind": kind, "seed": seed, "strokes": strokes.count, "places": strokes.places}
    line |= {"person": "on errors" if seed % 2 else "anywhere", "one_slice": len(strokes.planes()[1]) == 1}
    parts = make_folds(labels, spacing=data.spacing)
    kept: dict[str, Any] = {"labels": labels}
    look = elsewhere(labels)
    models, counts = [], []
    for fold in parts.folds:
        train, test = fold.split(labels)
        held = test != IGNORE_INDEX
        scores, on = how.at(how.fresh(train), held | look), held[held | look]
        models.append(Compared(scores[:, on], test[held], scores[:, ~on]))
        counts.append(annotation_counts(train, classes))
    scores = how.result(labels)
    if models and how.corrects:
        right = float(np.mean(np.concatenate([m.scores.argmax(0) == m.truth for m in models])))
        for number, (model, count) in enumerate(zip(models, counts, strict=True)):
            added = stroke_offsets(model.elsewhere, count, right)[:, None]
            models[number] = Compared(model.scores + added, model.truth, model.elsewhere + added)
        kept["uncorrected"] = matrix_of(data.truth, scores.argmax(0), labels, classes)
        added = stroke_offsets(scores[:, look], annotation_counts(labels, classes), right)
        scores += added.reshape(-1, *[1] * labels.ndim)
    kept["matrix"] = matrix_of(data.truth, scores.argmax(0), labels, classes)
    for number, model in enumerate(models):
        kept |= {f"{name}_{number}": value for name, value in model._asdict().items()}
    np.savez_compressed(given.output / f"{kind}_{seed}.npz", **kept)
    return line | {"reason": parts.reason, "seconds": round(time.time() - began, 1)}


def matrix_of(truth: Labels, found: npt.NDArray[Any], labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Confusion on all unpainted voxels."""
    unseen = np.where(labels == IGNORE_INDEX, truth, IGNORE_INDEX)
    return confusion_matrix(found.astype(np.uint8), unseen, classes)


def estimated_from_strokes(
    folder: Path, result: dict[str, Any], spacing: Sequence[float] | None = None
) -> tuple[Estimate, list[float]] | None:
    """What densify would have reported, and the truth; ``None`` if there was too little paint to tell."""
    kind = result["kind"]
    with np.load(folder / f"{kind}_{result['seed']}.npz") as kept:
        arrays = dict(kept)
    classes = len(arrays["matrix"])
    headline = Headline([f"{c}" for c in range(classes)], BACKGROUND.get(kind, 0))
    models = [
        Compared(*(arrays[f"{name}_{number}"] for name in Compared._fields))
        for number in range(4)
        if f"scores_{number}" in arrays
    ]
    if not models:
        return None
    found = agreement(models, strokes_of(arrays["labels"], spacing), foreground=headline.classes)
    true = iou(arrays["matrix"])
    return found, [headline.mean(true), mean_score(true), *true]
