"""The benchmark of overhead counts and times every operation of a step."""

from __future__ import annotations

import sys
import threading

import pytest

from bench import overhead
from densecore.benchmark import StepTimer
from tests.gguf_factory import make_model


@pytest.fixture
def timer(tmp_path):
    path = make_model(tmp_path / "model.gguf", "qwen2", dim=256, hidden_dim=4096, tensor_type="Q8_0")
    with StepTimer(path) as opened:
        yield opened


def test_stages_of_a_step(timer):
    step = overhead.record_step(timer, depth=40)
    kinds = [overhead.kind(operations) for operations in step.stages]
    assert sum(map(len, step.stages)) == len(step) - 2  # no chunks of attention to merge in either layer
    assert kinds[0] == "rope_table, embed, rms_norm, quantize_q8"
    assert kinds[1] == "matmul"  # q, k and v
    assert len(step.stages[1]) == 3
    seconds = overhead.stage_seconds(step, 2)
    assert seconds.shape == (len(kinds),)
    assert (seconds >= 0).all()
    assert 0 < seconds.sum() < 10


def test_overhead_is_what_products_and_attention_leave(timer):
    step = overhead.record_step(timer, depth=0)
    kinds = {overhead.kind(operations) for operations in step.stages}
    others = len(kinds - set(overhead.KERNELS))
    times = dict.fromkeys(kinds, 0.001) | {overhead.WHOLE: 0.021, "matmul": 0.015}
    lines = overhead.report({"1 thread": times}, step).splitlines()
    assert lines[0].split("|")[1:-1][-1].strip() == "1 thread"
    values = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines[2:]}
    assert values[overhead.WHOLE] == "21.000"
    assert values["all stages"] == f"{16 + others}.000"
    assert values["overhead"] == f"{others}.000"
    assert values["... of all"] == f"{100 * others / (16 + others):.1f} %"
    assert values["`matmul`"] == "15.000"


def test_measured_beside_a_busy_thread(timer, monkeypatch, capsys):
    """Through `main`, which leaves no thread behind."""
    arguments = ["overhead", str(timer.file.path), "--threads", "1", "--rounds", "2", "--busy"]
    monkeypatch.setattr(sys, "argv", arguments)
    before = threading.active_count()
    overhead.main()
    table = capsys.readouterr().out
    assert "1 thread, busy" in table
    assert "`swiglu, quantize_q8`" in table
    assert threading.active_count() <= before + 1  # the kernel thread may be new
