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

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from volseg.bspline.field import spline_taps

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
    out = torch.empty((image.shape[0], *size), dtype=image.dtype if nearest else torch.float32)
    rows = out.numpy().reshape(image.shape[0], -1, size[-1])
    array = image.detach().numpy()
    strides = np.array(image.stride(), dtype=np.int64)
    shape = np.array(image.shape, dtype=np.int64)
    flat = np.lib.stride_tricks.as_strided(
        array, (1 + int(((shape - 1) * strides).sum()),), (array.itemsize,)
    )
    # Where along the last axis a new cell of the grid begins, unsigned: no negative index to look after.
    first = taps[-1][0]
    cells = np.searchsorted(first, np.arange(first[-1] + 2)).astype(np.uint64)
    has_fill = fill is not None
    arguments = (
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
    loop = _nearest if nearest else _linear
    threads, count = torch.get_num_threads(), rows.shape[1]
    if threads == 1 or rows.size <= ALONE:
        loop(*arguments, 0, count)
        return out
    edges = np.linspace(0, count, min(count, threads * SLABS_PER_THREAD) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for slab in [pool.submit(loop, *arguments, *ends) for ends in itertools.pairwise(edges)]:
            slab.result()
    return out


def _planes(
    control: npt.NDArray[np.float32], taps: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
) -> npt.NDArray[np.float32]:
    """Coefficients of the last two axes, for each plane of the patch: ``(planes, spatial_dims, m, n)``."""
    if not taps:  # an image is one plane
        return np.ascontiguousarray(control[None])
    ((first, weights),) = taps
    planes = sum(weights[k][:, None, None, None] * control[:, first + k].swapaxes(0, 1) for k in range(4))
    return np.ascontiguousarray(planes, dtype=np.float32)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _row_of(planes, first, weights, number, row):  # type: ignore[no-untyped-def]
    """The coefficients along one row of the patch; rows are numbered plane after plane."""
    plane, y = divmod(number, first.shape[0])
    k = first[y]
    for axis in range(row.shape[0]):
        for i in range(row.shape[1]):
            row[axis, i] = (
                weights[0, y] * planes[plane, axis, k, i]
                + weights[1, y] * planes[plane, axis, k + 1, i]
                + weights[2, y] * planes[plane, axis, k + 2, i]
                + weights[3, y] * planes[plane, axis, k + 3, i]
            )


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
def _mirror(position, lo, hi):  # type: ignore[no-untyped-def]
    """Fold positions into ``lo`` .. ``hi`` in place, by reflection at both ends."""
    two, span = np.float32(2), hi - lo
    smallest, largest = position[0], position[0]
    for z in range(position.shape[0]):
        smallest = min(smallest, position[z])
        largest = max(largest, position[z])
    if span > 0 and (smallest < lo - span or largest > hi + span):  # more than one reflection
        for z in range(position.shape[0]):
            position[z] = hi - abs((position[z] - lo) % (two * span) - span)
    for z in range(position.shape[0]):
        x = position[z]
        x = max(x, two * lo - x)
        x = min(x, two * hi - x)
        position[z] = min(max(x, lo), hi)


@numba.njit(nogil=True, cache=True, fastmath={"nnan", "nsz"})
def _fold_row(row, position, lower, upper):  # type: ignore[no-untyped-def]
    """Bring a row's positions into the image. A row whose coefficients lie inside does so itself."""
    for axis in range(row.shape[0]):
        lo, hi = lower[axis], upper[axis]
        smallest, largest = row[axis, 0], row[axis, 0]
        for i in range(1, row.shape[1]):
            smallest = min(smallest, row[axis, i])
            largest = max(largest, row[axis, i])
        if smallest < lo or largest > hi:
            _mirror(position[axis], lo, hi)
        else:
            for z in range(position.shape[1]):  # rounding alone
                position[axis, z] = min(max(position[axis, z], lo), hi)


@numba.njit(nogil=True, cache=True)
def _beyond(position, lower, upper, outside):  # type: ignore[no-untyped-def]
    """Which positions lie more than half a voxel outside."""
    half = np.float32(0.5)
    outside[:] = False
    for axis in range(position.shape[0]):
        least, most = lower[axis] - half, upper[axis] + half
        for z in range(outside.shape[0]):
            p = position[axis, z]
            outside[z] |= (p < least) | (p >= most)


@numba.njit(nogil=True, cache=True)
def _overwrite(line, where, value):  # type: ignore[no-untyped-def]
    for z in range(line.shape[0]):
        if where[z]:
            line[z] = value


@numba.njit(nogil=True, cache=True)
def _gather(flat, base, shift, step, pairs):  # type: ignore[no-untyped-def]
    """For each position of a row the two voxels along the last axis around it, side by side.

    Apart from the arithmetic, because what loads from anywhere cannot be vectorised, and that can.
    """
    one = np.uint64(1)
    if step == one:
        for z in range(np.uint64(base.shape[0])):
            i = base[z] + shift
            near, far = flat[i], flat[i + one]  # both before they are stored: one load of twice the length
            pairs[2 * z], pairs[2 * z + one] = near, far
    else:
        for z in range(np.uint64(base.shape[0])):
            i = base[z] + shift
            pairs[2 * z], pairs[2 * z + one] = flat[i], flat[i + step]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _blend(pairs, fraction, line):  # type: ignore[no-untyped-def]
    """One row from the voxels around each position: two pairs in an image, four in a volume."""
    one = np.uint64(1)
    if pairs.shape[0] == 2:
        a, b = pairs[0], pairs[1]
        for z in range(np.uint64(line.shape[0])):
            fx, fy = fraction[0, z], fraction[1, z]
            v0 = a[2 * z] + fy * (a[2 * z + one] - a[2 * z])
            v1 = b[2 * z] + fy * (b[2 * z + one] - b[2 * z])
            line[z] = v0 + fx * (v1 - v0)
        return
    a, b, c, d = pairs[0], pairs[1], pairs[2], pairs[3]
    for z in range(np.uint64(line.shape[0])):
        fx, fy, fz = fraction[0, z], fraction[1, z], fraction[2, z]
        v00 = a[2 * z] + fz * (a[2 * z + one] - a[2 * z])
        v01 = b[2 * z] + fz * (b[2 * z + one] - b[2 * z])
        v10 = c[2 * z] + fz * (c[2 * z + one] - c[2 * z])
        v11 = d[2 * z] + fz * (d[2 * z + one] - d[2 * z])
        v0 = v00 + fy * (v01 - v00)
        v1 = v10 + fy * (v11 - v10)
        line[z] = v0 + fx * (v1 - v0)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _linear(flat, strides, shape, origin, planes, first, weights, cells, taps, rows, has_fill, fill, r0, r1):  # type: ignore[no-untyped-def]
    channels, dims, nz = rows.shape[0], planes.shape[1], rows.shape[2]
    row = np.empty((dims, planes.shape[3]), np.float32)
    position = np.empty((dims, nz), np.float32)
    fraction = np.empty((dims, nz), np.float32)
    base = np.empty(nz, np.uint64)
    outside = np.zeros(nz, np.bool_)
    lower = np.empty(dims, np.float32)
    upper = np.empty(dims, np.float32)
    last = np.empty(dims, np.int64)
    step = np.empty(dims, np.uint64)
    for axis in range(dims):
        lower[axis] = -origin[axis]
        upper[axis] = shape[axis + 1] - 1 - origin[axis]
        last[axis] = max(shape[axis + 1] - 2, 0) - origin[axis]
        step[axis] = strides[axis + 1] if shape[axis + 1] > 1 else 0
    corners = 1 << (dims - 1)  # pairs of voxels around a position
    offsets = np.zeros(corners, np.uint64)
    for corner in range(corners):
        for bit in range(dims - 1):
            if corner >> bit & 1:
                offsets[corner] += step[dims - 2 - bit]
    pairs = np.empty((corners, 2 * nz), np.float32)
    for r in range(r0, r1):
        _row_of(planes, first, weights, r, row)
        _positions(row, cells, taps, position)
        if has_fill:
            _beyond(position, lower, upper, outside)
        _fold_row(row, position, lower, upper)
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
            for corner in range(corners):
                _gather(flat, base, shift + offsets[corner], step[dims - 1], pairs[corner])
            _blend(pairs, fraction, rows[c, r])
            if has_fill:
                _overwrite(rows[c, r], outside, fill)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _nearest(flat, strides, shape, origin, planes, first, weights, cells, taps, rows, has_fill, fill, r0, r1):  # type: ignore[no-untyped-def]
    channels, dims, nz = rows.shape[0], planes.shape[1], rows.shape[2]
    row = np.empty((dims, planes.shape[3]), np.float32)
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
        _row_of(planes, first, weights, r, row)
        _positions(row, cells, taps, position)
        if has_fill:
            _beyond(position, lower, upper, outside)
        _fold_row(row, position, lower, upper)
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
            if has_fill:
                _overwrite(rows[c, r], outside, fill)
