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
    path = make_model(tmp_path / "model.gguf", "qwen2", dim=256, hidden_dim=512, tensor_type="Q8_0")
    with StepTimer(path) as opened:
        yield opened


def test_every_operation_belongs_to_one_kind(timer):
    step = overhead.record_step(timer, depth=40)
    counts = overhead.count_kinds(step)
    assert counts["matmul"] == 7 * 2 + 1  # of two layers and the output
    assert counts["rms_norm"] == 2 * 2 + 1
    plans = overhead.plans_by_name(step)
    assert sum(len(plans[name]) for name in counts) == len(step)
    assert len(plans["rest"]) == len(step) - counts["matmul"] - counts["attention"]
    assert step.num_stages < len(step) / 2


def test_overhead_is_what_products_and_attention_leave(timer):
    step = overhead.record_step(timer, depth=0)
    times = dict.fromkeys(overhead.plans_by_name(step), 0.001) | {"forward": 0.021, "step": 0.020, "matmul": 0.015}
    lines = overhead.report({"1 thread": times}, step).splitlines()
    assert lines[0].split("|")[1:-1][-1].strip() == "1 thread"
    values = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines[2:]}
    assert values["overhead: without products and attention"] == "4.000"
    assert values["... of the step"] == "20.0 %"
    assert values["`matmul`"] == "15.000"


def test_measured_beside_a_busy_thread(timer, monkeypatch, capsys):
    """Through `main`, which leaves no thread behind."""
    arguments = ["overhead", str(timer.file.path), "--threads", "1", "--rounds", "2", "--busy"]
    monkeypatch.setattr(sys, "argv", arguments)
    before = threading.active_count()
    overhead.main()
    table = capsys.readouterr().out
    assert "1 thread, busy" in table
    assert "`swiglu`" in table
    assert threading.active_count() <= before + 1  # the kernel thread may be new
