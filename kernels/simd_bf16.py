"""Tile registers of `simd` for floats: products of two small matrices of bfloat16 by one instruction (Intel AMX).

A float32 is split in two bfloat16, x = high + low, which leave out 2^-18 of it at most. Of the product of two such sums
high * high, low * high and high * low are computed; low * low is as little as what was left out. So the results are as
good as sums of float32 products, at a multiple of their speed.

``tdpbf16ps c, a, b`` adds to float32 c[i, j] the products of row i of `a` with column j of `b`, whose rows hold two
consecutive k of each column. Here `a` is activations, a token in each row, and `b` is 16 rows of the matrix, a lane
each; both 32 elements long. Tiles lie in memory as they are loaded, the low halves behind the high ones.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .simd_amx import emit_configuration, emit_tile_instruction, register
from .simd_memory import f16_to_f32
from .simd_tiles import Reader
from .simd_types import I32, constant, shuffle

intrinsic: Any = _intrinsic  # kernels call them without the first parameter

LANES = 16  # tokens, or rows of the matrix, in a tile
WIDTH = 32  # elements of each
TILE = LANES * WIDTH  # bfloat16 in a tile
BOTH = 2 * TILE  # in the high and the low halves of a tile

_I16, _I64, _F32 = ir.IntType(16), ir.IntType(64), ir.FloatType()
_ROW_BYTES = ir.Constant(_I64, 64)
_SUMS = ((0, 1), (2, 3))  # registers: of two tiles of tokens, and two of rows
_TOKENS, _ROWS = (4, 5), (6, 7)


def _halves(builder: ir.IRBuilder, x: ir.Value) -> list[ir.Value]:
    """High and low halves of 16 float32 as <16 x i16>, both rounded: the low one is what the high one leaves."""
    words = ir.VectorType(I32, LANES)

    def rounded(value: ir.Value) -> ir.Value:
        return builder.add(builder.bitcast(value, words), constant(words, 0x8000))

    high = builder.and_(rounded(x), constant(words, -0x10000))
    low = rounded(builder.fsub(x, builder.bitcast(high, x.type)))
    return [builder.trunc(builder.lshr(part, constant(words, 16)), ir.VectorType(_I16, LANES)) for part in (high, low)]


def _split_32(builder: ir.IRBuilder, first: ir.Value, second: ir.Value) -> list[ir.Value]:
    """High and low halves of 32 float32 as <32 x i16>."""
    pairs = zip(_halves(builder, first), _halves(builder, second), strict=True)
    return [shuffle(builder, a, b, range(WIDTH)) for a, b in pairs]


def _store(builder: ir.IRBuilder, reader: Reader, start: ir.Value, value: ir.Value) -> None:
    place = reader.place(value.type, start)
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=1)


@intrinsic
def split_token(typingctx, x, start, halves, place):
    """Split 32 float32 from element `start`: their halves go to uint16 from `place`, and from TILE behind it."""

    def codegen(context, builder, sig, args):
        floats, out = Reader(context, builder, sig.args[0], args[0]), Reader(context, builder, sig.args[2], args[2])
        kind = ir.VectorType(_F32, LANES)
        first = floats.load(kind, args[1])
        second = floats.load(kind, builder.add(args[1], ir.Constant(_I64, LANES)))
        for i, part in enumerate(_split_32(builder, first, second)):
            _store(builder, out, builder.add(args[3], ir.Constant(_I64, TILE * i)), part)
        return context.get_dummy_value()

    index = types.intp
    return types.void(x, index, halves, index), codegen


def _load_floats(builder: ir.IRBuilder, reader: Reader, name: str, start: ir.Value) -> ir.Value:
    """16 elements of a float format from byte `start`."""
    if name == "F32":
        return reader.load(ir.VectorType(_F32, LANES), start)
    halves = reader.load(ir.VectorType(_I16, LANES), start)
    if name == "F16":
        return f16_to_f32(builder, halves)
    words = ir.VectorType(I32, LANES)
    return builder.bitcast(builder.shl(builder.zext(halves, words), constant(words, 16)), ir.VectorType(_F32, LANES))


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """16 vectors of 16 words, transposed: blocks of 1, 2, 4 and 8 words change places (Eklundh 1972)."""
    for step in (1, 2, 4, 8):
        lower = [j if not j & step else LANES + j - step for j in range(LANES)]
        upper = [j + step if not j & step else LANES + j for j in range(LANES)]
        for i in (i for i in range(LANES) if not i & step):
            a, b = rows[i], rows[i | step]
            rows[i], rows[i | step] = shuffle(builder, a, b, lower), shuffle(builder, a, b, upper)
    return rows


def make_split_rows(name: str) -> Any:
    """The intrinsic `split_rows` for one float format, F32, F16 or BF16."""
    size = 4 if name == "F32" else 2

    @intrinsic
    def split_rows(typingctx, w, start, stride, panel, place):
        """Split 32 elements of 16 rows, which begin at byte `start` and lie `stride` bytes apart.

        panel : uint16; from element `place` on two consecutive elements of each row, then the next two: high, then low
        """

        def codegen(context, builder, sig, args):
            weights, out = (Reader(context, builder, sig.args[i], args[i]) for i in (0, 3))
            words = ir.VectorType(I32, LANES)
            parts: tuple[list[ir.Value], list[ir.Value]] = ([], [])
            for row in range(LANES):
                begin = builder.add(args[1], builder.mul(args[2], ir.Constant(_I64, row)))
                first = _load_floats(builder, weights, name, begin)
                second = _load_floats(builder, weights, name, builder.add(begin, ir.Constant(_I64, LANES * size)))
                for part, half in zip(parts, _split_32(builder, first, second), strict=True):
                    part.append(builder.bitcast(half, words))
            for i, part in enumerate(parts):
                for k, column in enumerate(_transposed(builder, part)):
                    _store(builder, out, builder.add(args[4], ir.Constant(_I64, TILE * i + WIDTH * k)), column)
            return context.get_dummy_value()

        index = types.intp
        return types.void(w, index, index, panel, index), codegen

    return split_rows


@intrinsic
def configure_bf16_tiles(typingctx):
    """Set the sizes of all tile registers."""

    def codegen(context, builder, sig, args):
        emit_configuration(builder, dict.fromkeys(range(8), (LANES, 64)))
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def begin_sums(typingctx, bias, row):
    """In all four tiles of sums the biases, float32, of 32 rows from `row` on (tileloadd, one line for all tokens)."""

    def codegen(context, builder, sig, args):
        biases = Reader(context, builder, sig.args[0], args[0])
        for tokens in _SUMS:
            for i, number in enumerate(tokens):
                place = biases.place(ir.VectorType(_F32, LANES), builder.add(args[1], ir.Constant(_I64, LANES * i)))
                emit_tile_instruction(builder, "llvm.x86.tileloadd64", register(number), place, ir.Constant(_I64, 0))
        return context.get_dummy_value()

    return types.void(bias, types.intp), codegen


@intrinsic
def add_split_products(typingctx, x, x_at, x_stride, w, w_at, w_stride):
    """Add to the sums the products of 32 tokens with 32 rows over 32 elements (tdpbf16ps).

    x, w : halves of two tiles each; the first begins at element `_at`, the other `_stride` further on

    Each sum gets low * high, then high * high, then high * low.
    """

    def codegen(context, builder, sig, args):
        tokens, rows = (Reader(context, builder, sig.args[i], args[i]) for i in (0, 3))

        def load(reader: Reader, numbers: tuple[int, int], start: ir.Value, stride: ir.Value, half: int) -> None:
            for i, number in enumerate(numbers):
                at = builder.add(start, builder.mul(stride, ir.Constant(_I64, i)))
                place = reader.place(ir.VectorType(_I16, TILE), builder.add(at, ir.Constant(_I64, TILE * half)))
                emit_tile_instruction(builder, "llvm.x86.tileloadd64", register(number), place, _ROW_BYTES)

        def multiply() -> None:
            for pair, a in zip(_SUMS, _TOKENS, strict=True):
                for c, b in zip(pair, _ROWS, strict=True):
                    emit_tile_instruction(builder, "llvm.x86.tdpbf16ps", register(c), register(a), register(b))

        load(tokens, _TOKENS, args[1], args[2], 1)
        load(rows, _ROWS, args[4], args[5], 0)
        multiply()
        load(tokens, _TOKENS, args[1], args[2], 0)
        multiply()
        load(rows, _ROWS, args[4], args[5], 1)
        multiply()
        return context.get_dummy_value()

    index = types.intp
    return types.void(x, index, index, w, index, index), codegen


@intrinsic(prefer_literal=True)
def store_tile(typingctx, tokens, rows, y, place, stride):
    """Write the sums of a tile of tokens (0 or 1) and one of rows to float32, token by token (tilestored).

    place : element where the first token's go; those of the next one are `stride` elements further on
    """
    number = _SUMS[tokens.literal_value][rows.literal_value]

    def codegen(context, builder, sig, args):
        out = Reader(context, builder, sig.args[2], args[2])
        out.place(ir.VectorType(_F32, LANES), args[3], args[4], LANES - 1)  # checks the last token's bounds
        first = out.place(ir.VectorType(_F32, LANES), args[3])
        stride = builder.mul(args[4], ir.Constant(_I64, 4))
        emit_tile_instruction(builder, "llvm.x86.tilestored64", register(number), first, stride)
        return context.get_dummy_value()

    index = types.intp
    return types.void(tokens, rows, y, index, index), codegen
