"""A volume inside a web page: small enough to open, exact where it matters.

The image and the confidence go in as sheets of slices, JPEG, which every browser decodes; the labels go in
as they are, deflated, because a class index that is almost right is wrong. The page puts the volumes
together again and cuts them along any plane, so that three views cost no more than one.

Large volumes are shown at every second, third, … voxel (``steps``, per axis), the image as the mean of
the voxels in between. What a person painted on any of them stays visible.
"""

import base64
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from volseg.greyvalues import measure_grey_values
from volseg.labels import IGNORE_INDEX
from volseg.report.parts import Report

__all__ = ["Embedded", "Sheet", "contrast", "embed", "grey"]

_MAX_SIDE = 512  # voxels along any axis
_MAX_VOXELS = 24_000_000  # the browser holds them several times over
_SHEET_SIDE = 4096  # pixels; phones decode no larger pictures
_BLOCK = 8  # JPEG's: slices that start on a block do not run into each other
_QUALITIES = (85, 60)  # of JPEG; noise may need the second
_CHANNELS = 3


@dataclass(frozen=True)
class Sheet:
    """Slices side by side in one picture, row by row, the first one being number ``first``."""

    first: int
    count: int
    columns: int
    tile: tuple[int, int]  # width and height of one slice with its margin, pixels
    data: str  # JPEG, base64


@dataclass(frozen=True)
class Embedded:
    """Everything of a report that has voxels.

    Args:
        shape: voxels shown along x, y, z; z is 1 for an image.
        steps: one voxel in how many is shown, along x, y, z.
        pictures: sheets of the image and, where there is one, of the confidence.
        labels: class indices of paint, result, truth: deflated, base64, x running fastest.
    """

    shape: tuple[int, ...]
    steps: tuple[int, ...]
    pictures: dict[str, list[Sheet]]
    labels: dict[str, str]

    @property
    def size(self) -> int:
        """Characters of all of it."""
        sheets = (len(sheet.data) for sheets in self.pictures.values() for sheet in sheets)
        return sum(sheets) + sum(map(len, self.labels.values()))


def embed(report: Report, *, max_bytes: int) -> Embedded:
    """The volumes of a report in at most ``max_bytes``, as finely as that allows."""
    spacing = np.asarray(report.spacing or (1.0,) * len(report.size), float)
    steps = np.array([-(-n // _MAX_SIDE) for n in report.size])
    limits = [contrast(channel) for channel in report.image[:_CHANNELS]]
    while True:
        shape = np.ceil(np.array(report.size) / steps)
        if np.prod(shape) <= _MAX_VOXELS:
            for quality in _QUALITIES:
                embedded = _embed(report, tuple(map(int, steps)), limits, quality)
                if embedded.size <= max_bytes or shape.max() == 1:
                    return embedded
        steps[np.argmin(np.where(shape > 1, spacing * steps, np.inf))] += 1  # the finest axis first


def _embed(
    report: Report, steps: tuple[int, ...], limits: list[tuple[float, float]], quality: int
) -> Embedded:
    image = np.stack(
        [
            grey(_mean(channel, steps), *ends)
            for channel, ends in zip(report.image[:_CHANNELS], limits, strict=True)
        ]
    )
    if len(image) == 2:
        image = np.concatenate([image, np.zeros_like(image[:1])])
    pictures = {"image": _sheets(image, quality)}
    if report.confidence is not None:
        pictures["confidence"] = _sheets(grey(_mean(report.confidence, steps), 0.0, 1.0)[None], quality)
    labels = {}
    for name in ("paint", "result", "truth"):
        array = getattr(report, name)
        if array is not None:
            thin = _painted(array, steps) if name == "paint" else _every(array, steps)
            labels[name] = _text(zlib.compress(np.ascontiguousarray(thin.astype(np.uint8).T).tobytes(), 6))
    shape = (*image.shape[1:], 1)[:3]
    return Embedded(shape, (*steps, 1)[:3], pictures, labels)


def _sheets(image: NDArray[np.uint8], quality: int) -> list[Sheet]:
    """Slices along the last axis of ``(C, X, Y[, Z])`` as pictures, y downwards."""
    slices = image.reshape(*image.shape[:3], -1).transpose(3, 2, 1, 0)  # z, y, x, c
    n, height, width, channels = slices.shape
    tile_y, tile_x = (-(-side // _BLOCK) * _BLOCK for side in (height, width))
    columns = max(1, min(n, _SHEET_SIDE // tile_x))
    rows = max(1, _SHEET_SIDE // tile_y)
    sheets = []
    for first in range(0, n, columns * rows):
        part = slices[first : first + columns * rows]
        used = -(-len(part) // columns)
        part = np.pad(part, ((0, 0), (0, tile_y - height), (0, tile_x - width), (0, 0)), mode="edge")
        part = np.pad(part, ((0, used * columns - len(part)), (0, 0), (0, 0), (0, 0)))
        sheet = part.reshape(used, columns, tile_y, tile_x, channels).transpose(0, 2, 1, 3, 4)
        sheet = np.ascontiguousarray(sheet.reshape(used * tile_y, columns * tile_x, channels))
        data = imagecodecs.jpeg8_encode(
            sheet[..., 0] if channels == 1 else sheet, level=quality, subsampling="444"
        )
        count = min(n - first, columns * rows)
        sheets.append(Sheet(first, count, columns, (tile_x, tile_y), _text(data)))
    return sheets


def _text(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode("ascii")


def contrast(channel: NDArray[Any]) -> tuple[float, float]:
    """What is shown as black and as white: a few extreme voxels do not decide."""
    sparse = channel[tuple(slice(None, None, max(1, n // 128)) for n in channel.shape)]
    outside = measure_grey_values(lambda spans: sparse[spans], sparse.shape).outside
    finite = sparse[np.isfinite(sparse) & ~np.isin(sparse, outside)]
    low, high = np.percentile(finite, (1, 99.7)) if finite.size else (0.0, 1.0)
    return float(low), float(high)


@np.errstate(over="ignore", invalid="ignore")  # of fill values
def grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """``low`` as 0, ``high`` as 255, what lies beyond cut off, NaN as 0."""
    scaled = (values - np.float32(low)) / (np.float32(high - low) or 1.0) * 255
    rounded: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(scaled, posinf=255), 0, 255)).astype(np.uint8)
    return rounded


def _every(array: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    return array[tuple(slice(None, None, step) for step in steps)]


@np.errstate(over="ignore", invalid="ignore")
def _mean(array: NDArray[Any], steps: Sequence[int]) -> NDArray[np.float32]:
    """The mean of each block of ``steps`` voxels, the last ones being smaller."""
    mean: NDArray[np.float32] = array.astype(np.float32, copy=False)
    for axis, step in enumerate(steps):
        if step > 1:
            starts = np.arange(0, mean.shape[axis], step)
            counts = np.diff([*starts, mean.shape[axis]]).astype(np.float32)
            total = np.add.reduceat(mean, starts, axis=axis)
            mean = (total / counts.reshape(-1, *[1] * (mean.ndim - axis - 1))).astype(np.float32, copy=False)
    return mean


def _painted(array: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    """The first voxel of each block that is painted, so that no painted slice is lost."""
    found = _every(array, steps).copy()
    for part in _offsets(array, steps):
        here = tuple(slice(n) for n in part.shape)
        found[here] = np.where(found[here] == IGNORE_INDEX, part, found[here])
    return found


def _offsets(array: NDArray[Any], steps: Sequence[int]) -> Iterator[NDArray[Any]]:
    """The array thinned out from each voxel of a block on; the first comes first."""
    for starts in product(*map(range, steps)):
        yield array[tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))]
