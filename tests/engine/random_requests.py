"""A thousand random requests, some of them cancelled, and whether each gets, bit for bit, what it gets alone."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence as SequenceOf
from pathlib import Path

from densecore import DenseCore, GenerationConfig
from densecore.engine.sequence import Finished, Sequence
from tests.engine.waiting import wait_until_idle

NUM_REQUESTS = 1000
MAX_LEN = 160
PLENTY = {"max_num_seqs": 16}
TIGHT = {"max_num_seqs": 12, "block_size": 8, "max_num_batched_tokens": 64, "max_model_len": MAX_LEN}

Logits = dict[int, list[int]]  # seq_id -> checksums of the logits that each of its tokens was drawn from
Expected = list[tuple[list[int], list[int]]]  # tokens of each request, and their checksums


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
            repetition_penalty=rng.choice([1.0, 1.0, 1.1]),  # what may repeat itself is easily guessed
            priority=rng.choice([0, 0, 1, -3]),
            cache_salt=rng.choice([None, None, None, "tenant"]),
        )
        pause = rng.choice([0, 0, 0, 0, 0.002, 0.005])
        requests.append(Request(tuple(prompt), config, pause, rng.random() < 0.1))
    return requests


def record_logits(model: DenseCore) -> Logits:
    """From now on, whatever tokens are drawn from."""
    seen: Logits = defaultdict(list)
    sample = model._engine._sample

    def recording(batch, outputs):
        sampled, first = sample(batch, outputs), 0
        for entry, results in zip(batch, sampled, strict=True):
            seen[entry.sequence.seq_id] += [zlib.crc32(row) for row in outputs.logits[first : first + len(results)]]
            first += entry.num_logits
        return sampled

    model._engine._sample = recording
    return seen


def submit(model: DenseCore, request: Request) -> tuple[Sequence, threading.Event]:
    ended = threading.Event()

    def emit(event):
        if isinstance(event, Finished):
            ended.set()

    return model._engine.submit(list(request.prompt), request.config, emit), ended


def compute_alone(path: Path) -> tuple[list[Request], Expected]:
    """The requests, and the right answers: one after the other, without any sharing."""
    with DenseCore(path, prefix_caching=False) as model:
        requests, seen = random_requests(model.tokenizer.n_vocab), record_logits(model)
        results = []
        for each in requests:
            sequence, ended = submit(model, each)
            assert ended.wait(10)
            results.append((sequence.output_ids, seen[sequence.seq_id]))
    return requests, results


def assert_as_alone(model: DenseCore, requests: SequenceOf[Request], expected: Expected) -> dict:
    """Submit all requests, cancelling some, and compare each with what it gets alone; the metrics in the end."""
    rng, seen = random.Random(6), record_logits(model)
    submitted: list[tuple[Sequence, threading.Event]] = []
    for each in requests:
        time.sleep(each.pause)
        submitted.append(submit(model, each))
        if each.cancels:
            model._engine.abort(rng.choice(submitted)[0])
    for sequence, ended in submitted:
        assert ended.wait(60), sequence
    num_whole = 0
    for (sequence, _), (token_ids, checksums) in zip(submitted, expected, strict=True):
        count = len(sequence.output_ids)
        assert sequence.output_ids == token_ids[:count]
        assert seen[sequence.seq_id][:count] == checksums[:count]
        assert sequence.aborted or count == len(token_ids)
        num_whole += count == len(token_ids)
    assert 0.8 * len(requests) < num_whole < len(requests)
    return wait_until_idle(model)


def cache_bytes(path: Path, num_tokens: int) -> int:
    """What so many tokens take in the cache."""
    with DenseCore(path, max_num_seqs=1, block_size=TIGHT["block_size"]) as model:
        metrics = model.get_metrics()
        return num_tokens * metrics["kv_cache_bytes"] // model.max_model_len
