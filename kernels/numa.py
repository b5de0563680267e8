"""Which NUMA node memory comes from: Linux's memory policies, by system call.

Without a policy a page lies on the node of the thread that touches it first. That is right for what one node's threads
use alone, and wrong in two cases, which are what this is for: a file that an earlier process has read already lies
wherever that one ran; and the KV cache of threads on several nodes, which any of them may read, is best dealt
out evenly.

The calls go through ``syscall(2)`` by number: the C library has no functions for them, and libnuma is seldom there.
Sources: mbind(2), set_mempolicy(2), get_mempolicy(2), madvise(2); numbers from the kernel's syscall tables. Containers
forbid them more often than not (without CAP_SYS_NICE), so nothing here raises: functions return what went wrong.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

# mbind, get_mempolicy, set_mempolicy
_NUMBERS = {
    "x86_64": (237, 239, 238),
    "aarch64": (235, 236, 237),
    "riscv64": (235, 236, 237),
    "ppc64le": (259, 260, 261),
    "s390x": (268, 269, 270),
}
_DEFAULT, _PREFERRED, _INTERLEAVE = 0, 1, 3  # policies; PREFERRED takes other nodes where its own is full
_NODE_OF_ADDRESS = 1 | 2  # MPOL_F_NODE | MPOL_F_ADDR
_MOVE = 2  # MPOL_MF_MOVE: pages that this process alone has mapped move at once
_POPULATE_READ = 22  # MADV_POPULATE_READ, since Linux 5.14
_MASK_BITS = 1024  # of a node mask: what any kernel is built for
_WORD = 8 * ctypes.sizeof(ctypes.c_ulong)
_PAGE = getattr(os, "sysconf", lambda _: 4096)("SC_PAGE_SIZE")


def set_thread_policy(nodes: Iterable[int]) -> str:
    """Take the calling thread's new pages from `nodes`: one is preferred, several in turn, none as by default.

    Returns what went wrong, in words; empty if nothing did.
    """
    mode, mask = _policy(nodes)
    return _call("set_mempolicy", 2, mode, mask, _MASK_BITS)


def place_memory(array: np.ndarray, nodes: Iterable[int], *, move: bool = False) -> str:
    """Take the pages that lie within `array` from `nodes`, whoever touches them; with `move` also those touched before.

    The policy of shared file maps is the thread's that reads a page first: there only `move` has an effect, on
    pages that are mapped. Returns what went wrong, in words; empty if nothing did.
    """
    start, length = _whole_pages(array)
    if not length:
        return ""
    mode, mask = _policy(nodes)
    pointer = ctypes.c_void_p(start)
    return _call("mbind", 0, pointer, ctypes.c_ulong(length), mode, mask, _MASK_BITS, _MOVE if move else 0)


def node_of(array: np.ndarray) -> int | None:
    """The node of the page where `array` begins, which is touched by asking; None where it cannot be told."""
    node = ctypes.c_int(-1)
    address = ctypes.c_void_p(array.ctypes.data)
    failed = _call("get_mempolicy", 1, ctypes.byref(node), None, 0, address, _NODE_OF_ADDRESS)
    return None if failed else node.value


def touch(array: np.ndarray) -> None:
    """Read a byte of every page, so that the system brings it to memory and maps it."""
    start, length = _whole_pages(array)
    library = _c_library()
    if length and library is not None:
        done = library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _POPULATE_READ)
        if done == 0:
            return
    flat = array.reshape(-1).view(np.uint8)
    int(flat[::_PAGE].sum(dtype=np.int64))  # numpy reads each


def _whole_pages(array: np.ndarray) -> tuple[int, int]:
    """(address, length) of the pages that lie in a contiguous array from end to end."""
    first = -(-array.ctypes.data // _PAGE) * _PAGE
    last = (array.ctypes.data + array.nbytes) // _PAGE * _PAGE
    return first, max(last - first, 0)


def _policy(nodes: Iterable[int]) -> tuple[int, Any]:
    """(mode, mask) for a system call."""
    chosen = sorted({node for node in nodes if 0 <= node < _MASK_BITS})
    mask = (ctypes.c_ulong * (_MASK_BITS // _WORD))()
    for node in chosen:
        mask[node // _WORD] |= 1 << node % _WORD
    if not chosen:
        return _DEFAULT, None
    return (_PREFERRED if len(chosen) == 1 else _INTERLEAVE), mask


def _call(name: str, index: int, *arguments: Any) -> str:
    """Do system call number `index` of the list above; what went wrong, in words."""
    numbers, library = _NUMBERS.get(platform.machine()), _c_library()
    if numbers is None or library is None:
        return f"{name}: not known on {sys.platform} {platform.machine()}"
    widened = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if library.syscall(ctypes.c_long(numbers[index]), *widened) < 0:
        return f"{name}: {os.strerror(ctypes.get_errno())}"
    return ""


def _c_library() -> Any:
    """The C library with ``syscall`` and ``madvise``; None where it is not Linux's."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except OSError:
        return None
    return library if hasattr(library, "syscall") and hasattr(library, "madvise") else None
