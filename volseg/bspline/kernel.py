"""The compiled loop: draw a patch of an image or a volume through one composed B-spline map.

Nothing dense is made on the way. The map's coefficients (rotation, scaling, crop and deformation in
one, see :class:`~volseg.bspline.field.SplineMap`) are contracted axis by axis down to one row; along it
the positions are four products per voxel, in the cache, next to the loads they are needed for.

The loops release Python's lock and are spread over plain threads, as many as torch may use: no
OpenMP region outlives a call, so a forked data-loading process can use the kernel too. The first
call for an image type compiles for some seconds; the result is kept on disk.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.bspline.field import spline_taps
from volseg.bspline.intrinsics import interpolate, prefetch

__all__ = ["sample"]

SLABS_PER_THREAD = 4
ALONE = 2**19  # numbers that take less time than to start threads and wait for them


def sample(
    image: Tensor,
    control: npt.NDArray[np.float32],
    origin: npt.NDArray[np.int64],
    start: Sequence[int],
    size: Sequence[int],
    spacing: Sequence[float],
    *,
    nearest: bool,
    fill: float | None,
) -> Tensor:
    """The window ``start`` .. ``start + size`` of the patch, ``(C, *size)``; the image is ``(C, *spatial)``.

    ``control`` holds positions in the image relative to ``origin``. ``fill`` replaces what lies
    beyond the image; ``None`` mirrors.
    """
    taps = [
        spline_taps(length, step, n, offset=offset)
        for length, step, n, offset in zip(size, spacing, control.shape[1:], start, strict=True)
    ]
    array = image.detach().numpy()
    out = np.empty((image.shape[0], *size), dtype=array.dtype if nearest else np.float32)
    rows = out.reshape(image.shape[0], -1, size[-1])
    strides = np.array(image.stride(), dtype=np.int64)
    shape = np.array(image.shape, dtype=np.int64)
    flat = np.lib.stride_tricks.as_strided(
        array, (1 + int(((shape - 1) * strides).sum()),), (array.itemsize,)
    )
    # Where along the last axis a new cell of the grid begins, unsigned: no negative index to look after.
    first = taps[-1][0]
    cells = np.searchsorted(first, np.arange(first[-1] + 2)).astype(np.uint64)
    has_fill = fill is not None
    arguments: tuple[Any, ...] = (
        flat,
        strides,
        shape,
        origin,
        _planes(control, taps[:-2]),
        taps[-2][0],
        taps[-2][1].astype(np.float32),
        cells,
        taps[-1][1].astype(np.float32),
        rows,
        has_fill,
        np.asarray(0 if fill is None else fill).astype(rows.dtype)[()],
    )
    loop: Any = _nearest
    if not nearest:
        loop = _linear
        steps = np.where(shape > 1, strides, 0).astype(np.uint64)[1:]  # one voxel is its own neighbour
        corners = tuple(
            sum(corner, np.uint64(0)) for corner in itertools.product(*((0 * n, n) for n in steps[:-1]))
        )
        arguments += (corners, None if steps[-1] == 1 else steps[-1])
    threads, count = torch.get_num_threads(), rows.shape[1]
    if threads == 1 or rows.size <= ALONE:
        loop(*arguments, 0, count)
        return torch.from_numpy(out)
    edges = np.linspace(0, count, min(count, threads * SLABS_PER_THREAD) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for slab in [pool.submit(loop, *arguments, *ends) for ends in itertools.pairwise(edges)]:
            slab.result()
    return torch.from_numpy(out)


def _planes(
    control: npt.NDArray[np.float32], taps: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
) -> npt.NDArray[np.float32]:
    """Coefficients of the last two axes, for each plane of the patch: ``(planes, m, spatial_dims * n)``."""
    lines = np.moveaxis(control, 0, -2).reshape(*control.shape[1:-1], -1)
    if not taps:  # an image is one plane
        return np.ascontiguousarray(lines[None])
    ((first, weights),) = taps
    planes = sum(weights[k][:, None, None] * lines[first + k] for k in range(4))
    return np.ascontiguousarray(planes, dtype=np.float32)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _row_of(planes, first, weights, number, row):  # type: ignore[no-untyped-def]
    """The coefficients along one row of the patch; rows are numbered plane after plane."""
    plane, y = divmod(number, first.shape[0])
    k = first[y]
    p0, p1, p2, p3 = planes[plane, k], planes[plane, k + 1], planes[plane, k + 2], planes[plane, k + 3]
    w0, w1, w2, w3 = weights[0, y], weights[1, y], weights[2, y], weights[3, y]
    for i in range(np.uint64(row.shape[0])):
        row[i] = w0 * p0[i] + w1 * p1[i] + w2 * p2[i] + w3 * p3[i]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _positions(row, cells, weights, position):  # type: ignore[no-untyped-def]
    """Positions along one row; within a cell the four coefficients are constant."""
    for cell in range(cells.shape[0] - 1):
        begin, end = cells[cell], cells[cell + 1]
        for axis in range(row.shape[0]):
            a, b, c, d = row[axis, cell], row[axis, cell + 1], row[axis, cell + 2], row[axis, cell + 3]
            for z in range(begin, end):
                position[axis, z] = (
                    a * weights[0, z] + b * weights[1, z] + c * weights[2, z] + d * weights[3, z]
                )


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _limits(line):  # type: ignore[no-untyped-def]
    """The smallest and the largest number."""
    smallest = largest = line[0]
    for z in range(np.uint64(line.shape[0])):
        smallest = min(smallest, line[z])
        largest = max(largest, line[z])
    return smallest, largest


@numba.njit(nogil=True, cache=True)
def _fold(row, position, lower, upper, outside, has_fill):  # type: ignore[no-untyped-def]
    """Bring a row's positions into the image; with a fill, say whether some may lie outside, and which do.

    Outside is more than half a voxel beyond it. Positions lie between their coefficients, so many rows are
    known to be inside without a look at them.
    """
    half, leaves = np.float32(0.5), False
    outside[:] = False
    for axis in range(row.shape[0]):
        lo, hi, line = lower[axis], upper[axis], position[axis]
        smallest, largest = _limits(row[axis])
        if has_fill and (smallest < lo - half or largest >= hi + half):
            leaves = True
            first, last = lo - half, hi + half
            for z in range(np.uint64(line.shape[0])):
                outside[z] |= (line[z] < first) | (line[z] >= last)
        if smallest < lo + half or largest > hi - half:  # half a voxel is more than any rounding
            span = hi - lo
            if smallest < lo - span or largest > hi + span:
                smallest, largest = _limits(line)
            _mirror(line, lo, hi, span > 0 and (smallest < lo - span or largest > hi + span))
    return leaves


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _mirror(line, lo, hi, often):  # type: ignore[no-untyped-def]
    """Fold positions into ``lo`` .. ``hi`` in place, by reflection at both ends."""
    two, span = np.float32(2), hi - lo
    if often:  # more than one reflection
        for z in range(np.uint64(line.shape[0])):
            line[z] = hi - abs((line[z] - lo) % (two * span) - span)
    for z in range(np.uint64(line.shape[0])):
        x = line[z]
        x = max(x, two * lo - x)
        x = min(x, two * hi - x)
        line[z] = min(max(x, lo), hi)


@numba.njit(nogil=True, cache=True)
def _overwrite(line, where, value):  # type: ignore[no-untyped-def]
    for z in range(line.shape[0]):
        if where[z]:
            line[z] = value


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _linear(  # type: ignore[no-untyped-def]
    flat,
    strides,
    shape,
    origin,
    planes,
    first,
    weights,
    cells,
    taps,
    rows,
    has_fill,
    fill,
    corners,
    step,
    r0,
    r1,
):
    channels, dims, nz = rows.shape[0], origin.shape[0], rows.shape[2]
    flat_row = np.empty(planes.shape[2], np.float32)
    row = flat_row.reshape(dims, -1)
    position = np.empty((dims, nz), np.float32)
    fraction = np.empty((dims, nz), np.float32)
    base = np.empty(nz, np.uint64)
    outside = np.zeros(nz, np.bool_)
    lower = np.empty(dims, np.float32)
    upper = np.empty(dims, np.float32)
    last = np.empty(dims, np.int64)
    for axis in range(dims):
        lower[axis] = -origin[axis]
        upper[axis] = shape[axis + 1] - 1 - origin[axis]
        last[axis] = max(shape[axis + 1] - 2, 0) - origin[axis]
    before = np.zeros(nz, np.uint64)
    for r in range(r0, r1):
        _row_of(planes, first, weights, r, flat_row)
        _positions(row, cells, taps, position)
        leaves = _fold(row, position, lower, upper, outside, has_fill)
        base[:] = 0
        for axis in range(dims):
            stride, start, end = strides[axis + 1], origin[axis], last[axis]
            for z in range(nz):
                p = position[axis, z]
                whole = min(np.int64(np.floor(p)), end)
                fraction[axis, z] = p - np.float32(whole)
                base[z] += np.uint64((whole + start) * stride)
        for c in range(channels):
            shift = np.uint64(c * strides[0])
            for z in range(
                np.uint64(nz)
            ):  # the next row lies about as far from this one as this from the last
                there = 2 * base[z] - before[z] + shift
                prefetch(flat, there + corners[0])
                prefetch(flat, there + corners[-1])
        before[:] = base
        for c in range(channels):
            shift = np.uint64(c * strides[0])
            line = rows[c, r]
            for z in range(np.uint64(nz)):
                line[z] = interpolate(flat, base[z] + shift, corners, step, fraction, z)
            if leaves:
                _overwrite(rows[c, r], outside, fill)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _nearest(flat, strides, shape, origin, planes, first, weights, cells, taps, rows, has_fill, fill, r0, r1):  # type: ignore[no-untyped-def]
    channels, dims, nz = rows.shape[0], origin.shape[0], rows.shape[2]
    flat_row = np.empty(planes.shape[2], np.float32)
    row = flat_row.reshape(dims, -1)
    position = np.empty((dims, nz), np.float32)
    base = np.empty(nz, np.uint64)
    outside = np.zeros(nz, np.bool_)
    lower = np.empty(dims, np.float32)
    upper = np.empty(dims, np.float32)
    for axis in range(dims):
        lower[axis] = -origin[axis]
        upper[axis] = shape[axis + 1] - 1 - origin[axis]
    half = np.float32(0.5)
    for r in range(r0, r1):
        _row_of(planes, first, weights, r, flat_row)
        _positions(row, cells, taps, position)
        leaves = _fold(row, position, lower, upper, outside, has_fill)
        base[:] = 0
        for axis in range(dims):
            stride, start = strides[axis + 1], origin[axis]
            for z in range(nz):
                whole = np.int64(np.floor(position[axis, z] + half))
                base[z] += np.uint64((whole + start) * stride)
        for c in range(channels):
            shift = np.uint64(c * strides[0])
            for z in range(nz):
                rows[c, r, z] = flat[base[z] + shift]
            if leaves:
                _overwrite(rows[c, r], outside, fill)
