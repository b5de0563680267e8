"""The memory of the KV cache is there before the server is ready."""

from __future__ import annotations

import gc
from pathlib import Path

import psutil
import pytest

from .conftest import running
from .test_cli import serving

NUM_SEQS = 4096


def resident(pid: int | None = None) -> int:
    return psutil.Process(pid).memory_info().rss


@pytest.mark.parametrize("options", [{}, {"preallocate_kv_cache": False}], ids=["default", "off"])
def test_it_is_taken_when_the_model_is_loaded(tiny_path: Path, options: dict[str, bool]) -> None:
    with running({"tiny": tiny_path}):  # what the first server of a process takes
        gc.collect()
        before = resident()
    with running({"tiny": tiny_path}, options={"max_num_seqs": NUM_SEQS} | options) as server:
        cache_bytes = server.model.get_metrics()["kv_cache_bytes"]
        assert cache_bytes == NUM_SEQS * 256 * 128
        taken = resident() - before
        assert abs(taken - (0 if options else cache_bytes)) < 0.3 * cache_bytes


def test_command(tiny_path: Path) -> None:
    """The flags reach the engine of a process; without ``--no-preallocate`` memory grows by the cache."""
    bound = 64 * 2**20
    flags = ["-m", tiny_path, "--max-concurrency", NUM_SEQS, "--kv-cache-bytes", bound]
    sizes = []
    for more in ([], ["--no-preallocate"]):
        with serving(*flags, *more) as (process, client):
            lines = client.get("/metrics").text.splitlines()
            (line,) = [line for line in lines if line.startswith("densecore_kv_cache_bytes ")]
            assert float(line.split()[1]) == pytest.approx(bound, rel=0.01)
            sizes.append(resident(process.pid))
    assert sizes[0] - sizes[1] > 0.7 * bound
