"""The benchmark of the server, on the built-in model: what it prints is there, and plausible."""

from __future__ import annotations

import re
import sys

import pytest

from bench import serving_http
from densecore.data import builtin_model_path


def test_it_measures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(builtin_model_path()), "--streams", "4", "--tokens", "40", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["serving_http", *arguments])
    serving_http.main()
    table = capsys.readouterr().out
    engine, server = (float(rate) for rate in re.findall(r"([\d.]+) tokens/s", table))
    assert 0 < server < 2 * engine
    chunk = float(re.search(r"([\d.]+) us", table)[1])
    assert 5 < chunk < 2000
    p99, p50 = (float(value) for value in re.search(r"p99 *\| *([\d.]+) ms.*p50 ([\d.]+) ms", table).groups())
    assert 0 < p50 <= p99
