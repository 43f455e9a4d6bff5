"""Two things that Numba has no words for: linear interpolation in vector registers, and a prefetch.

Compilers do not see that the two voxels along the last axis lie side by side: that one load brings both, and
that the other axes can be blended for both at once. In a volume that makes four loads and three blends of
eight and seven.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

__all__ = ["interpolate", "prefetch"]

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
