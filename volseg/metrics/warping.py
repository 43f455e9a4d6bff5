"""Topological mistakes: what remains when the truth is warped onto a prediction without tearing.

The truth may give way pixel by pixel as long as its topology stays (Jain et al. 2010). A
pixel may change side if it is *simple*: no object and no hole appears, vanishes, merges or splits.
What cannot be reached this way is a mistake of topology, whereas a border that is merely displaced
costs nothing.

Images are 2D and true inside the objects. Objects are connected through their 4 neighbours and what
lies between them through 8, so that a diagonal membrane one pixel wide separates. Outside the image
there is no object.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from volseg.compiled import njit

__all__ = ["KINDS", "Warping", "homotopic_warp"]

KINDS = ("merge", "split", "hole added", "hole filled", "object added", "object lost")

_RING = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))  # around a pixel
_FOUR = (1, 3, 5, 7)  # those of the ring that share an edge with the pixel
_EIGHT = np.ones((3, 3), bool)


class Warping(NamedTuple):
    """The truth, as near to a prediction as its topology allows, and where they still differ."""

    warped: npt.NDArray[np.bool_]  # (X, Y)
    mistakes: npt.NDArray[np.uint8]  # (X, Y): 0 where they agree, else 1 + index into KINDS

    def count(self, kind: str) -> int:
        """Number of pixels whose flip in ``warped`` would be a mistake of that kind."""
        return int(np.count_nonzero(self.mistakes == 1 + KINDS.index(kind)))


def homotopic_warp(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], confidence: npt.NDArray[Any]
) -> Warping:
    """Warp the truth onto the prediction through simple points only (Jain et al. 2010).

    Pixels at which the two differ change side in order of ``confidence``, the surest first, again and
    again until none of the rest is simple. The order decides where the remaining mistakes lie and can
    change their number a little: they are a local minimum.

    What flipping a remaining pixel would do gives its kind: ``merge`` joins objects, ``split`` parts
    one, and so on. A pixel that would both merge objects and close a hole counts as a merge.

    Args:
        truth: inside of the true objects, ``(X, Y)``.
        prediction: inside of the predicted objects.
        confidence: how sure the prediction is, for instance the distance to the threshold.
    """
    target, warped = np.pad(prediction, 1), np.pad(truth, 1).astype(np.uint8)
    different = np.flatnonzero(target != warped)
    sureness = np.pad(np.asarray(confidence, np.float64), 1).ravel()[different]
    order = different[np.argsort(-sureness, kind="stable")]
    left = order[: _relax(warped.ravel(), order, warped.shape[1], _SIMPLE)]
    mistakes = np.zeros(warped.shape, np.uint8)
    mistakes.ravel()[left] = _classify(warped, left)
    inner = (slice(1, -1), slice(1, -1))
    return Warping(warped[inner] != 0, mistakes[inner])


@njit()
def _neighbourhood(flat, pixel, width):  # type: ignore[no-untyped-def]
    """Which of the ring are inside, one bit each, in the order of ``_RING``."""
    above, below = pixel - width, pixel + width
    return (
        flat[above - 1]
        | flat[above] << 1
        | flat[above + 1] << 2
        | flat[pixel + 1] << 3
        | flat[below + 1] << 4
        | flat[below] << 5
        | flat[below - 1] << 6
        | flat[pixel - 1] << 7
    )


@njit()
def _relax(flat, order, width, simple):  # type: ignore[no-untyped-def]
    """Flip what is simple until nothing is; the rest moves to the front of ``order``, in order."""
    left = order.shape[0]
    flipped = True
    while flipped:
        flipped = False
        kept = 0
        for i in range(left):
            pixel = order[i]
            if simple[_neighbourhood(flat, pixel, width)]:
                flat[pixel] ^= 1
                flipped = True
            else:
                order[kept] = pixel
                kept += 1
        left = kept
    return left


def _classify(warped: npt.NDArray[np.uint8], pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """1 + index into ``KINDS`` of each pixel (flat index, none at the rim).

    A flip changes the number of objects minus holes by what the ring alone shows. The number of
    distinct things around the pixel on the side that it joins is all that has to be looked up in the
    image: no flood fill per pixel.
    """
    rows, columns = np.unravel_index(pixels, warped.shape)
    ring = tuple(axis[:, None] + step for axis, step in zip((rows, columns), np.array(_RING).T, strict=True))
    code = (warped[ring].astype(np.int64) << np.arange(8)).sum(1)
    arcs_in, arcs_out = _ARCS_IN[code], _ARCS_OUT[code]
    objects = ndimage.label(warped)[0][ring][:, _FOUR]
    gaps = ndimage.label(warped == 0, _EIGHT)[0][ring]
    merge, split, hole_added, hole_filled, object_added, object_lost = range(1, 7)
    inside = np.select(
        [arcs_in == 0, arcs_out == 0, arcs_out > _distinct(gaps)],
        [object_lost, hole_added, split],
        hole_filled,
    )
    outside = np.select(
        [arcs_in == 0, arcs_out == 0, _distinct(objects) > 1],
        [object_added, hole_filled, merge],
        hole_added,
    )
    return np.where(warped.ravel()[pixels] != 0, inside, outside).astype(np.uint8)


def _distinct(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many different positive numbers each row holds."""
    ids = np.sort(ids, axis=1)
    new = np.diff(ids, axis=1, prepend=0) > 0
    return new.sum(1)


def _arcs(code: int) -> tuple[int, int]:
    """Objects and gaps that meet a pixel whose ring is ``code``: its topological numbers.

    4-connected objects that share an edge with the pixel, and 8-connected gaps, both within the ring
    (Bertrand and Malandain 1994). A pixel is simple if both are 1.
    """
    patch = np.zeros((3, 3), bool)
    for bit, (row, column) in enumerate(_RING):
        patch[1 + row, 1 + column] = code >> bit & 1
    objects = ndimage.label(patch)[0]
    gaps = ~patch
    gaps[1, 1] = False
    return len({int(objects[1 + r, 1 + c]) for r, c in (_RING[i] for i in _FOUR)} - {0}), int(
        ndimage.label(gaps, _EIGHT)[1]
    )


_ARCS_IN, _ARCS_OUT = np.array([_arcs(code) for code in range(256)]).T
_SIMPLE = (_ARCS_IN == 1) & (_ARCS_OUT == 1)
