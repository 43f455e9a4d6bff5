"""The compiled loop: draw a patch of a volume through one composed B-spline map.

Nothing dense is made on the way. The map's coefficients (rotation, scaling, crop and deformation in
one, see :class:`~volseg.bspline.field.SplineMap`) are contracted along x once per plane and along y
once per row; along z the positions are four products per voxel, in the cache, next to the loads
they are needed for.

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
    """The window ``start`` .. ``start + size`` of the patch, ``(C, *size)``; the image is ``(C, X, Y, Z)``.

    ``control`` holds positions in the image relative to ``origin``. ``fill`` replaces what lies
    beyond the volume; ``None`` mirrors.
    """
    taps = [
        spline_taps(length, step, n, offset=offset)
        for length, step, n, offset in zip(size, spacing, control.shape[1:], start, strict=True)
    ]
    firsts = tuple(first for first, _ in taps)
    weights = tuple(weight.astype(np.float32) for _, weight in taps)
    out = torch.empty((image.shape[0], *size), dtype=image.dtype if nearest else torch.float32)
    array = image.detach().numpy()
    strides = np.array(image.stride(), dtype=np.int64)
    shape = np.array(image.shape, dtype=np.int64)
    flat = np.lib.stride_tricks.as_strided(
        array, (1 + int(((shape - 1) * strides).sum()),), (array.itemsize,)
    )
    loop = _nearest if nearest else _linear
    # Where along z a new cell of the control grid begins, unsigned: no negative index to look after.
    cells = np.searchsorted(firsts[2], np.arange(firsts[2][-1] + 2)).astype(np.uint64)
    has_fill = fill is not None
    fill_value = np.asarray(0 if fill is None else fill).astype(out.numpy().dtype)[()]
    arguments = (
        flat,
        strides,
        shape,
        origin,
        np.ascontiguousarray(control),
        firsts,
        weights,
        cells,
        out.numpy(),
    )

    threads = torch.get_num_threads()
    edges = np.linspace(0, size[0], min(size[0], threads * SLABS_PER_THREAD) + 1).astype(int)
    if threads == 1:
        loop(*arguments, has_fill, fill_value, 0, size[0])
        return out
    with ThreadPoolExecutor(threads) as pool:
        slabs = [
            pool.submit(loop, *arguments, has_fill, fill_value, int(first), int(last))
            for first, last in itertools.pairwise(edges)
        ]
        for slab in slabs:
            slab.result()
    return out


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _contract_plane(control, first, weights, x, plane):  # type: ignore[no-untyped-def]
    k = first[x]
    for axis in range(3):
        for j in range(plane.shape[1]):
            for i in range(plane.shape[2]):
                plane[axis, j, i] = (
                    weights[0, x] * control[axis, k, j, i]
                    + weights[1, x] * control[axis, k + 1, j, i]
                    + weights[2, x] * control[axis, k + 2, j, i]
                    + weights[3, x] * control[axis, k + 3, j, i]
                )


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _contract_row(plane, first, weights, y, row):  # type: ignore[no-untyped-def]
    k = first[y]
    for axis in range(3):
        for i in range(row.shape[1]):
            row[axis, i] = (
                weights[0, y] * plane[axis, k, i]
                + weights[1, y] * plane[axis, k + 1, i]
                + weights[2, y] * plane[axis, k + 2, i]
                + weights[3, y] * plane[axis, k + 3, i]
            )


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _positions(row, cells, weights, position):  # type: ignore[no-untyped-def]
    """Positions along one row; within a cell the four coefficients are constant."""
    for cell in range(cells.shape[0] - 1):
        begin, end = cells[cell], cells[cell + 1]
        for axis in range(3):
            a, b, c, d = row[axis, cell], row[axis, cell + 1], row[axis, cell + 2], row[axis, cell + 3]
            for z in range(begin, end):
                position[axis, z] = (
                    a * weights[0, z] + b * weights[1, z] + c * weights[2, z] + d * weights[3, z]
                )


@numba.njit(nogil=True, cache=True)
def _mirror(position, lo, hi):  # type: ignore[no-untyped-def]
    """Fold positions into ``lo`` .. ``hi`` in place, by reflection at both ends."""
    span = hi - lo
    smallest, largest = np.inf, -np.inf
    for z in range(position.shape[0]):
        smallest = min(smallest, position[z])
        largest = max(largest, position[z])
    if span > 0 and (smallest < lo - span or largest > hi + span):  # more than one reflection
        for z in range(position.shape[0]):
            position[z] = hi - abs((position[z] - lo) % (np.float32(2) * span) - span)
    for z in range(position.shape[0]):
        x = position[z]
        x = max(x, np.float32(2) * lo - x)
        x = min(x, np.float32(2) * hi - x)
        position[z] = min(max(x, lo), hi)


@numba.njit(nogil=True, cache=True)
def _fold_row(row, position, lower, upper):  # type: ignore[no-untyped-def]
    """Bring a row's positions into the volume. A row whose coefficients lie inside does so itself."""
    for axis in range(3):
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


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _interpolate(flat, base, shift, fraction, sx, sy, sz, line):  # type: ignore[no-untyped-def]
    """One row of one channel from the eight voxels around each position."""
    for z in range(line.shape[0]):
        i = base[z] + shift
        fx, fy, fz = fraction[0, z], fraction[1, z], fraction[2, z]
        v000, v001 = np.float32(flat[i]), np.float32(flat[i + sz])
        v010, v011 = np.float32(flat[i + sy]), np.float32(flat[i + sy + sz])
        v100, v101 = np.float32(flat[i + sx]), np.float32(flat[i + sx + sz])
        v110, v111 = np.float32(flat[i + sx + sy]), np.float32(flat[i + sx + sy + sz])
        v00 = v000 + fz * (v001 - v000)
        v01 = v010 + fz * (v011 - v010)
        v10 = v100 + fz * (v101 - v100)
        v11 = v110 + fz * (v111 - v110)
        v0 = v00 + fy * (v01 - v00)
        v1 = v10 + fy * (v11 - v10)
        line[z] = v0 + fx * (v1 - v0)


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _linear(flat, strides, shape, origin, control, firsts, weights, cells, out, has_fill, fill, x0, x1):  # type: ignore[no-untyped-def]
    channels, ny, nz = out.shape[0], out.shape[2], out.shape[3]
    plane = np.empty((3, control.shape[2], control.shape[3]), np.float32)
    row = np.empty((3, control.shape[3]), np.float32)
    position = np.empty((3, nz), np.float32)
    fraction = np.empty((3, nz), np.float32)
    base = np.empty(nz, np.uint64)
    outside = np.zeros(nz, np.bool_)
    lower = np.empty(3, np.float32)
    upper = np.empty(3, np.float32)
    last = np.empty(3, np.int64)
    step = np.empty(3, np.int64)
    for axis in range(3):
        lower[axis] = -origin[axis]
        upper[axis] = shape[axis + 1] - 1 - origin[axis]
        last[axis] = max(shape[axis + 1] - 2, 0) - origin[axis]
        step[axis] = strides[axis + 1] if shape[axis + 1] > 1 else 0
    sx, sy, sz = np.uint64(step[0]), np.uint64(step[1]), np.uint64(step[2])
    for x in range(x0, x1):
        _contract_plane(control, firsts[0], weights[0], x, plane)
        for y in range(ny):
            _contract_row(plane, firsts[1], weights[1], y, row)
            _positions(row, cells, weights[2], position)
            if has_fill:
                _beyond(position, lower, upper, outside)
            _fold_row(row, position, lower, upper)
            base[:] = 0
            for axis in range(3):
                stride, first, end = strides[axis + 1], origin[axis], last[axis]
                for z in range(nz):
                    p = position[axis, z]
                    whole = min(np.int64(np.floor(p)), end)
                    fraction[axis, z] = p - np.float32(whole)
                    base[z] += np.uint64((whole + first) * stride)
            for c in range(channels):
                shift = np.uint64(c * strides[0])
                _interpolate(flat, base, shift, fraction, sx, sy, sz, out[c, x, y])
                if has_fill:
                    for z in range(nz):
                        if outside[z]:
                            out[c, x, y, z] = fill


@numba.njit(nogil=True, cache=True)
def _beyond(position, lower, upper, outside):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    for z in range(outside.shape[0]):
        outside[z] = False
        for axis in range(3):
            p = position[axis, z]
            if not (lower[axis] - half <= p < upper[axis] + half):
                outside[z] = True


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"})
def _nearest(flat, strides, shape, origin, control, firsts, weights, cells, out, has_fill, fill, x0, x1):  # type: ignore[no-untyped-def]
    channels, ny, nz = out.shape[0], out.shape[2], out.shape[3]
    plane = np.empty((3, control.shape[2], control.shape[3]), np.float32)
    row = np.empty((3, control.shape[3]), np.float32)
    position = np.empty((3, nz), np.float32)
    base = np.empty(nz, np.int64)
    outside = np.zeros(nz, np.bool_)
    lower = np.empty(3, np.float32)
    upper = np.empty(3, np.float32)
    for axis in range(3):
        lower[axis] = -origin[axis]
        upper[axis] = shape[axis + 1] - 1 - origin[axis]
    half = np.float32(0.5)
    for x in range(x0, x1):
        _contract_plane(control, firsts[0], weights[0], x, plane)
        for y in range(ny):
            _contract_row(plane, firsts[1], weights[1], y, row)
            _positions(row, cells, weights[2], position)
            if has_fill:
                _beyond(position, lower, upper, outside)
            _fold_row(row, position, lower, upper)
            base[:] = 0
            for axis in range(3):
                for z in range(nz):
                    base[z] += (np.int64(np.floor(position[axis, z] + half)) + origin[axis]) * strides[
                        axis + 1
                    ]
            for c in range(channels):
                for z in range(nz):
                    out[c, x, y, z] = fill if outside[z] else flat[base[z] + c * strides[0]]
