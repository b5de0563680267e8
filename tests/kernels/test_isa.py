"""Which instruction set is chosen, and that everything passes on the other one too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from densecore.kernels import simd_types

from .instruction_sets import other_isas

HERE = Path(__file__).parent
SUITES = (
    "simd",
    "simd_memory",
    "formats",
    "quantize",
    "products",
    "attention",
    "segment_attention",
    "layer_kernels",
)  # matrix products: test_matmul compares bits
SAME_BUT_FOR_DOTS = {"avxvnni": ("simd",)}  # as AVX2 otherwise; test_matmul compares its bits, too
AVX2 = {"avx2", "fma", "f16c"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}
AMX = AVX512 | {"amx-tile", "amx-int8"}


@pytest.mark.parametrize(
    ("wanted", "features", "chosen"),
    [
        ("", AMX, "amx"),
        ("", AVX512, "avx512"),
        ("", AVX512 - {"avx512vnni"}, "avx2"),
        ("", AVX2 | {"avxvnni"}, "avxvnni"),
        ("", AVX2, "avx2"),
        ("", {"avx2", "fma"}, "portable"),
        ("", {"neon", "dotprod"}, "neon"),
        ("", {"neon"}, "portable"),
        ("avx2", AVX512, "avx2"),
        ("avx512", AMX, "avx512"),
        ("portable", AVX2, "portable"),
    ],
)
def test_choice_of_instructions(wanted: str, features: set, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECORE_ISA", wanted)
    monkeypatch.setattr(simd_types, "_cpu_features", lambda: features)
    assert simd_types._choose_isa() == chosen


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("avx9", "use one of amx, avx512, avxvnni, avx2, neon, portable"),
        ("avx2", "this CPU lacks avx2, f16c, fma"),
        ("neon", "this CPU lacks dotprod, neon"),
    ],
)
def test_impossible_choice_of_instructions(wanted: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSECORE_ISA", wanted)
    monkeypatch.setattr(simd_types, "_cpu_features", set)
    with pytest.raises(ImportError, match=message) as raised:
        simd_types._choose_isa()
    assert raised.value.name == "DENSECORE_ISA"  # the command line tells it from a fault of its own


@pytest.mark.parametrize(
    ("isa", "triple", "cpu", "features", "expected", "absent"),
    [
        (
            "amx",
            "x86_64-unknown-linux-gnu",
            "sapphirerapids",
            AMX,
            {"ldtilecfg": "", "tileloadd": r"%tmm", "tdpbssd": r"%tmm", "tilestored": "", "tilerelease": ""},
            "vpmaddubsw",
        ),
        (
            "avx512",
            "x86_64-unknown-linux-gnu",
            "icelake-server",
            AVX512,
            {"vpdpbusd": r"%zmm", "vpmulld": r"%zmm", "vcvtph2ps": ""},
            "vpmaddubsw",
        ),
        (
            "avxvnni",
            "x86_64-unknown-linux-gnu",
            "alderlake",
            AVX2 | {"avxvnni"},
            {r"\{vex\}\s+vpdpbusd": r"%ymm", "vpshufb": ""},
            "%zmm",
        ),
        ("avx2", "x86_64-unknown-linux-gnu", "haswell", AVX2, {"vpmaddubsw": r"%ymm", "vpsignb": r"%ymm"}, "vpdpbusd"),
        (
            "neon",
            "aarch64-unknown-linux-gnu",
            "neoverse-n1",
            {"neon", "dotprod"},
            {"sdot": r"v\d+\.4s, v\d+\.16b, v\d+\.16b", "tbl": "", "fcvtl": ""},
            "vpdpbusd",
        ),
    ],
)
def test_instructions_of_other_cpus(
    isa: str, triple: str, cpu: str, features: set, expected: dict[str, str], absent: str
) -> None:
    """What this machine may be unable to run is compiled for that CPU, and the instructions are looked for."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.emit_dots", triple, cpu],
        cwd=HERE.parents[1],
        env=os.environ | {"NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in features), "DENSECORE_ISA": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    chosen, assembly = done.stdout.split("\n", 1)
    assert chosen == isa
    for instruction, operands in expected.items():
        assert re.search(rf"^\s+{instruction}\s.*{operands}", assembly, re.MULTILINE), (instruction, assembly)
    assert absent not in assembly


@pytest.mark.parametrize(("allowed", "isa"), [(True, "amx"), (False, "avx512")])
def test_tiles_are_used_only_with_the_systems_leave(allowed: bool, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd_types.llvm, "get_host_cpu_features", lambda: dict.fromkeys(AMX, True))
    monkeypatch.setattr(simd_types, "tiles_allowed", lambda: allowed)
    monkeypatch.setattr(simd_types.config, "CPU_FEATURES", None)
    monkeypatch.setenv("DENSECORE_ISA", "")
    assert simd_types._choose_isa() == isa


def test_features_named_to_numba_replace_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simd_types.config, "CPU_FEATURES", "+avx2,-fma,+f16c")
    assert simd_types._cpu_features() == {"avx2", "f16c"}


@pytest.mark.parametrize("isa", other_isas())
def test_everything_passes_on_the_other_instruction_sets_of_this_cpu(isa: str) -> None:
    files = [str(HERE / f"test_{name}.py") for name in SAME_BUT_FOR_DOTS.get(isa, SUITES)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=HERE.parents[1],
        env=os.environ | {"DENSECORE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
