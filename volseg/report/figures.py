"""The report as PNG figures, for slides and papers; charts by matplotlib, of experiments, too."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volseg.annotation import annotated_slices, numbered
from volseg.errors import RefusedError
from volseg.io import atomic_write
from volseg.labels import IGNORE_INDEX
from volseg.report.charts import Chart, calibration_chart, curve_charts, scores_chart
from volseg.report.colours import SERIES, class_colours
from volseg.report.embedding import contrast, grey
from volseg.report.parts import AXES, Report, readable
from volseg.report.picture import Plane, cut, planes_of

__all__ = ["MARKS", "draw", "new_axes", "slice_picture", "tidy", "write_figures"]

_OPACITY = 0.5  # of the classes over the image


def slice_picture(report: Report, plane: Plane, index: int, *, layer: str = "result") -> NDArray[np.uint8]:
    """One slice of the image with the classes of a layer over it, ``(H, W, 3)``; without, for ``"image"``."""
    channels = [
        grey(cut(channel, plane, index), *contrast(channel)).astype(np.float32)
        for channel in report.image[:3]
    ]
    channels = channels * 3 if len(channels) == 1 else [*channels, np.zeros_like(channels[0])][:3]
    picture = np.stack(channels, axis=-1)
    labels = None if layer == "image" else getattr(report, layer)
    if labels is not None:
        classes = cut(labels, plane, index)
        opacity = np.full(256, _OPACITY, np.float32)
        hidden = report.headline.background
        opacity[[IGNORE_INDEX, *([] if hidden is None else [hidden])]] = 0
        colours = np.zeros((256, 3), np.float32)
        colours[: len(report.labels)] = class_colours(len(report.labels))
        share = opacity[classes][..., None]
        picture = picture * (1 - share) + colours[classes] * share
    mixed: NDArray[np.uint8] = np.rint(picture).astype(np.uint8)
    return mixed


def write_figures(folder: str | os.PathLike[str], report: Report, *, overwrite: bool = False) -> list[Path]:
    """``overview.png``, and ``scores.png``, ``curve.png``, ``calibration.png`` of what there is.

    The folder is made if need be. Nothing is written if one of the files exists and ``overwrite`` is not set.
    """
    drawings: dict[str, Callable[[Report], Figure]] = {"overview.png": _overview}
    if report.scores:
        drawings["scores.png"] = _scores
    if report.curves:
        drawings["curve.png"] = _curve
    if report.calibration is not None:
        drawings["calibration.png"] = _calibration
    paths = {Path(folder) / name: make for name, make in drawings.items()}
    for path in paths:
        if path.exists() and not overwrite:
            raise RefusedError(
                f"{path} exists already. Choose another folder, or pass overwrite=True to replace it."
            )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, make in paths.items():
        with atomic_write(path, overwrite=overwrite) as temporary:
            make(report).savefig(temporary, format="png", dpi=160)
    return list(paths)


def _overview(report: Report) -> Figure:
    """A slice of each plane, painted if one is: the image, the result over it, and how sure."""
    planes = planes_of(report.size, report.orientation)
    layers = ["image", "paint", "result", "confidence", "truth"]
    layers = [name for name in layers if name == "image" or getattr(report, name) is not None]
    spacing = report.spacing or (1.0,) * len(report.size)
    extents = [plane.extent(report.size, spacing) for plane in planes]
    heights = [height for _, height in extents]
    scale = 2.6 / max(width for width, _ in extents)
    figure = Figure(
        figsize=(2.75 * len(layers), sum(h * scale + 0.3 for h in heights) + 0.5), layout="constrained"
    )
    figure.suptitle(readable(report.title), parse_math=False, fontsize=11)
    grid = figure.subplots(len(planes), len(layers), squeeze=False, height_ratios=heights)
    for row, plane, (width, height) in zip(grid, planes, extents, strict=True):
        index = _telling(report, plane)
        for axes, layer in zip(row, layers, strict=True):
            extent = (0.0, width, height, 0.0)
            if layer == "confidence":
                assert report.confidence is not None
                doubt = cut(report.confidence, plane, index)
                drawn = axes.imshow(doubt, cmap="inferno_r", vmin=0, vmax=1, extent=extent)
                if plane is planes[0]:
                    figure.colorbar(drawn, ax=axes, location="top", fraction=0.05, pad=0.01)
            else:
                axes.imshow(slice_picture(report, plane, index, layer=layer), extent=extent)
            axes.set_xticks([])
            axes.set_yticks([])
            if plane is planes[-1]:
                axes.set_xlabel(layer, fontsize=9)
        where = (
            ""
            if plane.normal is None
            else f", {numbered(AXES[plane.normal], index, report.size[plane.normal])}"
        )
        row[0].set_ylabel(f"{plane.name}{where}", fontsize=9)
    for colour, name in zip(class_colours(len(report.labels)), report.labels.names, strict=True):
        grid[0, 0].plot([], [], "s", color=tuple(colour / 255), label=name.replace("$", r"\$"))
    figure.legend(loc="outside lower center", ncols=min(6, len(report.labels)), frameon=False, fontsize=8)
    return figure


def _telling(report: Report, plane: Plane) -> int:
    """The painted slice that is nearest to the middle, so that paint is seen beside the result."""
    if plane.normal is None:
        return 0
    middle = report.size[plane.normal] // 2
    painted = [] if report.paint is None else annotated_slices(report.paint)[plane.normal]
    return min(map(int, painted), key=lambda index: abs(index - middle), default=middle)


def _scores(report: Report) -> Figure:
    names, methods = report.score_rows()
    figure, axes = new_axes((5.6, 0.9 + (0.16 * len(methods) + 0.22) * len(names)))
    draw(scores_chart(names, methods), axes)
    if len(methods) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curve(report: Report) -> Figure:
    charts = curve_charts(report.curves)
    figure = Figure(figsize=(4.4 * len(charts), 3.1), layout="constrained")
    for chart, axes in zip(charts, figure.subplots(1, len(charts), squeeze=False)[0], strict=True):
        draw(chart, axes)
    if len(report.curves) > 1:
        named = figure.axes[0].get_legend_handles_labels()
        figure.legend(*named, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _calibration(report: Report) -> Figure:
    assert report.calibration is not None
    figure, axes = new_axes((3.8, 3.9))
    chart = calibration_chart(report.calibration)
    draw(chart, axes)
    axes.set_title(chart.text, fontsize=8, loc="left")
    axes.set_ylabel(chart.quantity)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


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
