"""Charts drawn with matplotlib, for slides and papers: those of a report, and the figures of experiments."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from volseg.report.charts import Chart
from volseg.report.colours import SERIES
from volseg.report.parts import readable

__all__ = ["MARKS", "draw", "new_axes", "tidy"]

MARKS = "os^Dv"
_DASHES = ("-", "--", ":", "-.")


def draw(chart: Chart, axes: Axes) -> None:
    """A chart into axes of matplotlib; lines have their names as labels, for a legend."""
    for j, line in enumerate(chart.lines):
        style = j if line.style is None else line.style
        colour, label = SERIES[style % len(SERIES)], line.name.replace("$", r"\$")
        for points in line.parts():
            alone = "o" if len(points) == 1 else ""
            marker = {"": alone, "dot": "o", "shape": MARKS[style % len(MARKS)]}[line.mark]
            dashes = _DASHES[style // len(SERIES) % len(_DASHES)] if line.joined else ""
            xs, ys = zip(*points, strict=True)
            axes.plot(xs, ys, marker=marker, ls=dashes, color=colour, lw=1.6, ms=5, label=label)
            label = "_"  # the name stands once
        for y, interval in zip(line.ys, line.intervals, strict=False):
            if interval is not None:
                axes.plot(interval, (y, y), color=colour, lw=4, alpha=0.35, solid_capstyle="round")
    axes.set_title(readable(chart.quantity), fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel(chart.x)
    if chart.rows:
        axes.set_yticks(range(len(chart.rows)), chart.rows, parse_math=False)
        axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    if chart.shares:
        axes.set_xlim(0, 1)
    if chart.square:
        axes.set_ylim(0, 1)
        axes.plot((0, 1), (0, 1), "--", color="0.6", lw=1)
    tidy(axes)


def new_axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of a size in inches, with one pair of axes."""
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def tidy(axes: Axes) -> None:
    """The look of all charts: no frame, a pale grid below."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
