"""Pictures of a result: image, annotation, prediction and truth side by side; which planes and which way."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from volseg.io import atomic_write
from volseg.labels import IGNORE_INDEX, LabelScheme
from volseg.report.colours import class_colours, coloured
from volseg.report.parts import readable

__all__ = ["Plane", "cut", "grey_or_rgb", "panel", "planes_of", "save_picture"]

_GAP = 4  # pixels between two pictures
TITLES = ("image", "annotation", "prediction", "truth")


def panel(
    image: Any,
    annotation: Any,
    prediction: Any,
    truth: Any | None,
    num_classes: int,
    *,
    annotated: bool = False,
) -> NDArray[np.uint8]:
    """One slice of a case, the parts side by side: ``(H, W, 3)``.

    Of a volume, the middle one of the xy slices that are not annotated is taken, so the picture shows
    what was filled in; with ``annotated``, the slice with the most annotation.

    Args:
        image: ``(C, *spatial)``; up to three channels become red, green and blue.
        annotation: as are prediction and truth, ``(1, *spatial)`` class indices or 255.
    """
    labels = [np.asarray(a)[0] for a in (annotation, prediction, truth) if a is not None]
    picture = np.asarray(image)
    if picture.ndim == 4:
        z = _slice_to_show(labels[0], annotated)
        picture, labels = picture[..., z], [a[..., z] for a in labels]
    parts = [grey_or_rgb(picture)] + [coloured(a, num_classes) for a in labels]
    height = parts[0].shape[0]
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    return np.concatenate([p for part in parts for p in (part, gap)][:-1], axis=1)


def save_picture(
    path: Path,
    picture: NDArray[np.uint8],
    labels: LabelScheme,
    title: str = "",
    *,
    has_truth: bool = False,
) -> None:
    """What :func:`panel` made, with titles and the colours of the classes, as PNG; ``has_truth`` as there."""
    height, width = picture.shape[:2]
    figure = Figure(figsize=(12, 12 * height / width + 0.7), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.axis("off")
    if title:
        figure.suptitle(readable(title), parse_math=False)
    count = len(TITLES) if has_truth else len(TITLES) - 1
    for index, title in enumerate(TITLES[:count]):
        axes.text((index + 0.5) / count, 1.01, title, transform=axes.transAxes, ha="center", va="bottom")
    for index, name in enumerate(labels.names):
        colour = class_colours(len(labels))[index] / 255
        axes.plot([], [], "s", color=tuple(colour), label=name)
    figure.legend(loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    with atomic_write(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png")


def _slice_to_show(annotation: NDArray[Any], annotated: bool) -> int:
    """The xy slice to show."""
    covered = (annotation != IGNORE_INDEX).mean(axis=(0, 1))
    if annotated:
        return int(np.argmax(covered))
    free = np.flatnonzero(covered < 0.5)
    middle = annotation.shape[2] / 2
    return int(min(free, key=lambda z: abs(z - middle))) if len(free) else annotation.shape[2] // 2


def grey_or_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image ``(C, X, Y)`` to look at, ``(Y, X, 3)``; up to three channels become red, green and blue."""
    channels = []
    for channel in image[:3]:
        low, high = np.percentile(channel, (1, 99.7))
        channels.append(np.clip((channel - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8).T)
    if len(channels) == 1:
        channels *= 3
    if len(channels) == 2:
        channels.append(np.zeros_like(channels[0]))
    return np.stack(channels, axis=-1)


_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Plane:
    """A view: axis ``across`` to the right, axis ``down`` downwards, slices along ``normal``.

    Args:
        normal: ``None`` for an image, which has one slice.
        flipped: whether the two axes are shown backwards.
        letters: what lies left, right, up, down, such as ``("R", "L", "A", "P")``; empty if unknown.
    """

    name: str
    across: int
    down: int
    normal: int | None
    flipped: tuple[bool, bool]
    letters: tuple[str, ...]

    def extent(self, size: Sequence[int], spacing: Sequence[float]) -> tuple[float, float]:
        """Width and height in world units."""
        return size[self.across] * spacing[self.across], size[self.down] * spacing[self.down]


def planes_of(size: Sequence[int], orientation: str = "") -> list[Plane]:
    """xy, xz and yz; of an image, xy.

    Args:
        orientation: where the axes of a patient point to, such as ``"RAS"``; empty if there is none.
    """
    axes: list[tuple[str, int, int, int | None]] = [("xy", 0, 1, 2), ("xz", 0, 2, 1), ("yz", 1, 2, 0)]
    if len(size) == 2:
        axes = [("xy", 0, 1, None)]
    planes = []
    for name, across, down, normal in axes:
        letters: tuple[str, ...] = ()
        flipped = (False, False)
        if orientation:
            # Radiologists: head and face up, the patient's left on the right, the face to the left.
            right, below = orientation[across], orientation[down]
            flipped = (right in "RA", below in "SA")
            right = _OPPOSITE[right] if flipped[0] else right
            below = _OPPOSITE[below] if flipped[1] else below
            letters = (_OPPOSITE[right], right, _OPPOSITE[below], below)
        planes.append(Plane(name, across, down, normal, flipped, letters))
    return planes


def cut(array: NDArray[Any], plane: Plane, index: int) -> NDArray[Any]:
    """One slice, rows downwards and columns to the right as a screen shows them."""
    cut = array if plane.normal is None else np.take(array, index, axis=plane.normal)
    if plane.across < plane.down:
        cut = cut.T
    return cut[:: -1 if plane.flipped[1] else 1, :: -1 if plane.flipped[0] else 1]
