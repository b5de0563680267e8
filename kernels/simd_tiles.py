"""Tiles of `simd`: products of many rows with several columns at once, and what brings rows into lanes.

Where a matrix is multiplied by several vectors, lanes are rows: an ``i32x8`` holds one sum for each of eight rows, and
no sum is ever taken across lanes. A *tile* is one wide vector that LLVM keeps in several registers: lane = row within
`TILE_ROWS` rows, column after column. Operators and `fma` work on tiles as on any vector.

All are intrinsics for compiled code. Offsets and strides count an array's own elements; with ``NUMBA_BOUNDSCHECK=1``
every access is checked. `columns`, `steps` and the like must be constants.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .simd_dots import LANES, TAKES_MAGNITUDES, TAKES_UNSIGNED, Operands, Run, multiply_run
from .simd_instructions import abs_u8, maddubs, multiply_pairs, sign
from .simd_memory import address_of
from .simd_types import HAS_AVX512, I32, I8x32, I16x16, I32x8, Vector, call, constant, join, settle, shuffle, splat

intrinsic: Any = _intrinsic  # kernels call them without the first parameter
TILE_ROWS = 32 if HAS_AVX512 else 16
PARTS = TILE_ROWS // 8  # eight rows each: how formats unpack them
_I8, _I16, _I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)
_QUANTS, _PAIRS = ir.VectorType(_I8, 4 * LANES), ir.VectorType(_I16, 2 * LANES)
_FLOATS = Vector("f32", LANES)

_Values = list[ir.Value]


def tile(element: str, columns: int) -> Vector:
    """The type of a tile of `columns` columns; of int16, each row has two lanes."""
    return Vector(element, (2 if element == "i16" else 1) * TILE_ROWS * columns)


def split(builder: ir.IRBuilder, wide: ir.Value, lanes: int) -> _Values:
    """The vectors of `lanes` lanes that a wide one consists of."""
    starts = range(0, wide.type.count, lanes)
    return [shuffle(builder, wide, wide, range(start, start + lanes)) for start in starts]


class Reader:
    """Emits loads from one array."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> None:
        self._where = context, builder, array_type, array
        self.builder = builder

    def place(self, memory: ir.Type, start: ir.Value, strides: ir.Value | None = None, times: int = 0) -> ir.Value:
        """Address of element start + strides * times, where a `memory` is to be read."""
        if times:
            start = self.builder.add(start, self.builder.mul(strides, ir.Constant(_I64, times)))
        return address_of(*self._where, start, memory)

    def load(self, memory: ir.Type, start: ir.Value, strides: ir.Value | None = None, times: int = 0) -> ir.Value:
        """The `memory` at element start + strides * times."""
        return load_at(self.builder, self.place(memory, start, strides, times), memory)

    def broadcast(
        self, kind: ir.VectorType, start: ir.Value, strides: ir.Value | None = None, times: int = 0
    ) -> ir.Value:
        """32 bits from there in each 32-bit lane of a vector."""
        return broadcast_at(self.builder, self.place(I32, start, strides, times), kind)


def load_at(builder: ir.IRBuilder, place: ir.Value, memory: ir.Type, plus: int = 0) -> ir.Value:
    """The `memory` that lies `plus` bytes behind `place`."""
    place = builder.gep(place, [ir.Constant(_I64, plus)])
    return builder.load(builder.bitcast(place, memory.as_pointer()), align=1)


def broadcast_at(builder: ir.IRBuilder, place: ir.Value, kind: ir.VectorType, plus: int = 0) -> ir.Value:
    """32 bits from there in each 32-bit lane of a vector (vpbroadcastd)."""
    words = Vector("i32", kind.count * int(str(kind.element)[1:] if kind.element != ir.FloatType() else 32) // 32)
    return builder.bitcast(splat(builder, words, load_at(builder, place, I32, plus)), kind)


# ---------------------------------------------------------------------------------------------- products


@intrinsic(prefer_literal=True)
def dot_tile(typingctx, columns, steps, scales, is_signed, bias, q, start, factors, at, x, x_start, x_stride, x_sums):
    """Sums of scale * (q - bias) * x over a run of all rows of a panel, for some columns: tile of i32.

    steps, scales, is_signed, bias : see `panel.Unpacked`
    q : the panel's `multipliers`, from byte `start`: 4 elements of each row, then the next 4
    factors : int16, from element `at` for each scale of the run all rows, each row's scale twice
    x : int8; column c has its elements at x_start + c * x_stride; x_sums : their sums over 16 elements each
    """
    n = columns.literal_value
    run = Run(steps.literal_value, scales.literal_value, is_signed.literal_value, bias.literal_value)

    def codegen(context, builder, sig, args):
        weights, scale_rows, activations, sums = (Reader(context, builder, sig.args[i], args[i]) for i in (5, 7, 9, 12))
        with_magnitudes = run.is_signed and TAKES_MAGNITUDES
        in_step = 2 if with_magnitudes else 1  # times the quants of all rows
        panel = weights.place(ir.VectorType(_I8, 32 * TILE_ROWS * in_step), args[6])
        tokens = [activations.place(ir.VectorType(_I8, 32), args[10], args[11], c) for c in range(n)]
        sixteen = ir.Constant(_I64, 16)
        first_sum, sums_stride = builder.udiv(args[10], sixteen), builder.udiv(args[11], sixteen)

        def factor_vectors(number: int) -> list[ir.Value]:
            place = builder.add(args[8], ir.Constant(_I64, 2 * TILE_ROWS * number))
            column = scale_rows.load(ir.VectorType(_I16, 2 * TILE_ROWS), place)
            return split(builder, column, _PAIRS.count)

        def quants_of_rows(number: int) -> list[ir.Value]:
            firsts = range(TILE_ROWS * number, TILE_ROWS * (number + 1), LANES)
            return [load_at(builder, panel, _QUANTS, 4 * first) for first in firsts]

        operands = Operands(
            columns=n,
            quants=lambda step: quants_of_rows(in_step * step),
            activation=lambda step, c: broadcast_at(builder, tokens[c], _QUANTS, 4 * step),
            pair_of_sums=lambda c: sums.broadcast(_PAIRS, first_sum, sums_stride, c),
            factors=factor_vectors,
            magnitudes=(lambda step: quants_of_rows(in_step * step + 1)) if with_magnitudes else None,
        )
        return join(builder, multiply_run(builder, run, operands))

    given = (columns, steps, scales, is_signed, bias, q, types.intp, factors, types.intp, x, types.intp, types.intp)
    return tile("i32", n)(*given, x_sums), codegen


@intrinsic(prefer_literal=True)
def dot_runs(typingctx, steps, scales, is_signed, bias, q, factors, at, x, x_start, x_sums):
    """The same for some runs of eight rows whose quants are in registers, and one column: i32x8.

    q : the runs, as `unpack_quants` of a format gives them, and made `multipliers`
    """
    run = Run(steps.literal_value, scales.literal_value, is_signed.literal_value, bias.literal_value)
    lanes = min(LANES, 8)
    quants, pairs = ir.VectorType(_I8, 4 * lanes), ir.VectorType(_I16, 2 * lanes)

    def codegen(context, builder, sig, args):
        scale_rows, activations, sums = (Reader(context, builder, sig.args[i], args[i]) for i in (5, 7, 9))
        row = activations.place(ir.VectorType(_I8, q.lanes // 8), args[8])
        first_sum = builder.udiv(args[8], ir.Constant(_I64, 16))
        vectors = split(builder, args[4], 4 * lanes)
        in_step = 8 // lanes

        def operands_of(number: int) -> Operands:
            """Of one run."""

            def factor_vectors(scale: int) -> list[ir.Value]:
                place = 2 * TILE_ROWS * (number * run.scales + scale)
                eight = scale_rows.load(I16x16.llvm, builder.add(args[6], ir.Constant(_I64, place)))
                return split(builder, eight, pairs.count)

            return Operands(
                columns=1,
                quants=lambda step: vectors[(8 * number + step) * in_step :][:in_step],
                activation=lambda step, c: broadcast_at(builder, row, quants, 4 * (8 * number + step)),
                pair_of_sums=lambda c: sums.broadcast(
                    pairs, builder.add(first_sum, ir.Constant(_I64, 2 * number)), first_sum, 0
                ),
                factors=factor_vectors,
            )

        products = (join(builder, multiply_run(builder, run, operands_of(number))) for number in range(q.lanes // 256))
        return functools.reduce(builder.add, products)

    return I32x8(steps, scales, is_signed, bias, q, factors, types.intp, x, types.intp, x_sums), codegen


@intrinsic(prefer_literal=True)
def multipliers(typingctx, is_signed, in_panel, q):
    """Quants as `dot_runs` takes them, or `dot_tile` if `in_panel`.

    Where only unsigned bytes can be multiplied, int8 plus 128. Where `TAKES_MAGNITUDES`, in a panel, 32 bytes of int8,
    then their magnitudes (vpabsb), and so on.
    """
    adds = is_signed.literal_value and TAKES_UNSIGNED
    with_magnitudes = is_signed.literal_value and in_panel.literal_value and TAKES_MAGNITUDES

    def codegen(context, builder, sig, args):
        if with_magnitudes:
            pieces = split(builder, args[2], 32)
            return join(builder, [v for piece in pieces for v in (piece, abs_u8.emit(builder, piece))])
        return builder.xor(args[2], constant(q.llvm, -128)) if adds else args[2]

    result = Vector(q.element, 2 * q.lanes) if with_magnitudes else q
    return result(is_signed, in_panel, q), codegen


@intrinsic
def store_rows(typingctx, array, index, vector):
    """Write what belongs to eight rows of one block, 32 bytes a time, between that of the panel's other rows.

    index : the block times `PARTS`, plus which eight rows
    """
    count = vector.num_bytes // 32

    def codegen(context, builder, sig, args):
        context_of = context, builder, sig.args[0], args[0]
        itemsize = context.get_abi_sizeof(context.get_data_type(array.dtype))
        parts = ir.Constant(_I64, PARTS)
        block, part = builder.udiv(args[1], parts), builder.urem(args[1], parts)
        first = builder.add(builder.mul(block, ir.Constant(_I64, PARTS * count)), part)
        lanes = vector.lanes // count
        for i, piece in enumerate(split(builder, args[2], lanes)):
            number = builder.add(first, ir.Constant(_I64, PARTS * i))
            place = address_of(*context_of, builder.mul(number, ir.Constant(_I64, 32 // itemsize)), piece.type)
            builder.store(piece, builder.bitcast(place, piece.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@intrinsic
def broadcast_pair(typingctx, x, start):
    """Two int16 of x in each 32-bit lane, as i16x16 (vpbroadcastd)."""

    def codegen(context, builder, sig, args):
        return broadcast_at(builder, Reader(context, builder, sig.args[0], args[0]).place(I32, args[1]), I16x16.llvm)

    return I16x16(x, types.intp), codegen


@intrinsic(prefer_literal=True)
def dot_row(typingctx, scales, is_signed, q, factors, at, x, x_start):
    """Products of some runs of one row with as many elements of x, times the scales: i32x8, whose lanes add to the sum.

    scales : in a run, 1 or 2
    q : the runs, element by element
    factors : int16, from element `at` on in each `TILE_ROWS` pairs the row's next scale, twice
    """
    per_run, signed = scales.literal_value, is_signed.literal_value

    def codegen(context, builder, sig, args):
        scale_rows, activations = (Reader(context, builder, sig.args[i], args[i]) for i in (3, 5))
        row = activations.place(ir.VectorType(_I8, q.lanes), args[6])
        stride, total = ir.Constant(_I64, 2 * TILE_ROWS), constant(I32x8.llvm, 0)
        for run, quants in enumerate(split(builder, args[2], 32)):
            v = load_at(builder, row, I8x32.llvm, 32 * run)
            if signed:
                product = maddubs.emit(builder, abs_u8.emit(builder, quants), sign.emit(builder, v, quants))
            else:
                product = maddubs.emit(builder, quants, v)
            first, last = (
                scale_rows.broadcast(I16x16.llvm, args[4], stride, number)
                for number in (run * per_run, (run + 1) * per_run - 1)
            )
            factor = shuffle(builder, first, last, [*range(8), *range(24, 32)])  # of 16 elements each
            total = builder.add(total, multiply_pairs(builder, product, factor))
        return total

    return I32x8(scales, is_signed, q, factors, types.intp, x, types.intp), codegen


@intrinsic
def sum_rows(typingctx, x, start):
    """Sums of eight i32x8 that lie one behind the other in x: lane i is the sum of the i-th (vphaddd, vperm2i128)."""

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[0], args[0])
        rows = [reader.load(I32x8.llvm, args[1], ir.Constant(_I64, 8), i) for i in range(8)]
        for _ in range(2):  # in each half of 16 bytes, neighbours are added
            rows = [_add_neighbours(builder, a, b) for a, b in zip(rows[::2], rows[1::2], strict=True)]
        first, second = rows
        low = shuffle(builder, first, second, [0, 1, 2, 3, 8, 9, 10, 11])
        return builder.add(low, shuffle(builder, first, second, [4, 5, 6, 7, 12, 13, 14, 15]))

    return I32x8(x, types.intp), codegen


def _add_neighbours(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """Of each half of `a`, then of the same half of `b`: sums of lanes 0 and 1, 2 and 3."""
    even = [0, 2, 8, 10, 4, 6, 12, 14]
    return builder.add(shuffle(builder, a, b, even), shuffle(builder, a, b, [lane + 1 for lane in even]))


@intrinsic(prefer_literal=True)
def outer_madd(typingctx, columns, runs, factors, at, x, start, stride):
    """Pairs of factors of each row times pairs of int16 of each column, added over some runs: tile of i32 (vpmaddwd).

    factors : int16, from element `at` a pair of each row, then the next run's; or a constant that all are equal to
    x : int16; column c has its pairs, one for each run, from x[start + c * stride]
    """
    n, num_runs, same = columns.literal_value, runs.literal_value, isinstance(factors, types.IntegerLiteral)

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[4], args[4])
        tokens = [reader.place(ir.VectorType(_I16, 2 * num_runs), args[5], args[6], c) for c in range(n)]

        def factors_of(run: int) -> _Values:
            if same:
                return [constant(_PAIRS, factors.literal_value)] * (TILE_ROWS // LANES)
            place = builder.add(args[3], ir.Constant(_I64, 2 * TILE_ROWS * run))
            rows = Reader(context, builder, sig.args[2], args[2]).load(ir.VectorType(_I16, 2 * TILE_ROWS), place)
            return split(builder, rows, _PAIRS.count)

        sums: _Values = []
        for run in range(num_runs):
            rows, pairs = factors_of(run), [broadcast_at(builder, token, _PAIRS, 4 * run) for token in tokens]
            products = [multiply_pairs(builder, row, pair) for pair in pairs for row in rows]
            sums = [builder.add(a, b) for a, b in zip(sums, products, strict=True)] if sums else products
            sums = settle(builder, sums) if num_runs > 1 else sums
        return join(builder, sums)

    return tile("i32", n)(columns, runs, factors, types.intp, x, types.intp, types.intp), codegen


# ---------------------------------------------------------------------------------------------- making tiles


@intrinsic(prefer_literal=True)
def zero_i32(typingctx, columns):
    """A tile of int32 zeros."""
    kind = tile("i32", columns.literal_value)
    return kind(columns), lambda context, builder, sig, args: constant(kind.llvm, 0)


@intrinsic(prefer_literal=True)
def load_tile(typingctx, columns, array, place):
    """A tile of float32, one column behind the other from array[place] (vmovups)."""
    kind = tile("f32", columns.literal_value)

    def codegen(context, builder, sig, args):
        return Reader(context, builder, sig.args[1], args[1]).load(kind.llvm, args[2])

    return kind(columns, array, types.intp), codegen


@intrinsic(prefer_literal=True)
def load_floats(typingctx, count, array, place):
    """A vector of `count` float32 (vmovups)."""
    kind = Vector("f32", count.literal_value)

    def codegen(context, builder, sig, args):
        return Reader(context, builder, sig.args[1], args[1]).load(kind.llvm, args[2])

    return kind(count, array, types.intp), codegen


@intrinsic(prefer_literal=True)
def fma_halves(typingctx, columns, rows, place, x, start, stride, acc):
    """acc[c, r, :] += rows[r, :] * x[c, :], where each row is eight float32, and two rows share a register (vfmadd).

    rows : float32; row r has its eight elements at place + 8 * r
    x : float32; column c has its eight elements at start + c * stride
    """
    n = columns.literal_value
    pair, eight = ir.VectorType(ir.FloatType(), 16), ir.VectorType(ir.FloatType(), 8)
    num_pairs = acc.lanes // n // 16

    def codegen(context, builder, sig, args):
        panel, activations = (Reader(context, builder, sig.args[i], args[i]) for i in (1, 3))
        sums = split(builder, args[6], 16)
        weights = [panel.load(pair, builder.add(args[2], ir.Constant(_I64, 16 * p))) for p in range(num_pairs)]
        for c in range(n):
            v = activations.load(eight, args[4], args[5], c)
            both = shuffle(builder, v, v, [*range(8), *range(8)])
            for p, w in enumerate(weights):
                i = c * num_pairs + p
                sums[i] = call(builder, "llvm.fma.v16f32", pair, [w, both, sums[i]])
        return join(builder, sums)

    return acc(columns, rows, types.intp, x, types.intp, types.intp, acc), codegen


@intrinsic
def load_column(typingctx, array, place):
    """What belongs to all rows of a panel, 32 bits each, from element `place`: one column of a tile."""
    element = f"{array.dtype.name[0]}{array.dtype.bitwidth}"
    kind = Vector(element, TILE_ROWS * 32 // array.dtype.bitwidth)

    def codegen(context, builder, sig, args):
        return Reader(context, builder, sig.args[0], args[0]).load(kind.llvm, args[1])

    return kind(array, types.intp), codegen


@intrinsic(prefer_literal=True)
def each_column(typingctx, columns, x, start, stride):
    """x[start + c * stride], float32, in all rows of column c (vbroadcastss)."""
    n = columns.literal_value

    def codegen(context, builder, sig, args):
        reader = Reader(context, builder, sig.args[1], args[1])
        values = [reader.broadcast(_FLOATS.llvm, args[2], args[3], c) for c in range(n)]
        return join(builder, [v for v in values for _ in range(TILE_ROWS // LANES)])

    return tile("f32", n)(columns, x, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def each_row(typingctx, columns, rows):
    """One column of float32 in every column."""
    n = columns.literal_value
    return tile("f32", n)(columns, rows), lambda context, builder, sig, args: join(builder, [args[1]] * n)


@intrinsic
def as_floats(typingctx, a):
    """int32 to float32, rounded to nearest (vcvtdq2ps)."""
    kind = Vector("f32", a.lanes)
    return kind(a), lambda context, builder, sig, args: builder.sitofp(args[0], kind.llvm)


@intrinsic
def settled(typingctx, a, b, c):
    """The same three vectors. They are computed before anything that stands behind is read or computed.

    The compiler keeps to the order of a loop whose sums just fit into registers, and spills none of them.
    """
    result = types.UniTuple(a, 3)

    def codegen(context, builder, sig, args):
        return context.make_tuple(builder, result, settle(builder, list(args), loads=True))

    return result(a, a, a), codegen


@intrinsic
def fma_tile(typingctx, a, b, c):
    """a * b + c, rounded once (vfmadd)."""
    return a(a, a, a), lambda context, builder, sig, args: call(builder, f"llvm.fma.v{a.lanes}f32", a.llvm, args)
