"""The engine of an encoder: texts come in, and vectors go out. There is no cache, and nothing is decoded.

Each step takes texts in the order in which they came, as many as `max_num_batched_tokens` allows but at least one, and
computes them at once: requests of many threads share steps, as those of `Engine` do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.embedding import Embedding, Text
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.metrics import Metrics
from densecore.engine.workers import WorkerThreads
from densecore.exceptions import InferenceError, InvalidConfigError, QueueFullError, TimeoutError
from densecore.models import Encoder, EncoderBatch, Hooks
from densecore.precompile import precompile
from densecore.tokenizer import Tokenizer

__all__ = ["EncoderEngine"]

logger = logging.getLogger("densecore")

FEW_TOKENS = 128  # of a step, which is then computed as it is
TOKENS, TEXTS = 16, 8  # the numbers in other steps are rounded up to multiples of these


def _filled(texts: SequenceOf[SequenceOf[int]], num_tokens: int) -> list[SequenceOf[int]]:
    """Texts with one of zeros behind them, and empty ones, so that few different shapes of batches occur.

    Each shape is recorded when it is first seen (`models.record`), which takes as long as 40 tokens of a small model.
    """
    filled = [*texts, [0] * (-num_tokens % TOKENS)]
    return filled + [[]] * (-len(filled) % TEXTS)


class EncoderEngine:
    """Texts come in by `embed` from any thread; the kernel thread calls `step`.

    Raises
    ------
    InvalidConfigError
        `max_model_len` is beyond what the model was made for.
    """

    def __init__(self, model: Encoder, tokenizer: Tokenizer, config: EngineConfig) -> None:
        trained = model.config.context_length
        self.max_model_len = config.max_model_len or trained
        if self.max_model_len > trained:
            raise InvalidConfigError(
                f"max_model_len is {self.max_model_len}, but the model's context length is {trained}"
            )
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.n_vocab = min(model.config.n_vocab, tokenizer.n_vocab)
        self.workers = WorkerThreads(config)
        if self.workers.places_memory:
            kernel_thread.call(lambda: self.workers.place((), model.mapped))
        self.metrics = Metrics()
        self.closed = False
        self._waiting: deque[Embedding] = deque()
        self._num_running = 0
        self._submitting = threading.Lock()

    # ------------------------------------------------------------------ any thread

    def embed(self, texts: SequenceOf[Text], kind: str, timeout: float | None = None) -> list[Embedding]:
        """Queue texts of 1 to `max_model_len` tokens each; `kind` is a pooling.

        Raises
        ------
        QueueFullError
            They are more than `max_num_waiting` with those that wait already.
        """
        self._check_open()
        embeddings = [Embedding(text, kind, timeout, self.metrics.finished) for text in texts]
        with self._submitting:
            if len(self._waiting) + len(texts) > self.config.max_num_waiting:
                raise QueueFullError(
                    f"{len(self._waiting)} texts are waiting, and with {len(texts)} more they are more than "
                    "max_num_waiting allows: try again when some have been computed, or raise max_num_waiting"
                )
            self._waiting.extend(embeddings)
        for _ in embeddings:
            self.metrics.submitted()
        kernel_thread.wake(self)
        return embeddings

    def forward(self, token_ids: np.ndarray, hooks: Mapping[str, Callable] | None = None) -> np.ndarray:
        """Hidden states (num_tokens, dim) float32 of one text, computed beside all requests."""
        self._check_open()
        checked = Hooks(hooks, self.model.config.n_layers) if hooks else None
        batch = EncoderBatch.pack([token_ids.tolist()])
        return kernel_thread.call(lambda: self.model.forward(batch, self.workers.apply(), checked).copy())

    def compile_kernels(self, num_processes: int = 0) -> int:
        """Compile what the model needs and the cache lacks; see `densecore.precompile`."""
        self._check_open()
        dtype = self.config.kv_cache_dtype
        return kernel_thread.call(lambda: precompile(self.model, dtype, num_processes))

    def get_metrics(self) -> dict[str, Any]:
        """As those of `Engine`; there is no KV cache, so that its figures are 0."""
        cache = ("usage_percent", "blocks_total", "blocks_used", "blocks_free", "blocks_cached", "bytes")
        return {
            **self.metrics.snapshot(),
            "active_requests": self._num_running,
            "waiting_requests": len(self._waiting),
            "preemptions_total": 0,
            **{f"kv_cache_{name}": 0 for name in cache},
            "num_threads": self.workers.num_threads,
        }

    def close(self) -> None:
        """End all requests and refuse new ones."""
        if not self.closed:
            self.closed = True
            kernel_thread.call(self._end_all)

    def _check_open(self) -> None:
        if self.closed:
            raise InferenceError("this model is closed: create a new DenseCore")

    # ------------------------------------------------------------------ the kernel thread

    def step(self) -> bool:
        """One batch of texts; False when none is left."""
        batch = self._take()
        if batch:
            self._num_running = len(batch)
            try:
                self._compute(batch)
            except Exception as error:
                logger.exception("a step of the engine failed")
                for embedding in batch:
                    embedding.end(InferenceError(f"the engine failed in a step: {error}"))
            self._num_running = 0
        return bool(self._waiting)

    def _take(self) -> list[Embedding]:
        """The texts of the next step. Those that were cancelled, or are late, are done with."""
        batch: list[Embedding] = []
        room = self.config.max_num_batched_tokens
        while self._waiting:
            first = self._waiting[0]
            if first.cancelled():
                first.end(InferenceError("cancelled"))
            elif time.perf_counter() > first.deadline:
                first.end(TimeoutError("the text was not computed before its deadline: increase timeout"))
            elif batch and len(first.text.token_ids) > room:
                break
            else:
                batch.append(first)
                room -= len(first.text.token_ids)
            self._waiting.popleft()
        return batch

    def _compute(self, batch: list[Embedding]) -> None:
        start = time.perf_counter()
        texts = [embedding.text.token_ids for embedding in batch]
        types = [embedding.text.token_types or [0] * len(embedding.text.token_ids) for embedding in batch]
        num_tokens = sum(map(len, texts))
        if num_tokens > FEW_TOKENS:
            texts, types = _filled(texts, num_tokens), _filled(types, num_tokens)
        packed = EncoderBatch.pack(texts, types)
        hidden = self.model.forward(packed, self.workers.apply())
        parts = np.split(hidden, packed.starts[1 : len(batch) + 1])
        for embedding, states in zip(batch, parts, strict=False):  # what is left is filler
            wanted = embedding.pooling.wanted(0, len(states), len(states))
            embedding.pooling.add(states[wanted.start : wanted.stop], wanted.start)
            embedding.started = start
        self.metrics.computed(len(batch), num_tokens, time.perf_counter() - start)
        for embedding in batch:
            embedding.end()

    def _end_all(self) -> None:
        while self._waiting:
            self._waiting.popleft().end(InferenceError("the model was closed while this text waited"))
