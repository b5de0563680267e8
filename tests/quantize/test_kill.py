"""Tools that are killed at random instants: their target is absent, old or complete."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import shared_path

TOOLS = {
    "quantize": "from densecore.quantize import QuantConfig, quantize_model as make; config = QuantConfig('q4_k_m')",
    "prune": "from densecore.prune import PruneConfig, prune_model as make; config = PruneConfig('width')",
}


def start(tool: str, target: Path) -> subprocess.Popen:
    """The tool in a process that has imported everything and is about to begin."""
    source = shared_path("models", "pystd-6m-f16.gguf")
    code = f"{TOOLS[tool]}; print('go', flush=True); make({str(source)!r}, {str(target)!r}, config)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    return process


@pytest.mark.parametrize("tool", TOOLS)
def test_killed(tool: str, tmp_path: Path) -> None:
    target, rng = tmp_path / "out.gguf", random.Random(tool)
    with start(tool, target) as process:
        began = time.monotonic()
        assert process.wait() == 0
    took, complete = time.monotonic() - began, target.read_bytes()
    for old in (b"old", None, b"old", None):
        target.unlink()
        if old is not None:
            target.write_bytes(old)
        with start(tool, target) as process:
            time.sleep(rng.uniform(0, took))
            process.send_signal(signal.SIGKILL)
            process.wait()
        found = target.read_bytes() if target.exists() else None
        assert found in (old, complete)
        target.touch()
