"""Memory policies: what the kernel says of them afterwards, and sandboxes that forbid them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import platform
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from densecore.kernels import numa

PREFERRED, INTERLEAVE = 1, 3  # <linux/mempolicy.h>
OF_ADDRESS, ALLOWED = 2, 4
GET_MEMPOLICY = {"x86_64": 239, "aarch64": 236}.get(platform.machine())

real = pytest.mark.skipif(not sys.platform.startswith("linux") or GET_MEMPOLICY is None, reason="asks Linux")


def policy(array: np.ndarray | None = None, flags: int = 0) -> tuple[int, list[int]]:
    """(mode, nodes) of the calling thread, or of the memory of an array; skips where it may not be asked."""
    mode, mask = ctypes.c_int(-1), (ctypes.c_ulong * 16)()
    address = ctypes.c_void_p(array.ctypes.data if array is not None else 0)
    flags = flags or (OF_ADDRESS if array is not None else 0)
    library = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(GET_MEMPOLICY or 0)
    if library.syscall(number, ctypes.byref(mode), mask, ctypes.c_long(1024), address, ctypes.c_long(flags)):
        pytest.skip(f"memory policies are not allowed here (errno {ctypes.get_errno()})")
    return mode.value, [node for node in range(1024) if mask[node // 64] >> node % 64 & 1]


@pytest.fixture
def memory() -> np.ndarray:
    """Four pages that nobody has touched."""
    return np.frombuffer(mmap.mmap(-1, 4 * mmap.PAGESIZE), np.uint8)


@real
def test_memory_has_the_policy_that_it_was_given(memory: np.ndarray) -> None:
    _, [first, *_] = policy(flags=ALLOWED)
    assert policy(memory) == (0, [])
    assert numa.place_memory(memory, [first]) == ""
    assert policy(memory) == (PREFERRED, [first])
    assert numa.place_memory(memory[mmap.PAGESIZE + 8 :], [first, first + 1]) in ("", "mbind: Invalid argument")
    assert policy(memory) == (PREFERRED, [first]), "the page before the array is none of its own"
    assert policy(memory[2 * mmap.PAGESIZE :])[0] == INTERLEAVE
    assert numa.place_memory(memory, []) == ""
    assert policy(memory) == (0, [])


@real
def test_touched_pages_lie_on_the_node_and_may_be_told_to_move(memory: np.ndarray) -> None:
    _, [first, *_] = policy(flags=ALLOWED)
    memory[:] = 7
    assert numa.place_memory(memory, [first], move=True) == ""
    assert numa.node_of(memory) == first
    assert memory.sum() == 7 * memory.size


@real
def test_policy_of_the_thread() -> None:
    _, [first, *_] = policy(flags=ALLOWED)
    assert numa.set_thread_policy([first]) == ""
    assert policy() == (PREFERRED, [first])
    assert numa.set_thread_policy([]) == ""
    assert policy() == (0, [])


@real
def test_a_node_that_does_not_exist_is_an_error_in_words(memory: np.ndarray) -> None:
    policy()
    assert numa.place_memory(memory, [1000]).startswith("mbind: ")


def test_less_than_a_page_is_nothing_to_place() -> None:
    assert numa.place_memory(np.zeros(8), [0]) == ""


@pytest.mark.parametrize("has_madvise", [True, False])
def test_touch_reads_every_page(tmp_path, monkeypatch: pytest.MonkeyPatch, has_madvise: bool) -> None:
    if not has_madvise:
        monkeypatch.setattr(numa, "_c_library", lambda: None)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 256)
    with open(path, "rb") as file:
        array = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    numa.touch(array)
    if sys.platform.startswith("linux"):
        assert resident_kib(array) == array.nbytes // 1024
    numa.touch(np.zeros(3))


def resident_kib(array: np.ndarray) -> int:
    """Of the map that an array lies in, as /proc tells it."""
    is_in = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first, _, rest = line.partition("-")
            if not line.split()[0].endswith(":"):
                is_in = int(first, 16) <= array.ctypes.data < int(rest.split()[0], 16)
            elif is_in and line.startswith("Rss:"):
                return int(line.split()[1])
    raise AssertionError("no map holds the array")


def test_where_the_calls_are_forbidden(monkeypatch: pytest.MonkeyPatch, memory: np.ndarray) -> None:
    """As Docker's default profile does."""

    def syscall(*_) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(numa, "_c_library", lambda: SimpleNamespace(syscall=syscall, madvise=lambda *_: -1))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert numa.place_memory(memory, [0]) == "mbind: Operation not permitted"
    assert numa.set_thread_policy([0]) == "set_mempolicy: Operation not permitted"
    assert numa.node_of(memory) is None
    numa.touch(memory)


@pytest.mark.parametrize("lacks", ["library", "numbers"])
def test_where_there_are_no_such_calls(monkeypatch: pytest.MonkeyPatch, memory: np.ndarray, lacks: str) -> None:
    if lacks == "library":
        monkeypatch.setattr(numa, "_c_library", lambda: None)
    else:
        monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    assert numa.place_memory(memory, [0]).startswith("mbind: not known on")
    assert numa.node_of(memory) is None
