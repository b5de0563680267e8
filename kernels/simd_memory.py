"""Loads and stores of `simd`: vectors and scalars at any alignment, and the conversions of 16-bit floats on the way.

All are intrinsics (array, offset[, value]); the offset counts the array's own elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic as _intrinsic
from numba.np.arrayobj import populate_array

from .simd_types import (
    I32,
    ISA,
    F32x8,
    I8x16,
    I8x32,
    I16x16,
    I32x8,
    U8x16,
    U8x32,
    Vector,
    accepts,
    constant,
)

intrinsic: Any = _intrinsic  # kernels call them without the first parameter
_I8, _I16, _F16, _F32 = ir.IntType(8), ir.IntType(16), ir.HalfType(), ir.FloatType()
_I64 = ir.IntType(64)
_I8x8, _I16x8 = ir.VectorType(_I8, 8), ir.VectorType(_I16, 8)


# ---------------------------------------------------------------------------------------------- places


def _is_flat(array: types.Type) -> bool:
    return isinstance(array, types.Array) and array.layout == "C"


def _check_place(name: str, array: types.Type, offset: types.Type) -> None:
    if not _is_flat(array):
        raise TypingError(f"{name} takes a C-contiguous array, not {array}")
    if not isinstance(offset, types.Integer):
        raise TypingError(f"{name} takes an integer offset, not {offset}")


def _num_bytes(memory: ir.Type) -> int:
    width = {_I8: 1, _I16: 2, I32: 4, _F16: 2, _F32: 4}
    return width[memory.element] * memory.count if isinstance(memory, ir.VectorType) else width[memory]


def address_of(
    context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, offset: ir.Value, memory: ir.Type
):
    """Address of element `offset`; in bounds-checking mode, IndexError unless a `memory` there lies inside."""
    size = _num_bytes(memory)
    view = context.make_array(array_type)(context, builder, array)
    itemsize = ir.Constant(_I64, context.get_abi_sizeof(context.get_data_type(array_type.dtype)))
    start = builder.mul(offset, itemsize)
    if context.enable_boundscheck:
        # Compared as unsigned, a negative offset is beyond the end; the first test keeps `start` from overflowing.
        beyond = builder.icmp_unsigned(">", offset, view.nitems)
        left = builder.sub(builder.mul(view.nitems, itemsize), start)
        too_long = builder.icmp_signed("<", left, ir.Constant(_I64, size))
        with builder.if_then(builder.or_(beyond, too_long), likely=False):
            context.call_conv.return_user_exc(builder, IndexError, ("vector access is out of bounds",))
    return builder.gep(builder.bitcast(view.data, _I8.as_pointer()), [start])


def _loader(name: str, result: types.Type, memory: ir.Type, doc: str, convert: Callable | None = None) -> Any:
    """An intrinsic (array, offset) -> `result` that reads a `memory` and converts it."""

    def load(typingctx, array, offset):
        _check_place(name, array, offset)

        def codegen(context, builder, sig, args):
            place = address_of(context, builder, sig.args[0], args[0], args[1], memory)
            value = builder.load(builder.bitcast(place, memory.as_pointer()), align=1)
            return convert(builder, value) if convert else value

        return result(array, types.intp), codegen

    load.__name__ = load.__qualname__ = name
    load.__doc__ = doc
    return intrinsic(load)


def _storer(name: str, kind: types.Type, memory: ir.Type, doc: str, convert: Callable | None = None) -> Any:
    """An intrinsic (array, offset, value of type `kind`) that converts the value and writes a `memory`."""

    def store(typingctx, array, offset, value):
        _check_place(name, array, offset)
        if not array.mutable:
            raise TypingError(f"{name} takes an array that can be written, not {array}")
        if not accepts(kind, value):
            raise TypingError(f"{name} writes {kind}, not {value}")

        def codegen(context, builder, sig, args):
            place = address_of(context, builder, sig.args[0], args[0], args[1], memory)
            stored = convert(builder, args[2]) if convert else args[2]
            builder.store(stored, builder.bitcast(place, memory.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(array, types.intp, kind), codegen

    store.__name__ = store.__qualname__ = name
    store.__doc__ = doc
    return intrinsic(store)


@intrinsic
def store(typingctx, array, offset, vector):
    """Write a vector of any type (vmovdqu, vmovups)."""
    _check_place("store", array, offset)
    if not array.mutable or not isinstance(vector, Vector):
        raise TypingError(f"store takes an array that can be written and a vector, not {array} and {vector}")

    def codegen(context, builder, sig, args):
        place = address_of(context, builder, sig.args[0], args[0], args[1], vector.llvm)
        builder.store(args[2], builder.bitcast(place, vector.llvm.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic(prefer_literal=True)
def local_array(typingctx, dtype, size):
    """A flat array of `size` elements (a constant) on the stack: nothing is allocated, and it must not be returned."""
    array = types.Array(dtype.dtype, 1, "C")
    count = size.literal_value

    def codegen(context, builder, sig, args):
        element = context.get_data_type(array.dtype)
        item = ir.Constant(_I64, context.get_abi_sizeof(element))
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(element, count))
        memory.align = 64
        view = context.make_array(array)(context, builder)
        data = builder.bitcast(memory, element.as_pointer())
        populate_array(view, data, [ir.Constant(_I64, count)], [item], item, None)
        return view._getvalue()

    return array(dtype, size), codegen


def emit_prefetch(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, offset: ir.Value) -> None:
    """`prefetch_far`, for instructions that are made of others."""
    view = context.make_array(array_type)(context, builder, array)
    item = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    base = builder.bitcast(view.data, _I8.as_pointer())
    place = builder.gep(base, [builder.mul(offset, ir.Constant(_I64, item))])
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [place, *(ir.Constant(I32, n) for n in (0, 2, 1))])  # to read, second cache, data


@intrinsic
def prefetch_far(typingctx, array, offset):
    """Ask for the cache line of an element, which may lie outside of the array, in the second cache (prefetcht1).

    For what is read once, long before it is. The first cache can wait for some twenty lines at a time, which limits one
    thread to half of what memory gives.
    """
    _check_place("prefetch_far", array, offset)

    def codegen(context, builder, sig, args):
        emit_prefetch(context, builder, sig.args[0], args[0], args[1])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


# ---------------------------------------------------------------------------------------------- 16-bit floats


def _like(kind: ir.Type, element: ir.Type) -> ir.Type:
    """`element`, as a vector if `kind` is one."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _bf16_to_f32(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    ints = _like(bits.type, I32)
    return builder.bitcast(builder.shl(builder.zext(bits, ints), constant(ints, 16)), _like(ints, _F32))


def f16_to_f32(builder: ir.IRBuilder, half: ir.Value) -> ir.Value:
    ints, floats = _like(half.type, I32), _like(half.type, _F32)
    if ISA != "portable":
        return builder.fpext(builder.bitcast(half, _like(half.type, _F16)), floats)
    # Exponent and fraction move into place. The exponents' biases differ by 112: a multiplication adds it, and
    # normalises subnormals. Infinity and NaN keep the largest exponent.
    bits = builder.zext(half, ints)
    magnitude = builder.shl(builder.and_(bits, constant(ints, 0x7FFF)), constant(ints, 13))
    value = builder.bitcast(builder.fmul(builder.bitcast(magnitude, floats), constant(floats, 2.0**112)), ints)
    is_finite = builder.icmp_unsigned("<", magnitude, constant(ints, 0x7C00 << 13))
    value = builder.select(is_finite, value, builder.or_(magnitude, constant(ints, 0x7F800000)))
    sign = builder.shl(builder.and_(bits, constant(ints, 0x8000)), constant(ints, 16))
    return builder.bitcast(builder.or_(value, sign), floats)


def _f32_to_f16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    if ISA != "portable":
        return builder.bitcast(builder.fptrunc(value, _like(value.type, _F16)), _like(value.type, _I16))
    ints, floats = _like(value.type, I32), value.type
    bits = builder.bitcast(value, ints)
    magnitude = builder.and_(bits, constant(ints, 0x7FFFFFFF))
    # Drop 13 bits of the fraction, ties to even, and lower the exponent's bias by 112; too large is infinity.
    shifted = builder.lshr(magnitude, constant(ints, 13))
    tie = builder.and_(shifted, constant(ints, 1))
    rounded = builder.lshr(builder.add(magnitude, builder.add(tie, constant(ints, 0xFFF))), constant(ints, 13))
    half = builder.sub(rounded, constant(ints, 112 << 10))
    infinity = constant(ints, 0x7C00)
    half = builder.select(builder.icmp_unsigned(">", half, infinity), infinity, half)
    # Below 2**-14: beside 0.5, whose last bit is 2**-24, the sum is rounded to the unit of subnormals.
    beside = builder.fadd(builder.bitcast(magnitude, floats), constant(floats, 0.5))
    subnormal = builder.sub(builder.bitcast(beside, ints), constant(ints, 0x3F000000))
    is_small = builder.icmp_unsigned("<", magnitude, constant(ints, 0x38800000))
    half = builder.select(is_small, subnormal, half)
    nan = builder.or_(builder.and_(shifted, constant(ints, 0x3FF)), constant(ints, 0x7E00))
    half = builder.select(builder.icmp_unsigned(">", magnitude, constant(ints, 0x7F800000)), nan, half)
    sign = builder.and_(builder.lshr(bits, constant(ints, 16)), constant(ints, 0x8000))
    return builder.trunc(builder.or_(half, sign), _like(ints, _I16))


# ---------------------------------------------------------------------------------------------- loads


def _vector_loader(vector: Vector) -> Any:
    return _loader(f"load_{vector}", vector, vector.llvm, f"Read a {vector} (vmovdqu, vmovups).")


load_u8x16, load_i8x16 = _vector_loader(U8x16), _vector_loader(I8x16)
load_u8x32, load_i8x32 = _vector_loader(U8x32), _vector_loader(I8x32)
load_i16x16, load_i32x8, load_f32x8 = _vector_loader(I16x16), _vector_loader(I32x8), _vector_loader(F32x8)

load_f16x8 = _loader("load_f16x8", F32x8, _I16x8, "Read 8 float16 as float32 (vcvtph2ps).", f16_to_f32)
load_bf16x8 = _loader("load_bf16x8", F32x8, _I16x8, "Read 8 bfloat16 as float32 (vpmovzxwd, vpslld).", _bf16_to_f32)

load_i8 = _loader("load_i8", types.int8, _I8, "Read an int8.")
load_u8 = _loader("load_u8", types.uint8, _I8, "Read a uint8.")
load_i16 = _loader("load_i16", types.int16, _I16, "Read an int16.")
load_u16 = _loader("load_u16", types.uint16, _I16, "Read a uint16.")
load_u32 = _loader("load_u32", types.uint32, I32, "Read a uint32.")
load_f16 = _loader("load_f16", types.float32, _I16, "Read a float16 as float32 (vcvtph2ps).", f16_to_f32)
load_bf16 = _loader("load_bf16", types.float32, _I16, "Read a bfloat16 as float32.", _bf16_to_f32)
load_f32 = _loader("load_f32", types.float32, _F32, "Read a float32.")

# ---------------------------------------------------------------------------------------------- stores

store_f32x8 = _storer("store_f32x8", F32x8, F32x8.llvm, "Write a f32x8 (vmovups).")
store_f16x8 = _storer("store_f16x8", F32x8, _I16x8, "Round to nearest float16 and write 8 (vcvtps2ph).", _f32_to_f16)
store_f16 = _storer("store_f16", types.float32, _I16, "Round to nearest float16 and write it (vcvtps2ph).", _f32_to_f16)
store_i8 = _storer("store_i8", types.int8, _I8, "Write an int8.")
store_i8x8 = _storer("store_i8x8", I32x8, _I8x8, "Write the lowest byte of each lane.", lambda b, v: b.trunc(v, _I8x8))
store_u32 = _storer("store_u32", types.uint32, I32, "Write a uint32.")
store_f32 = _storer("store_f32", types.float32, _F32, "Write a float32.")
