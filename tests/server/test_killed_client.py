"""A client process that is killed in the middle of a stream: its blocks are free within a step of the engine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from densecore.engine.engine import Engine

from .conftest import running

CLIENT = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0)
prompt, options = "ab", {"extra_body": {"ignore_eos": True}}
for chunk in client.completions.create(model="tiny", prompt=prompt, max_tokens=200, n=4, stream=True, **options):
    print(chunk.choices[0].index, flush=True)
"""
SECONDS = 0.2  # before each step, so that a step is long beside the way of the news that the client is gone


def _num_used(engine: Engine) -> int:
    blocks = engine.scheduler.blocks
    return blocks.num_blocks - blocks.num_free


def test_its_blocks_are_free_within_a_step(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[float, int]] = []  # when each ended, and the blocks that were in use then
    real = Engine.step

    def slow_step(engine: Engine) -> bool:
        time.sleep(SECONDS)
        goes_on = real(engine)
        steps.append((time.monotonic(), _num_used(engine)))
        return goes_on

    with running({"tiny": tiny_path}) as server:
        monkeypatch.setattr(Engine, "step", slow_step)
        command = [sys.executable, "-c", CLIENT, f"{server.url}/v1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            for _ in range(8):  # two tokens of each of its answers
                assert client.stdout.readline()
            assert steps[-1][1] >= 4
            client.kill()
            killed = time.monotonic()
        server.wait_until(lambda: server.service.metrics.num_active == 0, 5)
        server.wait_until(lambda: steps[-1][1] == 0, 5)
        # At most the step that was under way when the client was killed still held its blocks.
        assert [used for ended, used in steps if ended > killed and used][1:] == []
        text = server.http.get("/metrics").text
        assert "densecore_requests_cancelled_total 1.0" in text
        assert "densecore_kv_cache_blocks_used 0.0" in text
        monkeypatch.undo()
        assert server.post("/v1/completions", prompt="ab", max_tokens=4).status_code == 200
