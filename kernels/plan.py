"""A whole step as one call: operations are recorded with their arguments, then replayed by compiled code.

Why: each return of compiled code to Python waits for the interpreter lock, and beside a busy Python thread that costs
more than most kernels. So a model's Python code is run once per shape of batch to *record* which operations it calls
with which buffers, and from then on the record is *replayed* without Python. With hooks, or without a record, the same
operations run one by one: the same code, the same bits.

An operation is a serial function that computes one piece of its work: ``f(*arguments, task, num_tasks)``, or, if it is
cut in rows (`row_operation`), ``f(*arguments, first, last)``. Pieces are independent. Workers of Numba's pool go
through the plan together, *stage* by stage: each takes pieces of the current stage until none is left, waits until all
are done, and goes on. No worker is waited for that has not taken a piece, so a plan ends with any number of workers,
even if the system runs them one after the other.

Waiting costs more than many a small operation computes, so a stage holds as many operations as it can:

* those that are said to run *beside* each other (`Plan.add`): the pieces of all of them are handed out together;
* a *chain* of operations that are cut in rows, such as addition, norm and conversion to int8: a worker does one after
  the other with the same rows, which are still in its cache. So are operations that consist of one piece each, as most
  do when there is one token;
* an operation that *follows* a product piece by piece, such as the search for the highest logits of each block.

To begin a piece costs something, too: memory has to be asked for before it answers. So where a piece continues the one
before (`range_operation`) a worker takes several at once, its share of what is left: much at first, and little in the
end, when others would have to wait for it.

A replayed operation gets its arguments from a block of memory (`arguments`). Their types are fixed when it is recorded,
and compiled code for them is called by address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import config as numba_config
from numba.extending import models, overload, register_model

from .arguments import ArgumentsType, pack, type_key, type_of, unpack
from .atomics import atomic_add, atomic_load, intrinsic, pause, yield_thread
from .cache import INLINED_OPTIONS, inlined, kernel
from .schedule import Cut, Entry, Part, Schedule, make_schedule, place

config: Any = numba_config  # its settings are set at run time

_I64 = ir.IntType(64)
_LINE = 8  # int64 in a cache line: counters of different stages must not share one
_SPINS = 5000  # pauses before a waiting worker lets others run: 0.2 ms, in which one that was interrupted may be back


class Operation:
    """A kernel cut into pieces; see the module's text. Calling it runs it at once, on the calling thread's pool.

    Parameters
    ----------
    function : serial and compilable, (*arguments, task, num_tasks) or (*arguments, first, last).
    tasks : (*arguments) -> number of pieces; if it is cut in rows, as many at most as there are rows.
    twin : (*arguments), readable Python of the same effect.
    cut : how; see the functions below that declare operations, also for the rest.
    """

    def __init__(
        self,
        function: Callable,
        tasks: Callable[..., int],
        twin: Callable[..., None],
        cut: Cut,
        *,
        rows: Callable[..., int] | None = None,
        together: Callable[..., int] | None = None,
    ) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        self.compiled = inlined(function)
        self.tasks, self.twin, self.cut = tasks, twin, cut
        self.rows, self.together = rows or tasks, together or (lambda *arguments: 1)
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self._addresses: dict[tuple, int] = {}

    def __call__(self, *arguments: Any) -> None:
        plan = Plan()
        plan.add(self, *arguments)
        plan.run(numba.get_num_threads())

    def address(self, arguments: tuple) -> int:
        """Where the code for arguments of these types lies; compiled when they are first seen."""
        key = tuple(map(type_key, arguments))
        if key not in self._addresses:
            self._addresses[key] = self._compile(arguments)
        return self._addresses[key]

    def _compile(self, arguments: tuple) -> int:
        block = ArgumentsType(tuple(map(type_of, arguments)))
        integers = (types.int64,) * 3
        result = (
            run_piece.compile((OperationType(self), block, *integers))
            and run_piece.overloads[(OperationType(self), block, *integers)]
        )
        return result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def operation(*, tasks: Callable[..., int], twin: Callable[..., None]) -> Callable[[Callable], Operation]:
    """Declare an `Operation` that is cut in its own way: (*arguments, task, num_tasks)."""
    return lambda function: Operation(function, tasks, twin, Cut.TASKS)


def range_operation(
    *, tasks: Callable[..., int], together: Callable[..., int], twin: Callable[..., None]
) -> Callable[[Callable], Operation]:
    """Declare an `Operation` that is faster if it does several pieces at once: (*arguments, first, last).

    together : (*arguments) -> how many at most; more would make others wait too long for them
    """
    return lambda function: Operation(function, tasks, twin, Cut.RANGES, together=together)


def first_argument(x: np.ndarray, *_: Any) -> np.ndarray:
    """The array whose rows most operations are cut in."""
    return x


def row_operation(
    *, twin: Callable[..., None], array: Callable[..., np.ndarray] = first_argument, elements: int = 2048
) -> Callable[[Callable], Operation]:
    """Declare an `Operation` that is cut in the rows of an array, by default its first argument.

    It follows another one without waiting for all its pieces. So of the arrays that operations of this kind write, a
    piece may use nothing but its own rows, or what takes their place in an array with more, shorter rows.

    array : (*arguments) -> the array
    elements : in a piece, at least; less is not worth being handed out
    """

    def num_rows(*arguments: Any) -> int:
        return array(*arguments).shape[0]

    def tasks(*arguments: Any) -> int:
        return min(num_rows(*arguments), max(1, array(*arguments).size // elements))

    return lambda function: Operation(function, tasks, twin, Cut.ROWS, rows=num_rows)


@inlined
def piece(n, task, num_tasks):
    """First and last (excluded) of `n` things that belong to this task."""
    return n * task // num_tasks, n * (task + 1) // num_tasks


class Plan:
    """Operations with their arguments, in order. Arguments are kept alive, and read at every run."""

    def __init__(self) -> None:
        self._calls: list[tuple[Operation, tuple, bool, bool]] = []
        self._stages: list[list[Part]] = []
        self._compiled: tuple[Schedule, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def operations(self) -> list[Operation]:
        """The operations in order."""
        return [op for op, *_ in self._calls]

    @property
    def stages(self) -> list[list[str]]:
        """The names of the operations in each stage; workers wait for each other as often as there are stages."""
        return [[entry.name for part in stage for entry in part.entries] for stage in self._stages]

    def add(self, op: Operation, *arguments: Any, beside: bool = False, follows: bool = False) -> None:
        """Append an operation; its arrays must stay where they are.

        beside : it may run at the same time as the one added before, and as those beside that one, because none of
            them writes what another one uses
        follows : of what the one before writes, each of its pieces uses only what the piece of the same number writes
        """
        self._calls.append((op, arguments, beside, follows))
        self._compiled = None
        if config.DISABLE_JIT:
            return
        slots: list[int] = []
        for argument in arguments:
            pack(argument, slots)
        numbers = op.tasks(*arguments), op.rows(*arguments), op.together(*arguments)
        entry = Entry(op.name, op.address(arguments), np.array(slots or [0], np.int64), op.cut, *numbers)
        if entry.num_tasks:
            place(entry, self._stages, beside=beside, follows=follows)

    def only(self, keep: Callable[[Operation], bool]) -> Plan:
        """A plan of those operations that `keep` picks, with their arguments."""
        plan = Plan()
        for op, arguments, beside, _ in self._calls:
            if keep(op):
                plan.add(op, *arguments, beside=beside)
        return plan

    def run(self, num_workers: int) -> None:
        """Run all operations. IndexError if one was caught reading or writing outside of an array."""
        if not self._stages:  # nothing to do, or nothing compiled
            for op, arguments, *_ in self._calls:
                op.twin(*arguments)
            return
        schedule, state = self.prepare()
        run_plan(schedule, state, num_workers)
        if state[-1]:
            names = [name for stage in self.stages for name in stage]
            raise IndexError(f"{names[state[-1] - 1]} went outside of an array")

    def prepare(self) -> tuple[Schedule, np.ndarray]:
        """What `run_plan` takes: the schedule, and the counters of its stages, which are set to 0."""
        if self._compiled is None:
            self._compiled = make_schedule(self._stages), np.zeros((2 * len(self._stages) + 1) * _LINE, np.int64)
        schedule, state = self._compiled
        state[:] = 0
        return schedule, state


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


@inlined
def run_part(schedule, part, first, last, state):
    """Pieces `first` to `last` of all operations of a part, one after the other."""
    num_units, num_tasks = schedule.part_units[part], schedule.part_tasks[part]
    begin, end = num_units * first // num_tasks, num_units * last // num_tasks
    for op in range(schedule.first_operations[part], schedule.first_operations[part + 1]):
        rows = schedule.rows_in_unit[op]
        a, b = (begin * rows, end * rows) if rows else (first, num_tasks)
        if call_address(schedule.functions[op], schedule.blocks[op], a, b):
            state[state.size - 1] = op + 1


@inlined
def run_pieces(schedule, stage, first, last, state):
    """Pieces `first` to `last` of a stage, counted through all its parts."""
    for part in range(schedule.first_parts[stage], schedule.first_parts[stage + 1]):
        num_tasks = schedule.part_tasks[part]
        if first < num_tasks and last > 0:
            run_part(schedule, part, max(first, 0), min(last, num_tasks), state)
        first, last = first - num_tasks, last - num_tasks


@inlined
def work_on_stage(schedule, stage, state, num_workers):
    """One worker's part of a stage; returns when all pieces of the stage are done."""
    taken, done, count = 2 * stage * _LINE, (2 * stage + 1) * _LINE, schedule.stage_tasks[stage]
    left = count - atomic_load(state, taken)
    while left > 0:
        share = max(1, min(left // num_workers, schedule.together[stage]))
        first = atomic_add(state, taken, share)
        if first >= count:
            break
        last = min(first + share, count)
        run_pieces(schedule, stage, first, last, state)
        atomic_add(state, done, last - first)
        left = count - atomic_load(state, taken)
    wait_for(state, done, count)


@kernel
def work(schedule, state, num_workers):
    """One worker's way through the plan."""
    for stage in range(schedule.stage_tasks.size):
        work_on_stage(schedule, stage, state, num_workers)


@kernel(parallel=True)
def run_plan(schedule, state, num_workers):
    """Replay a plan with `num_workers` workers."""
    for _ in prange(num_workers):
        work(schedule, state, num_workers)


class OperationType(types.Type):
    """Numba type of one `Operation`: calls of it are specialised by it."""

    def __init__(self, op: Operation) -> None:
        self.operation = op
        super().__init__(name=f"Operation({op.name})")


@register_model(OperationType)
class _NothingModel(models.OpaqueModel):
    """Nothing at run time."""


@kernel
def run_piece(op, arguments, block, begin, end):
    """One piece of an operation whose arguments lie at address `block`: what a plan calls by address."""
    call_operation(op, arguments, block, begin, end)


def call_operation(op, arguments, block, begin, end):
    """Compiled code only: `op` with the arguments in the block."""


@overload(call_operation, jit_options=INLINED_OPTIONS)
def _call_operation(op, arguments, block, begin, end):
    compiled = op.operation.compiled

    def call(op, arguments, block, begin, end):
        compiled(*unpack(arguments, block, begin, end))

    return call


@intrinsic
def call_address(typingctx, address, block, begin, end):
    """Call `run_piece` of some types, by address; not 0 if it raised. See Numba's calling convention."""

    def codegen(context, builder, sig, args):
        pointer = ir.IntType(8).as_pointer()
        native = ir.FunctionType(ir.IntType(32), [pointer, pointer, pointer, pointer, _I64, _I64, _I64])
        function = builder.inttoptr(args[0], native.as_pointer())
        result, exception = (builder.bitcast(builder.alloca(pointer), pointer) for _ in range(2))
        nothing = ir.Constant(pointer, None)
        return builder.call(function, [result, exception, nothing, nothing, *args[1:]])

    return types.int32(types.int64, types.int64, types.int64, types.int64), codegen
