"""Tile registers of `simd` for few tokens: rows of the matrix are rows of the tile (Intel AMX).

``tdpbssd c, a, b`` adds to int32 c[i, j] the products of row i of `a` with column j of `b`, whose rows hold four
consecutive k of each column (see `simd_amx`). Here `a` is 16 rows of the matrix, 32 elements of each, just as they lie
one after the other in a block; `b` is the activations of 8 tokens; and in the rows of `c` lane = token. Nothing
of the matrix has to be rearranged, but with many tokens the other way needs fewer float operations.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .panel import RUN
from .simd_amx import emit_configuration, emit_tile_instruction, register
from .simd_tiles import Reader, split
from .simd_types import I32, Vector, call, constant, join, shuffle

intrinsic: Any = _intrinsic  # kernels call them without the first parameter

ROWS = 16  # of the matrix in a tile
TOKENS = 8  # in a tile
SUMS = ROWS * TOKENS  # int32 in a tile
LANES = 16  # float32 in a register: the sums of two rows
QUADS = RUN // 4  # groups of four elements in a run: rows of a tile of activations

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_SUMS, _ROWS, _TOKENS = (0, 1), (2, 3), (4, 5)  # registers
_TOKEN_STRIDE = 4 * TOKENS  # bytes between the rows of a tile of tokens


@intrinsic
def configure_row_tiles(typingctx):
    """Set the sizes of all tile registers."""
    sizes = dict.fromkeys(_SUMS, (ROWS, 4 * TOKENS)) | dict.fromkeys(_ROWS, (ROWS, RUN))
    sizes |= dict.fromkeys(_TOKENS, (QUADS, 4 * TOKENS))

    def codegen(context, builder, sig, args):
        emit_configuration(builder, sizes)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic(prefer_literal=True)
def multiply_row_tiles(typingctx, tiles, groups, q, at, tile_stride, row_stride, x, start, sums, first):
    """Products of `tiles` times 16 rows with `groups` times 8 tokens over a run of 32 elements (tdpbssd).

    q : int8 or its bits; the first tile begins at byte `at`, its rows lie row_stride bytes apart, tiles tile_stride
    x : int8 (groups, QUADS, TOKENS, 4) from element `start`
    sums : int32; from element `first` on (tiles, groups, ROWS, TOKENS), flat: the result
    """
    num_tiles, num_groups = tiles.literal_value, groups.literal_value

    def codegen(context, builder, sig, args):
        quants, activations, results = (Reader(context, builder, sig.args[i], args[i]) for i in (2, 6, 8))
        for group in range(num_groups):
            place = builder.add(args[7], ir.Constant(_I64, RUN * TOKENS * group))
            place = activations.place(ir.VectorType(_I8, RUN * TOKENS), place)
            b = register(_TOKENS[group])
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", b, place, ir.Constant(_I64, _TOKEN_STRIDE))
        for tile in range(num_tiles):
            begin = builder.add(args[3], builder.mul(args[4], ir.Constant(_I64, tile)))
            quants.place(ir.VectorType(_I8, RUN), begin, args[5], ROWS - 1)  # checks the last row's bounds
            a = register(_ROWS[tile])
            place = quants.place(ir.VectorType(_I8, RUN), begin)
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", a, place, args[5])
        for tile in range(num_tiles):
            for group in range(num_groups):
                number = tile * num_groups + group
                c = register(_SUMS[number])
                emit_tile_instruction(builder, "llvm.x86.tilezero", c)
                emit_tile_instruction(builder, "llvm.x86.tdpbssd", c, register(_ROWS[tile]), register(_TOKENS[group]))
        for number in range(num_tiles * num_groups):
            place = results.place(ir.VectorType(I32, SUMS), builder.add(args[9], ir.Constant(_I64, SUMS * number)))
            c = register(_SUMS[number])
            emit_tile_instruction(builder, "llvm.x86.tilestored64", c, place, ir.Constant(_I64, 4 * TOKENS))
        return context.get_dummy_value()

    index = types.intp
    return types.void(tiles, groups, q, index, index, index, x, index, sums, index), codegen


@intrinsic(prefer_literal=True)
def add_row_products(
    typingctx, tiles, groups, has_minimum, sums, first, d, dmin, at, dx, dx_at, x_sums, x_sums_at, result
):
    """What a block of 32 elements adds: ``fma(dx, d * S, result)``, or ``fma(dx, fma(d, S, -(dmin * M)), result)``.

    sums, first : what `multiply_row_tiles` made, and where
    d, dmin : float32 of the rows, from element `at`
    dx, x_sums : float32 (groups, TOKENS) from element `dx_at` and `x_sums_at`; M are the x_sums
    result : float32 (tiles, groups, ROWS, TOKENS), the lanes of a vector
    """
    num_tiles, num_groups, with_minimum = tiles.literal_value, groups.literal_value, has_minimum.literal_value
    floats, words = Vector("f32", LANES), ir.VectorType(I32, LANES)
    eight = ir.VectorType(ir.FloatType(), TOKENS)

    def codegen(context, builder, sig, args):
        tile_sums, scales, minimums, token_scales, token_sums = (
            Reader(context, builder, sig.args[i], args[i]) for i in (3, 5, 6, 8, 10)
        )

        def twice(reader: Reader, start: ir.Value) -> list[ir.Value]:
            """For each group eight tokens' floats, twice."""
            places = [builder.add(start, ir.Constant(_I64, TOKENS * group)) for group in range(num_groups)]
            loaded = [reader.load(eight, place) for place in places]
            return [join(builder, [part, part]) for part in loaded]

        def of_rows(reader: Reader) -> list[ir.Value]:
            """For each pair of rows their floats, each for eight tokens (vpermps)."""
            pairs = []
            for tile in range(num_tiles):
                rows = reader.load(floats.llvm, builder.add(args[7], ir.Constant(_I64, ROWS * tile)))
                pairs += [
                    shuffle(builder, rows, rows, [row] * TOKENS + [row + 1] * TOKENS) for row in range(0, ROWS, 2)
                ]
            return pairs

        scales_of_rows = of_rows(scales)
        minimums_of_rows = of_rows(minimums) if with_minimum else []
        of_tokens = twice(token_scales, args[9])
        sums_of_tokens = twice(token_sums, args[11]) if with_minimum else []
        parts = []
        for i, part in enumerate(split(builder, args[12], LANES)):
            tile, within = divmod(i, num_groups * SUMS // LANES)
            group, pair = divmod(within, SUMS // LANES)
            rows = tile * ROWS // 2 + pair
            s = tile_sums.load(words, builder.add(args[4], ir.Constant(_I64, LANES * i)))
            s, scale = builder.sitofp(s, floats.llvm), scales_of_rows[rows]
            if with_minimum:
                low = builder.fneg(builder.fmul(minimums_of_rows[rows], sums_of_tokens[group]))
                s = call(builder, "llvm.fma.v16f32", floats.llvm, [scale, s, low])
            else:
                s = builder.fmul(scale, s)
            parts.append(call(builder, "llvm.fma.v16f32", floats.llvm, [of_tokens[group], s, part]))
        return join(builder, parts)

    index = types.intp
    given = (tiles, groups, has_minimum, sums, index, d, dmin, index, dx, index, x_sums, index, result)
    return result(*given), codegen


@intrinsic(prefer_literal=True)
def zero_results(typingctx, tiles, groups):
    """Zeros for `add_row_products`."""
    kind = Vector("f32", SUMS * tiles.literal_value * groups.literal_value)

    def codegen(context, builder, sig, args):
        return constant(kind.llvm, 0.0)

    return kind(tiles, groups), codegen


@intrinsic(prefer_literal=True)
def store_by_token(typingctx, tiles, groups, results, array):
    """Write results as float32 (groups * TOKENS, tiles * ROWS), flat."""
    num_tiles, num_groups = tiles.literal_value, groups.literal_value

    def codegen(context, builder, sig, args):
        writer, pieces = Reader(context, builder, sig.args[3], args[3]), split(builder, args[2], SUMS)
        for tile in range(num_tiles):
            for group in range(num_groups):
                piece = pieces[tile * num_groups + group]
                for token in range(TOKENS):
                    lanes = shuffle(builder, piece, piece, range(token, SUMS, TOKENS))
                    start = ir.Constant(_I64, ((group * TOKENS + token) * num_tiles + tile) * ROWS)
                    place = writer.place(lanes.type, start)
                    builder.store(lanes, builder.bitcast(place, lanes.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(tiles, groups, results, array), codegen
