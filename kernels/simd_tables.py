"""Look-ups of `simd` in tables of small vectors: the points of a grid, four or eight bytes each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from .simd_memory import address_of
from .simd_types import I32, U8x32

intrinsic: Any = _intrinsic  # kernels call them without the first parameter
_I8, _I64 = ir.IntType(8), ir.IntType(64)


def _gathering(width: int, table: types.Type) -> tuple[Any, Any]:
    """Signature and code of an intrinsic (table, index, ...) that reads 32 bytes, `width` for each index."""
    count = 32 // width
    memory, word = ir.VectorType(_I8, width), ir.IntType(8 * width)

    def codegen(context, builder, sig, args):
        result = ir.Constant(ir.VectorType(word, count), ir.Undefined)
        for lane, index in enumerate(args[1:]):
            at = builder.mul(index, ir.Constant(_I64, width))
            place = address_of(context, builder, sig.args[0], args[0], at, memory)
            point = builder.load(builder.bitcast(place, word.as_pointer()), align=1)
            result = builder.insert_element(result, point, ir.Constant(I32, lane))
        return builder.bitcast(result, U8x32.llvm)

    return U8x32(table, *[types.intp] * count), codegen


@intrinsic
def gather_8(typingctx, table, a, b, c, d):
    """Rows a, b, c and d of a table (n, 8) of bytes, as u8x32 (vmovq, vpinsrq)."""
    return _gathering(8, table)


@intrinsic
def gather_4(typingctx, table, a, b, c, d, e, f, g, h):
    """Eight rows of a table (n, 4) of bytes, as u8x32 (vmovd, vpinsrd)."""
    return _gathering(4, table)
