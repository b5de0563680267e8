"""What threads need to agree with each other inside compiled code: atomic counters, pauses, calls by address."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core.typing import signature

from .simd_types import intrinsic

_I64 = ir.IntType(64)


def _element(context: Any, builder: ir.IRBuilder, array_type: Any, array: ir.Value, index: ir.Value) -> ir.Value:
    """Address of array[index] of a flat int64 array."""
    view = context.make_array(array_type)(context, builder, array)
    return builder.gep(view.data, [index])


@intrinsic
def atomic_add(typingctx, array, index, value):
    """Add to array[index] (int64) and return what was there before (lock xadd)."""

    def codegen(context, builder, sig, args):
        place = _element(context, builder, sig.args[0], args[0], args[1])
        return builder.atomic_rmw("add", place, args[2], "acq_rel")

    return types.int64(array, types.intp, types.int64), codegen


@intrinsic
def atomic_load(typingctx, array, index):
    """array[index] (int64) as other threads left it (mov)."""

    def codegen(context, builder, sig, args):
        place = _element(context, builder, sig.args[0], args[0], args[1])
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(array, types.intp), codegen


def _declared(builder: ir.IRBuilder, name: str, args: list[ir.Type]) -> ir.Function:
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), args), name)


@intrinsic
def pause(typingctx):
    """Tell the CPU that this thread is spinning (pause, yield)."""

    def codegen(context, builder, sig, args):
        triple = llvmlite.binding.get_process_triple()
        if triple.startswith("x86"):
            builder.call(_declared(builder, "llvm.x86.sse2.pause", []), [])
        elif triple.startswith(("aarch64", "arm64")):
            hint = ir.IntType(32)
            builder.call(_declared(builder, "llvm.aarch64.hint", [hint]), [ir.Constant(hint, 1)])
        return context.get_dummy_value()

    return types.void(), codegen


_yield: Any = types.ExternalFunction("densecore_sched_yield", signature(types.int32))


def _bind_yield() -> None:
    """Give compiled code the system's function that lets another thread run."""
    system: Any = ctypes  # `windll` is there on Windows only
    function = system.windll.kernel32.SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
    llvmlite.binding.add_symbol("densecore_sched_yield", ctypes.cast(function, ctypes.c_void_p).value)


_bind_yield()
yield_thread = _yield
