"""What a brush, an outline or a flood covers of a plane: masks, in voxels, from physical sizes.

Points are ``(n, 2)`` in voxels of the plane, whose axes are x, y, z without the one that it is perpendicular
to; a voxel's centre lies at whole numbers. Anything may reach beyond the border; what lies there is cut off.

The brush is ours: skimage.draw has disks, and lines of one voxel, but no thick line in voxels that are not
square.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon2mask
from skimage.segmentation import flood

__all__ = ["brush", "flooded", "outline"]

Mask = npt.NDArray[np.bool_]


def brush(
    shape: Sequence[int], points: npt.ArrayLike, radius: float, spacing: Sequence[float] = (1.0, 1.0)
) -> Mask:
    """Every voxel whose centre lies within ``radius`` of the line through the points; at least the voxels
    that the points lie in.

    Args:
        shape: of the plane.
        radius: in the unit of ``spacing``.
        spacing: voxel size along the plane's axes.

    Raises:
        ValueError: if points or radius are no finite numbers, or none.
    """
    line = _points(points)
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"radius = {radius} must be a length of at least 0.")
    step = np.asarray(spacing, float)
    mask = np.zeros(tuple(shape), bool)
    reach = np.ceil(radius / step).astype(int) + 1
    ends = np.concatenate([line, line[-1:]])
    for first, last in itertools.pairwise(ends):
        low = np.maximum(np.floor(np.minimum(first, last)).astype(int) - reach, 0)
        high = np.minimum(np.ceil(np.maximum(first, last)).astype(int) + reach + 1, shape)
        if (low >= high).any():
            continue
        grid = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
        offset, along = (grid - first) * step, (last - first) * step
        length = float(along @ along)
        share = np.clip(offset @ along / length, 0, 1) if length else np.zeros(offset.shape[:-1])
        nearest = offset - share[..., None] * along
        part = tuple(map(slice, low, high))
        mask[part] |= (nearest**2).sum(-1) <= radius**2 * (1 + 1e-9)
    inside = np.rint(line).astype(int)
    inside = inside[((inside >= 0) & (inside < shape)).all(1)]
    mask[tuple(inside.T)] = True
    return mask


def outline(shape: Sequence[int], points: npt.ArrayLike) -> Mask:
    """What lies within a closed outline, and the voxels that its corners lie in."""
    corners = _points(points)
    mask = np.zeros(tuple(shape), bool)
    if len(corners) > 2:
        mask |= polygon2mask(tuple(shape), corners)
    inside = np.rint(corners).astype(int)
    inside = inside[((inside >= 0) & (inside < shape)).all(1)]
    mask[tuple(inside.T)] = True
    return mask


def flooded(image: npt.NDArray[np.floating], point: Sequence[int], tolerance: float) -> Mask:
    """What is connected with a voxel and differs from it by no more than ``tolerance`` in every channel.

    Args:
        image: ``(C, *plane)``. Infinite values are alike if they are equal; NaN is like nothing, so from
            there only the voxel itself is filled.

    Raises:
        ValueError: if the tolerance is negative, or NaN.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance = {tolerance} must be a difference of grey values, at least 0.")
    within, place = np.ones(image.shape[1:], bool), tuple(point)
    for channel in image:
        with np.errstate(invalid="ignore"):  # the difference of two infinities
            apart = np.abs(channel.astype(np.float64) - float(channel[place]))
        within &= (channel == channel[place]) | (apart <= tolerance)
    if not within[place]:
        within[...] = False
        within[place] = True
    found: Mask = flood(within, place, connectivity=1)
    return found


def _points(points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    line = np.asarray(points, np.float64)
    if line.ndim != 2 or line.shape[1] != 2 or not line.size or not np.isfinite(line).all():
        raise ValueError(
            f"points have the shape {line.shape}: one row of two finite numbers per point is needed."
        )
    return line
