"""Paint, see, correct: how long a turn takes, and what it comes to, beside a forest on the same strokes.

    python benchmarks/loop.py time --data ../shared/data
    python benchmarks/loop.py huge
    python benchmarks/loop.py person runs/loop --data ../shared/data --peers peers/bin/python
    python benchmarks/loop.py table runs/loop

``time`` paints on nuclei (0.75 million voxels) and medulla (11 million) and prints, per turn, what it takes
from the end of four strokes to new predictions of three crossing slices, and another slice: median and 95 %,
in seconds of one core, and of the wall clock. ``huge`` looks at 2048³ voxels that are made when read.

``person`` lets a person simulated by the truth (``person.py``) correct the live result until 0.5 % are
painted (``corrects``), or paint all classes equally often at random places (``anywhere``). At some shares of
paint the IoU, mean over the classes but background, is measured on random unpainted voxels: of the live
result, and of a forest on the same filter responses of the same voxels (``--peers``, an environment with
``peers.txt``). Beside it stands what ``learn`` finds from four whole slices per direction in ``--seconds``.
``--kinds adopts`` lets the person paint strokes for two turns, then adopt these slices one by one and outline
what is wrong on each, and compares clicks and lengths with outlining all by hand, and what is learnt.

Settings were chosen on other sets: hippocampus, spleen, ISBI 2012, stardist 3D, lesion patient 26, phantom 2.
"""

import argparse
import json
import math
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from densify import Set, middle, read_book, score, sets
from person import Person, around
from scipy import ndimage

from volseg.annotation import find_slices, keep_slices
from volseg.labels import IGNORE_INDEX
from volseg.pixelwise import Live, PaintedVoxels, Task, learn

SETS = ("nuclei", "medulla", "plant", "brain", "lesion", "phantom1")
SHARES = (0.0002, 0.0005, 0.001, 0.002, 0.005)  # of the voxels, after which results are measured
STROKES = 6  # per turn
ASKED = 30_000  # unpainted voxels


def timed(given: argparse.Namespace) -> None:
    """Turns on two volumes, one core."""
    print("| set | voxels | what | median, s | 95 %, s | wall clock, median |\n|---|---|---|---|---|---|")
    for name in ("nuclei", "medulla"):
        data = sets(given.data)[name]()
        live = Live(data.image, data.spacing, int(data.truth.max()) + 1)
        person = Person(data.truth, 0, data.background or 0)
        person.begin()
        everything = tuple(slice(0, n) for n in data.truth.shape)
        built = lasts(lambda live=live, everything=everything: live.build(everything))
        turns, others = [], []
        live.learn(person.labels, seconds=60)
        for number in range(given.turns):
            person.correct(live.predict(person.where).argmax(0), 4)
            at = [(n * (number + 1)) // (given.turns + 2) for n in data.truth.shape]
            planes = [
                tuple(slice(p, p + 1) if a == axis else slice(None) for a, p in enumerate(at))
                for axis in range(3)
            ]

            def turn(live: Live = live, person: Person = person, planes: Any = planes) -> None:
                live.learn(person.labels, seconds=0)
                for plane in planes:
                    live.predict(plane)

            turns.append(lasts(turn))
            others.append(lasts(lambda live=live, planes=planes: live.predict(planes[2])))
        for what, lines in (("turn", turns), ("slice", others), ("filter bank, once", [built])):
            cpu, wall = np.transpose(lines)
            print(
                f"| {name} | {data.truth.size / 1e6:.2f} M | {what} | {np.median(cpu):.2f} "
                f"| {np.percentile(cpu, 95):.2f} | {np.median(wall):.2f} |",
                flush=True,
            )


def lasts(do: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor and of the wall clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    do()
    return time.process_time() - cpu, time.perf_counter() - wall


class Endless:
    """Balls in noise, repeated: any block of 2048³ voxels without the rest."""

    shape = (1, 2048, 2048, 2048)
    read = 0

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 64, (120, 120, 120))
        self.tile = (noise + 80 * self.inside(*np.ogrid[:120, :120, :120])).astype(np.uint8)

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[np.uint8]:
        where = [np.arange(*part.indices(n)) for part, n in zip(index, self.shape, strict=True)][1:]
        self.read += math.prod(map(len, where))
        return self.tile[np.ix_(*(each % 120 for each in where))][None]

    @staticmethod
    def inside(x: Any, y: Any, z: Any) -> Any:
        """The truth."""
        return (x % 40 - 20) ** 2 + (y % 40 - 20) ** 2 + (z % 40 - 20) ** 2 < 150


def huge(given: argparse.Namespace) -> None:
    """First look, a turn and another slice of 256² voxels."""
    image = Endless()
    live = Live(image, (1.0, 1.0, 1.0), 2)
    low, z = 896, 1000
    plane = (slice(low, low + 256), slice(low, low + 256), slice(z, z + 1))
    small = (slice(1000, 1048), slice(1000, 1048), slice(z, z + 1))
    first = lasts(lambda: live.build(small))
    place = np.stack([np.arange(1000, 1040), np.full(40, 1020), np.full(40, z)])
    voxels = np.ravel_multi_index(tuple(place), live.bricks.size)
    paint = PaintedVoxels(voxels, image.inside(*place).astype(np.uint8))
    whole = lasts(lambda: live.build(plane))
    turn = lasts(lambda: live.learn(paint, seconds=0))
    near = (*plane[:2], slice(z + 1, z + 2))
    again = lasts(lambda: live.predict(near))
    found = live.predict(near).argmax(0)
    right = np.mean(found == image.inside(*np.ogrid[plane[0], plane[1], near[2]]))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = {"first brick and all it needs": first, "slice of 256², first time": whole, "learning": turn}
    for what, (cpu, wall) in (rows | {"slice beside it": again}).items():
        print(f"{what}: {cpu:.2f} s of one core, {wall:.2f} s")
    print(f"{memory:.2f} GB at most, {image.read / 1e6:.0f} M voxels read, {right:.3f} right")


def simulate(data: Set, kind: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One person on one volume."""
    classes = int(data.truth.max()) + 1
    live = Live(data.image, data.spacing, classes, seed=seed, most_bytes=2**31)
    person = Person(data.truth, seed, data.background or 0)
    person.begin()
    turn_of = np.full(data.truth.shape, -1, np.int16)
    rng = np.random.default_rng(1)
    asked = np.sort(rng.choice(data.truth.size, min(ASKED, data.truth.size), replace=False))
    at = np.stack(np.unravel_index(asked, data.truth.shape), 1)
    left, points, turn = [s for s in SHARES if s * data.truth.size > 60], [], 0
    while left and turn < given.turns and kind != "adopts":
        painted = person.labels != IGNORE_INDEX
        turn_of[painted & (turn_of < 0)] = turn
        live.learn(person.labels, seconds=60)
        if painted.mean() >= left[0]:
            while left and painted.mean() >= left[0]:
                left.pop(0)
            found = live.predict_at(at).argmax(0)
            line = {"turn": turn, "painted": float(painted.mean()), "strokes": person.strokes}
            points.append(line | {"length": person.length, "found": found})
        if kind == "corrects":
            person.correct(live.predict(person.where).argmax(0), STROKES)
        else:
            person.anywhere(STROKES)
        turn += 1
    if kind == "adopts":
        return adopted(data, live, person, asked, given)
    unpainted = person.labels.reshape(-1)[asked] == IGNORE_INDEX
    voxels = PaintedVoxels.of(np.where(turn_of >= 0, person.labels, IGNORE_INDEX)).voxels
    results = {"volseg": np.stack([each.pop("found") for each in points])}
    if given.peers:
        rows = [live.bricks.responses_at(torch.from_numpy(v)).numpy() for v in (
            np.stack(np.unravel_index(voxels, data.truth.shape), 1), at)]  # fmt: skip
        results["forest"] = forest(
            given.peers,
            seen=rows[0],
            asked=rows[1],
            painted=person.labels.reshape(-1)[voxels],
            turn=turn_of.reshape(-1)[voxels],
            turns=[each["turn"] for each in points],
            seed=seed,
        )
    for method, by_turn in results.items():
        for each, found in zip(points, by_turn, strict=True):
            each[method] = measured(data, asked[unpainted], found[unpainted], classes)
    return {"points": points}


def adopted(
    data: Set, live: Live, person: Person, asked: npt.NDArray[np.int64], given: argparse.Namespace
) -> dict[str, Any]:
    """Strokes for two turns, then the slices that would be painted by hand, and what is learnt from them."""
    labels = keep_slices(data.truth, [4] * data.truth.ndim)
    found = find_slices(labels)
    places = [("xyz".index(axis), int(i)) for axis, indices in found.items() for i in indices]
    for turn in range(2 + len(places)):
        live.learn(person.labels, seconds=60)
        if turn < 2:
            person.correct(live.predict(person.where).argmax(0), STROKES)
            continue
        person.axis, person.index = places[turn - 2]
        person.adopt(live.predict(person.where).argmax(0))
    task = Task(data.image, data.spacing, live.classes, live.seed)
    model = learn(task, person.labels, slices=found, seconds=given.seconds)
    unpainted = person.labels.reshape(-1)[asked] == IGNORE_INDEX
    where = np.zeros(data.truth.shape, bool)
    where.reshape(-1)[asked[unpainted]] = True
    value = measured(data, asked[unpainted], model.predict_at(task, where).argmax(0), live.classes)
    right = float((person.labels == data.truth)[labels != IGNORE_INDEX].mean())
    return {"adopted": value, "right": right, "clicks": person.strokes, "length": person.length}


def measured(data: Set, voxels: npt.NDArray[np.int64], found: Any, classes: int) -> float:
    """Mean IoU over the classes but background."""
    nothing = np.full_like(data.truth, IGNORE_INDEX)
    return round(float(score(data, nothing, voxels, found, classes)["iou"]), 4)


def forest(peers: Path, **task: Any) -> npt.NDArray[np.uint8]:
    """What scikit-learn finds."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "task.npz", Path(folder) / "found.npz"
        np.savez(given, **task)
        script = Path(__file__).with_name("densify_peers.py")
        subprocess.run([str(peers), str(script), "strokes", str(given), str(found)], check=True)
        classes: npt.NDArray[np.uint8] = np.load(found)["classes"]
    return classes


def slices(data: Set, seed: int, seconds: float) -> dict[str, Any]:
    """What is found from four whole slices per direction, and how long their outlines are."""
    classes = int(data.truth.max()) + 1
    labels = keep_slices(data.truth, [4] * data.truth.ndim)
    task = Task(data.image, data.spacing, classes, seed)
    where = np.random.default_rng(1).choice(data.truth.size, min(ASKED, data.truth.size), replace=False)
    where = np.sort(where)
    where = where[labels.reshape(-1)[where] == IGNORE_INDEX]
    chosen = np.zeros(data.truth.shape, bool)
    chosen.reshape(-1)[where] = True
    model = learn(task, labels, slices=find_slices(labels), seconds=seconds)
    outline, parts = 0, 0
    for axis, indices in find_slices(labels).items():
        for index in indices:
            plane = data.truth.take(index, "xyz".index(axis))
            outline += around(plane)
            parts += sum(ndimage.label(plane == c)[1] for c in range(classes) if c != (data.background or 0))
    found = model.predict_at(task, chosen).argmax(0)
    line = {"outline": outline, "parts": parts, "slices": measured(data, where, found, classes)}
    return line | {"painted": float((labels != IGNORE_INDEX).mean())}


def persons(given: argparse.Namespace) -> None:
    """All runs that have not been done yet."""
    given.output.mkdir(parents=True, exist_ok=True)
    book = given.output / "results.jsonl"
    done = {(line["set"], line["k"], line["seed"]) for line in read_book(book)}
    for seed in given.seeds:
        for name in given.only:
            for kind in (*(("slices",) if seed == given.seeds[0] else ()), *given.kinds):
                if (name, kind, seed) in done:
                    continue
                given.wanted = [
                    w["slices"] for w in read_book(book) if (w["set"], w["k"]) == (name, "slices")
                ]
                data = middle(sets(given.data)[name](), given.crop)
                one = (
                    slices(data, seed, given.seconds)
                    if kind == "slices"
                    else simulate(data, kind, seed, given)
                )
                with book.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"set": name, "k": kind, "seed": seed} | one) + "\n")
                print(name, kind, seed, flush=True)
    table(given)


def table(given: argparse.Namespace) -> None:
    """IoU by set and share of paint, mean over the seeds."""
    lines = read_book(given.output / "results.jsonl")
    whole = {line["set"]: line for line in lines if line["k"] == "slices"}
    print(
        "| person | set | painted, % | strokes | length | volseg | forest | of 4 slices |\n"
        + "|---" * 8
        + "|"
    )
    for kind in ("corrects", "anywhere"):
        for name in SETS:
            runs = [line["points"] for line in lines if (line["k"], line["set"]) == (kind, name)]
            for share in SHARES:
                after = [[p for p in points if p["painted"] >= share] for points in runs]
                points = [each[0] for each in after if each and each[0]["painted"] < 2 * share]
                if not points:
                    continue
                means = {key: np.mean([p[key] for p in points]) for key in points[0]}
                against = means["volseg"] / whole[name]["slices"] if name in whole else float("nan")
                peer = f"{means['forest']:.3f}" if "forest" in means else "–"
                print(
                    f"| {kind} | {name} | {100 * means['painted']:.2f} | {means['strokes']:.0f} "
                    f"| {means['length']:.0f} | {means['volseg']:.3f} | {peer} | {100 * against:.0f} % |"
                )
    for name, line in whole.items():
        for each in (each for each in lines if each["k"] == "adopts" and each["set"] == name):
            print(
                f"{name}, adopted: {each['adopted']:.3f}, {each['clicks']} clicks, length {each['length']}, "
                f"{each['right']:.4f} of the voxels right; by hand {line['slices']:.3f}, {line['parts']} "
                f"outlines, length {line['outline']}"
            )
        print(f"{name}: {line['slices']:.3f} from {100 * line['painted']:.1f} %, outlines {line['outline']}")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("time", "huge", "person", "table"):
        command = commands.add_parser(name)
        if name in ("person", "table"):
            command.add_argument("output", type=Path)
        command.add_argument("--data", type=Path, default=Path("../shared/data"))
        command.add_argument("--turns", type=int, default=40, help="at most (40)")
        command.add_argument("--peers", type=Path, help="an interpreter with scikit-learn")
        command.add_argument("--only", nargs="+", choices=SETS, default=SETS)
        command.add_argument("--kinds", nargs="+", default=("corrects", "anywhere"))
        command.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
        command.add_argument(
            "--crop", type=int, default=100, help="voxels along each axis, of the middle (100)"
        )
        command.add_argument("--seconds", type=float, default=60, help="for learning from slices (60)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    {"time": timed, "huge": huge, "person": persons, "table": table}[given.command](given)


if __name__ == "__main__":
    main()
