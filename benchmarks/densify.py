"""From a few slices to the volume: volseg, what needs no training, a random forest and nnU-Net.

    python benchmarks/densify.py run runs/densify --data ../shared/data --peers peers/bin/python
    python benchmarks/densify.py run runs/densify --only medulla --slices 4 --methods volseg forest
    python benchmarks/densify.py run runs/xy --slices 0,0,4 0,0,12 --crop 96
    python benchmarks/densify.py run runs/budget --only phantom1 --slices 1,1,1 2,2,1 3,3,2 5,5,3
    python benchmarks/densify.py table runs/densify

Of each set 2, 4 and 8 evenly spread slices per direction are kept, or so many of each axis: ``0,0,4`` is a
stack painted in one direction. Of large volumes ``--crop`` takes the middle. What a method says of all other
voxels is compared with the truth: IoU, Dice and surface Dice (at one voxel, in 3D; of a method that is asked
about a sample of the voxels there is none), mean over the classes; the background is left out where
there is one. Each run is a process of its own on ``--threads`` cores; its minutes are those
of the wall clock, from start to end, and its memory the most that was resident. A finished run is one line
of ``results.jsonl`` and is not repeated; ``run`` goes on where it was stopped. ``table`` writes ``table.md``
and ``figure.png``.

``volseg`` is ``volseg.densify`` as it is, ``pixelwise``, ``unet`` and ``joined`` the same with that learner,
all with ``--folds``: 0 leaves all of the time to the result; a number or ``auto`` spends half of it on a
score, and then the line says what was reported (mean IoU over all classes, its interval, and the mean surface
Dice, which is that of slices) beside what is true.
``forest`` and ``nnunet`` need ``--peers``, the interpreter of an environment with ``peers.txt``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

from volseg import read_volume
from volseg.annotation import keep_slices
from volseg.labels import IGNORE_INDEX
from volseg.metrics import confusion_matrix, dice, iou, mean_score, surface_dice
from volseg.phantom import XENOPUS_SPACING, xenopus_phantom

LEARNERS = {
    "volseg": "auto",
    "pixelwise": "pixelwise",
    "unet": "unet",
    "joined": "joined",
}  # methods that learn, and by what
OWN = (*LEARNERS, "interpolate", "random-walker")
PEERS = ("forest", "nnunet")
DEFAULT = ("volseg", "unet", "interpolate", "random-walker", *PEERS)
NNUNET_ON = ("medulla", "brain")  # it takes long, and the table needs two
SLICES = ("2", "4", "8")


class Set(NamedTuple):
    """One volume with its truth."""

    image: npt.NDArray[Any]  # (C, *spatial)
    truth: npt.NDArray[np.uint8]
    spacing: tuple[float, ...]
    background: int | None = 0


def from_files(
    images: Sequence[Path], label: Path, *, is_binary: bool = False, depth: int | None = None
) -> Set:
    """Files that lie on the same grid; classes are numbered in the order of their values."""
    volumes = [read_volume(path) for path in images]
    values = read_volume(label, labels=True).array[0][..., :depth]
    truth = values > 0 if is_binary else np.searchsorted(np.unique(values), values)
    image = np.concatenate([volume.array for volume in volumes])[..., :depth]
    return Set(image, truth.astype(np.uint8), volumes[0].spacing)


def phantom(number: int) -> Set:
    """Lumen, wall and background of a kidney: all three count."""
    image, truth = xenopus_phantom(number - 1)
    return Set(image, truth, XENOPUS_SPACING, None)


def sets(data: Path) -> dict[str, Callable[[], Set]]:
    """What is segmented, by name."""
    medulla, nuclei = data / "medulla_fibsem_3d", data / "mouse_embryo_nuclei_3d"
    plant, lesion = data / "plant_confocal_3d", data / "ms_lesion_3d" / "patient19"
    brain = data / "med_single_cases_3d" / "brain_mri_8label"
    return {
        "medulla": lambda: from_files([medulla / "raw.tif"], medulla / "labels_boundary.tif", depth=180),
        "phantom1": lambda: phantom(1),
        "phantom2": lambda: phantom(2),
        "phantom3": lambda: phantom(3),
        "nuclei": lambda: from_files([nuclei / "images/16_cell.tif"], nuclei / "labels/16_cell.tif"),
        "plant": lambda: from_files(
            [plant / "images/nuclei_1135.tif"], plant / "labels/nuclei_1135.tif", is_binary=True
        ),
        "brain": lambda: from_files([brain / "image.nii.gz"], brain / "label.nii.gz"),
        "lesion": lambda: from_files(
            [lesion / "FLAIR.nii.gz", lesion / "T1.nii.gz"], lesion / "label.nii.gz"
        ),
    }


def middle(data: Set, most: int) -> Set:
    """So many voxels along each axis at most."""
    starts = [max(0, (n - most) // 2) for n in data.truth.shape]
    where = tuple(slice(start, start + most) for start in starts)
    return data._replace(image=data.image[:, *where], truth=data.truth[where])


def run(given: argparse.Namespace) -> None:
    """All runs that have not been done yet, in an order that fills the table evenly."""
    given.output.mkdir(parents=True, exist_ok=True)
    book = given.output / "results.jsonl"
    done = {key_of(line) for line in read_book(book)}
    for name, make in sets(given.data).items():
        if given.only and name not in given.only:
            continue
        wanted = [
            (name, k, method, seed)
            for k in given.slices
            for method in given.methods
            for seed in (given.seeds if method in (*LEARNERS, *PEERS) else given.seeds[:1])
            if (name, k, method, seed) not in done
            and (method not in PEERS or given.peers is not None)
            and (method != "nnunet" or name in NNUNET_ON)
        ]
        data = make() if wanted else None
        if data is not None and given.crop:
            data = middle(data, given.crop)
        for _, k, method, seed in wanted:
            line = one(data, k, method, seed, given)
            line = {"set": name, "k": k, "method": method, "seed": seed} | line
            with book.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    table(given.output)


def counts(k: str, dims: int) -> list[int]:
    """Slices per axis: ``4`` of each, or ``5,5,3``."""
    parts = [int(part) for part in k.split(",")]
    return parts if len(parts) == dims else parts * dims


def one(data: Set, k: str, method: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One run, scored; a run that fails is a line, too, that says why."""
    labels = keep_slices(data.truth, counts(k, data.truth.ndim))
    classes = int(data.truth.max()) + 1
    with tempfile.TemporaryDirectory() as folder:
        task, result, log = (Path(folder) / each for each in ("task.npz", "result.npz", "log.txt"))
        facts = {"spacing": data.spacing, "classes": classes, "seed": seed}
        background = -1 if data.background is None else data.background
        np.savez(task, image=data.image, labels=labels, background=background, **facts)
        words = [sys.executable, __file__, "cell"]
        if method in PEERS:
            words = [str(given.peers), str(Path(__file__).with_name("densify_peers.py"))]
        words += [method, str(task), str(result), "--seconds", str(given.seconds)]
        if method in LEARNERS:
            words += ["--folds", "auto" if given.folds is None else str(given.folds)]
        threads = str(given.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        began = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(words, env=environment, stdout=file, stderr=subprocess.STDOUT)
            _, status, used = os.wait4(process.pid, 0)
        minutes = (time.monotonic() - began) / 60
        if status:
            return {"error": log.read_text(encoding="utf-8", errors="replace")[-2000:]}
        found = np.load(result)
        line: dict[str, Any] = {"seconds": given.seconds, "threads": given.threads}
        line |= {"minutes": round(minutes, 3), "gigabytes": round(used.ru_maxrss / 2**20, 3)}
        line["painted"] = round(float(np.mean(labels != IGNORE_INDEX)), 4)
        line |= score(data, labels, found["voxels"], found["classes"], classes)
        if method in LEARNERS and (reported := json.loads(str(found["reported"]))):
            line["mean_of_all"] = round(float(np.mean(line["iou_of_classes"])), 4)
            line |= reported
        return line


def score(
    data: Set, labels: npt.NDArray[np.uint8], voxels: Any, prediction: Any, classes: int
) -> dict[str, Any]:
    """Of the voxels that nobody painted, or those of them that a method was asked about."""
    truth = np.where(labels == IGNORE_INDEX, data.truth, IGNORE_INDEX)
    said, unknown = np.zeros(truth.shape, np.uint8), np.ones(truth.shape, bool)
    where = voxels if len(voxels) else slice(None)
    said.reshape(-1)[where], unknown.reshape(-1)[where] = prediction.reshape(-1), False
    sampled = bool(np.any(unknown & (truth != IGNORE_INDEX)))
    truth[unknown] = IGNORE_INDEX
    matrix = confusion_matrix(said, truth, classes)
    parts = {"iou": iou(matrix), "dice": dice(matrix), "surface_dice": np.full(classes, math.nan)}
    if not sampled:
        parts["surface_dice"] = surface_dice(said, truth, classes, spacing=data.spacing)
    counted = [c for c in range(classes) if c != data.background]
    means = {name: float(mean_score(values[counted])) for name, values in parts.items()}
    return means | {f"{name}_of_classes": [round(float(v), 4) for v in parts[name]] for name in parts}


def cell(given: argparse.Namespace) -> None:
    """One of volseg's own methods, in a process of its own."""
    import torch

    import volseg
    from volseg.densification.baselines import interpolate, random_walk

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    task = np.load(given.task)
    image, labels, classes = task["image"], task["labels"], int(task["classes"])
    spacing = tuple(float(s) for s in task["spacing"])
    background = max(int(task["background"]), 0)
    reported = None
    if given.method == "interpolate":
        found = interpolate(labels, classes, spacing=spacing, background=background).labels
    elif given.method == "random-walker":
        found = random_walk(image, labels, classes, spacing=spacing).labels
    else:
        affine = np.diag([*spacing, 1.0])
        done = volseg.densify(
            volseg.Volume(image, affine, "um"),
            volseg.Volume(labels[None], affine, "um"),
            minutes=given.seconds / 60,
            learner=LEARNERS[given.method],
            unlabelled=IGNORE_INDEX,
            folds=given.folds,
            compare=False,
            suggest_next=False,
            device="cpu",
            seed=int(task["seed"]),
            force=True,
        )
        found = done.labels
        if scores := done.scores.get("volseg"):
            surface = scores["mean surface Dice"]["value"]
            reported = {"reported": scores["mean IoU"], "reported_surface_dice": surface}
    np.savez(given.result, voxels=np.empty(0, np.int64), classes=found, reported=json.dumps(reported))


def read_book(book: Path) -> list[dict[str, Any]]:
    """The finished runs; a line cut short by a power failure is none."""
    lines = []
    for text in book.read_text(encoding="utf-8").splitlines() if book.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines.append(line | {"k": str(line["k"])})
    return [line for line in lines if "error" not in line]


def key_of(line: dict[str, Any]) -> tuple[str, str, str, int]:
    """What makes a run."""
    return line["set"], line["k"], line["method"], line["seed"]


def table(folder: Path) -> None:
    """``table.md`` and ``figure.png``."""
    lines = read_book(folder / "results.jsonl")
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        cells.setdefault((line["set"], line["k"], line["method"]), []).append(line)
    methods = [m for m in (*OWN, *PEERS) if any(key[2] == m for key in cells)]
    rows = sorted({key[:2] for key in cells}, key=lambda row: (order(row[0]), sum(counts(row[1], 3))))
    text = ["| set | slices | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for row in rows:
        found = {m: cells[(*row, m)] for m in methods if (*row, m) in cells}
        best = max(mean(each, "iou") for each in found.values())
        shown = []
        for method in methods:
            each = found.get(method)
            if each is None:
                shown.append("–")
                continue
            value, spread = mean(each, "iou"), half_range(each)
            figure = f"{value:.3f}" + (f" ± {spread:.3f}" if len(each) > 1 else "")
            figure = f"**{figure}**" if value == best else figure
            surface = mean(each, "surface_dice")
            figure += f" / {mean(each, 'dice'):.3f}"
            shown.append(f"{figure} / {'–' if math.isnan(surface) else f'{surface:.3f}'}")
        text.append(f"| {row[0]} | {row[1]} | " + " | ".join(shown) + " |")
    text += ["", "| method | minutes | peak memory, GB |", "|---|---|---|"]
    for method in methods:
        used = [line for line in lines if line["method"] == method]
        minutes, memory = ([line[key] for line in used] for key in ("minutes", "gigabytes"))
        text.append(
            f"| {method} | {min(minutes):.1f} – {max(minutes):.1f} | {min(memory):.1f} – {max(memory):.1f} |"
        )
    limits = " or ".join(f"{s:g}" for s in sorted({line["seconds"] for line in lines}))
    head = (
        "Mean IoU / Dice / surface Dice at one voxel on all unpainted voxels; ± half the range over the "
        f"seeds. volseg has {limits} seconds to learn and to segment, nnU-Net as many to train alone.\n\n"
    )
    (folder / "table.md").write_text(head + "\n".join(text) + "\n", encoding="utf-8")
    draw(folder / "figure.png", cells, methods, list(dict.fromkeys(row[0] for row in rows)))


def order(name: str) -> int:
    """The place of a set in the table."""
    return list(sets(Path())).index(name)


def mean(lines: Sequence[dict[str, Any]], key: str) -> float:
    """Over the seeds; NaN where it was not measured."""
    return float(np.mean([line.get(key, math.nan) for line in lines]))


def half_range(lines: Sequence[dict[str, Any]]) -> float:
    """Of the IoU over the seeds."""
    return float(np.ptp([line["iou"] for line in lines])) / 2


def draw(path: Path, cells: dict[Any, Any], methods: Sequence[str], names: Sequence[str]) -> None:
    """IoU over the number of slices, one panel per set."""
    if not names:
        return
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 2.7 * rows), squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(names) :]:
        panel.axis("off")
    for panel, name in zip(axes.flat, names, strict=False):
        for number, method in enumerate(methods):
            points = [
                (int(k), mean(cells[name, k, method], "iou")) for k in SLICES if (name, k, method) in cells
            ]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", color=f"C{number}", label=method)
        panel.set(
            title=name,
            xscale="log",
            xticks=[int(k) for k in SLICES],
            xticklabels=SLICES,
            xlim=(1.8, 9),
            ylim=(0, 1),
        )
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    figure.supxlabel("slices per direction")
    figure.supylabel("mean IoU on unpainted voxels")
    handles = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def folds(text: str) -> int | None:
    """A number, or ``None`` for as many as there is time for."""
    return None if text == "auto" else int(text)


def main() -> None:
    """Run, or make the table of what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("output", type=Path)
    runs.add_argument("--data", type=Path, default=Path("../shared/data"))
    runs.add_argument("--only", nargs="+", choices=tuple(sets(Path())), help="these sets")
    runs.add_argument("--slices", nargs="+", default=SLICES, help="per direction, or 5,5,3")
    runs.add_argument("--crop", type=int, help="voxels along each axis at most, from the middle")
    runs.add_argument("--methods", nargs="+", choices=(*OWN, *PEERS), default=DEFAULT)
    runs.add_argument("--seeds", nargs="+", type=int, default=(0,))
    runs.add_argument("--seconds", type=float, default=300, help="for volseg and nnU-Net (300)")
    runs.add_argument("--folds", type=folds, default=0, help="of volseg, or auto (0)")
    runs.add_argument("--threads", type=int, default=1)
    runs.add_argument("--peers", type=Path, help="an interpreter for forest and nnunet")
    tables = commands.add_parser("table")
    tables.add_argument("output", type=Path)
    cells = commands.add_parser("cell")
    cells.add_argument("method", choices=OWN)
    cells.add_argument("task", type=Path)
    cells.add_argument("result", type=Path)
    cells.add_argument("--seconds", type=float, default=300)
    cells.add_argument("--folds", type=folds, default=0)
    given = parser.parse_args()
    if given.command == "run":
        run(given)
    elif given.command == "table":
        table(given.output)
    else:
        cell(given)


if __name__ == "__main__":
    main()
