"""Asking memory for weights while others are computed with: little by little, as much at a time as the work takes.

All at once they would wait for each other: a core has only some dozens of requests to memory under way, and stands
still when it makes more.
"""

from __future__ import annotations

from typing import NamedTuple

from .cache import inlined
from .simd import prefetch_far

LINE = 64  # bytes that memory answers with


class Ahead(NamedTuple):
    """Bytes of the weights that are read next."""

    place: int  # the first that has not been asked for
    due: int  # by now all below should have been
    end: int
    step: int  # bytes that become due with a unit of work


@inlined
def plan_ahead(place, size, units):
    """Ask for `size` bytes of weights from byte `place` on in the course of so many units of work."""
    return Ahead(place, place, place + size, size // units + 1)


@inlined
def ask(w, ahead, units):
    """Prefetch what becomes due with some units of work; returns what is left."""
    place, due = ahead.place, min(ahead.due + units * ahead.step, ahead.end)
    while place < due:
        prefetch_far(w, place)
        place += LINE
    return Ahead(place, due, ahead.end, ahead.step)
