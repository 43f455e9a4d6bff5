"""How often the interval from strokes holds the true score: for interval_coverage.py, with --strokes.

A simulated person (:mod:`person`) draws strokes on phantoms of four kinds and on real volumes and images: at
random places where the seed is even, on errors of what was learnt so far where it is odd; all on one slice
where it is a multiple of three. The seed also says for how long. With ``--live`` the person paints in a
session, which scores itself (``Session.score``).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from densify import Set, from_files, middle, sets
from person import Person
from small_volumes import BACKGROUND, make

from volseg.annotation import annotation_counts
from volseg.annotation.strokes import strokes_of
from volseg.densification import strokes
from volseg.densification.folds import make_folds
from volseg.densification.intervals import Estimate
from volseg.densification.strokes import Compared, agreement, elsewhere, stroke_offsets
from volseg.labels import IGNORE_INDEX
from volseg.learning import Scores
from volseg.metrics import Headline, confusion_matrix, iou, mean_score
from volseg.pixelwise import Live
from volseg.pixelwise.model import Model, Task, learn
from volseg.session import Session
from volseg.session.judging import Score as SessionScore

__all__ = ["REAL", "estimated_from_strokes", "run_live", "run_on_strokes"]

REAL = ("nuclei", "plant", "medulla", "lesion", "axons", "hela")
SIZE, CROP = 64, {3: 96, 2: 384}  # voxels of phantoms, and of real ones at most, along each axis
TURNS, AT_ONCE = (5, 8, 12), 4  # of the person, and strokes in each
STEPS = 40  # of a training at least

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


class Painting:
    """A session, painted as a person's labels are: background is 0."""

    def __init__(self, data: Set, seed: int) -> None:
        classes = {c: f"class {c}" for c in range(1, int(data.truth.max()) + 1)}
        self.session = Session(data.image, classes=classes, spacing=data.spacing, seed=seed)

    def learn(self, labels: Labels) -> Live:
        """Paint what is new, and learn until more rounds would take no steps."""
        stack = labels.reshape(*labels.shape[:2], -1)
        for index in range(stack.shape[2]):
            new = np.where(self.session.paint_slice(2, index) != stack[..., index], stack[..., index], 255)
            for value in np.unique(new[new != IGNORE_INDEX]):
                self.session.paint(2, index, new == value, int(value))
        self.session.learn(seconds=60)
        return self.session.prepare()

    def slice_by(self, labels: Labels, block: tuple[slice, ...]) -> Scores:
        return self.learn(labels).predict(block)

    def scored(self) -> tuple[SessionScore | None, list[Compared]]:
        """The live score, and the models that it comes from."""
        self.session.prepare().build(tuple(slice(0, n) for n in self.session.size))
        models: list[Compared] = []

        def noted(found: Sequence[Compared], *given: Any, **more: Any) -> Estimate:
            models.extend(found)
            return agreement(found, *given, **more)

        with patch.object(strokes, "agreement", noted):
            return self.session.score(), models

    def result(self) -> Labels:
        """What the page shows, of all voxels."""
        stack = [self.session.slice(2, z).values for z in range((*self.session.size, 1)[2])]
        return np.stack(stack, -1).reshape(self.session.size)


def run_live(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One volume, painted in a session."""
    began = time.time()
    data = data_of(kind, seed, given.data)
    order = np.arange(256, dtype=np.uint8)
    order[[0, data.background or 0]] = order[[data.background or 0, 0]]
    data = data._replace(truth=order[data.truth], background=0)
    painting = Painting(data, seed)
    labels = drawn(Person(data.truth, seed), painting.slice_by, seed)
    painting.learn(labels)
    found, models = painting.scored()
    matrix = matrix_of(data.truth, painting.result(), labels, int(data.truth.max()) + 1)
    keep(given.output / f"{kind}_{seed}.npz", labels, matrix, models)
    line = described(kind, seed, labels, data) | {"score": found.as_json() if found else None}
    return line | {"seconds": round(time.time() - began, 1)}


def run_on_strokes(kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One volume, painted and learnt as ``densify`` does: from nothing, each time."""
    began = time.time()
    data = data_of(kind, seed, given.data)
    classes = int(data.truth.max()) + 1
    task = Task(data.image, data.spacing, classes, seed=seed)

    def fresh(paint: Labels) -> Model:
        return learn(task, paint, seconds=given.seconds, fewest=STEPS)

    person = Person(data.truth, seed, data.background or 0)
    labels = drawn(person, lambda paint, block: fresh(paint).predict(task, block), seed)
    parts = make_folds(labels, spacing=data.spacing)
    look = elsewhere(labels)
    models, counts = [], []
    for fold in parts.folds:
        train, test = fold.split(labels)
        held = test != IGNORE_INDEX
        scores, on = fresh(train).predict_at(task, held | look), held[held | look]
        models.append(Compared(scores[:, on], test[held], scores[:, ~on]))
        counts.append(annotation_counts(train, classes))
    scores = fresh(labels).predict(task)
    if models:
        right = float(np.mean(np.concatenate([m.scores.argmax(0) == m.truth for m in models])))
        for number, (model, count) in enumerate(zip(models, counts, strict=True)):
            added = stroke_offsets(model.elsewhere, count, right)[:, None]
            models[number] = Compared(model.scores + added, model.truth, model.elsewhere + added)
        added = stroke_offsets(scores[:, look], annotation_counts(labels, classes), right)
        scores += added.reshape(-1, *[1] * labels.ndim)
    keep(
        given.output / f"{kind}_{seed}.npz",
        labels,
        matrix_of(data.truth, scores.argmax(0), labels, classes),
        models,
    )
    line = described(kind, seed, labels, data)
    return line | {"reason": parts.reason, "seconds": round(time.time() - began, 1)}


def described(kind: str, seed: int, labels: Labels, data: Set) -> dict[str, Any]:
    """What was painted."""
    found = strokes_of(labels, data.spacing)
    line = {"kind": kind, "seed": seed, "strokes": found.count, "places": found.places}
    line |= {"background": data.background or 0, "spacing": data.spacing}
    return line | {
        "person": "on errors" if seed % 2 else "anywhere",
        "one_slice": labels.ndim == 3 and len(found.planes()[1]) == 1,
    }


def keep(path: Path, labels: Labels, matrix: npt.NDArray[np.int64], models: Sequence[Compared]) -> None:
    """What an interval is computed from, and the truth."""
    parts = {f"{n}_{i}": value for i, model in enumerate(models) for n, value in model._asdict().items()}
    np.savez_compressed(path, labels=labels, matrix=matrix, **parts)


def matrix_of(truth: Labels, found: npt.NDArray[Any], labels: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Confusion on all unpainted voxels."""
    unseen = np.where(labels == IGNORE_INDEX, truth, IGNORE_INDEX)
    return confusion_matrix(found.astype(np.uint8), unseen, classes)


def estimated_from_strokes(folder: Path, result: dict[str, Any]) -> tuple[Estimate, list[float]] | None:
    """What would have been reported, and the truth; ``None`` if there was too little paint to tell."""
    with np.load(folder / f"{result['kind']}_{result['seed']}.npz") as kept:
        arrays = dict(kept)
    models = [
        Compared(*(arrays[f"{name}_{number}"] for name in Compared._fields))
        for number in range(4)
        if f"scores_{number}" in arrays
    ]
    if not models:
        return None
    labels, known = arrays["labels"], np.arange(len(arrays["matrix"]))
    if len(models[0].scores) < len(known):  # a session knows the classes that are painted
        known = np.unique(labels[labels != IGNORE_INDEX])
        labels = np.where(labels == IGNORE_INDEX, IGNORE_INDEX, np.searchsorted(known, labels))
    headline = Headline([f"{c}" for c in known], int(np.searchsorted(known, result["background"])))
    painted = strokes_of(labels.astype(np.uint8), result["spacing"])
    found = agreement(models, painted, foreground=headline.classes)
    true = [iou(arrays["matrix"])[c] for c in known]
    return found, [headline.mean(true), mean_score(true), *true]
