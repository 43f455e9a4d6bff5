"""The compiled loop behind the sampling, and what Numba has no words for.

Nothing dense is made on the way. The map's coefficients (rotation, scaling, crop and deformation in
one, see :class:`volseg.bspline.field.SplineMap`) are contracted axis by axis down to one row; along it
the positions are four products per voxel, in the cache, next to the loads they are needed for. An image and
its label are read at the same positions, in the same loop.

The loops release Python's lock and are spread over plain threads, as many as torch may use: no
OpenMP region outlives a call, so a forked data-loading process can use the kernel too. The first
call for a type of image and label compiles for some seconds; the result is kept on disk.

Two things that Numba has no words for: linear interpolation in vector registers, and a prefetch.

Compilers do not see that the two voxels along the last axis lie side by side: that one load brings both, and
that the other axes can be blended for both at once. In a volume that makes four loads and three blends of
eight and seven.
"""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from volseg.bspline.field import spline_taps
from volseg.bspline.sampling import Part
from volseg.compiled import njit

__all__ = ["interpolate", "prefetch", "sample"]

I32 = ir.IntType(32)
FLOAT = ir.FloatType()
FUSED = ("contract",)


def _interpolate(typingctx, flat, index, corners, step, fraction, z):  # type: ignore[no-untyped-def]
    """The value between the voxels around ``flat[index]``, float32.

    ``corners`` are the offsets of the voxels but for the last axis, the first axis changing slowest; the
    other voxel along the last axis is ``step`` away, or beside it if ``step`` is ``None``.
    ``fraction[:, z]`` says how far between the voxels, per axis.
    """
    beside = isinstance(step, types.NoneType)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        voxels = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        parts = context.make_array(signature.args[4])(context, builder, arguments[4])
        length = builder.extract_value(parts.shape, 1)
        pair = ir.VectorType(context.get_data_type(flat.dtype), 2)
        pairs = []
        for corner in range(len(corners)):
            near = builder.add(arguments[1], builder.extract_value(arguments[2], corner))
            first = builder.gep(voxels, [near])
            if beside:
                both = builder.load(builder.bitcast(first, pair.as_pointer()), align=flat.dtype.bitwidth // 8)
            else:
                second = builder.gep(voxels, [builder.add(near, arguments[3])])
                both = _joined(builder, [builder.load(place) for place in (first, second)])
            pairs.append(_as_float(builder, both, flat.dtype))
        while len(pairs) > 1:
            two = zip(pairs[::2], pairs[1::2], strict=True)
            pairs = [_lanes(builder, a, b, range(2 * a.type.count)) for a, b in two]
        (values,) = pairs
        for axis in range(len(corners).bit_length()):  # halves the values, and the last two are one pair
            here = builder.add(builder.mul(length.type(axis), length), arguments[5])
            share = builder.load(builder.gep(parts.data, [here]))
            half = values.type.count // 2
            low = _lanes(builder, values, values, range(half))
            high = _lanes(builder, values, values, range(half, 2 * half))
            share = _joined(builder, [share] * half)
            rise = builder.fmul(share, builder.fsub(high, low, flags=FUSED), flags=FUSED)
            values = builder.fadd(low, rise, flags=FUSED)
        return builder.extract_element(values, I32(0))

    return types.float32(flat, index, corners, step, fraction, z), codegen


def _prefetch(typingctx, flat, index):  # type: ignore[no-untyped-def]
    """Have ``flat[index]`` brought near, for an index that may lie anywhere: nothing is read."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        voxels = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.gep(voxels, [arguments[1]])
        function = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
        to_read, keep, data = I32(0), I32(3), I32(1)
        hint = builder.module.declare_intrinsic("llvm.prefetch", [place.type], function)
        builder.call(hint, [place, to_read, keep, data])
        return context.get_dummy_value()

    return types.void(flat, index), codegen


def _lanes(builder: Any, first: Any, second: Any, lanes: Any) -> Any:
    """The numbered lanes of two vectors, the second's counted on from the first's."""
    numbers = ir.Constant(ir.VectorType(I32, len(lanes)), [I32(lane) for lane in lanes])
    return builder.shuffle_vector(first, second, numbers)


def _joined(builder: Any, numbers: Any) -> Any:
    vector = ir.Constant(ir.VectorType(numbers[0].type, len(numbers)), ir.Undefined)
    for lane, number in enumerate(numbers):
        vector = builder.insert_element(vector, number, I32(lane))
    return vector


def _as_float(builder: Any, vector: Any, dtype: Any) -> Any:
    wanted = ir.VectorType(FLOAT, vector.type.count)
    if dtype == types.float32:
        return vector
    if dtype == types.float64:
        return builder.fptrunc(vector, wanted)
    return (builder.sitofp if dtype.signed else builder.uitofp)(vector, wanted)


interpolate: Any = intrinsic(_interpolate)
prefetch: Any = intrinsic(_prefetch)


SLABS_PER_THREAD = 4
ALONE = 2**19  # numbers that take less time than to start threads and wait for them


def sample(
    control: npt.NDArray[np.float32],
    origin: npt.NDArray[np.int64],
    spacing: Sequence[float],
    linear: Part | None,
    nearest: Part | None,
) -> list[Tensor]:
    """What the parts ask for, ``(C, *size)`` each; the window of ``nearest`` lies in that of ``linear``.

    ``control`` holds positions in the arrays relative to ``origin``.
    """
    whole = linear or nearest
    if whole is None:
        return []
    taps = [
        spline_taps(length, step, n, offset=offset)
        for length, step, n, offset in zip(whole.size, spacing, control.shape[1:], whole.start, strict=True)
    ]
    # Where along the last axis a new cell of the grid begins, unsigned: no negative index to look after.
    first = taps[-1][0]
    cells = np.searchsorted(first, np.arange(first[-1] + 2)).astype(np.uint64)
    position = (
        _planes(control, taps[:-2]),
        taps[-2][0],
        taps[-2][1].astype(np.float32),
        cells,
        taps[-1][1].astype(np.float32),
        np.array(whole.image.shape[1:], dtype=np.int64),
        origin,
    )
    drawn, read_linear, read_nearest = [], None, None
    if linear is not None:
        drawn.append(_empty(linear, np.dtype(np.float32)))
        read_linear = (*_source(linear), *_target(linear, drawn[-1]), *_neighbours(linear.image))
    if nearest is not None:
        source = _source(nearest)
        drawn.append(_empty(nearest, source[0].dtype))
        inner = [(n - o, n - o + k) for n, o, k in zip(nearest.start, whole.start, nearest.size, strict=True)]
        read_nearest = (*source, *_target(nearest, drawn[-1]), ((0, 1), *inner)[-3:])  # an image is one plane
    arguments = (*position, read_linear, read_nearest)
    threads, count = torch.get_num_threads(), math.prod(whole.size[:-1])
    if threads == 1 or sum(out.size for out in drawn) <= ALONE:
        _draw(*arguments, 0, count)
    else:
        edges = np.linspace(0, count, min(count, threads * SLABS_PER_THREAD) + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            for slab in [pool.submit(_draw, *arguments, *ends) for ends in itertools.pairwise(edges)]:
                slab.result()
    return [torch.from_numpy(out) for out in drawn]


def _empty(part: Part, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Room for a part. From NumPy, which asks for large pages: torch's are touched one by one, for longer."""
    return np.empty((part.image.shape[0], *part.size), dtype)


def _source(part: Part) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """An array as it lies in memory, from its first element to its last, and its strides."""
    array = part.image.detach().numpy()
    strides = np.array(part.image.stride(), dtype=np.int64)
    length = 1 + int(((np.array(array.shape) - 1) * strides).sum())
    return np.lib.stride_tricks.as_strided(array, (length,), (array.itemsize,)), strides


def _target(part: Part, out: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], bool, Any]:
    """The rows to write to, whether what lies outside is filled, and with what."""
    fill = 0 if part.outside == "mirror" else part.outside
    rows = out.reshape(len(out), -1, out.shape[-1])
    return rows, part.outside != "mirror", np.asarray(fill).astype(out.dtype)[()]


def _neighbours(image: Tensor) -> tuple[tuple[np.uint64, ...], np.uint64 | None]:
    """How far from each other in memory the voxels around a position lie, as ``interpolate`` takes it."""
    lengths, strides = image.shape[1:], image.stride()[1:]
    steps = [stride if n > 1 else 0 for stride, n in zip(strides, lengths, strict=True)]
    corners = itertools.product(*((0, step) for step in steps[:-1]))
    beside = None if steps[-1] == 1 else np.uint64(steps[-1])
    return tuple(np.uint64(sum(corner)) for corner in corners), beside


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


@njit(fastmath={"contract", "nsz"})
def _row_of(planes, first, weights, number, row):  # type: ignore[no-untyped-def]
    """The coefficients along one row of the patch; rows are numbered plane after plane."""
    plane, y = divmod(number, first.shape[0])
    k = first[y]
    p0, p1, p2, p3 = planes[plane, k], planes[plane, k + 1], planes[plane, k + 2], planes[plane, k + 3]
    w0, w1, w2, w3 = weights[0, y], weights[1, y], weights[2, y], weights[3, y]
    for i in range(np.uint64(row.shape[0])):
        row[i] = w0 * p0[i] + w1 * p1[i] + w2 * p2[i] + w3 * p3[i]


@njit(fastmath={"contract", "nsz"})
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


@njit(fastmath={"nnan", "nsz"})
def _limits(line):  # type: ignore[no-untyped-def]
    """The smallest and the largest number."""
    smallest = largest = line[0]
    for z in range(np.uint64(line.shape[0])):
        smallest = min(smallest, line[z])
        largest = max(largest, line[z])
    return smallest, largest


@njit()
def _fold(row, position, lower, upper, outside, has_fill):  # type: ignore[no-untyped-def]
    """Bring a row's positions into the image; with a fill, say whether some may lie outside, and which do.

    Outside is more than half a voxel beyond it. Positions lie between their coefficients, so many rows are
    known to be inside without a look at them.
    """
    half, leaves = np.float32(0.5), False
    outside[:] = 0
    for axis in range(row.shape[0]):
        lo, hi, line = lower[axis], upper[axis], position[axis]
        smallest, largest = _limits(row[axis])
        if has_fill and (smallest < lo - half or largest >= hi + half):
            leaves = True
            first, last = lo - half, hi + half
            for z in range(np.uint64(line.shape[0])):
                if line[z] < first or line[z] >= last:
                    outside[z] = 1
        if smallest < lo + half or largest > hi - half:  # half a voxel is more than any rounding
            span = hi - lo
            if smallest < lo - span or largest > hi + span:
                smallest, largest = _limits(line)
            _mirror(line, lo, hi, span > 0 and (smallest < lo - span or largest > hi + span))
    return leaves


@njit(fastmath={"nnan", "nsz"})
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


@njit()
def _overwrite(line, where, value):  # type: ignore[no-untyped-def]
    for z in range(line.shape[0]):
        if where[z]:
            line[z] = value


@njit(fastmath={"contract", "nsz"})
def _linear(part, position, shape, origin, r, leaves, outside, fraction, base, before):  # type: ignore[no-untyped-def]
    """Write row ``r`` of a part, each value from the voxels around its position."""
    flat, strides, rows, has_fill, fill, corners, step = part
    for axis in range(position.shape[0]):
        stride, start = strides[axis + 1], origin[axis]
        last = max(shape[axis] - 2, 0) - start
        for z in range(np.uint64(base.shape[0])):
            p = position[axis, z]
            whole = min(np.int64(np.floor(p)), last)
            fraction[axis, z] = p - np.float32(whole)
            there = np.uint64((whole + start) * stride)
            base[z] = base[z] + there if axis else there
    for c in range(rows.shape[0]):
        shift = np.uint64(c * strides[0])
        for z in range(np.uint64(base.shape[0])):
            # the next row lies about as far from this one as this from the last
            there = 2 * base[z] - before[z] + shift
            prefetch(flat, there + corners[0])
            prefetch(flat, there + corners[-1])
    before[:] = base
    for c in range(rows.shape[0]):
        shift = np.uint64(c * strides[0])
        line = rows[c, r]
        for z in range(np.uint64(line.shape[0])):
            line[z] = interpolate(flat, base[z] + shift, corners, step, fraction, z)
        if leaves and has_fill:
            _overwrite(line, outside, fill)


@njit(fastmath={"contract", "nsz"})
def _nearest(part, position, origin, r, leaves, outside, base):  # type: ignore[no-untyped-def]
    """Write row ``r`` of a part, each value from the voxel next to its position."""
    flat, strides, rows, has_fill, fill, inner = part
    z0, z1 = inner[2]
    half = np.float32(0.5)
    for axis in range(position.shape[0]):
        stride, start, line = strides[axis + 1], origin[axis], position[axis, z0:z1]
        for z in range(np.uint64(line.shape[0])):
            there = np.uint64((np.int64(np.floor(line[z] + half)) + start) * stride)
            base[z] = base[z] + there if axis else there
    for c in range(rows.shape[0]):
        shift = np.uint64(c * strides[0])
        line = rows[c, r]
        for z in range(np.uint64(line.shape[0])):
            line[z] = flat[base[z] + shift]
        if leaves and has_fill:
            _overwrite(line, outside[z0:z1], fill)


@njit(fastmath={"contract", "nsz"})
def _draw(planes, first, weights, cells, taps, shape, origin, linear, nearest, begin, end):  # type: ignore[no-untyped-def]
    """Rows ``begin`` .. ``end`` of one part, or of two: what is not wanted is ``None``."""
    dims, nz = shape.shape[0], taps.shape[1]
    coefficients = np.empty(planes.shape[2], np.float32)
    row = coefficients.reshape(dims, -1)
    position = np.empty((dims, nz), np.float32)
    fraction = np.empty((dims, nz), np.float32)
    base, before = np.empty(nz, np.uint64), np.zeros(nz, np.uint64)
    outside = np.zeros(nz, np.int32)  # as wide as a position: loops over both stay in step
    lower = (-origin).astype(np.float32)
    upper = (shape - 1 - origin).astype(np.float32)
    has_fill = False
    if linear is not None:
        has_fill |= linear[3]
    if nearest is not None:
        has_fill |= nearest[3]
    for r in range(begin, end):
        _row_of(planes, first, weights, r, coefficients)
        _positions(row, cells, taps, position)
        leaves = _fold(row, position, lower, upper, outside, has_fill)
        if linear is not None:
            _linear(linear, position, shape, origin, r, leaves, outside, fraction, base, before)
        if nearest is not None:
            (x0, x1), (y0, y1), _ = nearest[5]  # where in the window the part lies
            plane, y = divmod(r, first.shape[0])
            if x0 <= plane < x1 and y0 <= y < y1:
                inner = (plane - x0) * (y1 - y0) + y - y0
                _nearest(nearest, position, origin, inner, leaves, outside, base)
