"""Tile registers of `simd`: products of two small matrices of int8 by one instruction (Intel AMX).

A tile register holds up to 16 rows of 64 bytes. ``tdpbssd c, a, b`` adds to int32 c[i, j] the products of row i of `a`
with column j of `b`, whose rows hold four consecutive k of each column: just as a panel's quants lie (`panel.Panel`).
So `a` is activations, a token in each row; `b` is the quants of 16 rows of the matrix; and a row of `c` has the sums of
a token, lane = row of the matrix, as everywhere in `simd_tiles`.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from .simd_instructions import multiply_pairs
from .simd_tiles import TILE_ROWS, Reader, split
from .simd_types import I32, Vector, call, constant, join, shuffle

intrinsic: Any = _intrinsic  # kernels call them without the first parameter

TOKENS = 16  # rows of a tile
LANES = 16  # rows of the matrix whose sums are in one tile
SUMS = TOKENS * LANES  # int32 in a tile
RADIX_BITS = 7  # a factor of more than 8 bits is lower + (higher << 7), of two int8

_I8, _I16, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_POINTER = _I8.as_pointer()
_C, _A, _B = (0, 1), (2, 3), (4, 5)  # registers: sums of each plane; activations and quants, in turn


def emit_tile_instruction(builder: ir.IRBuilder, name: str, *args: ir.Value) -> None:
    """Call an LLVM intrinsic of AMX, which returns nothing."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [arg.type for arg in args])
        function = ir.Function(builder.module, kind, name)
    builder.call(function, args)


def register(number: int) -> ir.Constant:
    return ir.Constant(_I8, number)


def emit_configuration(builder: ir.IRBuilder, sizes: dict[int, tuple[int, int]]) -> None:
    """Set the sizes of tile registers: rows, and bytes in each, by the number of the register (ldtilecfg)."""
    memory = builder.bitcast(cgutils.alloca_once(builder, ir.ArrayType(_I8, 64)), _POINTER)
    cgutils.memset(builder, memory, ir.Constant(_I64, 64), 0)

    def write(place: int, value: int) -> None:
        builder.store(ir.Constant(_I8, value), builder.gep(memory, [ir.Constant(_I64, place)]))

    write(0, 1)  # the palette
    for number, (rows, bytes_in_row) in sizes.items():
        write(16 + 2 * number, bytes_in_row)
        write(48 + number, rows)
    emit_tile_instruction(builder, "llvm.x86.ldtilecfg", memory)


@intrinsic(prefer_literal=True)
def configure_tiles(typingctx, width):
    """Set the sizes of all tile registers: for TOKENS tokens, and `width` elements of each at a time."""
    bytes_in_row = width.literal_value
    sizes = dict.fromkeys(_C, (TOKENS, 64)) | dict.fromkeys(_A, (TOKENS, bytes_in_row))
    sizes |= dict.fromkeys(_B, (bytes_in_row // 4, 64))

    def codegen(context, builder, sig, args):
        emit_configuration(builder, sizes)
        return context.get_dummy_value()

    return types.void(width), codegen


@intrinsic
def release_tiles(typingctx):
    """Leave the tile registers empty, so that the system need not keep them (tilerelease)."""

    def codegen(context, builder, sig, args):
        emit_tile_instruction(builder, "llvm.x86.tilerelease")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def load_factors(typingctx, x):
    """Fill a tile of activations and one of quants, both from the same int8 (16, 64), flat (tileloadd)."""

    def codegen(context, builder, sig, args):
        place = Reader(context, builder, sig.args[0], args[0]).place(ir.VectorType(_I8, 1024), ir.Constant(_I64, 0))
        for number in (_A[0], _B[0]):
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", register(number), place, ir.Constant(_I64, 64))
        return context.get_dummy_value()

    return types.void(x), codegen


@intrinsic(prefer_literal=True)
def repeat_products(typingctx, times):
    """Add the product of what `load_factors` loaded so many times, to two tiles of sums in turn (tdpbssd)."""

    def codegen(context, builder, sig, args):
        for i in range(times.literal_value):
            emit_tile_instruction(builder, "llvm.x86.tdpbssd", register(_C[i % 2]), register(_A[0]), register(_B[0]))
        return context.get_dummy_value()

    return types.void(times), codegen


@intrinsic
def store_sums(typingctx, sums):
    """Write both tiles of sums to int32 (2, TOKENS, LANES), flat (tilestored)."""

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[0], args[0])
        for i, number in enumerate(_C):
            place = reader.place(ir.VectorType(I32, SUMS), ir.Constant(_I64, SUMS * i))
            emit_tile_instruction(
                builder, "llvm.x86.tilestored64", register(number), place, ir.Constant(_I64, 4 * LANES)
            )
        return context.get_dummy_value()

    return types.void(sums), codegen


@intrinsic(prefer_literal=True)
def multiply_tiles(typingctx, width, steps, planes, q, at, plane, x, start, sums, first):
    """Products of the tokens of a tile with 16 rows of a panel over `steps` times `width` elements (tdpbssd).

    q : the panel's quants; those of the first step and 16 rows begin at byte `at`, of the next plane `plane` further on
    x : int8 activations (steps, TOKENS, width) from element `start`
    sums : int32; from element `first` on (planes, TOKENS, LANES), flat: the result
    """
    num_bytes, num_steps, num_planes = width.literal_value, steps.literal_value, planes.literal_value
    row_bytes = 4 * TILE_ROWS  # between the rows of a tile of quants

    def codegen(context, builder, sig, args):
        quants, activations, results = (Reader(context, builder, sig.args[i], args[i]) for i in (3, 6, 8))
        for p in range(num_planes):
            emit_tile_instruction(builder, "llvm.x86.tilezero", register(_C[p]))
        for step in range(num_steps):
            first = builder.add(args[7], ir.Constant(_I64, TOKENS * num_bytes * step))
            place = activations.place(ir.VectorType(_I8, TOKENS * num_bytes), first)
            a = register(_A[step % 2])
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", a, place, ir.Constant(_I64, num_bytes))
            for p in range(num_planes):
                b = register(_B[(step * num_planes + p) % 2])
                offset = builder.add(args[4], ir.Constant(_I64, row_bytes * num_bytes // 4 * step))
                offset = builder.add(offset, builder.mul(args[5], ir.Constant(_I64, p)))
                memory = ir.VectorType(_I8, row_bytes * (num_bytes // 4 - 1) + 64)
                emit_tile_instruction(
                    builder, "llvm.x86.tileloadd64", b, quants.place(memory, offset), ir.Constant(_I64, row_bytes)
                )
                emit_tile_instruction(builder, "llvm.x86.tdpbssd", register(_C[p]), a, b)
        for p in range(num_planes):
            tile = results.place(ir.VectorType(I32, SUMS), builder.add(args[9], ir.Constant(_I64, SUMS * p)))
            emit_tile_instruction(builder, "llvm.x86.tilestored64", register(_C[p]), tile, ir.Constant(_I64, 4 * LANES))
        return context.get_dummy_value()

    index = types.intp
    return types.void(width, steps, planes, q, index, index, x, index, sums, index), codegen


@intrinsic(prefer_literal=True)
def add_products(
    typingctx, planes, runs, factor, sums, first, d, dmin, at, factors, factors_at, dx, dx_at, x_sums, result
):
    """What a block adds to the results of some tokens: ``fma(dx, fma(d, S, -(dmin * M)), result)``.

    Or ``fma(dx, d * S, result)`` without runs. `result` is a vector of LANES float32 for each token of a tile.

    runs : of 32 elements in a block, whose sums M is made of; 0 if there are no minimums
    factor : the same for all sums of x; -1: they are in `factors`
    sums, first : what `multiply_tiles` made, and where
    d, dmin : float32 of the panel's rows, from element `at`
    factors : int16, two for each row, from element `factors_at`, those of the next run 2 * TILE_ROWS further on
    dx : float32; the scales of all TOKENS of the tile lie side by side from element `dx_at`
    x_sums : int32, each of two int16; those of their first run lie side by side from element runs * dx_at
    """
    num_planes, num_runs = planes.literal_value, runs.literal_value
    floats, words, halves = Vector("f32", LANES), ir.VectorType(I32, LANES), ir.VectorType(_I16, 2 * LANES)

    def codegen(context, builder, sig, args):
        tiles, scales, minimums, row_factors, token_scales, token_sums = (
            Reader(context, builder, sig.args[i], args[i]) for i in (3, 5, 6, 8, 10, 12)
        )
        scale = scales.load(floats.llvm, args[7])
        minimum = minimums.load(floats.llvm, args[7]) if num_runs else None
        of_runs = [
            constant(halves, factor.literal_value)
            if factor.literal_value >= 0
            else row_factors.load(halves, builder.add(args[9], ir.Constant(_I64, 2 * TILE_ROWS * run)))
            for run in range(num_runs)
        ]
        sums_at = builder.mul(args[11], ir.Constant(_I64, num_runs))
        parts = []
        for c, part in enumerate(split(builder, args[13], LANES)):
            s = tiles.load(words, builder.add(args[4], ir.Constant(_I64, LANES * c)))
            if num_planes == 2:
                higher = tiles.load(words, builder.add(args[4], ir.Constant(_I64, SUMS + LANES * c)))
                s = builder.add(s, builder.shl(higher, constant(words, RADIX_BITS)))
            s = builder.sitofp(s, floats.llvm)
            dx = token_scales.broadcast(floats.llvm, builder.add(args[11], ir.Constant(_I64, c)))
            if num_runs:
                m = constant(words, 0)
                for run, pairs in enumerate(of_runs):
                    place = builder.add(sums_at, ir.Constant(_I64, TOKENS * run + c))
                    m = builder.add(m, multiply_pairs(builder, token_sums.broadcast(halves, place), pairs))
                low = builder.fneg(builder.fmul(minimum, builder.sitofp(m, floats.llvm)))
                s = call(builder, "llvm.fma.v16f32", floats.llvm, [scale, s, low])
            else:
                s = builder.fmul(scale, s)
            parts.append(call(builder, "llvm.fma.v16f32", floats.llvm, [dx, s, part]))
        return join(builder, parts)

    index = types.intp
    given = (planes, runs, factor, sums, index, d, dmin, index, factors, index, dx, index, x_sums, result)
    return result(*given), codegen


@intrinsic(prefer_literal=True)
def load_results(typingctx, columns, array, place):
    """LANES float32 of each of some tokens, which lie TILE_ROWS apart."""
    n = columns.literal_value
    kind = Vector("f32", LANES * n)

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[1], args[1])
        places = [builder.add(args[2], ir.Constant(_I64, TILE_ROWS * c)) for c in range(n)]
        return join(builder, [reader.load(ir.VectorType(ir.FloatType(), LANES), place) for place in places])

    return kind(columns, array, types.intp), codegen


@intrinsic
def store_results(typingctx, array, place, results):
    """The reverse of `load_results`."""

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[0], args[0])
        for c, part in enumerate(split(builder, args[2], LANES)):
            pointer = reader.place(part.type, builder.add(args[1], ir.Constant(_I64, TILE_ROWS * c)))
            builder.store(part, builder.bitcast(pointer, part.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, results), codegen


# ---------------------------------------------------------------------------------------------- making panels


@intrinsic(prefer_literal=True)
def without_offset(typingctx, offset, q):
    """q - offset as int8 (vpsubb)."""
    kind = Vector("i8", q.lanes)

    def codegen(context, builder, sig, args):
        return builder.sub(args[1], constant(q.llvm, offset.literal_value)) if offset.literal_value else args[1]

    return kind(offset, q), codegen


@intrinsic(prefer_literal=True)
def scaled_planes(typingctx, offset, scales, q, factors, at):
    """scale * (q - offset) of runs of eight rows, each product as lower + (higher << 7): two vectors of int8.

    scales : in a run, 1 or 2
    factors : int16, from element `at` on for each scale of the runs all rows of the panel, each row's scale twice
    """
    kind = Vector("i8", q.lanes)
    per_run, bias = scales.literal_value, offset.literal_value
    wide, bytes_64 = ir.VectorType(_I16, 32), ir.VectorType(_I8, 64)

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[3], args[3])

        def factor(number: int, rows: tuple[int, ...]) -> ir.Value:
            """A scale of four rows, for four elements of each, twice."""
            place = builder.add(args[4], ir.Constant(_I64, 2 * TILE_ROWS * number))
            pairs = reader.load(ir.VectorType(_I16, 16), place)
            return shuffle(builder, pairs, pairs, [2 * row for row in rows for _ in range(4)] * 2)

        lower, higher = [], []
        for i, piece in enumerate(split(builder, args[2], 64)):  # two steps of 4 elements of 8 rows
            number = i // 4 * per_run + (i % 4 * per_run // 4)
            halves = []
            for rows, first in (((0, 1, 4, 5), 0), ((2, 3, 6, 7), 8)):
                products = builder.sub(_widen(builder, piece, first, q.is_signed), constant(wide, bias))
                halves.append(builder.mul(products, factor(number, rows)))
            low = [builder.and_(half, constant(wide, (1 << RADIX_BITS) - 1)) for half in halves]
            high = [builder.ashr(half, constant(wide, RADIX_BITS)) for half in halves]
            lower.append(call(builder, "llvm.x86.avx512.packsswb.512", bytes_64, low))
            higher.append(call(builder, "llvm.x86.avx512.packsswb.512", bytes_64, high))
        return context.make_tuple(builder, sig.return_type, [join(builder, lower), join(builder, higher)])

    return types.UniTuple(kind, 2)(offset, scales, q, factors, types.intp), codegen


def _widen(builder: ir.IRBuilder, piece: ir.Value, first: int, is_signed: bool) -> ir.Value:
    """Bytes `first` to `first` + 7 of each 16 as int16 (vpunpcklbw, vpunpckhbw)."""
    zero, lanes = constant(piece.type, 0), []
    for start in range(first, 64, 16):
        for byte in range(start, start + 8):
            lanes += [64, byte] if is_signed else [byte, 64]
    words = builder.bitcast(shuffle(builder, piece, zero, lanes), ir.VectorType(_I16, 32))
    return builder.ashr(words, constant(words.type, 8)) if is_signed else words
