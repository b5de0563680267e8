"""The official client tries again by itself, when and as often as the server's answers tell it to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from densecore.engine.engine import Engine
from densecore.engine.runner import Runner
from densecore.server.registry import load_model

from .conftest import KEY, Running, running

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 4}
LONG = ASK | {"max_tokens": 200, "ignore_eos": True}


class Watched:
    """The official client as it is, over a connection that notes each answer: (status, Retry-After, when)."""

    def __init__(self, server: Running, max_retries: int = 2) -> None:
        self.answers: list[tuple[int, str | None, float]] = []
        self._http = httpx.Client(event_hooks={"response": [self._note]}, timeout=60)
        self.openai = openai.OpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, http_client=self._http, max_retries=max_retries
        )

    def _note(self, answer: httpx.Response) -> None:
        self.answers.append((answer.status_code, answer.headers.get("retry-after"), time.monotonic()))

    @property
    def statuses(self) -> list[int]:
        return [status for status, _, _ in self.answers]

    def check_waits(self) -> None:
        """Between an answer with Retry-After and the next one there is that time at least."""
        for (_, retry_after, then), (_, _, now) in zip(self.answers, self.answers[1:], strict=False):
            assert retry_after is not None
            assert now - then >= float(retry_after) > 0

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(server: Running, max_retries: int = 2) -> Watched:
        made.append(Watched(server, max_retries))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_429_of_the_rate_limit(tiny_path: Path, watch: Callable[..., Watched]) -> None:
    limits = {"rate_limit_enabled": True, "rate_limit_rps": 0.4, "rate_limit_burst": 1}
    with running({"tiny": tiny_path}, **limits) as server:
        client, impatient = watch(server), watch(server, 0)
        models = client.openai.models
        assert models.list().data[0].id == models.list().data[0].id == "tiny"
        assert client.statuses == [200, 429, 200]
        assert client.answers[1][1] in ("1", "2", "3")  # of 2.5 seconds, less what has passed, rounded up
        assert client.answers[2][2] - client.answers[1][2] >= float(client.answers[1][1])
        with pytest.raises(openai.RateLimitError):
            impatient.openai.models.list()


def test_429_of_the_queue(tiny_path: Path, watch: Callable[..., Watched]) -> None:
    options = {"max_num_seqs": 1, "max_num_waiting": 1}
    with running({"tiny": tiny_path}, options=options) as server:
        url = f"{server.url}/v1/chat/completions"
        with slow_steps(0.01):
            threads = [threading.Thread(target=httpx.post, args=[url], kwargs={"json": LONG}) for _ in range(2)]
            for thread, name in zip(threads, ("active_requests", "waiting_requests"), strict=True):
                thread.start()
                server.wait_until(lambda name=name: server.model.get_metrics()[name] == 1)
            client = watch(server, 100)
            assert client.openai.chat.completions.create(**ASK).usage.completion_tokens > 0
            for thread in threads:
                thread.join()
        assert set(client.statuses[:-1]) == {429}
        assert client.statuses[-1] == 200
        client.check_waits()


def test_503_while_the_model_is_loaded(tiny_path: Path, watch: Callable[..., Watched]) -> None:
    go = threading.Event()

    def load(entry):
        go.wait(30)
        return load_model(entry, {})

    with running({"tiny": tiny_path}, load=load, ready=False) as server:
        client = watch(server, 100)
        threading.Timer(0.5, go.set).start()
        assert client.openai.chat.completions.create(**ASK).usage.completion_tokens > 0
        assert set(client.statuses[:-1]) == {503}
        assert client.statuses[-1] == 200
        client.check_waits()


def test_500_after_a_step_that_failed(tiny_path: Path, watch, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = Runner.run, iter([True])

    def fail_once(runner, batch):
        if batch and next(failures, False):
            raise MemoryError("no memory for this step")
        return real(runner, batch)

    with running({"tiny": tiny_path}) as server:
        monkeypatch.setattr(Runner, "run", fail_once)
        client = watch(server)
        assert client.openai.chat.completions.create(**ASK).usage.completion_tokens > 0
        assert client.statuses == [500, 200]


def test_408_after_a_deadline(tiny_path: Path, watch, monkeypatch: pytest.MonkeyPatch) -> None:
    with running({"tiny": tiny_path}, request_timeout=1.0) as server:
        client = watch(server, 100)
        with slow_steps(1.2, times=1):
            assert client.openai.chat.completions.create(**ASK).usage.completion_tokens > 0
        assert set(client.statuses[:-1]) == {408}
        assert client.statuses[-1] == 200


def test_what_cannot_get_better_is_not_tried_again(tiny_path: Path, watch: Callable[..., Watched]) -> None:
    with running({"tiny": tiny_path}, auth_enabled=True, api_keys=("sk-other",)) as server:
        client = watch(server)
        with pytest.raises(openai.AuthenticationError):
            client.openai.models.list()
        client.openai.api_key = "sk-other"
        with pytest.raises(openai.BadRequestError):
            client.openai.chat.completions.create(**(ASK | {"temperature": -1}))
        with pytest.raises(openai.NotFoundError):
            client.openai.models.retrieve("other")
        assert client.statuses == [401, 400, 404]


@contextlib.contextmanager
def slow_steps(seconds: float, times: int = 10**9) -> Iterator[None]:
    """Within the context the first `times` steps of an engine take longer."""
    real, slow = Engine.step, iter(range(times))

    def step(engine: Engine) -> bool:
        if next(slow, None) is not None:
            time.sleep(seconds)
        return real(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", step)
        yield
