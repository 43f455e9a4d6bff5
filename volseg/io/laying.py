"""A label laid onto the grid of its image: turned, put in its place, cut to the image.

Programs that paint save what is painted and not always more: a segmentation of 3D Slicer covers a part of
the image, or reaches beyond it. Here a map from voxels of the label to voxels of the image says where it
belongs; nothing is interpolated, voxels have to lie on voxels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volseg.errors import InputError

__all__ = ["TOLERANCE", "Affine", "Laid", "lay", "refuse_lost", "signed_steps"]

TOLERANCE = 0.01  # of a voxel, at every corner

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Laid:
    """A label on the grid of an image.

    Attributes:
        array: ``(C, *spatial)`` of the image.
        start: the voxel of the image at which the label begins, below 0 if it reaches beyond.
        size: of the label, its axes in the order of the image's.
        turned: its axes run in another order or direction.
        lost: voxels of paint beyond the image; see :func:`refuse_lost`.
        lost_at: the first of them, as a voxel of the label's file.
    """

    array: NDArray[Any]
    start: tuple[int, ...]
    size: tuple[int, ...]
    turned: bool
    lost: int
    lost_at: tuple[int, ...] | None

    @property
    def covers_all(self) -> bool:
        """Whether label and image are the same grid."""
        return not any(self.start) and self.size == self.array.shape[1:]


def lay(array: NDArray[Any], to_image: Affine, shape: tuple[int, ...], fill: int = 0) -> Laid | None:
    """A label ``(C, *spatial)`` on a grid of this shape; ``None`` if its voxels do not lie on voxels of it.

    Args:
        to_image: voxel index of the label to voxel index of the image, ``(d+1, d+1)``.
        fill: for voxels of the image that the label does not cover; what equals it is no paint.
    """
    dims = len(shape)
    steps = signed_steps(to_image)
    if steps is None:
        return None
    offset = np.rint(to_image[:dims, dims])
    corners = np.indices((2,) * dims).reshape(dims, -1) * (np.array(array.shape[1:]) - 1)[:, None]
    exact = to_image[:dims, :dims] @ corners + to_image[:dims, dims:]
    placed = steps @ corners + offset[:, None]
    if np.abs(exact - placed).max() > TOLERANCE:
        return None
    low, high = placed.min(1).astype(int), placed.max(1).astype(int) + 1
    order = np.abs(steps).argmax(1)  # which axis of the label runs along each axis of the image
    backward = tuple(1 + i for i in range(dims) if steps[i, order[i]] < 0)
    source = np.flip(array.transpose(0, *(order + 1)), backward)
    inside = tuple(slice(max(0, a), max(0, min(b, n))) for a, b, n in zip(low, high, shape, strict=True))
    taken = tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, low, strict=True))
    if any(part.stop <= part.start for part in inside):
        return None
    whole = source.shape[1:] == shape and not low.any()
    dtype = np.result_type(array.dtype, np.min_scalar_type(fill))
    out = source if whole else np.full((len(array), *shape), fill, dtype)
    lost, lost_at = 0, None
    if not whole:
        out[(slice(None), *inside)] = source[(slice(None), *taken)]
        if any(part.stop - part.start < n for part, n in zip(taken, source.shape[1:], strict=True)):
            beyond = source != fill
            beyond[(slice(None), *taken)] = False
            lost = int(np.count_nonzero(beyond))
            if lost:
                beyond = np.flip(beyond, backward).transpose(0, *(np.argsort(order) + 1))
                lost_at = tuple(int(i) for i in np.argwhere(beyond)[0][1:])
    turned = bool(backward) or list(order) != list(range(dims))
    start, size = tuple(int(a) for a in low), tuple(int(b - a) for a, b in zip(low, high, strict=True))
    return Laid(np.ascontiguousarray(out), start, size, turned, lost, lost_at)


def signed_steps(to_image: Affine) -> NDArray[np.float64] | None:
    """The axes of one grid along those of another, as 1, -1 and 0; ``None`` if it takes more to say it."""
    dims = len(to_image) - 1
    steps = np.rint(to_image[:dims, :dims])
    return steps if np.array_equal(np.abs(steps) @ np.abs(steps).T, np.eye(dims)) else None


def refuse_lost(laid: Laid, image: str, label: str) -> None:
    """Refuse a label with paint beyond the image.

    Args:
        image: its name, as ``label``, for the message.
    """
    if laid.lost:
        raise InputError(
            f"{laid.lost} painted voxel(s) of {label} lie beyond the image {image}, the first at voxel "
            f"{laid.lost_at} of the label (counted from 0): they do not lie on one grid. Erase them, pair "
            "the label with the image that it was painted on, or export the label again on the image's grid."
        )
