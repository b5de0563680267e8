"""A whole step as one call: operations are recorded with their arguments, then replayed by compiled code.

Why: each return of compiled code to Python waits for the interpreter lock, and beside a busy Python thread that costs
more than most kernels. So a model's Python code is run once per shape of batch to *record* which operations it calls
with which buffers, and from then on the record is *replayed* without Python. With hooks, or without a record, the same
operations run one by one: the same code, the same bits.

An operation is a serial function ``f(*arguments, task, num_tasks)`` that computes one piece of its work; pieces are
independent. Workers of Numba's pool go through the plan together: each takes pieces of the current operation until none
is left, waits until all are done, and goes on. No worker is waited for that has not taken a piece, so a plan ends with
any number of workers, even if the system runs them one after the other.

A replayed operation gets its arguments from a block of 8-byte slots: an array is its address and shape, a number is
itself, a tuple its elements. The types are fixed when it is recorded, and compiled code for them is called by address.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import config as numba_config
from numba.extending import models, overload, register_model
from numba.np.arrayobj import populate_array

from .atomics import atomic_add, atomic_load, intrinsic, pause, yield_thread
from .cache import INLINED_OPTIONS, inlined, kernel

config: Any = numba_config  # its settings are set at run time

_I64 = ir.IntType(64)
_LINE = 8  # int64 in a cache line: counters of different operations must not share one
_SPINS = 200  # pauses before a waiting worker lets others run


class Operation:
    """A kernel cut into pieces; see the module's text. Calling it runs it at once, on the calling thread's pool.

    Parameters
    ----------
    function : serial and compilable, (*arguments, task, num_tasks).
    tasks : (*arguments) -> number of pieces.
    twin : (*arguments), readable Python of the same effect.
    """

    def __init__(self, function: Callable, tasks: Callable[..., int], twin: Callable[..., None]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.compiled = inlined(function)
        self.tasks, self.twin = tasks, twin
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self._addresses: dict[tuple, int] = {}

    def __call__(self, *arguments: Any) -> None:
        plan = Plan()
        plan.add(self, *arguments)
        plan.run(numba.get_num_threads())

    def address(self, arguments: tuple) -> int:
        """Where the code for arguments of these types lies; compiled when they are first seen."""
        key = tuple(map(_type_key, arguments))
        if key not in self._addresses:
            self._addresses[key] = self._compile(arguments)
        return self._addresses[key]

    def _compile(self, arguments: tuple) -> int:
        block = ArgumentsType(tuple(map(_type_of, arguments)))
        integers = (types.int64,) * 3
        result = (
            run_task.compile((OperationType(self), block, *integers))
            and run_task.overloads[(OperationType(self), block, *integers)]
        )
        return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def operation(*, tasks: Callable[..., int], twin: Callable[..., None]) -> Callable[[Callable], Operation]:
    """Declare an `Operation`."""
    return lambda function: Operation(function, tasks, twin)


@inlined
def piece(n, task, num_tasks):
    """First and last (excluded) of `n` things that belong to this task."""
    return n * task // num_tasks, n * (task + 1) // num_tasks


def row_tasks(x: np.ndarray, *_: Any) -> int:
    """Pieces for work along the rows of x: enough elements in each to be worth handing out."""
    return max(1, min(x.shape[0], x.size // 8192))


class Plan:
    """Operations with their arguments, in order. Arguments are kept alive, and read at every run."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, np.ndarray, int]] = []
        self._calls: list[tuple[Operation, tuple]] = []
        self._arrays: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, op: Operation, *arguments: Any) -> None:
        """Append an operation; its arrays must stay where they are."""
        self._calls.append((op, arguments))
        self._arrays = None
        if config.DISABLE_JIT:
            return
        slots: list[int] = []
        for argument in arguments:
            _pack(argument, slots)
        self._entries.append((op.address(arguments), np.array(slots or [0], np.int64), op.tasks(*arguments)))

    def run(self, num_workers: int) -> None:
        """Run all operations. IndexError if one was caught reading or writing outside of an array."""
        if not self._entries:  # nothing to do, or nothing compiled
            for op, arguments in self._calls:
                op.twin(*arguments)
            return
        if self._arrays is None:
            addresses, blocks, counts = zip(*self._entries, strict=True)
            block_addresses = [block.ctypes.data for block in blocks]
            self._arrays = (
                *(np.array(column, np.int64) for column in (addresses, block_addresses, counts)),
                np.zeros((2 * len(counts) + 1) * _LINE, np.int64),
            )
        functions, pointers, counts, state = self._arrays
        state[:] = 0
        run_plan(functions, pointers, counts, state, num_workers)
        if state[-1]:
            raise IndexError(f"{self._calls[state[-1] - 1][0].name} went outside of an array")


# ------------------------------------------------------------------------------------------------ compiled


@inlined
def wait_for(state, place, count):
    """Return when state[place] has reached `count`."""
    spins = 0
    while atomic_load(state, place) < count:
        pause()
        spins += 1
        if spins > _SPINS:
            yield_thread()


@kernel
def work(functions, blocks, counts, state):
    """One worker's way through the plan."""
    error = state.size - 1
    for op in range(functions.size):
        taken, done, count = 2 * op * _LINE, (2 * op + 1) * _LINE, counts[op]
        while atomic_load(state, taken) < count:
            task = atomic_add(state, taken, 1)
            if task >= count:
                break
            if call_address(functions[op], blocks[op], task, count):
                state[error] = op + 1
            atomic_add(state, done, 1)
        wait_for(state, done, count)


@kernel(parallel=True)
def run_plan(functions, blocks, counts, state, num_workers):
    """Replay a plan with `num_workers` workers."""
    for _ in prange(num_workers):
        work(functions, blocks, counts, state)


@kernel
def run_task(op, arguments, block, task, num_tasks):
    """One piece of an operation whose arguments lie at address `block`: what a plan calls by address."""
    call_operation(op, arguments, block, task, num_tasks)


def call_operation(op, arguments, block, task, num_tasks):
    """Compiled code only: `op` with the arguments in the block."""


@overload(call_operation, jit_options=INLINED_OPTIONS)
def _call_operation(op, arguments, block, task, num_tasks):
    compiled = op.operation.compiled

    def call(op, arguments, block, task, num_tasks):
        compiled(*unpack(arguments, block, task, num_tasks))

    return call


@intrinsic
def call_address(typingctx, address, block, task, num_tasks):
    """Call `run_task` of some types, by address; not 0 if it raised. See Numba's calling convention."""

    def codegen(context, builder, sig, args):
        pointer = ir.IntType(8).as_pointer()
        native = ir.FunctionType(ir.IntType(32), [pointer, pointer, pointer, pointer, _I64, _I64, _I64])
        function = builder.inttoptr(args[0], native.as_pointer())
        result, exception = (builder.bitcast(builder.alloca(pointer), pointer) for _ in range(2))
        nothing = ir.Constant(pointer, None)
        return builder.call(function, [result, exception, nothing, nothing, *args[1:]])

    return types.int32(types.int64, types.int64, types.int64, types.int64), codegen


# ------------------------------------------------------------------------------------------------ types


class OperationType(types.Type):
    """Numba type of one `Operation`: calls of it are specialised by it."""

    def __init__(self, op: Operation) -> None:
        self.operation = op
        super().__init__(name=f"Operation({op.name})")


class ArgumentsType(types.Type):
    """Numba type of a block of arguments, by their types."""

    def __init__(self, arguments: tuple[types.Type, ...]) -> None:
        self.arguments = arguments
        super().__init__(name=f"Arguments({', '.join(map(str, arguments))})")


@register_model(OperationType)
@register_model(ArgumentsType)
class _NothingModel(models.OpaqueModel):
    """Nothing at run time."""


def _type_key(argument: Any) -> Any:
    """What tells arguments of different types apart; cheaper than their Numba types."""
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.writeable
    if isinstance(argument, tuple):
        return type(argument), *map(_type_key, argument)
    return type(argument) if isinstance(argument, int | float | np.generic) else argument


def _type_of(argument: Any) -> types.Type:
    return types.int64 if isinstance(argument, int | np.integer) else numba.typeof(argument)


def _pack(argument: Any, slots: list[int]) -> None:
    """Append the slots of an argument: what `unpack` reads."""
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError(f"an operation takes C-contiguous arrays, not strides {argument.strides}")
        slots.append(argument.__array_interface__["data"][0])
        slots.extend(argument.shape)
    elif isinstance(argument, tuple):
        for part in argument:
            _pack(part, slots)
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
def unpack(typingctx, arguments, block, task, num_tasks):
    """The arguments in a block, and the two integers, as a tuple."""
    result = types.Tuple((*arguments.arguments, types.int64, types.int64))

    def codegen(context, builder, sig, args):
        reader = _Reader(context, builder, args[1])
        values = [reader.read(typ) for typ in arguments.arguments]
        return context.make_tuple(builder, sig.return_type, [*values, args[2], args[3]])

    return result(arguments, types.int64, types.int64, types.int64), codegen
