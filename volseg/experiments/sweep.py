"""Sweeps: the grid of values, and the runs over it."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from volseg.arguments import option
from volseg.bundle.files import argument_problems, keywords, locate
from volseg.data import Case, output_of
from volseg.experiments.campaign import Book, Cell, Result, Results, content_of, open_campaign, run_cells
from volseg.experiments.comparison import csv_of, figure, markdown
from volseg.experiments.datasets import fingerprint, link_images
from volseg.experiments.plots import draw_curves, draw_predictions, read_example, read_prediction, save_figure
from volseg.experiments.protocols import check_settings, frozen_bundle, way
from volseg.io import read_text, write_text
from volseg.labels import LabelScheme

__all__ = ["Combination", "combinations", "names_of", "sweep"]

_TARGET = "#_target_"


class Combination(NamedTuple):
    """One cell: what stands in its row of the table, and what it sets in the bundle."""

    shown: dict[str, str]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """For its folder."""
        parts = (f"{name}={value}" for name, value in self.shown.items())
        return re.sub(r"[^\w.=,+-]+", "_", ",".join(parts))

    @property
    def title(self) -> str:
        """For people."""
        return ", ".join(f"{name} {value}" for name, value in self.shown.items())


def combinations(
    bundle: Mapping[str, Any], settings: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]
) -> list[Combination]:
    """All combinations, the last entry varying fastest.

    An entry with a ``_target_`` takes the name of another one; without dots it is meant to be in the same
    module. Arguments of the bundle that the other target does not take are left out.

    Args:
        bundle: as merged, for the components it holds.
        settings: new values that are the same in all cells.
        vary: values by entry.
    """
    if not vary:
        raise ValueError(f"Nothing is varied: say what by {option('vary', {'ENTRY': ['V1', 'V2']})}.")
    for entry, values in vary.items():
        if entry in settings:
            raise ValueError(f"{entry} is set and varied: leave it out of one of the two.")
        if len({repr(value) for value in values}) < len(values):
            raise ValueError(f"{option('vary')}: {entry} has a value twice.")
    names = names_of(vary)
    found = []
    for values in product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        components: dict[str, Any] = {}
        plain: dict[str, Any] = {}
        shown = {}
        for entry, value in chosen.items():
            owner = entry.removesuffix(_TARGET)
            component = _entry(bundle, owner)
            if isinstance(component, Mapping) and "_target_" in component and isinstance(value, str):
                components[owner] = _other(component, value, owner)
                shown[names[entry]] = value.rpartition(".")[2]
            else:
                plain[entry] = value
                shown[names[entry]] = str(value)
        found.append(Combination(shown, {**components, **settings, **plain}))
    if len({one.name for one in found}) < len(found):
        raise ValueError("Two of the values varied look the same; give them names that differ.")
    return found


def names_of(vary: Mapping[str, Any]) -> dict[str, str]:
    """A short name for each entry: its last word, unless two have the same."""
    words = {entry: entry.removesuffix(_TARGET).rpartition("#")[2] for entry in vary}
    return {
        entry: word if list(words.values()).count(word) == 1 else entry.removesuffix(_TARGET)
        for entry, word in words.items()
    }


def _entry(bundle: Mapping[str, Any], entry: str) -> Any:
    found: Any = bundle
    for key in entry.split("#"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _other(component: Mapping[str, Any], target: str, entry: str) -> dict[str, Any]:
    """The component with another target, and the arguments that it takes."""
    if "." not in target and "." in component["_target_"]:
        target = f"{component['_target_'].rpartition('.')[0]}.{target}"
    callable_, problem = locate(target)
    if problem:
        raise ValueError(f"{option('vary')}: {entry}: {problem}")
    takes = keywords(callable_)
    kept = {key: value for key, value in component.items() if key in takes or key.startswith("_")}
    for problem in _problems(callable_, target, kept):
        raise ValueError(f"{option('vary')}: {entry}: {problem}")
    return {**kept, "_target_": target}


def _problems(found: Any, target: str, component: Mapping[str, Any]) -> Iterator[str]:
    arguments = [key for key in component if not key.startswith("_")]
    yield from argument_problems(found, target, arguments, complete=component.get("_mode_") != "callable")


_FIGURE = "mean IoU, held out"


def sweep(
    files: Sequence[Path],
    settings: Mapping[str, Any],
    folder: Path,
    *,
    vary: Mapping[str, Sequence[Any]],
    examples: int = 4,
) -> None:
    """Train and score a bundle with every combination of values.

    Args:
        files: the bundle and its overlays.
        settings: new values for entries of the bundle, the same in all cells.
        folder: of the experiment.
        vary: values by entry of the bundle.
        examples: cases whose predictions are shown side by side; 0 for none.
    """
    bundle = check_settings(files, {**settings, **dict.fromkeys(vary)})
    grid = combinations(bundle, settings, vary)
    for one in grid:
        way("", "", tuple(files), one.settings)
    cases, scheme = content_of(files, settings, "cases", "labels")
    choices = {name: list(dict.fromkeys(one.shown[name] for one in grid)) for name in grid[0].shown}
    open_campaign(
        folder,
        {
            "experiment": "sweep",
            "vary": {entry: [str(value) for value in values] for entry, values in vary.items()},
            "bundle": {"": frozen_bundle(files, settings)},
            "data": fingerprint(cases),
        },
    )
    book = Book(folder / "study.db", choices, folder / "runs")
    shown = _examples(cases, examples) if "images" in bundle else []
    images = link_images(folder / "datasets" / "examples", shown) if shown else None
    by_cell = {one.name: one for one in grid}
    cells = [
        Cell(one.name, one.title, one.title, "", tuple(files), one.settings, images=images, facts=one.shown)
        for one in grid
    ]

    def begin(cell: Cell) -> None:
        book.begin(cell.name, by_cell[cell.name].shown)

    def end(cell: Cell, result: Result) -> None:
        book.end(cell.name, by_cell[cell.name].shown, result.score)

    def report(results: Results) -> None:
        _write(folder, cells, by_cell, results, shown, scheme)

    run_cells(folder, cells, report, before=begin, after=end)


def _examples(cases: Sequence[Case], number: int) -> list[Case]:
    """Cases to show: those held out as a whole come first."""
    known = [case for case in cases if case.label is not None or case.truth is not None]
    return sorted(known, key=lambda case: case.held_out != "all")[:number]


def _write(
    folder: Path,
    cells: Sequence[Cell],
    grid: Mapping[str, Combination],
    results: Results,
    examples: Sequence[Case],
    scheme: LabelScheme,
) -> None:
    """Table, learning curves and predictions of what there is."""
    curves = {cell.name: _curves(folder / "runs" / cell.name) for cell in cells}
    more = {name: {"last loss": found["loss"][-1][1]} for name, found in curves.items() if "loss" in found}
    write_text(folder / "table.csv", csv_of(cells, results, more))
    write_text(folder / "table.md", _table(cells, grid, results, more))
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for cell in cells:
        for quantity, points in curves[cell.name].items():
            if quantity == "loss" or ("mean IoU" in quantity and "held out" in quantity):
                panels.setdefault(quantity, {})[cell.title] = points
    if panels:
        save_figure(draw_curves(panels, "Learning curves"), folder / "plot.png")
    done = [cell for cell in _best_first(cells, results) if not results[cell.name].trouble]
    if done and examples:
        read = [read_example(case, scheme) for case in examples]
        predictions = {}
        for cell in done:
            home = folder / "runs" / cell.name / "segmentations"
            found = [read_prediction(one, output_of(one.case, home)[0], scheme) for one in read]
            predictions[f"{cell.title}: {figure(results[cell.name].score)}"] = found
        save_figure(draw_predictions(read, predictions, scheme), folder / "predictions.png")


def _table(
    cells: Sequence[Cell],
    grid: Mapping[str, Combination],
    results: Results,
    more: Mapping[str, Mapping[str, float]],
) -> str:
    head = [*grid[cells[0].name].shown, _FIGURE, "last loss", "iterations", "minutes"]
    rows = []
    best = _best_first(cells, results)
    for cell in cells:
        result = results.get(cell.name)
        row = [*grid[cell.name].shown.values()]
        if result is None:
            row += ["–"] * 4
        else:
            score = figure(result.score)
            loss = more.get(cell.name, {}).get("last loss")
            row += [
                f"**{score}**" if cell is best[0] and result.score is not None else score,
                figure(loss),
                str(result.metrics.get("iteration", "–")),
                f"{result.seconds / 60:.1f}",
            ]
        rows.append(row)
    text = (
        f"# Sweep over {', '.join(grid[cells[0].name].shown)}\n\n"
        "Mean IoU over the classes, pooled over the voxels held out. The best of several was chosen on the "
        "very voxels it is scored on, so its figure is a little too good.\n\n"
    )
    text += markdown(head, rows)
    failed = [cell for cell in cells if cell.name in results and results[cell.name].trouble]
    return text + "".join(f"\n{cell.title} failed: {results[cell.name].trouble}\n" for cell in failed)


def _best_first(cells: Sequence[Cell], results: Results) -> list[Cell]:
    finished = [cell for cell in cells if cell.name in results]
    scores = {cell.name: results[cell.name].score for cell in finished}
    return sorted(
        finished, key=lambda cell: -1.0 if (score := scores[cell.name]) is None else score, reverse=True
    )


def _curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """What a training noted along the way, by quantity: iteration and value."""
    path = folder / "progress.csv"
    found: dict[str, list[tuple[float, float]]] = {}
    if path.is_file():
        for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
            found.setdefault(row["name"], []).append((float(row["iteration"]), float(row["value"])))
    return found
