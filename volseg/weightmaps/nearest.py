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

import numba
import numpy as np
import numpy.typing as npt
import torch

__all__ = ["two_nearest"]

Floats = npt.NDArray[np.float32]

_NOBODY = 0
_LINES_AT_ONCE = 16  # neighbours in memory: a cache line of float32
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
        # The last pass may stop where the sum of both distances exceeds the reach: nobody asks further.
        together = reach if axis == 0 else 2 * reach
        _search(labels.reshape(lines), squares.reshape(lines), spacing[axis], reach, together)
    squares[labels == _NOBODY] = np.inf
    nearest, second = np.sqrt(squares, out=squares)
    return nearest, second


def _search(labels: npt.NDArray[Any], squares: Floats, spacing: float, reach: float, together: float) -> None:
    """Along the third axis, from each voxel outwards."""
    _, outer, n, inner = labels.shape
    count = min(n - 1, int(reach / spacing) + 1)
    steps = ((np.arange(count + 2) * spacing) ** 2).astype(np.float32)
    steps[-1] = np.inf
    blocks = outer * -(-inner // _LINES_AT_ONCE)
    total = np.float32(together)
    _in_threads(blocks, lambda a, b: _search_lines(labels, squares, steps, total, a, b), _LINES_AT_ONCE)


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


@numba.njit(nogil=True, cache=True)
def _scan_rows(objects, labels, squares, step, limit, first, last):  # type: ignore[no-untyped-def]
    """Per row the two nearest different objects to the left and to the right."""
    n = objects.shape[1]
    for r in range(first, last):
        near, near_at, far, far_at = _NOBODY, 0, _NOBODY, 0
        for i in range(n):
            here = objects[r, i]
            if here != _NOBODY:
                if here != near:
                    far, far_at = near, near_at
                    near = here
                near_at = i
            labels[0, r, i], labels[1, r, i] = _NOBODY, _NOBODY
            squares[0, r, i], squares[1, r, i] = limit, limit
            _offer_both(labels, squares, r, i, near, (i - near_at) * step, far, (i - far_at) * step)
        near, near_at, far, far_at = _NOBODY, 0, _NOBODY, 0
        for i in range(n - 1, -1, -1):
            here = objects[r, i]
            if here != _NOBODY:
                if here != near:
                    far, far_at = near, near_at
                    near = here
                near_at = i
            _offer_both(labels, squares, r, i, near, (near_at - i) * step, far, (far_at - i) * step)


@numba.njit(nogil=True, cache=True)
def _offer_both(labels, squares, r, i, near, near_distance, far, far_distance):  # type: ignore[no-untyped-def]
    """Let two candidates compete with what voxel ``i`` has; ``near`` before ``far``."""
    a, b = labels[0, r, i], labels[1, r, i]
    a_square, b_square = squares[0, r, i], squares[1, r, i]
    if near != _NOBODY:
        a, a_square, b, b_square = _offer(a, a_square, b, b_square, near, near_distance * near_distance)
        if far != _NOBODY:
            a, a_square, b, b_square = _offer(a, a_square, b, b_square, far, far_distance * far_distance)
        labels[0, r, i], labels[1, r, i] = a, b
        squares[0, r, i], squares[1, r, i] = a_square, b_square


@numba.njit(nogil=True, cache=True, inline="always")
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


@numba.njit(nogil=True, cache=True)
def _search_lines(labels, squares, steps, together, first, last):  # type: ignore[no-untyped-def]
    """Search from each voxel outwards. ``steps`` holds the squared lengths of 0, 1, 2, ... voxels, then inf.

    A block is some lines side by side. They are copied with a margin that nobody is in, so that the
    search need not look where a line ends.
    """
    n, inner = labels.shape[2], labels.shape[3]
    margin = steps.shape[0] - 2
    per_slab = (inner + _LINES_AT_ONCE - 1) // _LINES_AT_ONCE
    ids = np.zeros((2, _LINES_AT_ONCE, n + 2 * margin), labels.dtype)
    old = np.full((2, _LINES_AT_ONCE, n + 2 * margin), np.inf, np.float32)
    half = np.float32(0.25) * together * together
    for block in range(first, last):
        slab, start = block // per_slab, (block % per_slab) * _LINES_AT_ONCE
        width = min(_LINES_AT_ONCE, inner - start)
        empty = True
        for i in range(n):
            for j in range(width):
                for rank in range(2):
                    ids[rank, j, margin + i] = labels[rank, slab, i, start + j]
                    old[rank, j, margin + i] = squares[rank, slab, i, start + j]
                empty &= ids[0, j, margin + i] == _NOBODY
        if empty:
            continue
        for j in range(width):
            near, near_square, far, far_square = ids[0, j], old[0, j], ids[1, j], old[1, j]
            for i in range(n):
                at = margin + i
                a, b, a_square, b_square = near[at], far[at], near_square[at], far_square[at]
                k = 1
                while steps[k] < b_square:
                    away = steps[k]
                    if away > half and np.sqrt(away) + np.sqrt(a_square) > together:
                        break  # a is final, and any other b too far
                    for other in (np.uint64(at - k), np.uint64(at + k)):
                        square = away + near_square[other]
                        if square < b_square:
                            a, a_square, b, b_square = _offer(a, a_square, b, b_square, near[other], square)
                            square = away + far_square[other]
                            a, a_square, b, b_square = _offer(a, a_square, b, b_square, far[other], square)
                    k += 1
                labels[0, slab, i, start + j], labels[1, slab, i, start + j] = a, b
                squares[0, slab, i, start + j], squares[1, slab, i, start + j] = a_square, b_square
