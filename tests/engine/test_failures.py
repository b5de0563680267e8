"""One of eight requests fails, in every way there is: the other seven are what they are without it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from densecore import DenseCore, GenerationConfig
from densecore.engine.sequence import Finished, TextDelta
from densecore.exceptions import InferenceError, TimeoutError
from tests.engine.waiting import wait_until_idle
from tests.gguf_factory import make_model

NUM_REQUESTS, BAD = 8, 3
POISON = 7  # a token whose embedding is not a number


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poisoned")
    with DenseCore(make_model(folder / "plain.gguf")) as model:
        n_vocab = model.tokenizer.n_vocab
    weights = np.random.default_rng(0).standard_normal((n_vocab, 64)).astype(np.float32)
    weights[POISON] = np.nan
    output = np.random.default_rng(1).standard_normal((n_vocab, 64)).astype(np.float32)
    overrides = {"token_embd.weight": weights, "output.weight": output}
    with DenseCore(make_model(folder / "model.gguf", tensor_overrides=overrides)) as model:
        yield model


class Receiver:
    """Takes the events of a request; raises at event number `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.events, self.ended = fails_at, [], threading.Event()

    def __call__(self, event) -> None:
        self.events.append(event)
        if isinstance(event, Finished):
            self.ended.set()
        if len(self.events) == self.fails_at:
            raise RuntimeError("the receiver failed")


def fail_at_third(function):
    """The function, but its third call raises."""
    calls = [0]

    def failing(*arguments):
        calls[0] += 1
        if calls[0] == 3:
            raise MemoryError("out of memory")
        return function(*arguments)

    return failing


def run(model: DenseCore, failure: str | None = None) -> tuple[list[Finished], list[Receiver]]:
    """The ends of eight requests, and who received them; number BAD fails this way."""
    receivers = []
    for number in range(NUM_REQUESTS):
        bad = failure if number == BAD else None
        prompt = [10 + number, 20, POISON if bad == "NaN" else 30]
        config = GenerationConfig(
            max_tokens=20, temperature=1, seed=number, logit_bias={2: -100, POISON: -100},
            timeout=1e-9 if bad == "deadline" else None,
        )  # fmt: skip
        receiver = Receiver(fails_at=2 if bad == "receiver" else None)
        sequence = model._engine.submit(prompt, config, receiver)
        if bad == "sampler":
            sequence.sampler.prepare = fail_at_third(sequence.sampler.prepare)
        elif bad == "text":
            sequence.text.push = fail_at_third(sequence.text.push)
        elif bad == "cancelled":
            model._engine.abort(sequence)
        receivers.append(receiver)
    for receiver in receivers:
        assert receiver.ended.wait(20)
    wait_until_idle(model)
    return [receiver.events[-1] for receiver in receivers], receivers


@pytest.fixture(scope="module")
def healthy(poisoned):
    ends, _ = run(poisoned)
    assert all(end.finish_reason == "length" for end in ends)
    return [end.token_ids for end in ends]


FAILURES = {
    "NaN": InferenceError,
    "sampler": MemoryError,
    "text": InferenceError,
    "deadline": TimeoutError,
    "receiver": None,
    "cancelled": None,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_other_seven_are_unchanged(poisoned, healthy, failure):
    ends, receivers = run(poisoned, failure)
    bad = ends.pop(BAD)
    expected = healthy[:BAD] + healthy[BAD + 1 :]
    assert [end.token_ids for end in ends] == expected
    if FAILURES[failure] is None:
        assert bad.finish_reason == "abort"
    else:
        assert isinstance(bad.error, FAILURES[failure])
    assert len(bad.token_ids) < 20
    assert sum(isinstance(event, Finished) for event in receivers[BAD].events) == 1
    assert all(isinstance(event, TextDelta) for event in receivers[BAD].events[:-1])


def test_a_step_that_fails_ends_all_and_the_engine_goes_on(poisoned, healthy, monkeypatch):
    """What the cache holds is in doubt then: nothing of it is used."""
    run_step = poisoned._engine.runner.run
    monkeypatch.setattr(poisoned._engine.runner, "run", fail_at_third(run_step))
    ends, _ = run(poisoned)
    assert any(isinstance(end.error, InferenceError) for end in ends)
    ends, _ = run(poisoned)
    assert [end.token_ids for end in ends] == healthy
