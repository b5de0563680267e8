"""Which library runs Numba's parallel regions, chosen before the first of them.

Numba asks for TBB, then OpenMP, and else takes its own ``workqueue``: 121 us a region instead of 2, and an abort when
two Python threads enter regions at once. Here:

* ``omp`` first: piece i of a region always runs on worker i, so that pinned threads find their data again. It needs
  GNU's libgomp, which slim container images lack.
* then ``tbb``, from the Python package of that name. That lies where no loader looks, so it is loaded by its path.
* ``workqueue`` at last, with one :class:`ThreadingLayerWarning` that says what to install.

``NUMBA_THREADING_LAYER`` overrides all this.

Waiting. By default libgomp's idle workers spin for some milliseconds and never yield. On a machine with other work,
regions of 2 us then take 500. Here they spin about as long as the gap between two kernels of a model, then
sleep; under a cgroup quota, which spinning uses up, they sleep at once. ``OMP_WAIT_POLICY`` and
``GOMP_SPINCOUNT``, where set, win. All of this has to happen before libgomp is loaded by anyone.

A process that has run a parallel region must not fork: GNU OpenMP ends the child. Start processes by ``spawn``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
from numba.np.ufunc import parallel

from .cpu_limits import read_limits

# Rounds of pause instructions, some 20 to 45 us on current CPUs. It is what libgomp itself takes where it knows
# of more threads than CPUs.
_SPIN_COUNT = "1000"
_WORKQUEUE_WARNING = (
    "neither OpenMP nor TBB can be loaded, so parallel kernels run on Numba's workqueue, which takes about 100 us more "
    "for each: install libgomp1 (apt-get install libgomp1; the package is called libgomp on other systems) or, on "
    "x86-64, the Python package tbb (pip install tbb)"
)
_BACKENDS = {"omp": "numba.np.ufunc.omppool", "tbb": "numba.np.ufunc.tbbpool"}

config: Any = numba.config
_lock = threading.Lock()
_is_chosen = False


class ThreadingLayerWarning(UserWarning):
    """Parallel kernels will run much slower, or on fewer threads, than they could."""


def choose_threading_layer() -> None:
    """Set ``numba.config.THREADING_LAYER``; once a process, later calls do nothing. No thread is started yet."""
    global _is_chosen
    with _lock:
        if _is_chosen:
            return
        _is_chosen = True
        wanted = str(config.THREADING_LAYER).lower()
        if wanted == "default":
            _choose()
        elif wanted == "omp":
            _has_omp()
        elif wanted != "workqueue":
            _preload_tbb()


def _choose() -> None:
    """Take the best layer there is, unless other code of the process has started one; warn of a workqueue."""
    layer = threading_layer()
    if layer is None:
        layer = "omp" if _has_omp() else "tbb" if _has_tbb() else "workqueue"
        config.THREADING_LAYER = layer
    if layer == "workqueue":
        warnings.warn(_WORKQUEUE_WARNING, ThreadingLayerWarning, stacklevel=3)


def start_threading_layer() -> str:
    """Choose the threading layer if none is chosen, start it, and return its name.

    Raises ValueError, as Numba does, if the user asked for a layer that is not there.
    """
    choose_threading_layer()
    parallel._launch_threads()
    return parallel._threading_layer  # type: ignore[return-value]


def threading_layer() -> str | None:
    """The layer in use, ``omp``, ``tbb`` or ``workqueue``; None before the first parallel region."""
    return parallel._threading_layer if parallel._is_initialized else None


def pool_size() -> int:
    """The most threads that a kernel can run on; fixed when Numba is imported."""
    return config.NUMBA_NUM_THREADS


def set_num_threads(wanted: int) -> int:
    """Let the kernels that this thread calls run on *wanted* threads; returns how many they will be.

    The size of Numba's pool is fixed when it is imported (``NUMBA_NUM_THREADS``, or the CPUs of the affinity
    mask): a larger number becomes that size, with a warning. Raises ValueError for less than one thread.
    """
    if wanted < 1:
        raise ValueError(f"the number of threads must be at least 1, not {wanted}")
    start_threading_layer()
    size = pool_size()
    if wanted > size:
        warnings.warn(
            f"{wanted} threads were asked for, but Numba's pool has {size}: going on with {size}; "
            f"set NUMBA_NUM_THREADS={wanted} before the program starts",
            ThreadingLayerWarning,
            stacklevel=2,
        )
    numba.set_num_threads(min(wanted, size))
    return min(wanted, size)


# --------------------------------------------------------------------------------------------- libraries


def _has_omp() -> bool:
    with _bounded_spinning():
        return _can_import("omp")


def _has_tbb() -> bool:
    _preload_tbb()
    return _can_import("tbb")


def _can_import(layer: str) -> bool:
    try:
        importlib.import_module(_BACKENDS[layer])
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def _bounded_spinning() -> Iterator[None]:
    """Tell libgomp, which reads its settings as it is loaded, how long to spin; the environment is left as it was."""
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "0" if read_limits().is_throttled else _SPIN_COUNT
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def _preload_tbb() -> None:
    """Load the Python package's TBB into the process, where Numba's search for ``libtbb.so.12`` then ends."""
    if not sys.platform.startswith("linux"):
        return
    for path in _tbb_libraries():
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return


def _tbb_libraries() -> Iterator[Path]:
    """Where ``libtbb.so.12`` may lie: by the record of the installed package ``tbb``, else in the environment."""
    try:
        files = importlib.metadata.files("tbb") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name == "libtbb.so.12"]
    for path in (*found, Path(sys.prefix, "lib/libtbb.so.12")):
        if path.exists():
            yield path
