"""Loads of `simd` that bring eight rows of a matrix into lanes: what unpacks a panel (see `simd_tiles`).

All are intrinsics (array of bytes, offset, stride): the rows lie `stride` bytes apart. In the results, 32-bit lane r of
each vector of 32 bytes belongs to row r.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .simd_instructions import lookup
from .simd_memory import address_of, f16_to_f32
from .simd_types import I32, F32x8, I32x8, Vector, call, join, shuffle

intrinsic: Any = _intrinsic  # kernels call them without the first parameter
_I8, _I16, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_WORDS = ir.VectorType(I32, 4)


def _load_row(
    where: tuple[Any, Any, Any, Any], start: ir.Value, stride: ir.Value, row: int, plus: int, memory: ir.Type
) -> ir.Value:
    """The `memory` at `plus` bytes into row `row`."""
    context, builder, array_type, array = where
    at = builder.add(start, builder.mul(stride, ir.Constant(_I64, row)))
    place = address_of(context, builder, array_type, array, builder.add(at, ir.Constant(_I64, plus)), memory)
    return builder.load(builder.bitcast(place, memory.as_pointer()), align=1)


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Eight rows of 4 words -> 4 vectors, one word of each row (vinserti128, vpunpck)."""
    fours = [shuffle(builder, rows[r], rows[r + 4], range(8)) for r in range(4)]  # row r, then row r + 4

    low, high = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
    first, second = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
    result = []
    for lanes in (low, high):  # words 0 and 1, then words 2 and 3
        a, b = shuffle(builder, fours[0], fours[1], lanes), shuffle(builder, fours[2], fours[3], lanes)
        result += [shuffle(builder, a, b, first), shuffle(builder, a, b, second)]
    return result


def _interleaver(num_bytes: int) -> Any:
    many, one = Vector("u8", 8 * num_bytes), Vector("u8", num_bytes)

    def load(typingctx, array, start, stride):
        def interleave(context, builder, sig, args):
            where = context, builder, sig.args[0], args[0]
            parts = []
            for plus in range(0, num_bytes, 16):
                parts += _transpose(
                    builder, [_load_row(where, args[1], args[2], row, plus, _WORDS) for row in range(8)]
                )
            return builder.bitcast(join(builder, parts), many.llvm)

        def load_row(context, builder, sig, args):
            place = address_of(context, builder, sig.args[0], args[0], args[1], one.llvm)
            return builder.load(builder.bitcast(place, one.llvm.as_pointer()), align=1)

        if isinstance(stride, types.NoneType):
            return one(array, types.intp, stride), load_row
        return many(array, types.intp, types.intp), interleave

    load.__name__ = load.__qualname__ = f"interleave_{num_bytes}"
    load.__doc__ = f"""{num_bytes} bytes of each of eight rows: bytes 0 to 3 of each row, then bytes 4 to 7 of each ...

    With None as stride, {num_bytes} bytes of one row: the same operations then unpack it alone.
    """
    return intrinsic(load)


interleave_16, interleave_32 = _interleaver(16), _interleaver(32)


@intrinsic
def load_words(typingctx, array, start, stride):
    """Four bytes of each of eight rows, as i32x8 (vmovd, vpinsrd)."""

    def codegen(context, builder, sig, args):
        where = context, builder, sig.args[0], args[0]
        result = ir.Constant(I32x8.llvm, ir.Undefined)
        for row in range(8):
            result = builder.insert_element(
                result, _load_row(where, args[1], args[2], row, 0, I32), ir.Constant(I32, row)
            )
        return result

    return I32x8(array, types.intp, types.intp), codegen


@intrinsic
def load_halves(typingctx, array, start, stride):
    """A float16 of each of eight rows, as f32x8 (vpinsrw, vcvtph2ps)."""

    def codegen(context, builder, sig, args):
        where = context, builder, sig.args[0], args[0]
        result = ir.Constant(ir.VectorType(_I16, 8), ir.Undefined)
        for row in range(8):
            result = builder.insert_element(
                result, _load_row(where, args[1], args[2], row, 0, _I16), ir.Constant(I32, row)
            )
        return f16_to_f32(builder, result)

    return F32x8(array, types.intp, types.intp), codegen


# ---------------------------------------------------------------------------------------------- bytes of a lane


@intrinsic(prefer_literal=True)
def part(typingctx, wide, index):
    """Bytes 4 * index to 4 * index + 3 of each row, as u8x32, of what an ``interleave`` loaded."""
    first = 32 * index.literal_value

    def codegen(context, builder, sig, args):
        return shuffle(builder, args[0], args[0], range(first, first + 32))

    return Vector("u8", 32)(wide, index), codegen


@intrinsic
def as_bytes(typingctx, words):
    """The same bits, read as uint8."""
    kind = Vector("u8", words.num_bytes)
    return kind(words), lambda context, builder, sig, args: builder.bitcast(args[0], kind.llvm)


@intrinsic
def as_words(typingctx, wide):
    """The same bits, read as i32x8."""
    return I32x8(wide), lambda context, builder, sig, args: builder.bitcast(args[0], I32x8.llvm)


@intrinsic
def concat(typingctx, a, b):
    """One vector behind another of the same type."""
    double = Vector(a.element, 2 * a.lanes)
    return double(a, a), lambda context, builder, sig, args: shuffle(builder, args[0], args[1], range(double.lanes))


@intrinsic(prefer_literal=True)
def spread(typingctx, wide, is_signed):
    """For each byte of a row one i16x16 that holds it in both lanes of the row (vpshufb)."""
    return _pick_bytes(wide, is_signed, [(byte, byte) for byte in range(4)], is_signed.literal_value)


@intrinsic(prefer_literal=True)
def spread_pairs(typingctx, wide, is_signed):
    """For each two bytes of a row one i16x16 that holds them in the lanes of the row (vpshufb)."""
    return _pick_bytes(wide, is_signed, [(0, 1), (2, 3)], is_signed.literal_value)


def _pick_bytes(wide: Vector, is_signed: Any, picks: list[tuple[int, int]], signed: bool) -> Any:
    """Widen pairs of the four bytes of each lane."""
    num_parts = wide.lanes // 32
    result = Vector("i16", 16 * num_parts * len(picks))

    def codegen(context, builder, sig, args):
        zero = ir.Constant(wide.llvm, [0] * wide.lanes)
        vectors = []
        for first in range(0, wide.lanes, 32):
            for pair in picks:
                lanes = []
                for row in range(8):
                    for byte in pair:
                        source = first + 4 * row + byte
                        lanes += [wide.lanes, source] if signed else [source, wide.lanes]
                placed = builder.bitcast(shuffle(builder, args[0], zero, lanes), ir.VectorType(_I16, 16))
                eight = ir.Constant(placed.type, [8] * 16)
                vectors.append(builder.ashr(placed, eight) if signed else placed)
        return join(builder, vectors)

    return result(wide, is_signed), codegen


@intrinsic(prefer_literal=True)
def half_of_words(typingctx, words, index):
    """Two bytes of each row, as float16, widened to f32x8 (vpackusdw, vcvtph2ps)."""
    odd = index.literal_value

    def codegen(context, builder, sig, args):
        halves = builder.bitcast(args[0], ir.VectorType(_I16, 16))
        return f16_to_f32(builder, shuffle(builder, halves, halves, range(odd, 16, 2)))

    return F32x8(words, index), codegen


@intrinsic
def spread_bits(typingctx, words):
    """16 where a bit of a row's word is set, else 0, lowest bit first; four of each row (vpshufb, vpand, vpminub).

    A bit is told from its neighbours by a mask. Where it is one of bits 4 to 7 of its byte, the minimum with 16 makes
    it 16; the lower ones are moved there first.
    """
    kind = Vector("u8", 256)

    def codegen(context, builder, sig, args):
        byte = ir.VectorType(_I8, 32)
        sources = [builder.shl(args[0], ir.Constant(args[0].type, [4] * 8)), args[0]]  # for even and for odd steps
        masks = ir.Constant(byte, [16, 32, 64, 128] * 8)
        sixteen = ir.Constant(byte, [16] * 32)
        parts = []
        for step in range(8):
            source = builder.bitcast(sources[step % 2], byte)
            copies = shuffle(builder, source, source, [4 * row + step // 2 for row in range(8) for _ in range(4)])
            found = builder.and_(copies, masks)
            parts.append(call(builder, "llvm.umin.v32i8", byte, [found, sixteen]))
        return join(builder, parts)

    return kind(words), codegen


@intrinsic
def lookup_wide(typingctx, table, index):
    """table[index] for 16 entries and many indices below 16 (vpshufb)."""

    def codegen(context, builder, sig, args):
        parts = [shuffle(builder, args[1], args[1], range(i, i + 32)) for i in range(0, index.lanes, 32)]
        return join(builder, [lookup.emit(builder, args[0], p) for p in parts])

    return Vector("i8", index.lanes)(table, index), codegen
