"""Loading in the background, several models, draining, and clients that go away."""

from __future__ import annotations

import json
import socket
import threading
import time

import httpx
import openai
import pytest

from densecore.engine.engine import Engine
from densecore.exceptions import ModelLoadError
from densecore.server.registry import load_model
from tests.gguf_factory import make_model

from .conftest import running

ASK = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 5, "temperature": 0}
LONG = ASK | {"max_tokens": 200, "logit_bias": {"2": -100}}
CHAT = "/v1/chat/completions"


class TestLoading:
    def test_probes_tell_the_truth(self, tiny_path):
        go = threading.Event()

        def load(entry):
            entry.progress = "half way"
            go.wait(30)
            return load_model(entry, {})

        with running({"tiny": tiny_path}, load=load, ready=False) as server:
            server.wait_until(lambda: server.service.registry.default.progress == "half way")
            for path in ("/health", "/health/ready", "/health/startup"):
                answer = server.http.get(path)
                assert (answer.status_code, answer.json()["status"]) == (503, "loading")
                assert answer.json()["progress"] == "half way"
            assert server.http.get("/health/live").status_code == 200
            assert server.http.get("/metrics").status_code == 200
            assert server.http.get("/v1/models").json()["data"][0]["state"] == "loading"
            answer = server.post(CHAT, **ASK)
            assert answer.status_code == 503
            assert answer.json()["error"]["type"] == "unavailable_error"
            assert answer.headers["retry-after"]
            threading.Timer(0.5, go.set).start()
            text = (
                server.openai(max_retries=100).chat.completions.create(model="tiny", **ASK).choices[0].message.content
            )
            assert text == server.model.complete_chat(ASK["messages"], max_tokens=5, temperature=0).text
            answer = server.http.get("/health").json()
            assert answer["status"] == "healthy"
            assert answer["timestamp"].endswith("Z")
            assert server.http.get("/health/startup").status_code == 200

    def test_a_model_that_cannot_be_loaded(self, tiny_path):
        def load(entry):
            raise ModelLoadError("model.gguf: it is broken")

        with running({"tiny": tiny_path}, load=load, ready=False) as server:
            server.wait_until(lambda: server.service.registry.default.state == "failed")
            answer = server.http.get("/health")
            assert (answer.status_code, answer.json()["error"]) == (503, "model.gguf: it is broken")
            with pytest.raises(openai.InternalServerError, match="it is broken") as caught:
                server.openai().chat.completions.create(model="tiny", **ASK)
            assert caught.value.status_code == 503


class TestSeveralModels:
    def test_least_recently_used_goes(self, tiny_path):
        with running(dict.fromkeys(["a", "b", "c"], tiny_path), max_loaded_models=2) as server:

            def states() -> list[str]:
                return [model["state"] for model in server.http.get("/v1/models").json()["data"]]

            assert states() == ["ready", "unloaded", "unloaded"]
            answers = {name: server.post(CHAT, model=name, **ASK).json() for name in ("b", "a", "c")}
            assert states() == ["ready", "unloaded", "ready"]
            assert [answer["model"] for answer in answers.values()] == ["b", "a", "c"]
            assert len({answer["choices"][0]["message"]["content"] for answer in answers.values()}) == 1
            assert server.post(CHAT, **ASK).json()["model"] == "a"

    def test_who_wants_to_know_is_told_when_models_come_and_go(self, tiny_path):
        with running({"a": tiny_path, "b": tiny_path}) as server:
            seen = []
            registry = server.service.registry
            registry.on_change = lambda: seen.append([entry.name for entry in registry.loaded()])
            assert server.post(CHAT, model="b", **ASK).status_code == 200
            assert server.post("/v1/models/unload", model="b").status_code == 200
            assert seen == [[], ["b"], []]

    def test_load_and_unload(self, tiny_path):
        with running({"a": tiny_path, "b": tiny_path}, max_loaded_models=2) as server:
            assert server.post("/v1/models/load", model="b").json()["state"] == "ready"
            assert server.post("/v1/models/load", model="b").json()["state"] == "ready"
            assert server.post("/v1/models/unload", model="b").json()["state"] == "unloaded"
            assert server.post("/v1/models/unload", model="b").json()["state"] == "unloaded"
            assert server.post("/v1/models/load", model="x").status_code == 404
            assert server.post("/v1/models/load").status_code == 400

    def test_a_model_in_use_stays_unless_forced(self, tiny_path, tmp_path):
        overrides = {"llama.context_length": 16384}  # so that its answer lasts, however fast this machine is
        slow = make_model(tmp_path / "slow.gguf", n_layers=1, metadata_overrides=overrides)
        ask = LONG | {"model": "a", "stream": True, "max_tokens": 15000}
        with (
            running({"a": slow, "b": tiny_path}) as server,
            server.http.stream("POST", CHAT, json=ask) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            assert httpx.post(f"{server.url}/v1/models/unload", json={"model": "a"}).status_code == 409
            assert httpx.post(f"{server.url}{CHAT}", json=ASK | {"model": "b"}).status_code == 503
            forced = httpx.post(f"{server.url}/v1/models/unload", json={"model": "a", "force": True})
            assert forced.json()["state"] == "unloaded"
            assert "was unloaded" in list(filter(None, lines))[-1]


class TestEnd:
    def test_drain_lets_requests_finish_and_refuses_new_ones(self, tiny_path, monkeypatch):
        real, refused_one = Engine.step, threading.Event()

        def wait(engine):  # else all might end before anything is refused
            refused_one.wait(30)
            return real(engine)

        monkeypatch.setattr(Engine, "step", wait)
        with (
            running({"tiny": tiny_path}) as server,
            server.http.stream("POST", CHAT, json=LONG | {"stream": True, "n": 8}) as answer,
            httpx.Client(base_url=server.url) as other,
        ):
            lines = answer.iter_lines()
            next(lines)
            server.server._loop.call_soon_threadsafe(server.server.begin_drain)
            server.wait_until(lambda: server.service.draining)
            ready, live, refused = (other.get("/health/ready"), other.get("/health/live"), other.post(CHAT, json=ASK))
            assert (ready.status_code, ready.json()["status"]) == (503, "draining")
            assert live.status_code == 200
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable_error")
            refused_one.set()
            rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            reasons = [json.loads(line[6:])["choices"][0]["finish_reason"] for line in rest[:-1]]
            assert reasons.count("length") == 8

    def test_drain_has_an_end(self, tiny_path):
        with running({"tiny": tiny_path}, shutdown_timeout=0.2) as server:
            started = time.monotonic()
            server.service.metrics.num_active += 1  # a request that never ends
            server.server._loop.call_soon_threadsafe(server.server.begin_drain)
            server.wait_until(lambda: server.server.should_exit)
            assert 0.2 <= time.monotonic() - started < 5

    def test_it_does_not_wait_for_a_model_that_is_being_loaded(self, tiny_path):
        started, go = threading.Event(), threading.Event()

        def load(entry):
            started.set()
            go.wait(60)
            raise ModelLoadError("too late")

        began = time.monotonic()
        with running({"tiny": tiny_path}, load=load, ready=False):
            assert started.wait(10)
        assert time.monotonic() - began < 10
        go.set()


class TestDelays:
    def test_small_answers_come_at_once_on_a_connection_that_is_kept(self, tiny_path):
        """With Nagle's algorithm an answer's second part waits for the acknowledgement of its first, 40 ms."""
        with running({"tiny": tiny_path}) as server:
            assert server.http.get("/health").status_code == 200
            (connection,) = server.server.server_state.connections
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


class TestClientsThatGoAway:
    @pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
    def test_blocks_are_free_again(self, tiny_path, stream):
        with running({"tiny": tiny_path}, options={"max_num_seqs": 2}) as server:
            body = LONG | {"stream": stream, "n": 32}
            with pytest.raises(httpx.ReadTimeout):
                self.ask(server, body, stream)
            server.http.close()
            server.http = httpx.Client(base_url=server.url, timeout=60)
            server.wait_until_idle()
            assert server.model.get_metrics()["total_tokens_generated"] < 32 * 200
            assert "densecore_requests_cancelled_total 1.0" in server.http.get("/metrics").text

    def test_who_reads_nothing_is_given_up(self, tiny_path):
        with running({"tiny": tiny_path}, send_timeout=0.3) as server, socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            body = json.dumps(LONG | {"stream": True, "n": 128, "logprobs": True, "top_logprobs": 20}).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            server.wait_until(lambda: server.service.metrics.num_active == 1)
            server.wait_until_idle()
            assert "densecore_requests_cancelled_total 1.0" in server.http.get("/metrics").text

    @staticmethod
    def ask(server, body, stream) -> None:
        with httpx.Client(base_url=server.url, timeout=httpx.Timeout(30, read=0.05)) as client:
            if not stream:
                client.post(CHAT, json=body)
            with client.stream("POST", CHAT, json=body) as answer:
                next(answer.iter_lines())
                raise httpx.ReadTimeout("enough")
