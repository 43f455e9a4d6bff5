"""The templates in ``templates/``, filled in; charts as inline SVG are among them.

Whatever a person named or wrote is escaped, in attributes and in the scripts' JSON (jinja2's autoescape). A
name that a template asks for and does not get is an error.

A chart is crisp at any zoom, dark or light with the page, and needs no library. Its colours are CSS classes
(``line-0``, ``line-1``, …) that the page defines; it has a title and a description for people who do not
see it. Where its lines lie is computed here, in pixels from the top left; ``templates/chart.svg`` draws
them.
"""

import math
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from volseg.annotation import numbered
from volseg.geometry import AXES
from volseg.report.charts import Chart, Line, row_height
from volseg.report.colours import MARK, SERIES, SERIES_ON_BLACK, line_style

__all__ = ["render", "svg"]


_MAX_SLICES = 6  # that a finding offers to jump to


def render(template: str, **values: Any) -> str:
    """The text that a template makes of values."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("volseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters |= {"figure": _figure, "line_style": line_style}
    environment.globals |= {"AXES": AXES, "MAX_SLICES": _MAX_SLICES, "numbered": numbered}
    environment.globals |= {"MARK": MARK, "SERIES": SERIES, "SERIES_ON_BLACK": SERIES_ON_BLACK, "zip": zip}
    return environment


def _figure(value: float | None) -> str:
    """A score as the page shows it."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


_TICKS = 5
_QUARTERS = [0, 0.25, 0.5, 0.75, 1]
_LONGEST = 22  # letters of a row's name


def svg(chart: Chart) -> str:
    """A chart as an ``<svg>`` element, or as a sentence if there is nothing to draw."""
    points = [point for line in chart.lines for part in line.parts() for point in part]
    if not points and not chart.rows:
        return render("chart.svg", chart=chart, frame=None)
    if chart.rows:
        frame = _Frame(150, 22, 250, row_height(len(chart.lines)) * len(chart.rows), 16, 22)
        frame = frame._replace(limits=(0, 1, len(chart.rows) - 0.5, -0.5))
        x_ticks, y_ticks = _QUARTERS, []
    elif chart.square:
        x_ticks = y_ticks = _QUARTERS
        frame = _Frame(54, 10, 210, 210, 14, 42)
    else:
        low, high = min(x for x, _ in points), max(x for x, _ in points)
        x_ticks = [tick for tick in _ticks(low, high) if low <= tick <= high]
        y_ticks = _ticks(min(y for _, y in points), max(y for _, y in points))
        frame = _Frame(52, 26, 314, 164, 14, 40, (low, high, y_ticks[0], y_ticks[-1]))
    return render(
        "chart.svg",
        chart=chart,
        frame=frame,
        x_ticks=[(frame.place(tick, 0)[0], tick) for tick in x_ticks],
        y_ticks=[(frame.place(0, tick)[1], tick) for tick in y_ticks],
        rows=[
            (frame.place(0, i)[1] + 4, name, name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")
            for i, name in enumerate(chart.rows)
        ],
        lines=[_drawn(chart, line, j, frame) for j, line in enumerate(chart.lines)],
    )


class _Frame(NamedTuple):
    """Where the lines may lie in a picture, in pixels, and the values at its sides."""

    left: float
    top: float
    width: float
    height: float
    right: float
    bottom: float
    limits: tuple[float, float, float, float] = (0, 1, 0, 1)  # x at the left and right, y below and above

    def place(self, x: float, y: float) -> tuple[float, float]:
        x0, x1, y0, y1 = self.limits
        return (
            self.left + (x - x0) / ((x1 - x0) or 1) * self.width,
            self.top + self.height - (y - y0) / ((y1 - y0) or 1) * self.height,
        )


def _drawn(chart: Chart, line: Line, j: int, frame: _Frame) -> dict[str, Any]:
    """The paths, whiskers and marks of the j-th line."""
    j = j if line.style is None else line.style
    parts = line.parts()
    marked = [point for part in parts if line.mark or len(part) == 1 for point in part]
    whiskers = []
    for y, interval in zip(line.ys, line.intervals, strict=False):
        if interval is not None:
            low, high = (frame.place(max(0, min(1, end)), y) for end in interval)
            whiskers.append((low[0], high[0], low[1]))
    return {
        "name": line.name,
        "style": line_style(j),
        "colour": f"line-{j % len(SERIES)}",
        "shape": j % 3 if line.mark == "shape" else 0,
        "radius": 4.2 if line.mark == "shape" else 3.2,
        "paths": [[frame.place(*point) for point in part] for part in parts] if line.joined else [],
        "whiskers": whiskers,
        "marks": [(*frame.place(*point), _said(chart, line, point)) for point in marked],
    }


def _said(chart: Chart, line: Line, point: tuple[float, float]) -> str:
    x, y = point
    if chart.rows:
        return f"{line.name}, {chart.rows[round(y)]}: {x:.3f}"
    return f"{line.name} {x:g}: {y:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers around ``low`` and ``high``."""
    span = (high - low) or abs(high) or 1.0
    raw = span / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
