"""Table and plot of the papers' experiments: our figures, theirs, and what differs, said plainly."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from volseg.experiments.campaign import Results, write_text
from volseg.experiments.cells import Cell
from volseg.experiments.papers import BUDGETS, TABLE_2, TABLE_2_LABELLED
from volseg.experiments.plots import draw_bars, draw_budgets, save_figure
from volseg.experiments.start import Way
from volseg.experiments.tables import DASH, csv_of, figure, grid, markdown

__all__ = ["write_budgets", "write_variants"]

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
        parts.append("\nOn the voxels that nobody annotated, from the dense truth:\n\n")
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
        text += "\nMean IoU on the voxels that nobody annotated, from the dense truth:\n\n"
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
