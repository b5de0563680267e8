"""Which instruction set is chosen, and that everything passes on the other one too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecore.kernels import simd_types
from densecore.kernels.simd import ISA

HERE = Path(__file__).parent
SUITES = ("simd", "simd_memory", "formats", "quantize", "attention")  # matrix products: test_matmul compares bits


@pytest.mark.parametrize(
    ("wanted", "features", "chosen"),
    [
        ("", {"avx2", "fma", "f16c", "avx512f"}, "avx2"),
        ("", {"avx2", "fma"}, "portable"),
        ("portable", {"avx2", "fma", "f16c"}, "portable"),
    ],
)
def test_choice_of_instructions(wanted: str, features: set, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECORE_ISA", wanted)
    monkeypatch.setattr(simd_types, "_cpu_features", lambda: features)
    assert simd_types._choose_isa() == chosen


@pytest.mark.parametrize(("wanted", "message"), [("avx9", "use one of avx2, portable"), ("avx2", "this CPU lacks")])
def test_impossible_choice_of_instructions(wanted: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECORE_ISA", wanted)
    monkeypatch.setattr(simd_types, "_cpu_features", set)
    with pytest.raises(ImportError, match=message):
        simd_types._choose_isa()


def test_features_named_to_numba_replace_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd_types.config, "CPU_FEATURES", "+avx2,-fma,+f16c")
    assert simd_types._cpu_features() == {"avx2", "f16c"}


@pytest.mark.skipif(ISA == "portable", reason="runs on the portable instruction set already")
def test_everything_passes_on_the_portable_instruction_set() -> None:
    files = [str(HERE / f"test_{name}.py") for name in SUITES]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=HERE.parents[1],
        env=os.environ | {"DENSECORE_ISA": "portable"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
