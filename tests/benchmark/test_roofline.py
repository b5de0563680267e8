"""Roofs and shares of them: the arithmetic, and that what is counted is what the model has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from densecore.benchmark import Measurement, Roofs, StepTimer, measure_kernels, roofline_table
from densecore.benchmark.plot import plot_roofline
from densecore.benchmark.roofs import l3_bytes
from densecore.data import builtin_model_path
from densecore.exceptions import UnsupportedFeatureError

ROOFS = Roofs(2, read=10.0, int8_macs=100.0, float_macs=20.0)


def measurement(**changes) -> Measurement:
    facts = {"kernel": "matmul Q4_K", "test": "decode", "num_bytes": 10**9, "num_macs": 10**9, "seconds": 0.2}
    return Measurement(**(facts | {"roofs": ROOFS, "is_integer": True} | changes))


def test_share_of_the_lower_roof() -> None:
    read = measurement()  # 0.1 s of reading, 0.01 s of multiplying
    assert (read.bound, read.share) == ("read", pytest.approx(0.5))
    multiply = measurement(num_macs=10**10, seconds=0.4)
    assert (multiply.bound, multiply.share) == ("multiply", pytest.approx(0.25))
    floats = measurement(num_macs=10**10, seconds=1.0, is_integer=False)
    assert floats.share == pytest.approx(0.5)


def test_better_of_two_measurements() -> None:
    other = Roofs(2, read=8.0, int8_macs=120.0, float_macs=20.0)
    assert ROOFS.best(other) == Roofs(2, read=10.0, int8_macs=120.0, float_macs=20.0)


def test_size_of_the_last_cache(tmp_path: Path) -> None:
    assert l3_bytes(tmp_path) == 32 << 20
    for index, size in enumerate(("32K", "1024K", "8192K")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert l3_bytes(tmp_path) == 8 << 20


@pytest.fixture(scope="module")
def measured() -> list[Measurement]:
    with StepTimer(builtin_model_path()) as timer:
        return measure_kernels(timer, ROOFS, num_tokens=4, depth=8)


def test_all_matrices_are_counted(measured: list[Measurement]) -> None:
    decode, prefill, attention, attention_prefill = measured
    layer = 256 * (256 + 128 + 128 + 256 + 3 * 768)  # elements: q, k, v, output, gate, up, down
    assert decode.num_macs == 6 * layer + 4096 * 256
    assert decode.num_bytes == decode.num_macs // 32 * 34
    assert prefill.num_macs == 4 * 6 * layer
    assert attention.num_bytes == 6 * 2 * 9 * 2 * 64 * 2  # layers, k and v, positions, heads, head_dim, f16
    assert attention.num_macs == 6 * 2 * 9 * 4 * 64
    assert attention_prefill.num_macs == 6 * 2 * (1 + 2 + 3 + 4) * 4 * 64
    assert all(m.seconds > 0 for m in measured)


def test_table_names_each_kernel(measured: list[Measurement]) -> None:
    table = roofline_table([ROOFS], measured)
    for name in ("matmul Q8_0 | decode", "matmul Q8_0 | prefill 4", "attention   | decode at 8", "of its roof"):
        assert name in table


def test_plot(measured: list[Measurement], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_roofline(tmp_path / "roofs.png", measured, "a model")
    assert (tmp_path / "roofs.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib(measured: list[Measurement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedFeatureError, match=r"densecore\[bench\]"):
        plot_roofline(tmp_path / "roofs.png", measured, "a model")
