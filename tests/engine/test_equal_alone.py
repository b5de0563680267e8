"""A thousand random requests: each gets, bit for bit, what it gets alone."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
import zlib
from collections import defaultdict

import pytest

from densecore import DenseCore, GenerationConfig
from densecore.engine.sequence import Finished, Sequence
from tests.conftest import shared_path
from tests.engine.waiting import wait_until_idle

NUM_REQUESTS = 1000
MAX_LEN = 160

Logits = dict[int, list[int]]  # seq_id -> checksums of the logits that each of its tokens was drawn from


@dataclasses.dataclass(frozen=True)
class Request:
    prompt: tuple[int, ...]
    config: GenerationConfig
    pause: float  # seconds before it arrives
    cancels: bool  # one of those before it


def random_requests(n_vocab: int) -> list[Request]:
    rng = random.Random(5)
    stems = [[rng.randrange(3, n_vocab) for _ in range(length)] for length in (0, 0, 5, 16, 33, 64, 100)]
    requests = []
    for _ in range(NUM_REQUESTS):
        prompt = [*rng.choice(stems), *(rng.randrange(3, n_vocab) for _ in range(rng.choice([1, 2, 5, 20])))]
        config = GenerationConfig(
            max_tokens=rng.choice([1, 2, 8, 24, 40]),
            temperature=0,
            priority=rng.choice([0, 0, 1, -3]),
            cache_salt=rng.choice([None, None, None, "tenant"]),
        )
        pause = rng.choice([0, 0, 0, 0, 0.002, 0.005])
        requests.append(Request(tuple(prompt), config, pause, rng.random() < 0.1))
    return requests


def record_logits(model: DenseCore) -> Logits:
    """From now on, whatever the model computes."""
    seen: Logits = defaultdict(list)
    run = model._engine.runner.run

    def recording(scheduled):
        logits = run(scheduled)
        for entry, row in zip((e for e in scheduled if e.wants_logits), logits, strict=True):
            seen[entry.sequence.seq_id].append(zlib.crc32(row))
        return logits

    model._engine.runner.run = recording
    return seen


def submit(model: DenseCore, request: Request) -> tuple[Sequence, threading.Event]:
    ended = threading.Event()

    def emit(event):
        if isinstance(event, Finished):
            ended.set()

    return model._engine.submit(list(request.prompt), request.config, emit), ended


@pytest.fixture(scope="module", params=["stories260K.gguf", "pystd-6m-q8_0.gguf"])
def alone(request):
    """Path, requests, and for each its tokens and checksums, computed one after the other without any sharing."""
    path = shared_path("models", request.param)
    with DenseCore(path, prefix_caching=False) as model:
        requests, seen = random_requests(model.tokenizer.n_vocab), record_logits(model)
        results = []
        for each in requests:
            sequence, ended = submit(model, each)
            assert ended.wait(10)
            results.append((sequence.output_ids, seen[sequence.seq_id]))
    return path, requests, results


PLENTY = {"max_num_seqs": 16}
TIGHT = {"max_num_seqs": 12, "block_size": 8, "max_num_batched_tokens": 64, "max_model_len": MAX_LEN}


@pytest.mark.parametrize("tight", [False, True], ids=["plenty", "tight"])
def test_a_thousand_requests(alone, tight):
    path, requests, expected = alone
    options = TIGHT | {"kv_cache_bytes": cache_bytes(path, MAX_LEN + 8)} if tight else PLENTY
    rng = random.Random(6)
    with DenseCore(path, **options) as model:
        seen, submitted = record_logits(model), []
        for each in requests:
            time.sleep(each.pause)
            submitted.append(submit(model, each))
            if each.cancels:
                model._engine.abort(rng.choice(submitted)[0])
        for sequence, ended in submitted:
            assert ended.wait(60), sequence
        metrics = wait_until_idle(model)
    num_whole = 0
    for (sequence, _), (token_ids, checksums) in zip(submitted, expected, strict=True):
        count = len(sequence.output_ids)
        assert sequence.output_ids == token_ids[:count]
        assert seen[sequence.seq_id][:count] == checksums[:count]
        assert sequence.aborted or count == len(token_ids)
        num_whole += count == len(token_ids)
    assert num_whole > 0.8 * NUM_REQUESTS
    assert metrics["prompt_tokens_cached_total"] > 1000
    assert metrics["preemptions_total"] >= (100 if tight else 0)


def cache_bytes(path, num_tokens: int) -> int:
    """What so many tokens take in the cache."""
    with DenseCore(path, max_num_seqs=1, block_size=TIGHT["block_size"]) as model:
        metrics = model.get_metrics()
        return num_tokens * metrics["kv_cache_bytes"] // model.max_model_len
