"""Whether an annotation lies on its image: where labels change, images mostly do, too.

The borders of the labels are laid over the image's gradient: as they are, shifted by up to a quarter of the
image, mirrored, and turned. If they belong together, they fit far better at one place than at all others (a
sharp peak of the correlation), and at that place nothing is shifted, mirrored or turned.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from volseg.annotation.audit.planes import AnnotatedSlice
from volseg.findings import Finding
from volseg.geometry import Symmetry, grid_symmetries
from volseg.labels import IGNORE_INDEX

__all__ = ["check_overlay"]

Floats = npt.NDArray[np.float32]
Shift = tuple[int, ...]

_PER_DIRECTION = 3  # slices compared along each axis, those with most borders
_WIDTH = 160  # pixels of a plane are merged until it is no wider than this
_DEPTH = 4  # slices before and behind that are compared
_MIN_BORDER = 60  # border voxels: fewer say nothing
_PEAK = 6.0  # standard deviations over all shifts from which on a fit is not by chance
_MISFIT = 0.6  # below this share of the best fit, the one in place is none
_NEAR = 2  # voxels that people may err by
_FAR = 3  # voxels from which on a shift is one


class _Drawing(NamedTuple):
    """The borders of the labels on one plane, which stands at ``position`` of ``axis``."""

    axis: int
    position: int
    borders: npt.NDArray[np.bool_]

    def turned(self, symmetry: Symmetry, shape: Sequence[int]) -> "_Drawing":
        """Where a symmetry of a volume of this shape puts them."""
        order, flipped = symmetry
        axis = order.index(self.axis) if self.axis >= 0 else -1
        index = shape[self.axis] - 1 - self.position if axis >= 0 and flipped[axis] else self.position
        inside = [k for k in range(len(order)) if k != axis]
        old = sorted(order[k] for k in inside)
        borders = self.borders.transpose([old.index(order[k]) for k in inside])
        return _Drawing(axis, index, np.flip(borders, tuple(i for i, k in enumerate(inside) if flipped[k])))


def check_overlay(image: npt.NDArray[Any], planes: Sequence[AnnotatedSlice]) -> Iterator[Finding]:
    """Labels that fit the image shifted, mirrored or turned, and do not fit as they are.

    Args:
        image: ``(C, *spatial)``.
        planes: the annotated slices.
    """
    drawings: list[_Drawing] = []
    by_axis: dict[int, list[_Drawing]] = {}
    for plane in planes:
        by_axis.setdefault(plane.axis, []).append(_Drawing(plane.axis, plane.index, _borders(plane)))
    for same in by_axis.values():
        drawings += sorted(same, key=lambda one: -int(one.borders.sum()))[:_PER_DIRECTION]
    if sum(int(one.borders.sum()) for one in drawings) < _MIN_BORDER:
        return
    gradients = _Gradients(image)
    shape = image.shape[1:]
    in_place, _ = gradients.fit(drawings, shifts=False)
    moved, shift = gradients.fit(drawings, shifts=True)
    if max(map(abs, shift)) < max(_FAR, 2 * gradients.merge):
        moved = 0.0
    turned, symmetry = max(
        (gradients.fit([one.turned(way, shape) for one in drawings], shifts=False)[0], way)
        for way in _symmetries(shape)
    )
    if max(moved, turned) < _PEAK or in_place >= _MISFIT * max(moved, turned):
        return
    first = max(planes, key=lambda plane: int(_borders(plane).sum()))
    wrong = (
        f"Labels and image do not overlay, see {first.name}: the labels' borders meet no edges of the image"
    )
    why = "The learner would learn wrong places"
    if turned >= moved:
        yield Finding(
            "mirrored",
            "error",
            f"{wrong}, but would if the label array were {symmetry.describe()}",
            why,
            "Export the labels again with the image's orientation, or mirror or reorder the axes of the file",
            slices=first.slices,
            voxel=first.voxel(np.argwhere(_borders(first))[0]),
        )
    else:
        yield Finding(
            "shifted",
            "error",
            f"{wrong}, but would if they were moved by about {shift} voxels",
            why,
            "Check that the labels belong to this image and start at the same voxel (cropping, padding, "
            "origin)",
            slices=first.slices,
            voxel=first.voxel(np.argwhere(_borders(first))[0]),
        )


class _Gradients:
    """Where the image changes, plane by plane, computed when asked for."""

    def __init__(self, image: npt.NDArray[Any]) -> None:
        self.image = image
        self.merge = -(-max(image.shape[1:]) // _WIDTH)
        self.seen: dict[tuple[int, int], npt.NDArray[np.complex64]] = {}

    def fit(self, drawings: Sequence[_Drawing], *, shifts: bool) -> tuple[float, Shift]:
        """How well borders fit in place, or at the best shift, in standard deviations over all shifts."""
        by_axis: dict[int, list[_Drawing]] = {}
        for one in drawings:
            by_axis.setdefault(one.axis, []).append(one)
        fits, weights = [], []
        for axis, same in by_axis.items():
            fits.append(self._fit_of_direction(axis, same, shifts))
            weights.append(float(np.sqrt(sum(one.borders.sum() for one in same))))
        if shifts:
            return max(fits)
        together = sum(w * z for w, (z, _) in zip(weights, fits, strict=True)) / np.linalg.norm(weights)
        return float(together), (0,) * (self.image.ndim - 1)

    def _fit_of_direction(self, axis: int, drawings: Sequence[_Drawing], shifts: bool) -> tuple[float, Shift]:
        n = self.image.shape[1 + axis] if axis >= 0 else 1
        depths = range(-_DEPTH, _DEPTH + 1) if shifts and axis >= 0 else range(1)
        scores = {
            d: self._correlation([one for one in drawings if 0 <= one.position + d < n], d) for d in depths
        }
        everywhere = np.concatenate([score.ravel() for score in scores.values()])
        mean, spread = float(everywhere.mean()), float(everywhere.std()) or 1.0
        best: tuple[float, Shift] = (-np.inf, ())
        for depth, score in scores.items():
            near = score if shifts else _middle(score, max(1, _NEAR // self.merge))
            place = np.unravel_index(int(np.argmax(near)), near.shape)
            z = (float(near[place]) - mean) / spread
            if z > best[0]:
                shift = [int(p - s // 2) * self.merge for p, s in zip(place, near.shape, strict=True)]
                if axis >= 0:
                    shift.insert(axis, depth)
                best = (z, tuple(shift))
        return best

    def _correlation(self, drawings: Sequence[_Drawing], depth: int) -> Floats:
        """Gradient under the borders for every shift up to a quarter of the plane, no shift in the middle."""
        total: Any = 0
        reach, size = (0, 0), (1, 1)
        for one in drawings:
            small = _merged(one.borders.astype(np.float32), self.merge)
            reach = tuple(max(1, n // 4) for n in small.shape)
            size = tuple(fft.next_fast_len(n + r, True) for n, r in zip(small.shape, reach, strict=True))
            total = total + np.conj(fft.rfft2(small, size)) * self._spectrum(
                one.axis, one.position + depth, size
            )
        if not drawings:
            return np.zeros((1, 1), np.float32)
        score = fft.irfft2(total, size)
        return np.asarray(score[np.ix_(*(np.arange(-r, r + 1) for r in reach))], np.float32)

    def _spectrum(self, axis: int, index: int, size: tuple[int, ...]) -> npt.NDArray[np.complex64]:
        if (axis, index) not in self.seen:
            plane = self.image if axis < 0 else np.take(self.image, index, axis=1 + axis)
            gradient = sum(_gradient(channel.astype(np.float32)) for channel in plane)
            self.seen[axis, index] = fft.rfft2(_flattened(_merged(np.asarray(gradient), self.merge)), size)
        return self.seen[axis, index]


def _borders(plane: AnnotatedSlice) -> npt.NDArray[np.bool_]:
    """Labelled voxels beside labelled voxels of another class."""
    labels = plane.labels
    known = (labels != IGNORE_INDEX) & ~plane.is_crossed()
    borders = np.zeros(labels.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        change = (labels[one] != labels[other]) & known[one] & known[other]
        borders[one] |= change
        borders[other] |= change
    return borders


def _gradient(channel: Floats) -> Floats:
    smooth = ndimage.gaussian_filter(channel, 1.0)
    steps = [np.gradient(smooth, axis=axis) if smooth.shape[axis] > 1 else 0 * smooth for axis in (0, 1)]
    size = np.hypot(*steps)
    return np.asarray(size / (size.mean() or 1.0), np.float32)


def _flattened(gradient: Floats) -> Floats:
    """Without the difference between busy and quiet regions."""
    width = max(4.0, max(gradient.shape) / 16)
    fine = gradient - ndimage.gaussian_filter(gradient, width)
    spread = np.sqrt(ndimage.gaussian_filter(fine**2, width)) + 0.1 * (fine.std() or 1.0)
    return np.asarray(np.clip(fine / spread, -3, 3), np.float32)


def _merged(plane: Floats, factor: int) -> Floats:
    """Blocks of ``factor`` by ``factor`` pixels as one; the edge fills the last ones up."""
    if factor == 1:
        return plane
    padded = np.pad(plane, [(0, -n % factor) for n in plane.shape], mode="edge")
    rows, columns = (n // factor for n in padded.shape)
    return np.asarray(padded.reshape(rows, factor, columns, factor).mean((1, 3)), np.float32)


def _middle(score: Floats, reach: int) -> Floats:
    return score[tuple(slice(max(0, n // 2 - reach), n // 2 + reach + 1) for n in score.shape)]


def _symmetries(shape: Sequence[int]) -> Iterator[Symmetry]:
    """All ways to reorder and mirror axes that keep the shape, but the one that changes nothing."""
    axes = range(len(shape))
    alike = [(a, b) for a, b in combinations(axes, 2) if shape[a] == shape[b]]
    yield from grid_symmetries(len(shape), alike)[1:]
