"""Predictions of many cells side by side, on the same cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from volseg.data import Case
from volseg.io import read_volume
from volseg.labels import LabelScheme
from volseg.report import class_colours, coloured, grey_or_rgb, readable

__all__ = ["Example", "draw_predictions", "read_example", "read_prediction"]

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
