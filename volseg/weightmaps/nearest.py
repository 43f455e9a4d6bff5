"""Distances to the nearest and the second nearest object, all objects at once, compiled.

A distance transform keeps the nearest object of each voxel; this one keeps the two nearest *different*
ones, with the squares of their distances. It works axis by axis: along the last axis two scans over
each row, along the others a search outwards from each voxel, which ends as soon as the step alone is
farther than the second best so far. It is exact: an object that is not among the two nearest of a voxel
cannot be among the two nearest of another voxel that is reached through it.

The loops release Python's lock and are spread over plain threads, as many as torch may use.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from volseg.compiled import njit

__all__ = ["two_nearest"]

Floats = npt.NDArray[np.float32]

_NONE = 0
_LANES = 64  # lines that go in step, neighbours in memory: several of the processor's vectors
_LINES_PER_THREAD = 512  # fewer are not worth a thread


def two_nearest(objects: npt.NDArray[Any], reach: float, spacing: Sequence[float]) -> tuple[Floats, Floats]:
    """Distances, ``(*spatial)`` each, to the nearest and second nearest object.

    ``objects`` holds ids, 0 where there is none; distances are between voxel centres, with voxels as
    large as ``spacing`` says. Where their sum exceeds ``reach``, they may be too large, up to infinity.
    """
    shape = objects.shape
    labels = np.empty((2, *shape), objects.dtype)
    squares = np.empty((2, *shape), np.float32)
    limit = np.float32(reach**2)
    rows = np.ascontiguousarray(objects).reshape(-1, shape[-1])
    flat = (labels.reshape(2, *rows.shape), squares.reshape(2, *rows.shape))
    _in_threads(len(rows), lambda a, b: _scan_rows(rows, *flat, np.float32(spacing[-1]), limit, a, b))
    for axis in range(objects.ndim - 2, -1, -1):
        lines = (2, int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :])))
        # The last pass may stop where the sum of both distances exceeds the reach: no one asks further.
        together = reach if axis == 0 else 2 * reach
        _search(labels.reshape(lines), squares.reshape(lines), spacing[axis], reach, together)
    squares[labels == _NONE] = np.inf
    nearest, second = np.sqrt(squares, out=squares)
    return nearest, second


def _search(labels: npt.NDArray[Any], squares: Floats, spacing: float, reach: float, together: float) -> None:
    """Along the third axis, from each voxel outwards."""
    _, outer, n, inner = labels.shape
    count = min(n - 1, int(reach / spacing) + 1)
    steps = ((np.arange(count + 2) * spacing) ** 2).astype(np.float32)
    steps[-1] = np.inf
    blocks = outer * -(-inner // _LANES)
    limits = np.float32(reach**2), np.float32(together)
    _in_threads(blocks, lambda a, b: _search_lines(labels, squares, steps, *limits, _LANES, a, b), _LANES)


def _in_threads(count: int, loop: Callable[[int, int], None], lines: int = 1) -> None:
    """Run ``loop`` over parts of ``range(count)``; each stands for that many ``lines``."""
    threads = min(torch.get_num_threads(), 1 + count * lines // _LINES_PER_THREAD)
    if threads == 1:
        loop(0, count)
        return
    edges = [int(edge) for edge in np.linspace(0, count, 4 * threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for part in [pool.submit(loop, first, last) for first, last in pairwise(edges)]:
            part.result()


@njit()
def _scan_rows(objects, labels, squares, step, limit, first, last):  # type: ignore[no-untyped-def]
    """Per row the two nearest different objects to the left and to the right."""
    n = objects.shape[1]
    for r in range(first, last):
        near, near_at, far, far_at = _NONE, 0, _NONE, 0
        for i in range(n):
            here = objects[r, i]
            if here != _NONE:
                if here != near:
                    far, far_at = near, near_at
                    near = here
                near_at = i
            labels[0, r, i], labels[1, r, i] = _NONE, _NONE
            squares[0, r, i], squares[1, r, i] = limit, limit
            _offer_both(labels, squares, r, i, near, (i - near_at) * step, far, (i - far_at) * step)
        near, near_at, far, far_at = _NONE, 0, _NONE, 0
        for i in range(n - 1, -1, -1):
            here = objects[r, i]
            if here != _NONE:
                if here != near:
                    far, far_at = near, near_at
                    near = here
                near_at = i
            _offer_both(labels, squares, r, i, near, (near_at - i) * step, far, (far_at - i) * step)


@njit()
def _offer_both(labels, squares, r, i, near, near_distance, far, far_distance):  # type: ignore[no-untyped-def]
    """Let two candidates compete with what voxel ``i`` has; ``near`` before ``far``."""
    a, b = labels[0, r, i], labels[1, r, i]
    a_square, b_square = squares[0, r, i], squares[1, r, i]
    if near != _NONE:
        a, a_square, b, b_square = _offer(a, a_square, b, b_square, near, near_distance * near_distance)
        if far != _NONE:
            a, a_square, b, b_square = _offer(a, a_square, b, b_square, far, far_distance * far_distance)
        labels[0, r, i], labels[1, r, i] = a, b
        squares[0, r, i], squares[1, r, i] = a_square, b_square


@njit(inline="always")
def _offer(a, a_square, b, b_square, candidate, square):  # type: ignore[no-untyped-def]
    """The best two different ones out of a (nearest), b and a candidate."""
    if square < b_square:
        if candidate == a:
            a_square = min(a_square, square)
        elif square < a_square:
            a, a_square, b, b_square = candidate, square, a, a_square
        else:
            b, b_square = candidate, square
    return a, a_square, b, b_square


@njit()
def _search_lines(labels, squares, steps, limit, together, lanes, first, last):  # type: ignore[no-untyped-def]
    """Search from each voxel outwards. ``steps`` holds the squared lengths of 0, 1, 2, ... voxels, then inf.

    Lines side by side go in step, in lanes, so that vectors of the processor can look whether anything is to
    be won (their number is an argument: the compiler would unroll a constant, and then not use vectors).
    They are copied with a margin that no one is in: no line ends before the search does. First the nearest
    object is found; then, where both distances are at most ``together``, the nearest of the others.
    """
    n, inner = labels.shape[2], labels.shape[3]
    margin = steps.shape[0] - 2
    per_slab = (inner + lanes - 1) // lanes
    near = np.zeros((n + 2 * margin, lanes), labels.dtype)
    far = np.zeros((n + 2 * margin, lanes), labels.dtype)
    near_square = np.full((n + 2 * margin, lanes), np.inf, np.float32)
    far_square = np.full((n + 2 * margin, lanes), np.inf, np.float32)
    a, b = np.zeros(lanes, labels.dtype), np.zeros(lanes, labels.dtype)
    a_square, b_square = np.zeros(lanes, np.float32), np.zeros(lanes, np.float32)
    half = np.float32(0.25) * together * together
    for block in range(first, last):
        slab, start = block // per_slab, (block % per_slab) * lanes
        width = min(lanes, inner - start)
        a_square[width:], b_square[width:] = 0, 0  # idle lanes have nothing to win
        for i in range(n):
            for j in range(width):
                near[margin + i, j] = labels[0, slab, i, start + j]
                far[margin + i, j] = labels[1, slab, i, start + j]
                near_square[margin + i, j] = squares[0, slab, i, start + j]
                far_square[margin + i, j] = squares[1, slab, i, start + j]
        for i in range(n):
            at = margin + i
            a[:width], a_square[:width] = near[at, :width], np.minimum(near_square[at, :width], half)
            k, farthest = 1, _largest(a_square)
            while steps[k] < farthest:
                for other in (np.uint64(at - k), np.uint64(at + k)):
                    if _is_nearer(near_square, other, steps[k], a_square):
                        for j in range(width):
                            square = steps[k] + near_square[other, j]
                            if square < a_square[j]:
                                a[j], a_square[j] = near[other, j], square
                        farthest = _largest(a_square)
                k += 1
            for j in range(width):
                b[j], b_square[j] = _NONE, min(limit, (together - np.sqrt(a_square[j])) ** 2)
            k, farthest = 0, _largest(b_square)
            while steps[k] < farthest:
                for other in (np.uint64(at - k), np.uint64(at + k)):
                    if _is_second(near, near_square, far_square, other, steps[k], a, b_square):
                        for j in range(width):
                            is_a = near[other, j] == a[j]
                            square = steps[k] + (far_square[other, j] if is_a else near_square[other, j])
                            if square < b_square[j]:
                                b[j], b_square[j] = far[other, j] if is_a else near[other, j], square
                        farthest = _largest(b_square)
                k += 1
            for j in range(width):
                labels[0, slab, i, start + j], labels[1, slab, i, start + j] = a[j], b[j]
                squares[0, slab, i, start + j], squares[1, slab, i, start + j] = a_square[j], b_square[j]


@njit()
def _is_nearer(near_square, at, step, a_square):  # type: ignore[no-untyped-def]
    """Whether any lane finds a nearer object at ``at``."""
    hits = np.int32(0)
    for j in range(near_square.shape[1]):
        hits |= np.int32(step + near_square[at, j] < a_square[j])
    return hits != 0


@njit()
def _is_second(near, near_square, far_square, at, step, a, b_square):  # type: ignore[no-untyped-def]
    """Whether any lane finds a nearer second object at ``at``."""
    hits = np.int32(0)
    for j in range(near_square.shape[1]):
        square = far_square[at, j] if near[at, j] == a[j] else near_square[at, j]
        hits |= np.int32(step + square < b_square[j])
    return hits != 0


@njit(fastmath={"nnan", "nsz"})
def _largest(squares):  # type: ignore[no-untyped-def]
    """As ``squares.max()``, which would take care of NaN one by one."""
    largest = np.float32(0)
    for j in range(squares.shape[0]):
        largest = max(largest, squares[j])
    return largest
