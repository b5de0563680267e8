"""Arguments of recorded operations: packed into a block of 8-byte slots, and read from it by compiled code.

An array is its address and its shape, a number is itself, a tuple its elements. The types are fixed when an operation
is recorded, and `unpack` is compiled for them: a block itself does not say what is in it.
"""

from __future__ import annotations

import struct
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import models, register_model
from numba.np.arrayobj import populate_array

from .atomics import intrinsic

__all__ = ["ArgumentsType", "array_at", "pack", "type_key", "type_of", "unpack"]

_I64 = ir.IntType(64)


class ArgumentsType(types.Type):
    """Numba type of a block of arguments, by their types."""

    def __init__(self, arguments: tuple[types.Type, ...]) -> None:
        self.arguments = arguments
        super().__init__(name=f"Arguments({', '.join(map(str, arguments))})")


@register_model(ArgumentsType)
class _NothingModel(models.OpaqueModel):
    """Nothing at run time."""


def type_key(argument: Any) -> Any:
    """What tells arguments of different types apart; cheaper than their Numba types."""
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.writeable
    if isinstance(argument, tuple):
        return type(argument), *map(type_key, argument)
    return type(argument) if isinstance(argument, int | float | np.generic) else argument


def type_of(argument: Any) -> types.Type:
    return types.int64 if isinstance(argument, int | np.integer) else numba.typeof(argument)


def pack(argument: Any, slots: list[int]) -> None:
    """Append the slots of an argument: what `unpack` reads."""
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError(f"an operation takes C-contiguous arrays, not strides {argument.strides}")
        slots.append(argument.__array_interface__["data"][0])
        slots.extend(argument.shape)
    elif isinstance(argument, tuple):
        for part in argument:
            pack(part, slots)
    elif isinstance(argument, np.float32):
        slots.append(int.from_bytes(struct.pack("<f", argument), "little"))
    elif isinstance(argument, float):
        slots.append(struct.unpack("<q", struct.pack("<d", argument))[0])
    elif isinstance(argument, int | np.integer):
        slots.append(int(argument))


class _Reader:
    """Emits code that reads arguments from consecutive slots."""

    def __init__(self, context: Any, builder: ir.IRBuilder, block: ir.Value) -> None:
        self.context, self.builder = context, builder
        self.base = builder.inttoptr(block, _I64.as_pointer())
        self.slot = 0

    def next(self) -> ir.Value:
        place = self.builder.gep(self.base, [ir.Constant(_I64, self.slot)])
        self.slot += 1
        return self.builder.load(place)

    def read(self, typ: Any) -> ir.Value:
        parts: Any = typ  # a tuple type is a sequence of types
        if isinstance(typ, types.Array):
            return self._array(typ)
        if isinstance(typ, types.BaseTuple):
            return self.context.make_tuple(self.builder, typ, [self.read(part) for part in parts])
        if typ == types.float32:
            return self.builder.bitcast(self.builder.trunc(self.next(), ir.IntType(32)), ir.FloatType())
        if typ == types.float64:
            return self.builder.bitcast(self.next(), ir.DoubleType())
        if typ == types.int64:
            return self.next()
        return self.context.get_dummy_value()  # a Format: its type says it all

    def _array(self, typ: types.Array) -> ir.Value:
        array = self.context.make_array(typ)(self.context, self.builder)
        item = self.context.get_abi_sizeof(self.context.get_data_type(typ.dtype))
        data = self.builder.inttoptr(self.next(), array.data.type)
        shape = [self.next() for _ in range(typ.ndim)]
        strides = [ir.Constant(_I64, item)]
        for extent in reversed(shape[1:]):
            strides.insert(0, self.builder.mul(strides[0], extent))
        populate_array(array, data, shape, strides, ir.Constant(_I64, item), None)
        return array._getvalue()


@intrinsic
def unpack(typingctx, arguments, block, begin, end):
    """The arguments in a block, and the two integers, as a tuple."""
    result = types.Tuple((*arguments.arguments, types.int64, types.int64))

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, args[1])
        values = [reader.read(typ) for typ in arguments.arguments]
        return context.make_tuple(builder, sig.return_type, [*values, args[2], args[3]])

    return result(arguments, types.int64, types.int64, types.int64), codegen


@intrinsic
def array_at(typingctx, address, size, dtype):
    """The flat array of `size` elements of a type, such as np.float32, at an address."""
    result = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, sig, args):
        array = context.make_array(result)(context, builder)
        item = ir.Constant(_I64, context.get_abi_sizeof(context.get_data_type(result.dtype)))
        populate_array(array, builder.inttoptr(args[0], array.data.type), [args[1]], [item], item, None)
        return array._getvalue()

    return result(types.int64, types.int64, dtype), codegen
