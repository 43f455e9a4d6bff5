"""What the charts of a report show, whoever draws them.

`rendering` draws a `Chart` on the page, `figures` with matplotlib for slides: both from the same
description, so that they cannot differ in what they say.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from volseg.report.parts import Calibration, LearningCurve, MethodScores

__all__ = ["Chart", "Line", "calibration_chart", "curve_charts", "row_height", "scores_chart"]

_MAX_POINTS = 300  # of a line; more are averaged
_METHOD, _GAP = 15, 13  # of a row of scores: height of each method, and of the space between two rows


class Line(NamedTuple):
    """One series of a chart.

    Attributes:
        breaks: indices of the points before which the line is lifted.
        mark: how points are marked: not, all with dots, or each series with a shape of its own.
        joined: whether a line is drawn through the points.
        intervals: from and to, along x, for each point; ``None`` where there is none.
        style: index of its colour and dashes; ``None`` for its place among the lines.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    breaks: Sequence[int] = ()
    mark: Literal["", "dot", "shape"] = ""
    joined: bool = True
    intervals: Sequence[tuple[float, float] | None] = ()
    style: int | None = None

    def parts(self) -> list[list[tuple[float, float]]]:
        """The points of each unbroken part, those that are finite, thinned."""
        points = list(zip(self.xs, self.ys, strict=True))
        edges = [0, *(i for i in self.breaks if 0 < i < len(points)), len(points)]
        parts = [
            _thinned([(x, y) for x, y in points[a:b] if math.isfinite(x) and math.isfinite(y)])
            for a, b in pairwise(edges)
        ]
        return [part for part in parts if part]


@dataclass(frozen=True)
class Chart:
    """Lines or marks over one axis.

    Attributes:
        title: what the chart shows, for people who do not see it.
        quantity: what stands on the axis of values, with ``x`` on the other.
        text: the figures in words.
        rows: names of the places 0, 1, … from the top; then values run along x. Empty for lines.
        shares: values, and x of a square chart, lie between 0 and 1.
        square: both axes show the same, and on the diagonal they agree.
    """

    title: str
    quantity: str
    lines: Sequence[Line]
    x: str = ""
    text: str = ""
    rows: Sequence[str] = ()
    shares: bool = False
    square: bool = False


def curve_charts(curves: Sequence[LearningCurve]) -> list[Chart]:
    """The loss, and beside it the validation score if there is one; a line for each curve."""
    losses = [Line(one.name, one.iterations, one.loss, one.breaks) for one in curves]
    charts = [_curves("loss", losses)]
    tested = [Line(one.name, one.validation_iterations, one.validation, one.breaks, "dot") for one in curves]
    if any(len(line.ys) for line in tested):
        charts.append(_curves(curves[0].validation_name, tested))
    return charts


def scores_chart(names: Sequence[str], methods: Sequence[MethodScores]) -> Chart:
    """IoU per class: a mark per method, with the confidence interval where there is one."""
    lines = []
    for j, method in enumerate(methods):
        away = (j - (len(methods) - 1) / 2) * _METHOD / row_height(len(methods))
        values = [math.nan if score.iou is None else score.iou for score in method.classes]
        places = [row + away for row in range(len(names))]
        intervals = [score.interval for score in method.classes]
        lines.append(Line(method.method, values, places, mark="shape", joined=False, intervals=intervals))
    text = "; ".join(
        f"{method.method}: "
        + ", ".join(f"{name} {_figure(s.iou)}" for name, s in zip(names, method.classes, strict=True))
        for method in methods
    )
    return Chart("IoU of each class", "IoU", lines, text=text, rows=names, shares=True)


def row_height(n_lines: int) -> int:
    """Of a row of marks, in points."""
    return _METHOD * n_lines + _GAP


def calibration_chart(calibration: Calibration) -> Chart:
    """How often voxels were right, over how sure the learner was; on the diagonal is right."""
    middles = [(low + high) / 2 for low, high in pairwise(calibration.edges)]
    lines = [
        Line(name, middles, [math.nan if value is None else value for value in values], mark="shape")
        for name, values in (
            ("after calibration", calibration.after),
            ("before calibration", calibration.before),
        )
    ]
    before, after = calibration.error_before, calibration.error_after
    return Chart(
        "Confidence and how often it is right",
        "fraction that is right",
        lines,
        "confidence",
        f"Expected calibration error {before:.3f} before, {after:.3f} after.",
        shares=True,
        square=True,
    )


def _curves(quantity: str, lines: Sequence[Line]) -> Chart:
    text = []
    for line in lines:
        if unbroken := line.parts():
            (first_x, first_y), (last_x, last_y) = unbroken[0][0], unbroken[-1][-1]
            whose = f"{line.name}: f" if line.name else "F"
            text.append(f"{whose}rom {first_y:.4g} at iteration {first_x:g} to {last_y:.4g} at {last_x:g}.")
    return Chart(quantity, quantity, lines, "iteration", " ".join(text))


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _MAX_POINTS)
    if step <= 1:
        return points
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _figure(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.3f}"
