"""How a plan's operations are arranged so that workers seldom wait for each other; see `plan`.

A plan is a list of stages, a stage a list of parts, whose pieces are handed out together, and a part a chain of
operations, of which each piece is done one after the other. Between stages all workers wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import NamedTuple

import numpy as np

__all__ = ["Entry", "Part", "Schedule", "make_schedule", "place"]

_ENOUGH_TASKS = 8  # pieces that a chain should have, if one of its operations by itself would have more


class Cut(Enum):
    """How an operation is cut."""

    TASKS = "one piece at a time, in its own way"
    RANGES = "into pieces that can be done together if they follow each other"
    ROWS = "in rows, independently of what else is cut in rows"


@dataclass(frozen=True)
class Entry:
    """An operation with its arguments, as it is replayed."""

    name: str
    function: int  # address
    block: np.ndarray  # of its arguments
    cut: Cut
    num_tasks: int
    num_rows: int  # as many as tasks, if it is not cut in rows
    together: int  # pieces that a worker may take at once, at most


class Part:
    """A chain of operations that are cut into the same pieces.

    Pieces consist of `num_units` units. An operation with more rows than that has several in each unit.
    """

    def __init__(self, entry: Entry) -> None:
        self.entries = [entry]
        self.num_tasks, self.num_units = entry.num_tasks, entry.num_rows

    def follow(self, entry: Entry) -> bool:
        """Append an operation each of whose pieces needs the one of the same number, if it has as many pieces."""
        same = entry.cut is Cut.RANGES is self.entries[-1].cut and entry.num_tasks == self.num_tasks
        if same:
            self.entries.append(entry)
        return same

    def grow(self, entry: Entry) -> bool:
        """Append an operation, if the chain then still has enough pieces."""
        num_units, most = math.gcd(self.num_units, entry.num_rows), max(self.num_tasks, entry.num_tasks)
        in_rows = entry.cut is Cut.ROWS is self.entries[-1].cut and num_units >= min(most, _ENOUGH_TASKS)
        if not in_rows and most > 1:
            return False
        self.entries.append(entry)
        self.num_units, self.num_tasks = num_units, min(most, num_units)
        return True


def place(entry: Entry, stages: list[list[Part]], *, beside: bool, follows: bool = False) -> None:
    """Give an operation its place, in the last stage if possible.

    beside : it may be computed at the same time as the one before
    follows : its pieces need no more than the pieces of the same number of the one before
    """
    stage = stages[-1] if stages else []
    if follows and stage and stage[-1].follow(entry):
        return
    if beside and stage and len(stage[-1].entries) == 1:  # else the one before needs those before it in its chain
        stage.append(Part(entry))
    elif len(stage) != 1 or not stage[0].grow(entry):
        stages.append([Part(entry)])


class Schedule(NamedTuple):
    """Stages as compiled code reads them, all int64."""

    together: np.ndarray  # (num_stages,) pieces that a worker may take at once, at most
    first_parts: np.ndarray  # (num_stages + 1,) where the parts of each stage begin
    stage_tasks: np.ndarray  # (num_stages,) pieces of all parts of a stage
    first_operations: np.ndarray  # (num_parts + 1,) where the operations of each part begin
    part_tasks: np.ndarray  # (num_parts,) pieces of a part
    part_units: np.ndarray  # (num_parts,) units of a part
    rows_in_unit: np.ndarray  # (num_operations,) 0 for an operation that is not cut in rows
    functions: np.ndarray  # (num_operations,) addresses
    blocks: np.ndarray  # (num_operations,) addresses of their arguments


def make_schedule(stages: list[list[Part]]) -> Schedule:
    """The arrays of a plan."""
    parts = [part for stage in stages for part in stage]
    columns = (
        [min(entry.together for part in stage for entry in part.entries) for stage in stages],
        [0, *accumulate(map(len, stages))],
        [sum(part.num_tasks for part in stage) for stage in stages],
        [0, *accumulate(len(part.entries) for part in parts)],
        [part.num_tasks for part in parts],
        [part.num_units for part in parts],
        [entry.num_rows // part.num_units * (entry.cut is not Cut.TASKS) for part in parts for entry in part.entries],
        [entry.function for part in parts for entry in part.entries],
        [entry.block.ctypes.data for part in parts for entry in part.entries],
    )
    return Schedule(*(np.array(column, np.int64) for column in columns))
