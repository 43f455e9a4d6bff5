"""Pictures of an experiment: its figures, and its predictions side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from volseg.data import Case
from volseg.io import atomic_write, read_volume
from volseg.labels import LabelScheme
from volseg.report import class_colours, coloured, grey_or_rgb, readable
from volseg.report.charts import Chart, Line
from volseg.report.colours import SERIES
from volseg.report.figures import MARKS, draw, new_axes, tidy

__all__ = [
    "Example",
    "draw_bars",
    "draw_budgets",
    "draw_curves",
    "draw_predictions",
    "read_example",
    "read_prediction",
    "save_figure",
]

_PAPER = "0.55"

Scores = Mapping[str, Sequence[float | None]]  # per column, one score per row


def save_figure(figure: Figure, path: Path) -> None:
    """Replace a picture in one step."""
    with atomic_write(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def draw_bars(ours: Scores, paper: Scores, rows: Sequence[str], row_title: str, title: str) -> Figure:
    """Per column the scores of its rows as points and their mean as a line; the paper's beside, in grey."""
    figure, axes = _figure(title, (1.9 + 1.9 * len(ours), 4.2))
    for index, (column, scores) in enumerate(ours.items()):
        for scored, offset, colour in (
            (scores, -0.17, SERIES[index % len(SERIES)]),
            (paper.get(column, ()), 0.17, _PAPER),
        ):
            found = [score for score in scored if score is not None]
            for row, score in enumerate(scored):
                if score is not None:
                    spread = (row - (len(scored) - 1) / 2) * 0.2 / max(1, len(scored) - 1)
                    axes.plot(index + offset + spread, score, MARKS[row % len(MARKS)], color=colour, ms=5.5)
            if found and len(found) == len(scored):
                mean = sum(found) / len(found)
                axes.hlines(mean, index + offset - 0.15, index + offset + 0.15, color=colour, lw=2)
                axes.annotate(
                    f"{mean:.3f}", (index + offset, mean), (0, -12), textcoords="offset points", ha="center",
                    fontsize=8, color=colour,
                )  # fmt: skip
    axes.set_xticks(range(len(ours)), list(ours))
    axes.set_xlim(-0.5, len(ours) - 0.5)
    _score_axis(axes, [*ours.values(), *(paper.get(column, ()) for column in ours)])
    for row, name in enumerate(rows):
        axes.plot([], [], MARKS[row % len(MARKS)], color="0.3", label=f"{row_title} {name}", ms=5.5)
    axes.plot([], [], color=SERIES[0], lw=2, label="here (mean)")
    if any(paper.get(column) for column in ours):
        axes.plot([], [], color=_PAPER, lw=2, label="the paper (mean)")
    figure.legend(loc="outside lower center", ncols=min(5, len(rows) + 2), frameon=False, fontsize=8)
    return figure


def draw_budgets(
    ours: Mapping[str, Sequence[tuple[float, float | None]]],
    paper: Mapping[str, Sequence[tuple[float, float | None]]],
    title: str,
) -> Figure:
    """Mean IoU over the fraction of labelled voxels, a line per case; the paper's dashed, in grey."""
    figure, axes = _figure(title, (6.2, 4.2))
    for index, (name, points) in enumerate(paper.items()):
        axes.plot(
            *_known(points), "--", color=_PAPER, marker=MARKS[index % len(MARKS)], ms=4, lw=1, label=name
        )
    for index, (name, points) in enumerate(ours.items()):
        colour = SERIES[index % len(SERIES)]
        axes.plot(*_known(points), color=colour, marker=MARKS[index % len(MARKS)], ms=5.5, lw=1.6, label=name)
    axes.set_xlabel("labelled voxels")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlim(left=0)
    _score_axis(axes, [[score for _, score in points] for points in (*ours.values(), *paper.values())])
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def draw_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str) -> Figure:
    """Learning curves: one panel per quantity, one line per cell."""
    figure = Figure(figsize=(4.6 * max(1, len(panels)), 4.4), layout="constrained")
    figure.suptitle(readable(title), fontsize=10)
    styles: dict[str, int] = {}
    named: dict[str, Any] = {}
    for number, (quantity, cells) in enumerate(panels.items()):
        lines = [
            Line(
                name,
                [x for x, _ in points],
                [y for _, y in points],
                style=styles.setdefault(name, len(styles)),
            )
            for name, points in cells.items()
        ]
        axes = figure.add_subplot(1, len(panels), number + 1)
        draw(Chart(quantity, quantity, lines, "iteration"), axes)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    if named:
        figure.legend(
            list(named.values()),
            [str(name) for name in named],
            loc="outside lower center",
            ncols=min(4, len(panels) + 1),
            frameon=False,
            fontsize=7,
        )
    return figure


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure, axes = new_axes(size)
    axes.set_title(title, fontsize=10, loc="left")
    tidy(axes)
    return figure, axes


def _score_axis(axes: Axes, scores: Sequence[Sequence[float | None]]) -> None:
    """IoU from a little below the lowest score to 1."""
    found = [score for group in scores for score in group if score is not None]
    low = min(found, default=0.0)
    axes.set_ylim(max(0.0, int((low - 0.03) * 10) / 10), 1.0)
    axes.set_ylabel("mean IoU, held out", fontsize=9)


def _known(points: Sequence[tuple[float, float | None]]) -> tuple[list[Any], list[Any]]:
    known = [(x, y) for x, y in points if y is not None]
    return [x for x, _ in known], [y for _, y in known]


Picture = npt.NDArray[np.uint8]

_GAP = 4
_SIDE = 160  # pixels that each case is shown with, about


@dataclass(frozen=True)
class Example:
    """A case to look at: of a volume, one slice along the last axis."""

    case: Case
    index: int | None
    image: Picture
    annotation: Picture


def read_example(case: Case, scheme: LabelScheme) -> Example:
    """The image and what is known of it: the truth if there is one, else the annotation.

    Of a volume, a slice that is held out, or the middle one.
    """
    volume = read_volume(case.image)
    index = None
    if volume.spatial_dims == 3:
        held = case.held_out.get("z", ()) if isinstance(case.held_out, Mapping) else ()
        index = held[len(held) // 2] if len(held) else volume.spatial_shape[2] // 2
    path = case.truth or case.label
    assert path is not None
    known = scheme.encode(read_volume(path, labels=True).array[0], source=str(path))
    image = volume.array if index is None else volume.array[..., index]
    return Example(case, index, grey_or_rgb(image), coloured(_flat(known, index), len(scheme)))


def read_prediction(example: Example, path: Path, scheme: LabelScheme) -> Picture:
    """The same slice of a segmentation."""
    found = scheme.encode(read_volume(path, labels=True).array[0], source=str(path))
    return coloured(_flat(found, example.index), len(scheme))


def draw_predictions(
    examples: Sequence[Example], predictions: Mapping[str, Sequence[Picture]], scheme: LabelScheme
) -> Figure:
    """Strips of the same cases: image, annotation, then one strip per cell."""
    strips = {
        "image": [example.image for example in examples],
        "annotation": [example.annotation for example in examples],
        **predictions,
    }
    shown = {title: _strip(pictures) for title, pictures in strips.items()}
    height, width = next(iter(shown.values())).shape[:2]
    columns = ceil(sqrt(len(shown) * height / width))
    rows = ceil(len(shown) / columns)
    inches = 11 / columns
    figure = Figure(figsize=(11, rows * (inches * height / width + 0.3) + 0.4), layout="constrained")
    for number, (title, strip) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(readable(title), fontsize=8, loc="left", pad=3)
        axes.axis("off")
    for name, colour in zip(scheme.names, class_colours(len(scheme)) / 255, strict=True):
        figure.axes[0].plot([], [], "s", color=tuple(colour), label=name)
    figure.legend(loc="outside lower center", ncols=min(6, len(scheme)), frameon=False, fontsize=8)
    return figure


def _strip(pictures: Sequence[Picture]) -> Picture:
    """Pictures side by side, each scaled to about the same height by repeating or leaving out pixels."""
    parts: list[Picture] = []
    for picture in pictures:
        rows = np.arange(_SIDE) * picture.shape[0] // _SIDE
        columns = np.arange(max(1, _SIDE * picture.shape[1] // picture.shape[0]))
        parts += [
            picture[rows][:, columns * picture.shape[1] // len(columns)],
            np.full((_SIDE, _GAP, 3), 255, np.uint8),
        ]
    return np.concatenate(parts[:-1], axis=1)


def _flat(array: npt.NDArray[Any], index: int | None) -> npt.NDArray[Any]:
    return array if index is None else array[..., index]
