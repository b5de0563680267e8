"""SIMD vectors for Numba kernels: types, operators and instructions.

LLVM does not find int8 dot products by itself, so kernels write vectors out. A vector is an immutable value like a
number: ``acc = fma(f32x8(d), to_f32x8(s), acc)``. This module gives

* types ``u8x16 i8x16 u8x32 i8x32 i16x8 i16x16 i32x8 f32x8``: calling one broadcasts a scalar, ``f32x8(0.0)``;
* operators ``+ - * / & | ^ << >>`` between equal types or with a scalar, and ``v[lane]``;
* loads and stores: ``load_u8x32(array, offset)``. The offset counts the *array's own elements*, whatever is
  loaded: bytes for weights (uint8), floats for activations. Any alignment will do. With
  ``NUMBA_BOUNDSCHECK=1`` every access is checked and raises IndexError;
* instructions: ``maddubs``, ``madd``, ``fma``, ``lookup`` and so on, each documented with what it becomes.

Two implementations stand behind the names. ``ISA == "avx2"`` emits x86 instructions; ``"portable"`` emits generic
LLVM vector operations that any CPU runs, and that tests use as a second opinion. Both give the same bits. The
environment variable ``DENSECORE_ISA`` overrides the choice that is made from the host's features.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core.cgutils import false_bit
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

ISAS = ("avx2", "portable")


def _choose_isa() -> str:
    """`DENSECORE_ISA` if set, else the best that the host's CPU runs."""
    wanted = os.environ.get("DENSECORE_ISA", "")
    if wanted and wanted not in ISAS:
        raise ImportError(f"DENSECORE_ISA={wanted!r} is not known: use one of {', '.join(ISAS)}, or leave it unset")
    features = llvm.get_host_cpu_features()
    has_avx2 = all(features.get(name, False) for name in ("avx2", "fma", "f16c"))
    if wanted == "avx2" and not has_avx2:
        raise ImportError("DENSECORE_ISA=avx2, but this CPU lacks AVX2, FMA or F16C: leave it unset")
    return wanted or ("avx2" if has_avx2 else "portable")


ISA = _choose_isa()

# ---------------------------------------------------------------------------------------------- types

_SCALARS = {
    "i8": (types.int8, ir.IntType(8)),
    "u8": (types.uint8, ir.IntType(8)),
    "i16": (types.int16, ir.IntType(16)),
    "i32": (types.int32, ir.IntType(32)),
    "f32": (types.float32, ir.FloatType()),
}
_I32 = ir.IntType(32)
_POINTER_WIDTH = ir.IntType(64)


class Vector(types.Type):
    """Numba type of `lanes` elements of kind `element` ("u8", "i8", "i16", "i32" or "f32")."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        self.scalar, llvm_scalar = _SCALARS[element]
        self.llvm = ir.VectorType(llvm_scalar, lanes)
        self.is_float = element == "f32"
        self.is_signed = element[0] == "i"
        self.num_bytes = lanes * int(element[1:]) // 8
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


U8x16, I8x16 = Vector("u8", 16), Vector("i8", 16)
U8x32, I8x32 = Vector("u8", 32), Vector("i8", 32)
I16x8, I16x16 = Vector("i16", 8), Vector("i16", 16)
I32x4, I32x8 = Vector("i32", 4), Vector("i32", 8)
F32x8 = Vector("f32", 8)

# ---------------------------------------------------------------------------------------------- LLVM helpers


def _constant(vector: Vector, value: float) -> ir.Constant:
    return ir.Constant(vector.llvm, [value] * vector.lanes)


def _splat(builder: ir.IRBuilder, vector: Vector, scalar: ir.Value) -> ir.Value:
    """All lanes equal to `scalar` (vpbroadcast)."""
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, vector.lanes), [0] * vector.lanes))


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of `a` then `b`, picked by constant indices."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call the LLVM intrinsic `name`."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def _instruction(result: types.Type, args: Sequence[types.Type], doc: str) -> Callable:
    """Decorator: make `emit(builder, *values) -> value` callable from kernels with arguments of types `args`."""

    def decorate(emit: Callable) -> Callable:
        def typed() -> Any:
            return result(*args), lambda context, builder, sig, values: emit(builder, *values)

        # Numba reads the number of arguments off the function's own parameters.
        by_count = (
            lambda typingctx, a: typed(),
            lambda typingctx, a, b: typed(),
            lambda typingctx, a, b, c: typed(),
        )
        function = by_count[len(args) - 1]
        function.__name__ = function.__qualname__ = emit.__name__
        function.__doc__ = doc
        return intrinsic(function)

    return decorate


# ---------------------------------------------------------------------------------------------- operators


class _BinaryOperator(AbstractTemplate):
    """Vector with a vector of the same type, or with a scalar that is broadcast."""

    def generic(self, args: tuple, kws: dict) -> Any:
        a, b = args
        if not isinstance(a, Vector):
            return None
        if a == b:
            return signature(a, a, a)
        if isinstance(b, types.Number) and (a.is_float or isinstance(b, types.Integer)):
            return signature(a, a, a.scalar)
        return None


def _register_operator(python_operators: Sequence[Any], emit: Callable) -> None:
    """Let `emit(builder, vector, a, b)` implement the operators for all vector types."""

    def vector_vector(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return emit(builder, sig.args[0], args[0], args[1])

    def vector_scalar(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return emit(builder, sig.args[0], args[0], _splat(builder, sig.args[0], args[1]))

    for op in python_operators:
        infer_global(op)(type(f"_Vector_{op.__name__}", (_BinaryOperator,), {"key": op}))
        lower_builtin(op, Vector, Vector)(vector_vector)
        lower_builtin(op, Vector, types.Number)(vector_scalar)


def _arithmetic(on_integers: str, on_floats: str) -> Callable:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        return getattr(builder, on_floats if vector.is_float else on_integers)(a, b)

    return emit


def _shift_right(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.ashr(a, b) if vector.is_signed else builder.lshr(a, b)


_register_operator((operator.add, operator.iadd), _arithmetic("add", "fadd"))  # vpaddb/w/d, vaddps
_register_operator((operator.sub, operator.isub), _arithmetic("sub", "fsub"))  # vpsubb/w/d, vsubps
_register_operator((operator.mul, operator.imul), _arithmetic("mul", "fmul"))  # vpmullw/d, vmulps
_register_operator((operator.truediv, operator.itruediv), lambda b, v, x, y: b.fdiv(x, y))  # vdivps
_register_operator((operator.and_, operator.iand), lambda b, v, x, y: b.and_(x, y))  # vpand
_register_operator((operator.or_, operator.ior), lambda b, v, x, y: b.or_(x, y))  # vpor
_register_operator((operator.xor, operator.ixor), lambda b, v, x, y: b.xor(x, y))  # vpxor
_register_operator((operator.lshift, operator.ilshift), lambda b, v, x, y: b.shl(x, y))  # vpsllw, vpslld
_register_operator((operator.rshift, operator.irshift), _shift_right)  # vpsrlw/d unsigned, vpsraw/d signed


@infer_global(operator.getitem)
class _Lane(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        vector, lane = args
        if isinstance(vector, Vector) and isinstance(lane, types.Integer):
            return signature(vector.scalar, vector, types.int32)
        return None


@lower_builtin(operator.getitem, Vector, types.Integer)
def _lower_lane(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
    return builder.extract_element(args[0], args[1])  # vpextr


@_instruction(F32x8, (F32x8, types.intp, types.float32), "A copy of the vector with one lane replaced.")
def with_lane(builder: ir.IRBuilder, a: ir.Value, lane: ir.Value, value: ir.Value) -> ir.Value:
    return builder.insert_element(a, value, lane)


# ---------------------------------------------------------------------------------------------- broadcasts


def _broadcast(vector: Vector) -> Callable:
    @_instruction(vector, (vector.scalar,), f"A {vector.name} with every lane equal to the argument (vbroadcast).")
    def broadcast(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        return _splat(builder, vector, scalar)

    return broadcast


u8x16, i8x16, u8x32, i8x32 = _broadcast(U8x16), _broadcast(I8x16), _broadcast(U8x32), _broadcast(I8x32)
i16x8, i16x16, i32x8, f32x8 = _broadcast(I16x8), _broadcast(I16x16), _broadcast(I32x8), _broadcast(F32x8)

# ---------------------------------------------------------------------------------------------- memory


def _address(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, offset: ir.Value, size: int):
    """Address of element `offset`; in bounds-checking mode, IndexError unless `size` bytes lie inside."""
    view = context.make_array(array_type)(context, builder, array)
    itemsize = ir.Constant(_POINTER_WIDTH, context.get_abi_sizeof(context.get_data_type(array_type.dtype)))
    start = builder.mul(offset, itemsize)
    if context.enable_boundscheck:
        available = builder.mul(view.nitems, itemsize)
        end = builder.add(start, ir.Constant(_POINTER_WIDTH, size))
        below = builder.icmp_signed("<", start, ir.Constant(_POINTER_WIDTH, 0))
        outside = builder.or_(below, builder.icmp_signed(">", end, available))
        with builder.if_then(outside, likely=False):
            context.call_conv.return_user_exc(builder, IndexError, ("vector access is out of bounds",))
    base = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    return builder.gep(base, [start])


def _is_flat(array: Any) -> bool:
    return isinstance(array, types.Array) and array.layout == "C"


def _loader(result: types.Type, memory: ir.Type, size: int, convert: Callable | None, doc: str) -> Callable:
    """An intrinsic (array, offset) -> `result` that reads `size` bytes as `memory` and converts them."""

    def load(typingctx, array, offset):
        if not _is_flat(array):
            return None

        def codegen(context, builder, sig, args):
            place = _address(context, builder, sig.args[0], args[0], args[1], size)
            value = builder.load(builder.bitcast(place, memory.as_pointer()), align=1)
            return convert(builder, value) if convert else value

        return result(array, types.intp), codegen

    load.__doc__ = doc
    return intrinsic(load)


def _vector_loader(vector: Vector) -> Callable:
    return _loader(vector, vector.llvm, vector.num_bytes, None, f"Read a {vector.name} (vmovdqu, vmovups).")


load_u8x16, load_i8x16 = _vector_loader(U8x16), _vector_loader(I8x16)
load_u8x32, load_i8x32 = _vector_loader(U8x32), _vector_loader(I8x32)
load_i16x8, load_i16x16 = _vector_loader(I16x8), _vector_loader(I16x16)
load_i32x8, load_f32x8 = _vector_loader(I32x8), _vector_loader(F32x8)


def _float16_to_float32(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.fpext(value, ir.FloatType() if value.type == ir.HalfType() else F32x8.llvm)


def _bfloat16_to_float32(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    if value.type == ir.IntType(16):
        return builder.bitcast(builder.shl(builder.zext(value, _I32), ir.Constant(_I32, 16)), ir.FloatType())
    wide = builder.shl(builder.zext(value, I32x8.llvm), _constant(I32x8, 16))
    return builder.bitcast(wide, F32x8.llvm)


load_f16 = _loader(types.float32, ir.HalfType(), 2, _float16_to_float32, "Read a float16 as float32 (vcvtph2ps).")
load_f16x8 = _loader(
    F32x8, ir.VectorType(ir.HalfType(), 8), 16, _float16_to_float32, "Read 8 float16 as float32 (vcvtph2ps)."
)
load_bf16x8 = _loader(
    F32x8,
    ir.VectorType(ir.IntType(16), 8),
    16,
    _bfloat16_to_float32,
    "Read 8 bfloat16 as float32 (vpmovzxwd, vpslld).",
)
load_bf16 = _loader(types.float32, ir.IntType(16), 2, _bfloat16_to_float32, "Read a bfloat16 as float32.")
load_i8 = _loader(types.int8, ir.IntType(8), 1, None, "Read one signed byte.")
load_u8 = _loader(types.uint8, ir.IntType(8), 1, None, "Read one byte.")
load_u16 = _loader(types.uint16, ir.IntType(16), 2, None, "Read a little-endian uint16 at any alignment.")
load_i16 = _loader(types.int16, ir.IntType(16), 2, None, "Read a little-endian int16 at any alignment.")
load_u32 = _loader(types.uint32, ir.IntType(32), 4, None, "Read a little-endian uint32 at any alignment.")
load_f32 = _loader(types.float32, ir.FloatType(), 4, None, "Read a float32 at any alignment.")


def _storer(kind: types.Type, memory: ir.Type, size: int, convert: Callable | None, doc: str) -> Callable:
    """An intrinsic (array, offset, value of type `kind`) that writes `size` bytes."""

    def store(typingctx, array, offset, value):
        if not (_is_flat(array) and array.mutable and value == kind):
            return None

        def codegen(context, builder, sig, args):
            place = _address(context, builder, sig.args[0], args[0], args[1], size)
            stored = convert(builder, args[2]) if convert else args[2]
            builder.store(stored, builder.bitcast(place, memory.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(array, types.intp, kind), codegen

    store.__doc__ = doc
    return intrinsic(store)


_HALVES = ir.VectorType(ir.HalfType(), 8)
store_f32x8 = _storer(F32x8, F32x8.llvm, 32, None, "Write a f32x8 (vmovups).")
store_f32 = _storer(types.float32, ir.FloatType(), 4, None, "Write a float32.")
store_i32x8 = _storer(I32x8, I32x8.llvm, 32, None, "Write an i32x8 (vmovdqu).")
store_i8x32 = _storer(I8x32, I8x32.llvm, 32, None, "Write an i8x32 (vmovdqu).")
store_f16x8 = _storer(
    F32x8,
    _HALVES,
    16,
    lambda b, v: b.fptrunc(v, _HALVES),
    "Round to nearest float16 and write 8 (vcvtps2ph).",
)


@intrinsic
def prefetch(typingctx, array, offset):
    """Ask for the cache line of element `offset` (prefetcht0); harmless outside of the array."""

    def codegen(context, builder, sig, args):
        view = context.make_array(sig.args[0])(context, builder, args[0])
        itemsize = ir.Constant(_POINTER_WIDTH, context.get_abi_sizeof(context.get_data_type(sig.args[0].dtype)))
        base = builder.bitcast(view.data, ir.IntType(8).as_pointer())
        place = builder.gep(base, [builder.mul(args[1], itemsize)])
        read, locality, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [place, read, locality, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


# ---------------------------------------------------------------------------------------------- integer products


def _even_odd(lanes: int) -> tuple[range, range]:
    return range(0, lanes, 2), range(1, lanes, 2)


def _pair_products(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Products at even and at odd lanes of two vectors, already widened so that no product overflows."""
    product = builder.mul(a, b)
    even, odd = _even_odd(product.type.count)
    return _shuffle(builder, product, product, even), _shuffle(builder, product, product, odd)


@_instruction(
    I16x16,
    (U8x32, I8x32),
    "Multiply unsigned by signed bytes and add neighbours, saturating to int16 (vpmaddubsw).",
)
def maddubs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if ISA == "avx2":
        return _call(builder, "llvm.x86.avx2.pmadd.ub.sw", I16x16.llvm, [a, b])
    wide = ir.VectorType(ir.IntType(16), 32)
    even, odd = _pair_products(builder, builder.zext(a, wide), builder.sext(b, wide))
    return _call(builder, "llvm.sadd.sat.v16i16", I16x16.llvm, [even, odd])


@_instruction(I32x8, (I16x16, I16x16), "Multiply int16 and add neighbours into int32 (vpmaddwd).")
def madd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if ISA == "avx2":
        return _call(builder, "llvm.x86.avx2.pmadd.wd", I32x8.llvm, [a, b])
    wide = ir.VectorType(_I32, 16)
    even, odd = _pair_products(builder, builder.sext(a, wide), builder.sext(b, wide))
    return builder.add(even, odd)


@_instruction(I32x4, (I16x8, I16x8), "The same on eight lanes (vpmaddwd).")
def madd_i16x8(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if ISA == "avx2":
        return _call(builder, "llvm.x86.sse2.pmadd.wd", I32x4.llvm, [a, b])
    wide = ir.VectorType(_I32, 8)
    even, odd = _pair_products(builder, builder.sext(a, wide), builder.sext(b, wide))
    return builder.add(even, odd)


@_instruction(I8x32, (I8x32, I8x32), "The first argument times the sign (-1, 0, 1) of the second (vpsignb).")
def sign(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if ISA == "avx2":
        return _call(builder, "llvm.x86.avx2.psign.b", I8x32.llvm, [a, b])
    zero = _constant(I8x32, 0)
    signed = builder.select(builder.icmp_signed("<", b, zero), builder.sub(zero, a), a)
    return builder.select(builder.icmp_signed("==", b, zero), zero, signed)


@_instruction(U8x32, (I8x32,), "Absolute value, as unsigned: -128 gives 128 (vpabsb).")
def abs_u8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return _call(builder, "llvm.abs.v32i8", I8x32.llvm, [a, false_bit])


@_instruction(I8x32, (I8x16, U8x32), "table[index] for 16 entries; indices must be below 16 (vpshufb).")
def lookup(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    if ISA == "avx2":
        both = _shuffle(builder, table, table, list(range(16)) * 2)
        return _call(builder, "llvm.x86.avx2.pshuf.b", I8x32.llvm, [both, index])
    result = _constant(I8x32, 0)
    for entry in range(16):
        value = _splat(builder, I8x32, builder.extract_element(table, ir.Constant(_I32, entry)))
        hit = builder.icmp_unsigned("==", index, _constant(U8x32, entry))
        result = builder.select(hit, value, result)
    return result


# ---------------------------------------------------------------------------------------------- rearrangement


@_instruction(U8x32, (U8x16, U8x16), "Low half, high half (vinserti128).")
def concat_u8(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    return _shuffle(builder, low, high, range(32))


@_instruction(I16x16, (I16x8, I16x8), "Low half, high half (vinserti128).")
def concat_i16(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    return _shuffle(builder, low, high, range(16))


@_instruction(I8x32, (U8x32,), "The same bits, read as signed.")
def as_i8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return a


@_instruction(U8x32, (I8x32,), "The same bits, read as unsigned.")
def as_u8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return a


@_instruction(I16x16, (I8x16,), "Sixteen int8 widened to int16 (vpmovsxbw).")
def widen_i8x16(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.sext(a, I16x16.llvm)


@_instruction(I16x16, (U8x16,), "Sixteen uint8 widened to int16 (vpmovzxbw).")
def widen_u8x16(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.zext(a, I16x16.llvm)


@_instruction(U8x32, (types.uint32,), "Lane i is 255 where bit i of the argument is set, else 0 (vpshufb, vpcmpeqb).")
def bits_to_bytes(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 32))
    return builder.sext(mask, U8x32.llvm)


@_instruction(
    I16x8, (types.uint32, types.uint32), "The eight bytes of two words, low word first, as int16 (vpmovzxbw)."
)
def bytes_to_i16x8(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    words = ir.Constant(ir.VectorType(_I32, 2), ir.Undefined)
    words = builder.insert_element(words, low, ir.Constant(_I32, 0))
    words = builder.insert_element(words, high, ir.Constant(_I32, 1))
    return builder.zext(builder.bitcast(words, ir.VectorType(ir.IntType(8), 8)), I16x8.llvm)


# ---------------------------------------------------------------------------------------------- sums and floats


@_instruction(I16x8, (I16x16,), "Sums of neighbouring lanes, modulo 2**16 (vphaddw and a permutation).")
def pair_sums(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    even, odd = _even_odd(16)
    return builder.add(_shuffle(builder, a, a, even), _shuffle(builder, a, a, odd))


@_instruction(types.int32, (I32x8,), "Sum of the lanes; exact, so order does not matter.")
def sum_i32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return _call(builder, "llvm.vector.reduce.add.v8i32", _I32, [a])


@_instruction(types.int32, (I32x4,), "Sum of the lanes; exact, so order does not matter.")
def sum_i32x4(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return _call(builder, "llvm.vector.reduce.add.v4i32", _I32, [a])


@_instruction(types.float32, (F32x8,), "Sum of the lanes by a fixed tree: ((0+4)+(2+6)) + ((1+5)+(3+7)).")
def sum_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    four = builder.fadd(_shuffle(builder, a, a, range(4)), _shuffle(builder, a, a, range(4, 8)))
    two = builder.fadd(_shuffle(builder, four, four, (0, 1)), _shuffle(builder, four, four, (2, 3)))
    lanes = (builder.extract_element(two, ir.Constant(_I32, lane)) for lane in (0, 1))
    return builder.fadd(*lanes)


@_instruction(types.float32, (F32x8,), "Largest lane.")
def max_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    for half in (4, 2, 1):
        low, high = _shuffle(builder, a, a, range(half)), _shuffle(builder, a, a, range(half, 2 * half))
        a = builder.select(builder.fcmp_ordered(">", low, high), low, high)
    return builder.extract_element(a, ir.Constant(_I32, 0))


@_instruction(F32x8, (F32x8, F32x8), "Larger of each pair of lanes; the second where either is NaN (vmaxps).")
def maximum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_instruction(F32x8, (F32x8, F32x8), "Smaller of each pair of lanes; the second where either is NaN (vminps).")
def minimum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@_instruction(F32x8, (F32x8, F32x8, F32x8), "a * b + c, rounded once (vfmadd).")
def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fma.v8f32", F32x8.llvm, [a, b, c])


@_instruction(types.float32, (types.float32,) * 3, "a * b + c of scalars, rounded once (vfmadd).")
def fma_f32(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return _call(builder, "llvm.fma.f32", ir.FloatType(), [a, b, c])


@_instruction(F32x8, (I32x8,), "int32 to float32, rounded to nearest (vcvtdq2ps).")
def to_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.sitofp(a, F32x8.llvm)


@_instruction(F32x8, (F32x8,), "Round to the nearest integer, ties to even (vroundps).")
def round_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return _call(builder, "llvm.rint.v8f32", F32x8.llvm, [a])


@_instruction(I32x8, (F32x8,), "float32 to int32, toward zero; out of range is undefined (vcvttps2dq).")
def to_i32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.fptosi(a, I32x8.llvm)


@_instruction(F32x8, (I32x8,), "The same bits, read as float32.")
def as_f32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.bitcast(a, F32x8.llvm)


@_instruction(I32x8, (F32x8,), "The same bits, read as int32.")
def as_i32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.bitcast(a, I32x8.llvm)
