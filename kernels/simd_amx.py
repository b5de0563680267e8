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

RUNS = 8  # of 32 elements, in a block with minimums
SMALL, BYTES = 3, 8  # radix: how many bits of a product of quant and scale its lower part has (`scaled_planes`)

_I8, _I16, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_POINTER = _I8.as_pointer()
_C, _A, _B = (0, 1, 2, 3), 4, 5  # registers: sums, activations, quants


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
    sizes = dict.fromkeys(_C, (TOKENS, 64)) | {_A: (TOKENS, bytes_in_row), _B: (bytes_in_row // 4, 64)}

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
        for number in (_A, _B):
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", register(number), place, ir.Constant(_I64, 64))
        return context.get_dummy_value()

    return types.void(x), codegen


@intrinsic(prefer_literal=True)
def repeat_products(typingctx, times):
    """Add the product of what `load_factors` loaded so many times, to two tiles of sums in turn (tdpbssd)."""

    def codegen(context, builder, sig, args):
        for i in range(times.literal_value):
            emit_tile_instruction(builder, "llvm.x86.tdpbssd", register(_C[i % 2]), register(_A), register(_B))
        return context.get_dummy_value()

    return types.void(times), codegen


@intrinsic
def store_sums(typingctx, sums):
    """Write both tiles of sums to int32 (2, TOKENS, LANES), flat (tilestored)."""

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[0], args[0])
        for i, number in enumerate(_C[:2]):
            place = reader.place(ir.VectorType(I32, SUMS), ir.Constant(_I64, SUMS * i))
            emit_tile_instruction(
                builder, "llvm.x86.tilestored64", register(number), place, ir.Constant(_I64, 4 * LANES)
            )
        return context.get_dummy_value()

    return types.void(sums), codegen


@intrinsic(prefer_literal=True)
def multiply_tiles(typingctx, halves, width, steps, radix, q, at, plane, x, start, sums, first):
    """Products of the tokens of a tile with rows of a panel over `steps` times `width` elements (tdpbssd, tdpbsud).

    halves : 1 for 16 rows; 2 for as many again beside them, since a product waits long for the one that it adds to
    radix : 0 if the panel's quants are one plane of int8, else see `scaled_planes`
    q : the panel's quants; those of the first step and 16 rows begin at byte `at`, of the next plane `plane` further on
    x : int8 activations (steps, TOKENS, width) from element `start`
    sums : int32; from element `first` on (halves, planes, TOKENS, LANES), flat: the result
    """
    num_bytes, num_steps = width.literal_value, steps.literal_value
    signs = _signs(radix.literal_value) * halves.literal_value
    num_planes = len(signs) // halves.literal_value
    row_bytes = 4 * TILE_ROWS  # between the rows of a tile of quants

    def codegen(context, builder, sig, args):
        quants, activations, results = (Reader(context, builder, sig.args[i], args[i]) for i in (4, 7, 9))
        for c in range(len(signs)):
            emit_tile_instruction(builder, "llvm.x86.tilezero", register(_C[c]))
        for step in range(num_steps):
            first = builder.add(args[8], ir.Constant(_I64, TOKENS * num_bytes * step))
            place = activations.place(ir.VectorType(_I8, TOKENS * num_bytes), first)
            a = register(_A)
            emit_tile_instruction(builder, "llvm.x86.tileloadd64", a, place, ir.Constant(_I64, num_bytes))
            for c, sign in enumerate(signs):
                half, p = divmod(c, num_planes)
                b = register(_B)
                offset = ir.Constant(_I64, row_bytes * num_bytes // 4 * step + 4 * LANES * half)
                offset = builder.add(builder.add(args[5], offset), builder.mul(args[6], ir.Constant(_I64, p)))
                memory = ir.VectorType(_I8, row_bytes * (num_bytes // 4 - 1) + 64)
                emit_tile_instruction(
                    builder, "llvm.x86.tileloadd64", b, quants.place(memory, offset), ir.Constant(_I64, row_bytes)
                )
                emit_tile_instruction(builder, f"llvm.x86.tdpbs{sign}d", register(_C[c]), a, b)
        for c in range(len(signs)):
            tile = results.place(ir.VectorType(I32, SUMS), builder.add(args[10], ir.Constant(_I64, SUMS * c)))
            emit_tile_instruction(builder, "llvm.x86.tilestored64", register(_C[c]), tile, ir.Constant(_I64, 4 * LANES))
        return context.get_dummy_value()

    index = types.intp
    return types.void(halves, width, steps, radix, q, index, index, x, index, sums, index), codegen


def _signs(radix: int) -> str:
    """Of each plane of quants: s, signed, or u, unsigned."""
    return {0: "s", SMALL: "uu", BYTES: "us"}[radix]


@intrinsic(prefer_literal=True)
def add_scaled_products(
    typingctx, radix, min_pairs, sums, first, factors, x_sums, sums_at, d, dmin, dx, dx_at, acc, place
):
    """What a block with scales adds: ``acc = fma(dx, fma(d, S, -(dmin * M)), acc)``, or ``fma(dx, d * S, acc)``.

    min_pairs : 0 without minimums; else of how many pairs of factor times sum M is made: RUNS, or half as many if the
        two factors of a run are the same, and sums those of whole runs
    sums, first : what `multiply_tiles` made for all rows of a panel, and where
    factors : int16 (RUNS, TILE_ROWS, 2), flat
    x_sums : int32, each two int16, (TOKENS, min_pairs) from element `sums_at`
    d, dmin : float32 of the panel's rows
    dx : float32; the scales of all TOKENS of the tile lie side by side from element `dx_at`
    acc : float32; from element `place` on those of all rows, TILE_ROWS for each token
    """
    radix_bits, num_pairs = radix.literal_value, min_pairs.literal_value
    floats, words, fma = Vector("f32", LANES).llvm, ir.VectorType(I32, LANES), "llvm.fma.v16f32"
    pairs = ir.VectorType(_I16, 2 * LANES)

    def codegen(context, builder, sig, args):
        tiles, row_factors, token_sums, scales, minimums, token_scales, results = (
            Reader(context, builder, sig.args[i], args[i]) for i in (2, 4, 5, 7, 8, 9, 11)
        )

        def factor_pairs(half: int) -> list[ir.Value]:
            """Of 16 rows the factors that meet each pair of sums."""
            places = [ir.Constant(_I64, 2 * (TILE_ROWS * run + LANES * half)) for run in range(RUNS)]
            runs = [row_factors.load(pairs, place) for place in places] if num_pairs else []
            if num_pairs == RUNS:
                return runs
            picks = [i if i % 2 == 0 else 2 * LANES + i for i in range(2 * LANES)]
            return [shuffle(builder, *runs[i : i + 2], picks) for i in range(0, len(runs), 2)]

        def minimum_sums(factors_of_rows: list[ir.Value], token: int) -> ir.Value:
            """M, as float (vpdpwssd)."""
            m = constant(words, 0)
            for i, factor in enumerate(factors_of_rows):
                x = token_sums.broadcast(pairs, builder.add(args[6], ir.Constant(_I64, token * num_pairs + i)))
                m = call(builder, "llvm.x86.avx512.vpdpwssd.512", words, [m, factor, x])
            return builder.sitofp(m, floats)

        def total(half: int, token: int) -> ir.Value:
            """S, of both planes of a tile, as float."""
            at = builder.add(args[3], ir.Constant(_I64, 2 * SUMS * half + LANES * token))
            higher = tiles.load(words, builder.add(at, ir.Constant(_I64, SUMS)))
            both = builder.add(tiles.load(words, at), builder.shl(higher, constant(words, radix_bits)))
            return builder.sitofp(both, floats)

        for half in range(TILE_ROWS // LANES):
            rows, of_rows = ir.Constant(_I64, LANES * half), factor_pairs(half)
            scale, minimum = scales.load(floats, rows), minimums.load(floats, rows) if num_pairs else None
            for token in range(TOKENS):
                of_token = token_scales.broadcast(floats, builder.add(args[10], ir.Constant(_I64, token)))
                s = total(half, token)
                if num_pairs:
                    low = builder.fneg(builder.fmul(minimum, minimum_sums(of_rows, token)))
                    s = call(builder, fma, floats, [scale, s, low])
                else:
                    s = builder.fmul(scale, s)
                at = builder.add(args[12], ir.Constant(_I64, TILE_ROWS * token + LANES * half))
                result = call(builder, fma, floats, [of_token, s, results.load(floats, at)])
                pointer = results.place(floats, at)
                builder.store(result, builder.bitcast(pointer, floats.as_pointer()), align=1)
        return context.get_dummy_value()

    index = types.intp
    given = (radix, min_pairs, sums, index, factors, x_sums, index, d, dmin, dx, index, acc, index)
    return types.void(*given), codegen


@intrinsic(prefer_literal=True)
def add_products(typingctx, has_minimum, factor, sums, first, d, dmin, at, dx, dx_at, x_sums, result):
    """What a run without scales adds to the results of some tokens: ``fma(dx, fma(d, S, -(dmin * M)), result)``.

    Or ``fma(dx, d * S, result)`` without minimums. `result` is a vector of LANES float32 for each token of a tile.

    factor : of all sums of x
    sums, first : what `multiply_tiles` made for 16 rows, and where
    d, dmin : float32 of the panel's rows, from element `at`
    dx : float32; the scales of all TOKENS of the tile lie side by side from element `dx_at`
    x_sums : int32, each of two int16; those of the run lie side by side from element dx_at
    """
    with_minimum = has_minimum.literal_value
    floats, words, halves = Vector("f32", LANES), ir.VectorType(I32, LANES), ir.VectorType(_I16, 2 * LANES)

    def codegen(context, builder, sig, args):
        tiles, scales, minimums, token_scales, token_sums = (
            Reader(context, builder, sig.args[i], args[i]) for i in (2, 4, 5, 7, 9)
        )
        scale = scales.load(floats.llvm, args[6])
        minimum = minimums.load(floats.llvm, args[6]) if with_minimum else None
        parts = []
        for c, part in enumerate(split(builder, args[10], LANES)):
            s = tiles.load(words, builder.add(args[3], ir.Constant(_I64, LANES * c)))
            s, of_token = builder.sitofp(s, floats.llvm), builder.add(args[8], ir.Constant(_I64, c))
            dx = token_scales.broadcast(floats.llvm, of_token)
            if with_minimum:
                factors = constant(halves, factor.literal_value)
                m = multiply_pairs(builder, token_sums.broadcast(halves, of_token), factors)
                low = builder.fneg(builder.fmul(minimum, builder.sitofp(m, floats.llvm)))
                s = call(builder, "llvm.fma.v16f32", floats.llvm, [scale, s, low])
            else:
                s = builder.fmul(scale, s)
            parts.append(call(builder, "llvm.fma.v16f32", floats.llvm, [dx, s, part]))
        return join(builder, parts)

    index = types.intp
    return result(has_minimum, factor, sums, index, d, dmin, index, dx, index, x_sums, result), codegen


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
def scaled_planes(typingctx, radix, offset, scales, q, factors, at):
    """scale * (q - offset) of runs of eight rows, each product as lower + (higher << radix): two vectors of bytes.

    With radix BYTES the lower is unsigned and the higher signed. With SMALL both are unsigned: of scales below 64 each
    half of the bits is multiplied with q below 32, so that every product is a byte, and two fit into a multiplication.

    scales : in a run, 1 or 2
    factors : int16, from element `at` on for each scale of the runs all rows of the panel, each row's scale twice
    """
    kind = Vector("i8", q.lanes)
    per_run, multiply = scales.literal_value, _PRODUCTS[radix.literal_value]

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[4], args[4])

        def factor(number: int) -> ir.Value:
            """A scale of eight rows, for four elements of each, twice."""
            place = builder.add(args[5], ir.Constant(_I64, 2 * TILE_ROWS * number))
            pairs = reader.load(ir.VectorType(_I16, 16), place)
            return join(builder, [pairs, pairs])

        planes = []
        for i, piece in enumerate(split(builder, args[3], 64)):  # two steps of 4 elements of 8 rows
            scale = factor(i // 4 * per_run + (i % 4 * per_run // 4))
            planes.append(multiply(builder, piece, q.is_signed, offset.literal_value, scale))
        vectors = [join(builder, list(plane)) for plane in zip(*planes, strict=True)]
        return context.make_tuple(builder, sig.return_type, vectors)

    return types.UniTuple(kind, 2)(radix, offset, scales, q, factors, types.intp), codegen


_WORDS, _BYTES = ir.VectorType(_I16, 32), ir.VectorType(_I8, 64)
_Planes = tuple[ir.Value, ir.Value]


def _small_products(builder: ir.IRBuilder, q: ir.Value, signed: bool, offset: int, scale: ir.Value) -> _Planes:
    """q times the lower and the upper bits of scale: bytes that do not reach into their neighbours (vpmullw)."""
    assert not signed
    assert not offset
    pairs = builder.bitcast(q, _WORDS)
    halves = builder.and_(scale, constant(_WORDS, (1 << SMALL) - 1)), builder.lshr(scale, constant(_WORDS, SMALL))
    lower, higher = (builder.bitcast(builder.mul(pairs, half), _BYTES) for half in halves)
    return lower, higher


def _byte_products(builder: ir.IRBuilder, q: ir.Value, signed: bool, offset: int, scale: ir.Value) -> _Planes:
    """The lower and the upper bytes of scale * (q - offset), which is an int16 (vpmaddubsw or vpmullw)."""
    eight, low_bytes = constant(_WORDS, 8), constant(_WORDS, 0xFF)
    if signed:
        words = builder.bitcast(q, _WORDS)
        even, odd = builder.ashr(builder.shl(words, eight), eight), builder.ashr(words, eight)
        even, odd = builder.mul(even, scale), builder.mul(odd, scale)
    else:
        even, odd = (
            call(builder, "llvm.x86.avx512.pmaddubs.w.512", _WORDS, [q, builder.bitcast(pair, _BYTES)])
            for pair in (builder.and_(scale, low_bytes), builder.shl(scale, eight))
        )
    if offset:
        subtracted = builder.mul(scale, constant(_WORDS, offset))
        even, odd = builder.sub(even, subtracted), builder.sub(odd, subtracted)
    lower = builder.or_(builder.and_(even, low_bytes), builder.shl(odd, eight))
    higher = builder.or_(builder.lshr(even, eight), builder.and_(odd, constant(_WORDS, 0xFF00)))
    return builder.bitcast(lower, _BYTES), builder.bitcast(higher, _BYTES)


_PRODUCTS = {SMALL: _small_products, BYTES: _byte_products}
