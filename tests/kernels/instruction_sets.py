"""Which instruction sets this CPU has beside the one that is in use."""

from __future__ import annotations

from densecore.kernels.simd_types import ISA, ISAS, _cpu_features


def other_isas() -> list[str]:
    """Those that a child process can be run with."""
    return [isa for isa, needed in ISAS.items() if needed <= _cpu_features() and isa != ISA]
