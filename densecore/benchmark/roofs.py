"""The machine's roofs, measured: what no kernel can exceed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.workers import WorkerThreads
from densecore.kernels import roofs

__all__ = ["Roofs", "best_seconds", "l3_bytes", "measure_roofs"]

_ROUNDS = 1_000_000  # of ten multiplications each: some milliseconds
_REPEATS = 8
_LARGEST_READ = 1 << 30


@dataclass(frozen=True)
class Roofs:
    """What `num_threads` threads do at best, in units of 1e9 a second.

    Attributes
    ----------
    read : bytes read from memory (GB/s).
    int8_macs : int8 multiply-adds, by the CPU's best instruction alone (tdpbssd, vpdpbusd, sdot; else vpmaddubsw,
        without widening the sums).
    float_macs : float32 multiply-adds; twice as many floating-point operations.
    """

    num_threads: int
    read: float
    int8_macs: float
    float_macs: float

    def best(self, other: Roofs) -> Roofs:
        """The higher ones of two measurements on as many threads: whatever disturbs one makes it lower."""
        higher = (max(pair) for pair in zip(astuple(self)[1:], astuple(other)[1:], strict=True))
        return Roofs(self.num_threads, *higher)


def measure_roofs(num_threads: int) -> Roofs:
    """Measure on this many threads, pinned as an engine's."""
    return kernel_thread.call(lambda: _measure(num_threads))


def best_seconds(function: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The shortest time of a call; the first one, which may have to compile, does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def l3_bytes(system: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the last cache before memory; 32 MiB where the system does not say."""
    sizes = []
    for file in system.glob("index*/size"):
        digits = file.read_text().strip().removesuffix("K")
        sizes.append(int(digits) * 1024 if digits.isdecimal() else 0)
    return max(sizes, default=0) or 32 << 20


def _measure(num_threads: int) -> Roofs:
    num_threads = WorkerThreads(EngineConfig(threads=num_threads)).apply()
    data = np.empty(min(8 * l3_bytes(), _LARGEST_READ), np.uint8)
    integers, floats = np.zeros(num_threads, np.int64), np.zeros(num_threads)
    roofs.fill(data, integers)
    half = np.float32(0.5)
    read = best_seconds(lambda: roofs.read_all(data, integers))
    instructions = roofs.CHAINS * _ROUNDS * num_threads
    bytes_time = best_seconds(lambda: roofs.multiply_bytes(np.int32(1), _ROUNDS, integers))
    floats_time = best_seconds(lambda: roofs.multiply_floats(half, _ROUNDS, floats))
    return Roofs(
        num_threads,
        read=data.nbytes / read / 1e9,
        int8_macs=instructions * roofs.MACS_PER_INSTRUCTION / bytes_time / 1e9,
        float_macs=instructions * roofs.MACS_PER_FMA / floats_time / 1e9,
    )
