"""Asking memory for weights while others are computed with: little by little, as much at a time as the work takes.

All at once they would wait for each other: a core has only some dozens of requests to memory under way, and stands
still when it makes more. Each time as many lines as the last time, since the CPU foresees how often a loop turns only
if that stays the same.
"""

from __future__ import annotations

from typing import NamedTuple

from .cache import inlined
from .simd import prefetch_far

LINE = 64  # bytes that memory answers with


class Ahead(NamedTuple):
    """Bytes of the weights that are read next."""

    place: int  # the first that has not been asked for
    end: int
    unpacking: int  # lines to ask for at a time, while a panel is being unpacked
    multiplying: int  # and while it is being multiplied


@inlined
def plan_ahead(place, size, unpacking, multiplying):
    """Ask for `size` bytes from byte `place` on, in the course of two kinds of work.

    unpacking, multiplying : of each kind, how many times is asked meanwhile, and how long it takes in all (any unit)
    """
    lines = (size + LINE - 1) // LINE
    first = lines * unpacking[1] // (unpacking[1] + multiplying[1]) // unpacking[0]
    left = lines - first * unpacking[0]
    return Ahead(place, place + size, first, (left + multiplying[0] - 1) // multiplying[0])


@inlined
def ask(w, ahead, lines):
    """Prefetch the next lines; returns what is left."""
    place = ahead.place
    for _ in range(lines):
        if place < ahead.end:
            prefetch_far(w, place)
            place += LINE
    return Ahead(place, ahead.end, ahead.unpacking, ahead.multiplying)
