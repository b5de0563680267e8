"""Rows that lie apart in memory, transposed on the way."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from .simd_memory import address_of
from .simd_types import intrinsic, shuffle

POSITIONS, COLUMNS = 16, 8  # what one call of `transpose` takes

_I64 = ir.IntType(64)


def _interleave(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, half: int) -> ir.Value:
    """Elements of `a` and `b` in turn, from the low or the high half of each 16 bytes (vpunpck, vunpckps)."""
    lanes = a.type.count
    n = lanes // 2  # elements in 16 bytes
    picked = (base + half * n // 2 + i for base in (0, n) for i in range(n // 2))
    return shuffle(builder, a, b, [lane for i in picked for lane in (i, lanes + i)])


def _transpose_rows(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """2 n vectors of n elements (16 bytes) become n vectors of 2 n.

    One round of interleaving rows i and i + n / 2 rotates the bits of (row, column) by one; as many rounds as a column
    number has bits exchange row and column. Rows i and i + n share a vector, so that no element changes its half.
    """
    n = len(rows) // 2
    vectors = [shuffle(builder, rows[i], rows[i + n], range(2 * n)) for i in range(n)]
    for _ in range(n.bit_length() - 1):
        vectors = [_interleave(builder, vectors[i // 2], vectors[i // 2 + n // 2], i % 2) for i in range(n)]
    return vectors


class _Memory:
    """Emits loads and stores of vectors of an array's own elements, at any alignment."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value) -> None:
        self.context, self.builder, self.array_type, self.array = context, builder, array_type, array
        self.element = context.get_data_type(array_type.dtype)
        self.bytes = context.get_abi_sizeof(self.element)

    def _place(self, offset: ir.Value, kind: ir.VectorType) -> ir.Value:
        place = address_of(self.context, self.builder, self.array_type, self.array, offset, kind)
        return self.builder.bitcast(place, kind.as_pointer())

    def load(self, offset: ir.Value, count: int) -> ir.Value:
        return self.builder.load(self._place(offset, ir.VectorType(self.element, count)), align=1)

    def store(self, offset: ir.Value, value: ir.Value) -> None:
        self.builder.store(value, self._place(offset, value.type), align=1)


def _plus(builder: ir.IRBuilder, value: ir.Value, constant: int) -> ir.Value:
    return builder.add(value, ir.Constant(_I64, constant))


def _transpose(typingctx, source, places, first, column, target, offset, stride):
    """target[offset + c * stride + p] = source[places[first + p] + column + c] for 16 p and 8 c.

    source, target : both uint16 or both float32; places : int64
    """

    def codegen(context, builder, sig, args):
        rows, columns = (_Memory(context, builder, sig.args[i], args[i]) for i in (0, 4))
        first_place = builder.gep(context.make_array(sig.args[1])(context, builder, args[1]).data, [args[2]])
        found = (builder.load(builder.gep(first_place, [ir.Constant(_I64, p)])) for p in range(POSITIONS))
        starts = [builder.add(place, args[3]) for place in found]
        n = 16 // rows.bytes
        for p in range(0, POSITIONS, 2 * n):
            for c in range(0, COLUMNS, n):
                block = [rows.load(_plus(builder, start, c), n) for start in starts[p : p + 2 * n]]
                for i, vector in enumerate(_transpose_rows(builder, block)):
                    line = builder.mul(args[6], ir.Constant(_I64, c + i))
                    columns.store(_plus(builder, builder.add(args[5], line), p), vector)
        return context.get_dummy_value()

    integers = (types.int64,) * 2
    return types.void(source, places, *integers, target, *integers), codegen


transpose: Any = intrinsic(_transpose)
