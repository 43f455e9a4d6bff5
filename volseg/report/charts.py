"""Charts as inline SVG: crisp at any zoom, dark or light with the page, no library.

Colours are CSS classes (``line-0``, ``line-1``, …) that the page defines. Every chart has a title and a
description for people who do not see it.
"""

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from volseg.report.parts import Calibration, LearningCurve, MethodScores

__all__ = ["SERIES", "calibration_chart", "curve_charts", "line_style", "scores_chart"]

_MAX_POINTS = 300  # of a line; more are averaged
_TICKS = 5
SERIES = 5  # colours that the page has for methods


def curve_charts(curves: Sequence[LearningCurve]) -> list[str]:
    """The loss, and beside it the validation score if there is one; a line for each curve."""
    losses = [_Line(curve.name, curve.iterations, curve.loss, curve.breaks) for curve in curves]
    charts = [_line_chart("loss", losses, dots=False)]
    tested = [
        _Line(curve.name, curve.validation_iterations, curve.validation, curve.breaks) for curve in curves
    ]
    if any(len(line.ys) for line in tested):
        charts.append(_line_chart(curves[0].validation_name, tested, dots=True))
    return charts


def line_style(j: int) -> str:
    """The CSS classes of the j-th line: colours, then the same ones dashed."""
    return f"line line-{j % SERIES}" + (" dashed" if j // SERIES % 2 else "")


def scores_chart(names: Sequence[str], methods: Sequence[MethodScores]) -> str:
    """IoU per class: a mark per method, with the confidence interval where there is one."""
    left, right, top, row = 150, 400, 22, 15 * len(methods) + 13
    height = top + row * len(names) + 22
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = left + value * (right - left)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 22}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text class="axis" x="{left}" y="13">IoU</text>')
    for i, name in enumerate(names):
        middle = top + row * (i + 0.5)
        label = name if len(name) <= 22 else f"{name[:21]}…"
        parts.append(
            f'<text class="name" x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(label)}<title>{escape(name)}</title></text>"
        )
        for j, method in enumerate(methods):
            score = method.classes[i]
            y = middle + 15 * (j - (len(methods) - 1) / 2)
            if score.interval is not None:
                low, high = (left + max(0, min(1, end)) * (right - left) for end in score.interval)
                parts.append(
                    f'<line class="whisker line-{j % SERIES}" x1="{low:.1f}" x2="{high:.1f}" '
                    f'y1="{y:.1f}" y2="{y:.1f}"/>'
                )
            if score.iou is not None and math.isfinite(score.iou):
                x = left + score.iou * (right - left)
                parts.append(_mark(j, x, y, f"{method.method}, {name}: {score.iou:.3f}"))
    text = "; ".join(
        f"{method.method}: "
        + ", ".join(f"{name} {_figure(s.iou)}" for name, s in zip(names, method.classes, strict=True))
        for method in methods
    )
    return _svg(right + 16, height, "IoU of each class", text, "".join(parts))


def calibration_chart(calibration: Calibration) -> str:
    """How often voxels were right, over how sure the network was; on the diagonal is right."""
    size, left, top = 210, 54, 10
    edges = calibration.edges

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x * size, top + (1 - y) * size

    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(value, value)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + size}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
            f'<text class="tick" x="{x:.1f}" y="{top + size + 16}" text-anchor="middle">{value:g}</text>'
        )
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts.append(f'<line class="diagonal" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    for j, (name, values) in enumerate((("after", calibration.after), ("before", calibration.before))):
        points = [
            place((low + high) / 2, value)
            for low, high, value in zip(edges[:-1], edges[1:], values, strict=True)
            if value is not None and math.isfinite(value)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line line-{j}" points="{path}"/>')
        parts += [_mark(j, x, y, f"{name} calibration") for x, y in points]
    parts.append(
        f'<text class="axis" x="{left + size / 2}" y="{top + size + 34}" text-anchor="middle">'
        "confidence</text>"
        f'<text class="axis" x="12" y="{top + size / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + size / 2})">fraction that is right</text>'
    )
    before, after = calibration.error_before, calibration.error_after
    text = f"Expected calibration error {before:.3f} before, {after:.3f} after."
    title = "Confidence and how often it is right"
    return _svg(left + size + 14, top + size + 42, title, text, "".join(parts))


class _Line(NamedTuple):
    """One line of a chart; before the points of ``breaks`` it is lifted."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    breaks: Sequence[int] = ()

    def parts(self) -> list[list[tuple[float, float]]]:
        """The points of each unbroken part, those that are finite, thinned."""
        points = list(zip(self.xs, self.ys, strict=True))
        edges = [0, *(i for i in self.breaks if 0 < i < len(points)), len(points)]
        parts = [
            _thinned([(x, y) for x, y in points[a:b] if math.isfinite(x) and math.isfinite(y)])
            for a, b in pairwise(edges)
        ]
        return [part for part in parts if part]


def _line_chart(title: str, lines: Sequence[_Line], *, dots: bool) -> str:
    width, height, left, right, top, bottom = 380, 230, 52, 14, 26, 40
    points = [point for line in lines for part in line.parts() for point in part]
    if not points:
        return f'<p class="quiet">{escape(title)}: no figure that is finite.</p>'
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
    low_y, high_y = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - low_x) / ((high_x - low_x) or 1) * (width - left - right),
            height - bottom - (y - low_y) / ((high_y - low_y) or 1) * (height - top - bottom),
        )

    parts = []
    for tick in ticks:
        _, y = place(low_x, tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(low_x, high_x):
        if low_x <= tick <= high_x:
            x, _ = place(tick, low_y)
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">'
                f"{tick:g}</text>"
            )
    text = []
    for j, line in enumerate(lines):
        unbroken = line.parts()
        for part in unbroken:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in part))
            name = f"<title>{escape(line.name)}</title>" if line.name else ""
            parts.append(f'<polyline class="{line_style(j)}" points="{path}">{name}</polyline>')
            if dots or len(part) == 1:
                parts += [
                    f'<circle class="dot line-{j % SERIES}" cx="{x:.1f}" cy="{y:.1f}" r="3.2">'
                    f"<title>{escape(line.name)} {iteration:g}: {value:.4g}</title></circle>"
                    for (x, y), (iteration, value) in ((place(*point), point) for point in part)
                ]
        if unbroken:
            (first_x, first_y), (last_x, last_y) = unbroken[0][0], unbroken[-1][-1]
            whose = f"{line.name}: f" if line.name else "F"
            text.append(f"{whose}rom {first_y:.4g} at iteration {first_x:g} to {last_y:.4g} at {last_x:g}.")
    parts.append(f'<text class="axis" x="{left}" y="14">{escape(title)}</text>')
    parts.append(
        f'<text class="axis" x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">'
        "iteration</text>"
    )
    return _svg(width, height, title, " ".join(text), "".join(parts))


def _svg(width: float, height: float, title: str, text: str, body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}. {escape(text)}">{body}</svg>'
    )


def _mark(j: int, x: float, y: float, text: str) -> str:
    """Methods differ in shape as well as in colour."""
    style, title = f'class="dot line-{j % SERIES}"', f"<title>{escape(text)}</title>"
    if j % 3 == 0:
        return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="4.2">{title}</circle>'
    if j % 3 == 1:
        return f'<rect {style} x="{x - 3.7:.1f}" y="{y - 3.7:.1f}" width="7.4" height="7.4">{title}</rect>'
    corners = f"{x:.1f},{y - 4.6:.1f} {x + 4.6:.1f},{y + 3.6:.1f} {x - 4.6:.1f},{y + 3.6:.1f}"
    return f'<polygon {style} points="{corners}">{title}</polygon>'


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _MAX_POINTS)
    if step <= 1:
        return points
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers around ``low`` and ``high``."""
    span = (high - low) or abs(high) or 1.0
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _figure(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.3f}"
