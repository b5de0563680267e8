"""Random numbers that depend on a seed and a position, and on nothing else.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) is a counter that goes
through a mixing function: its i-th number can be computed without those before it. So a request needs no generator
state, and its draws cannot depend on what else is in the batch.
"""

from __future__ import annotations

__all__ = ["splitmix64", "uniform"]

_MASK = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(seed: int, index: int) -> int:
    """The number at position `index`, from 0, of the sequence that belongs to `seed`: 64 random bits."""
    z = (seed + (index + 1) * _GOLDEN_GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, index: int) -> float:
    """Uniform number in [0, 1), a multiple of 2**-53."""
    return (splitmix64(seed, index) >> 11) * 2.0**-53
