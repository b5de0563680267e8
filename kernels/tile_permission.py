"""Leave to use the tile registers of AMX, which Linux gives to a process that asks for it.

Each thread's tiles are 8 KiB that the system must keep when it runs another thread, so it reserves them on demand
(Linux, ``Documentation/arch/x86/xstate.rst``). Threads that are started later have the same leave.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys

_ARCH_PRCTL, _ASK_FOR_LEAVE, _TILE_DATA = 158, 0x1023, 18  # syscall; ARCH_REQ_XCOMP_PERM; XFEATURE_XTILEDATA


@functools.cache
def tiles_allowed() -> bool:
    """Ask for the tile registers; False where the system has none, or refuses them."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK_FOR_LEAVE, _TILE_DATA) == 0
