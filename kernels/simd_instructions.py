"""Instructions of `simd`: integer products, rearrangement, sums and float arithmetic, each with what it becomes.

Where AVX2 has an instruction that LLVM does not find by itself, its generic form stands below it.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core.cgutils import false_bit

from .simd_types import (
    I32,
    IS_X86,
    ISA,
    F32x8,
    I8x16,
    I8x32,
    I16x8,
    I16x16,
    I32x4,
    I32x8,
    U8x16,
    U8x32,
    call,
    constant,
    instruction,
    shuffle,
    splat,
)

# ---------------------------------------------------------------------------------------------- integer products


def _even_odd(lanes: int) -> tuple[range, range]:
    return range(0, lanes, 2), range(1, lanes, 2)


def _pair_products(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Products at even and at odd lanes of two vectors, already widened so that no product overflows."""
    product = builder.mul(a, b)
    even, odd = _even_odd(product.type.count)
    return shuffle(builder, product, product, even), shuffle(builder, product, product, odd)


@instruction(
    I16x16,
    (U8x32, I8x32),
    "Multiply unsigned by signed bytes and add neighbours, saturating to int16 (vpmaddubsw).",
)
def maddubs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if IS_X86:
        return call(builder, "llvm.x86.avx2.pmadd.ub.sw", I16x16.llvm, [a, b])
    wide = ir.VectorType(ir.IntType(16), 32)
    even, odd = _pair_products(builder, builder.zext(a, wide), builder.sext(b, wide))
    return call(builder, "llvm.sadd.sat.v16i16", I16x16.llvm, [even, odd])


def multiply_pairs(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """`madd` of vectors of any width that the CPU has."""
    lanes = a.type.count
    result = ir.VectorType(I32, lanes // 2)
    if IS_X86:
        return call(builder, _PMADDWD[lanes], result, [a, b])
    wide = ir.VectorType(I32, lanes)
    return builder.add(*_pair_products(builder, builder.sext(a, wide), builder.sext(b, wide)))


_PMADDWD = {8: "llvm.x86.sse2.pmadd.wd", 16: "llvm.x86.avx2.pmadd.wd", 32: "llvm.x86.avx512.pmaddw.d.512"}


@instruction(I32x8, (I16x16, I16x16), "Multiply int16 and add neighbours into int32 (vpmaddwd).")
def madd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return multiply_pairs(builder, a, b)


@instruction(I32x4, (I16x8, I16x8), "The same on eight lanes (vpmaddwd).")
def madd_i16x8(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return multiply_pairs(builder, a, b)


@instruction(I8x32, (I8x32, I8x32), "The first argument times the sign (-1, 0, 1) of the second (vpsignb).")
def sign(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    if IS_X86:
        return call(builder, "llvm.x86.avx2.psign.b", I8x32.llvm, [a, b])
    zero = constant(I8x32.llvm, 0)
    signed = builder.select(builder.icmp_signed("<", b, zero), builder.sub(zero, a), a)
    return builder.select(builder.icmp_signed("==", b, zero), zero, signed)


@instruction(U8x32, (I8x32,), "Absolute value, as unsigned: -128 gives 128 (vpabsb).")
def abs_u8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return call(builder, "llvm.abs.v32i8", I8x32.llvm, [a, false_bit])


@instruction(I8x32, (I8x16, U8x32), "table[index] for 16 entries; indices must be below 16 (vpshufb; tbl on NEON).")
def lookup(builder: ir.IRBuilder, table: ir.Value, index: ir.Value) -> ir.Value:
    if IS_X86:
        both = shuffle(builder, table, table, list(range(16)) * 2)
        return call(builder, "llvm.x86.avx2.pshuf.b", I8x32.llvm, [both, index])
    if ISA == "neon":
        low, high = (
            call(builder, "llvm.aarch64.neon.tbl1.v16i8", I8x16.llvm, [table, shuffle(builder, index, index, lanes)])
            for lanes in (range(16), range(16, 32))
        )
        return shuffle(builder, low, high, range(32))
    result = constant(I8x32.llvm, 0)
    for entry in range(16):
        value = splat(builder, I8x32, builder.extract_element(table, ir.Constant(I32, entry)))
        hit = builder.icmp_unsigned("==", index, constant(U8x32.llvm, entry))
        result = builder.select(hit, value, result)
    return result


# ---------------------------------------------------------------------------------------------- rearrangement


@instruction(U8x32, (U8x16, U8x16), "Low half, high half (vinserti128).")
def concat_u8(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    return shuffle(builder, low, high, range(32))


@instruction(I16x16, (I16x8, I16x8), "Low half, high half (vinserti128).")
def concat_i16(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    return shuffle(builder, low, high, range(16))


@instruction(I16x16, (I8x16,), "Sixteen int8 widened to int16 (vpmovsxbw).")
def widen_i8x16(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.sext(a, I16x16.llvm)


@instruction(I16x16, (U8x16,), "Sixteen uint8 widened to int16 (vpmovzxbw).")
def widen_u8x16(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.zext(a, I16x16.llvm)


@instruction(U8x32, (types.uint32,), "Lane i is 255 where bit i of the argument is set, else 0 (vpshufb, vpcmpeqb).")
def bits_to_bytes(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    mask = builder.bitcast(bits, ir.VectorType(ir.IntType(1), 32))
    return builder.sext(mask, U8x32.llvm)


@instruction(I16x8, (types.uint32, types.uint32), "The eight bytes of two words, low word first, as int16 (vpmovzxbw).")
def bytes_to_i16x8(builder: ir.IRBuilder, low: ir.Value, high: ir.Value) -> ir.Value:
    words = ir.Constant(ir.VectorType(I32, 2), ir.Undefined)
    words = builder.insert_element(words, low, ir.Constant(I32, 0))
    words = builder.insert_element(words, high, ir.Constant(I32, 1))
    return builder.zext(builder.bitcast(words, ir.VectorType(ir.IntType(8), 8)), I16x8.llvm)


# ---------------------------------------------------------------------------------------------- sums and floats


@instruction(I16x8, (I16x16,), "Sums of neighbouring lanes, modulo 2**16 (vphaddw and a permutation).")
def pair_sums(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    even, odd = _even_odd(16)
    return builder.add(shuffle(builder, a, a, even), shuffle(builder, a, a, odd))


@instruction(types.int32, (I32x8,), "Sum of the lanes; exact, so order does not matter.")
def sum_i32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return call(builder, "llvm.vector.reduce.add.v8i32", I32, [a])


@instruction(types.int32, (I32x4,), "Sum of the lanes; exact, so order does not matter.")
def sum_i32x4(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return call(builder, "llvm.vector.reduce.add.v4i32", I32, [a])


@instruction(types.float32, (F32x8,), "Sum of the lanes by a fixed tree: ((0+4)+(2+6)) + ((1+5)+(3+7)).")
def sum_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    four = builder.fadd(shuffle(builder, a, a, range(4)), shuffle(builder, a, a, range(4, 8)))
    two = builder.fadd(shuffle(builder, four, four, (0, 1)), shuffle(builder, four, four, (2, 3)))
    lanes = (builder.extract_element(two, ir.Constant(I32, lane)) for lane in (0, 1))
    return builder.fadd(*lanes)


@instruction(types.float32, (F32x8,), "Largest lane. Undefined if a lane is NaN: the NaN may be lost.")
def max_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    for half in (4, 2, 1):
        low, high = shuffle(builder, a, a, range(half)), shuffle(builder, a, a, range(half, 2 * half))
        a = builder.select(builder.fcmp_ordered(">", low, high), low, high)
    return builder.extract_element(a, ir.Constant(I32, 0))


@instruction(F32x8, (F32x8, F32x8), "Larger of each pair of lanes; the second where either is NaN (vmaxps).")
def maximum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@instruction(F32x8, (F32x8, F32x8), "Smaller of each pair of lanes; the second where either is NaN (vminps).")
def minimum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@instruction(F32x8, (F32x8, F32x8, F32x8), "a * b + c, rounded once (vfmadd).")
def fma(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call(builder, "llvm.fma.v8f32", F32x8.llvm, [a, b, c])


@instruction(types.float32, (types.float32,) * 3, "a * b + c of scalars, rounded once (vfmadd).")
def fma_f32(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    return call(builder, "llvm.fma.f32", ir.FloatType(), [a, b, c])


@instruction(F32x8, (F32x8,), "Round to the nearest integer, ties to even (vroundps).")
def round_f32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return call(builder, "llvm.rint.v8f32", F32x8.llvm, [a])


@instruction(I32x8, (F32x8,), "float32 to int32, toward zero; out of range is undefined (vcvttps2dq).")
def to_i32x8(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.fptosi(a, I32x8.llvm)


@instruction(F32x8, (I32x8,), "The same bits, read as float32.")
def as_f32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.bitcast(a, F32x8.llvm)


@instruction(I32x8, (F32x8,), "The same bits, read as int32.")
def as_i32(builder: ir.IRBuilder, a: ir.Value) -> ir.Value:
    return builder.bitcast(a, I32x8.llvm)
