"""``densecore serve`` as a process."""

from __future__ import annotations

import builtins
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from densecore.cli import main

ASK = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 200, "ignore_eos": True, "stream": True}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    """The command on a free port, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "densecore", "serve", "--port", port, *arguments]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | environment
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            end = time.monotonic() + 120
            while True:
                assert time.monotonic() < end
                assert process.poll() is None, process.stderr.read()
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_sigterm_drains_and_ends_with_0(tiny_path: Path) -> None:
    with serving("-m", tiny_path, "--alias", "qwen") as (process, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == "qwen"
        with client.stream("POST", "/v1/chat/completions", json=ASK | {"n": 8}) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, b"")
        lines = [json.loads(line) for line in err.decode().splitlines()]
        (request,) = [line for line in lines if line.get("path") == "/v1/chat/completions"]
        assert request["completion_tokens"] == 1600 or "length" in request["finish_reason"]
        assert not [line for line in lines if line["level"] == "error"]


def test_sigterm_under_load(tiny_path: Path) -> None:
    """Streams in flight finish, each whole; who comes now is sent away; the exit status is 0."""
    with serving("-m", tiny_path, "--max-concurrency", 4) as (process, client):
        url, begun, found = str(client.base_url), threading.Barrier(17), []

        def ask() -> None:
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=ASK, timeout=60) as answer:
                lines = answer.iter_lines()
                next(lines)
                begun.wait(30)
                rest = [line for line in lines if line.startswith("data: ")]
                found.append((rest[-1], json.loads(rest[-2][6:])["choices"][0]["finish_reason"]))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        process.send_signal(signal.SIGTERM)
        while client.get("/health/ready").status_code == 200:  # the signal is on its way
            time.sleep(0.001)
        statuses = []
        while process.poll() is None and len(statuses) < 1000:
            try:
                answer = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"stream": False}, timeout=60)
            except httpx.TransportError:  # it has ended
                break
            statuses.append(answer.status_code)
            assert answer.headers["retry-after"]
        for thread in threads:
            thread.join(60)
        assert found == 16 * [("data: [DONE]", "length")]
        assert set(statuses) == {503}
        assert process.wait(30) == 0


def test_ctrl_c_ends_with_130_and_a_second_one_at_once(tiny_path: Path) -> None:
    with serving("-m", tiny_path, "--log-format", "text") as (process, _):
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"Traceback" not in err


def test_environment(tiny_path: Path) -> None:
    variables = {"MAIN_MODEL_PATH": str(tiny_path), "DENSECORE_AUTH_ENABLED": "true", "API_KEYS": "sk-a,sk-b"}
    with serving("--models-dir", tiny_path.parent, **variables) as (_, client):
        assert client.get("/v1/models").status_code == 401
        answer = client.get("/v1/models", headers={"Authorization": "Bearer sk-b"})
        assert [model["id"] for model in answer.json()["data"]] == ["tiny"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-m", "nowhere.gguf"], 1, "nowhere.gguf: there is no such file"),
        (["--models-dir", "nowhere"], 1, "nowhere: there is no such folder"),
        (["--auth"], 2, "there is no key"),
        (["--port", "99999"], 2, "port must be an integer from 0 to 65535"),
        (["--request-timeout", "soon"], 2, "'soon' is not a duration"),
        (["--max-concurrency", "0"], 2, "max_num_seqs must be"),
        (["--max-queue", "0"], 2, "max_num_waiting must be"),
        (["--log-format", "xml"], 2, "log_format must be one of json, text"),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_a_line(arguments, status, message, capsys, monkeypatch) -> None:
    for name in ("API_KEYS", "DENSECORE_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["serve", *arguments]) == status
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_port_in_use(tiny_path: Path, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "-m", str(tiny_path), "--port", str(port)]) == 1
    assert f"127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "fastapi" else find(name, *more)
    )
    assert main(["serve"]) == 1
    assert "pip install 'densecore[server]'" in capsys.readouterr().err


def test_settings_are_read_without_the_extra(monkeypatch, capsys) -> None:
    """``--help`` and wrong usage need no server."""
    real = builtins.__import__

    def refuse(name, *more):
        if name.split(".")[0] in ("fastapi", "uvicorn", "prometheus_client"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["serve", "--help"]) == 0
    assert "densecore serve -m model.gguf --alias qwen" in capsys.readouterr().out
