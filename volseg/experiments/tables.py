"""The figures of an experiment as Markdown and CSV; what is not finished yet is a dash."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from volseg.experiments.campaign import Results
from volseg.experiments.cells import Cell

__all__ = ["DASH", "csv_of", "figure", "grid", "markdown"]

DASH = "–"
KINDS = ("held out", "never annotated")


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
