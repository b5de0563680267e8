"""docs/deploy/ray_serve.py on a local Ray of two replicas, where Ray is installed (the extra ``ray``)."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.data import builtin_model_path

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
NUM_REQUESTS = 24
SCRIPT = f"""
import json, re, sys, time
from concurrent.futures import ThreadPoolExecutor
import httpx, openai, ray
from ray import serve
import ray_serve

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={{"host": "127.0.0.1", "port": int(sys.argv[1])}})
serve.run(ray_serve.app({{"replicas": "2"}}))
url = f"http://127.0.0.1:{{sys.argv[1]}}"
client = openai.OpenAI(base_url=f"{{url}}/v1", api_key="x", max_retries=3)
options = {{"model": "pystd-6m-q8_0", "prompt": "def f(", "max_tokens": 16, "temperature": 0}}

def ask(i):
    if i % 2:
        return client.completions.create(**options).choices[0].text
    return "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **options))

with ThreadPoolExecutor(8) as pool:
    texts = list(pool.map(ask, range({NUM_REQUESTS})))
counts = {{}}  # of each replica, known by when its counter began
for _ in range(100):
    text = httpx.get(f"{{url}}/metrics", timeout=60).text
    began = re.search(r"^densecore_requests_created (.*)$", text, re.M)[1]
    counts[began] = float(re.search(r"^densecore_requests_total (.*)$", text, re.M)[1])
    if len(counts) == 2 and sum(counts.values()) >= {NUM_REQUESTS}:
        break
open(sys.argv[2], "w").write(json.dumps([texts, list(counts.values())]))
serve.shutdown()
ray.shutdown()
"""


def test_two_replicas_answer_as_the_sdk(tmp_path: Path) -> None:
    from .test_cli import free_port

    environment = os.environ | {"PYTHONPATH": str(DEPLOY), "RAY_USAGE_STATS_ENABLED": "0", "THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(free_port()), "found.json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    texts, counts = json.loads((tmp_path / "found.json").read_text())
    with DenseCore(builtin_model_path()) as model:
        assert set(texts) == {model.generate("def f(", max_tokens=16, temperature=0)}
    assert len(texts) == NUM_REQUESTS
    assert len(counts) == 2
    assert min(counts) > 0
    assert sum(counts) == NUM_REQUESTS
