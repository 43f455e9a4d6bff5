"""The report as PNG figures, for slides and papers."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volseg.annotation import annotated_slices, numbered
from volseg.errors import RefusedError
from volseg.io import atomic_write
from volseg.labels import IGNORE_INDEX
from volseg.report.embedding import contrast, grey
from volseg.report.parts import AXES, Report, readable
from volseg.report.picture import Plane, class_colours, cut, planes_of

__all__ = ["slice_picture", "write_figures"]

_OPACITY = 0.5  # of the classes over the image
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00")
_MARKS = "os^Dv"


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
    paths = {Path(folder) / name: draw for name, draw in drawings.items()}
    for path in paths:
        if path.exists() and not overwrite:
            raise RefusedError(
                f"{path} exists already. Choose another folder, or pass overwrite=True to replace it."
            )
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, draw in paths.items():
        with atomic_write(path, overwrite=overwrite) as temporary:
            draw(report).savefig(temporary, format="png", dpi=160)
    return list(paths)


def _overview(report: Report) -> Figure:
    """A slice of each plane, painted if one is: the image, the result over it, and how sure."""
    planes = planes_of(report)
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
    figure, axes = _figure("IoU", (5.6, 0.9 + (0.16 * len(methods) + 0.22) * len(names)))
    for j, method in enumerate(methods):
        rows = np.arange(len(names)) + 0.16 * (j - (len(methods) - 1) / 2)
        colour = _SERIES[j % len(_SERIES)]
        axes.plot(
            [np.nan if score.iou is None else score.iou for score in method.classes],
            rows,
            _MARKS[j % len(_MARKS)],
            color=colour,
            label=method.method.replace("$", r"\$"),
        )
        for row, score in zip(rows, method.classes, strict=True):
            if score.interval is not None:
                axes.plot(score.interval, (row, row), color=colour, lw=4, alpha=0.35, solid_capstyle="round")
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    if len(methods) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _curve(report: Report) -> Figure:
    curves = report.curves
    panels = [("loss", [(curve.iterations, curve.loss) for curve in curves], "")]
    if any(len(curve.validation) for curve in curves):
        tested = [(curve.validation_iterations, curve.validation) for curve in curves]
        panels.append((curves[0].validation_name, tested, "o"))
    figure = Figure(figsize=(4.4 * len(panels), 3.1), layout="constrained")
    for j, (name, lines, marker) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), j + 1)
        for i, (curve, (xs, ys)) in enumerate(zip(curves, lines, strict=True)):
            edges = [0, *(edge for edge in curve.breaks if 0 < edge < len(xs)), len(xs)]
            for first, last in pairwise(edges):
                axes.plot(
                    xs[first:last],
                    ys[first:last],
                    marker=marker,
                    color=_SERIES[i % len(_SERIES)],
                    ls="--" if i >= len(_SERIES) else "-",
                    lw=1.6,
                    ms=4,
                    label=None if j or first else curve.name.replace("$", r"\$"),
                )
        axes.set_xlabel("iteration")
        axes.set_title(readable(name), fontsize=10, loc="left", parse_math=False)
        _tidy(axes)
    if len(curves) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def _calibration(report: Report) -> Figure:
    calibration = report.calibration
    assert calibration is not None
    figure, axes = _figure("How often voxels are right", (3.8, 3.9))
    axes.plot((0, 1), (0, 1), "--", color="0.6", lw=1)
    middles = (np.asarray(calibration.edges)[:-1] + np.asarray(calibration.edges)[1:]) / 2
    for j, (name, values, error) in enumerate(
        (
            ("after", calibration.after, calibration.error_after),
            ("before", calibration.before, calibration.error_before),
        )
    ):
        axes.plot(
            middles,
            [np.nan if value is None else value for value in values],
            f"{_MARKS[j]}-",
            color=_SERIES[j],
            label=f"{name} calibration (error {error:.3f})",
        )
    axes.set_xlabel("confidence")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    _tidy(axes)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
