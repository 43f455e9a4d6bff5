"""Figures of an experiment, ours beside the papers', as tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volseg.experiments.campaign import Cell, Results
from volseg.experiments.plots import draw_bars, draw_budgets, save_figure
from volseg.io import write_text

__all__ = [
    "BUDGETS",
    "DASH",
    "TABLE_1",
    "TABLE_2",
    "TABLE_2_LABELLED",
    "TABLE_3",
    "Way",
    "csv_of",
    "figure",
    "grid",
    "markdown",
    "write_budgets",
    "write_variants",
]

# Çiçek et al. 2016, Table 1: test subsets 1 to 3, semi-automated.
TABLE_1 = {
    "3D without BN": (0.822, 0.857, 0.846),
    "3D with BN": (0.855, 0.871, 0.863),
    "2D with BN": (0.785, 0.820, 0.782),
}

# Table 2: slices per direction (yz, xz, xy) and mean IoU of samples 1 to 3.
BUDGETS = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3))
TABLE_2_LABELLED = (0.025, 0.033, 0.057, 0.089)
TABLE_2 = {
    "S1": (0.331, 0.676, 0.761, 0.856),
    "S2": (0.483, 0.579, 0.808, 0.849),
    "S3": (0.475, 0.738, 0.835, 0.872),
}

# Table 3: the volume left out, fully automated.
TABLE_3 = {
    "3D without BN": (0.655, 0.734, 0.779),
    "3D with BN": (0.761, 0.798, 0.554),
    "2D with BN": (0.619, 0.698, 0.325),
}


DASH = "–"
KINDS = ("held out", "never annotated")


@dataclass(frozen=True)
class Way:
    """How one column of a table is trained."""

    key: str
    title: str
    files: tuple[Path, ...]
    settings: dict[str, Any]
    parameters: int
    iterations: int

    @property
    def flat(self) -> bool:
        """Whether on slices as images of their own."""
        return self.key.startswith("2d")


def figure(value: float | None) -> str:
    """A score as the papers print it."""
    return DASH if value is None else f"{value:.3f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def grid(
    cells: Sequence[Cell], results: Results, corner: str, *, kind: str = "held out", average: bool = True
) -> str:
    """Mean IoU by row and column of the cells; with the mean of each column that is complete."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    scores = {
        (cell.row, cell.column): results[cell.name].kind(kind).get("mean IoU")
        for cell in cells
        if cell.name in results
    }
    lines = [[row, *(figure(scores.get((row, column))) for column in columns)] for row in rows]
    if average:
        means = []
        for column in columns:
            found = [scores.get((cell.row, cell.column)) for cell in cells if cell.column == column]
            complete = [score for score in found if score is not None]
            means.append(figure(sum(complete) / len(found)) if len(complete) == len(found) else DASH)
        lines.append(["mean", *means])
    return markdown([corner, *columns], lines)


def csv_of(
    cells: Sequence[Cell], results: Results, more: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """One line per cell with everything that is known of it, and ``more`` by name of the cell."""
    lines: list[dict[str, Any]] = []
    for cell in cells:
        line: dict[str, Any] = {"cell": cell.name, **cell.facts}
        result = results.get(cell.name)
        if result is not None:
            for kind in KINDS:
                line |= _scores(kind, result.kind(kind))
            line["iterations"] = result.metrics.get("iteration")
            line |= {"minutes": f"{result.seconds / 60:.2f}", "trouble": result.trouble}
        line |= (more or {}).get(cell.name, {})
        lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    scored = [name for name in names if any(name.endswith(f", {kind}") for kind in KINDS)]
    names = [name for name in names if name not in (*scored, "iterations", "minutes", "trouble")]
    names += [*scored, "iterations", "minutes", "trouble"]
    text = io.StringIO()
    rows = csv.DictWriter(text, names, restval=DASH, lineterminator="\n")
    rows.writeheader()
    rows.writerows({k: DASH if v is None else v for k, v in line.items()} for line in lines)
    return text.getvalue()


def _scores(kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
    if not found:
        return {}
    by_class = {f"IoU of {name}, {kind}": value for name, value in found["IoU"].items()}
    return {f"mean IoU, {kind}": found["mean IoU"], **by_class, f"voxels, {kind}": found["voxels"]}


_PAPER = "Çiçek et al. 2016"
_PAPER_ITERATIONS = 70_000
_PAPER_MILLIONS = 19.1  # parameters of the 3D network


def write_variants(
    folder: Path,
    cells: Sequence[Cell],
    results: Results,
    head: str,
    row: str,
    table: str,
    paper: Mapping[str, Sequence[float]],
    data: str,
    found: Sequence[Way],
) -> None:
    """``table.md``, ``table.csv`` and ``plot.png`` of a comparison of 3D with 2D."""
    columns = [way.title for way in found]
    parts = [head, grid(cells, results, row)]
    unseen = any(result.kind("never annotated") for result in results.values())
    if unseen:
        parts.append("\nOn the unlabelled voxels, from the dense truth:\n\n")
        parts.append(grid(cells, results, row, kind="never annotated"))
    parts.append(_failures(cells, results))
    rows = [[str(n + 1), *(figure(paper[c][n]) for c in columns)] for n in range(3)]
    rows.append(["mean", *(figure(sum(paper[c]) / 3) for c in columns)])
    parts += [f"\n{_PAPER}, {table}:\n\n", markdown([row, *columns], rows), _what_differs(data, found)]
    write_text(folder / "table.md", "".join(parts))
    write_text(folder / "table.csv", csv_of(cells, results))
    names = list(dict.fromkeys(cell.row for cell in cells))
    ours = {c: [_score(results, cell) for cell in cells if cell.column == c] for c in columns}
    title = head.splitlines()[0].removeprefix("# ")
    save_figure(draw_bars(ours, paper, names, row, title), folder / "plot.png")


def write_budgets(folder: Path, cells: Sequence[Cell], results: Results, data: str, way: Way) -> None:
    """``table.md``, ``table.csv`` and ``plot.png`` of more and more slices."""
    names = list(dict.fromkeys(cell.column for cell in cells))
    by_place = {(cell.row, cell.column): cell for cell in cells}
    budgets = list(dict.fromkeys(cell.row for cell in cells))
    rows = []
    for budget in budgets:
        line = [budget]
        for name in names:
            cell = by_place[budget, name]
            taken = cell.facts["slices"].replace(" ", ",")
            fewer = "" if taken == budget else f" ({taken})"
            line += [f"{float(cell.facts['labelled']):.1%}{fewer}", figure(_score(results, cell))]
        rows.append(line)
    columns = [part for name in names for part in (f"{name}: labelled", f"{name}: mean IoU")]
    text = (
        "# Semi-automated segmentation with more and more slices\n\n"
        "One case at a time. Slices per direction are yz, xz, xy; in brackets where fewer are annotated. All "
        "budgets of a case are scored on the same voxels: annotated slices that none of them trains on, "
        "without the lines where these cross one that is trained on.\n\n"
    )
    text += markdown(["slices", *columns], rows)
    if any(result.kind("never annotated") for result in results.values()):
        text += "\nMean IoU on the unlabelled voxels, from the dense truth:\n\n"
        text += grid(cells, results, "slices", kind="never annotated", average=False)
    text += _failures(cells, results)
    text += f"\n{_PAPER}, Table 2:\n\n"
    text += markdown(
        ["slices", "labelled", *TABLE_2],
        [
            [
                ",".join(map(str, budget)),
                f"{labelled:.1%}",
                *(figure(scores[n]) for scores in TABLE_2.values()),
            ]
            for n, (budget, labelled) in enumerate(zip(BUDGETS, TABLE_2_LABELLED, strict=True))
        ],
    )
    write_text(folder / "table.md", text + _what_differs(data, [way]))
    write_text(folder / "table.csv", csv_of(cells, results))
    ours = {
        name: [
            (float(cell.facts["labelled"]), _score(results, cell)) for cell in cells if cell.column == name
        ]
        for name in names
    }
    paper = {
        f"the paper's {name}": list(zip(TABLE_2_LABELLED, scores, strict=True))
        for name, scores in TABLE_2.items()
    }
    save_figure(draw_budgets(ours, paper, "More and more annotated slices"), folder / "plot.png")


def _score(results: Results, cell: Cell) -> float | None:
    return results[cell.name].score if cell.name in results else None


def _failures(cells: Sequence[Cell], results: Results) -> str:
    """The cells whose training went astray."""
    lines = [
        f"- {cell.title}: {results[cell.name].trouble}\n"
        for cell in cells
        if cell.name in results and results[cell.name].trouble
    ]
    return "".join([f"\nNo figure ({DASH}) because the training failed:\n\n", *lines]) if lines else ""


def _what_differs(data: str, found: Sequence[Way]) -> str:
    """In a sentence or two why the two tables cannot be compared figure by figure."""
    trained = " or ".join(dict.fromkeys(f"{way.iterations:,}" for way in found))
    sizes = {way.title[:2]: f"{way.parameters / 1e6:.2g}" for way in found}  # the norm adds next to nothing
    million = " and ".join(f"{size} million{dims and f' ({dims})'}" for dims, size in sizes.items())
    return (
        f"\nWhat differs: our data ({data}) are not the paper's Xenopus kidneys, a network is trained for "
        f"{trained} iterations instead of about {_PAPER_ITERATIONS:,}, and it has {million} parameters "
        f"instead of {_PAPER_MILLIONS} million (3D). Compare the order of the figures, not the figures.\n"
    )
