"""The engine: one model, its KV cache, and the requests that it serves."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from densecore import __version__
from densecore.config import EngineConfig, GenerationConfig
from densecore.engine.adapters import AdapterRegistry
from densecore.engine.block_manager import BlockManager
from densecore.engine.cache_file import SavedCache, put_in, read_cache, take_out, write_cache
from densecore.engine.capacity import plan_cache
from densecore.engine.draft import DraftModel
from densecore.engine.embedding import Embedding, Text
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.metrics import Metrics
from densecore.engine.runner import Runner
from densecore.engine.samplers import SamplerFactory
from densecore.engine.scheduler import Scheduled, Scheduler
from densecore.engine.sequence import Event, Finished, Sequence
from densecore.engine.speculation import Speculation, draw
from densecore.engine.text import TextAssembler
from densecore.exceptions import InferenceError, InvalidConfigError, ModelLoadError, QueueFullError
from densecore.models import AdapterUse, KVCache, Model, Outputs
from densecore.precompile import precompile
from densecore.sampling import NO_ROWS_KNOWN, sample_batch
from densecore.tokenizer import Tokenizer

__all__ = ["Engine"]

logger = logging.getLogger("densecore")

PIECE_TOKENS = 64  # of `forward_pieces`: logits of more would take much memory, and hold up requests


class Engine:
    """Requests come in by `submit` from any thread; the kernel thread calls `step`; events go out through `emit`.

    Raises
    ------
    InvalidConfigError
        `max_model_len` is beyond what the model was made for or what memory allows.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, config: EngineConfig, draft: Model | None = None) -> None:
        """`draft` is a smaller model with the same vocabulary, whose guesses `model` verifies."""
        self.models = [model] if draft is None else [model, draft]
        self.model, self.tokenizer, self.config = model, tokenizer, config
        # Some models have more rows than tokens, to round the number up; such a row is never sampled.
        self.n_vocab = min(model.config.n_vocab, tokenizer.n_vocab)
        self.samplers = SamplerFactory(tokenizer, self.n_vocab)
        self.max_model_len, num_blocks = plan_cache([model.config for model in self.models], config)
        self.cache = KVCache(model.config, num_blocks, config.block_size, config.kv_cache_dtype)
        blocks = BlockManager(num_blocks, config.block_size, prefix_caching=config.prefix_caching)
        self.scheduler = Scheduler(blocks, config.max_num_seqs, config.max_num_batched_tokens)
        self.runner = Runner(model, self.cache, config)
        self.draft = None if draft is None else DraftModel(draft, blocks, self.n_vocab, config)
        self.speculation = Speculation(config, blocks, self.draft)
        for runner in [self.runner] if self.draft is None else [self.runner, self.draft.runner]:
            if runner.workers.places_memory:
                kernel_thread.call(runner.place_memory)
            if config.preallocate_kv_cache:
                kernel_thread.call(runner.cache.take_memory)
        self._adapters = AdapterRegistry(model, self._adapters_in_use)
        self.metrics = Metrics()
        self.closed = False
        self._inbox: deque[Sequence] = deque()  # submitted, not seen by the scheduler yet
        self._submitting = threading.Lock()

    # ------------------------------------------------------------------ any thread

    def submit(self, prompt_ids: SequenceOf[int], config: GenerationConfig, emit: Callable[[Event], None]) -> Sequence:
        """Queue a request; its events go to `emit`, which is called on the kernel thread and must not block.

        A grammar is compiled before it is queued, which may take a second.

        Raises
        ------
        InvalidConfigError
            The prompt does not fit into the context, or a grammar or schema is wrong.
        QueueFullError
            `max_num_waiting` requests wait already.
        """
        self._check_open()
        if len(prompt_ids) >= self.max_model_len:
            raise InvalidConfigError(
                f"the prompt has {len(prompt_ids)} tokens, and the context is {self.max_model_len} tokens for prompt "
                "and output together: shorten the prompt, or raise max_model_len where the model allows it"
            )
        sequence = self._new_sequence(prompt_ids, config, self._counted(emit))
        self._queue(sequence)
        kernel_thread.wake(self)
        return sequence

    def embed(
        self, texts: SequenceOf[Text], kind: str, timeout: float | None = None, lora: Any = None
    ) -> list[Embedding]:
        """Queue texts of 1 to `max_model_len` tokens each, beside all requests; `kind` is a pooling.

        Raises
        ------
        QueueFullError
            `max_num_waiting` requests wait already.
        """
        self._check_open()
        config, embeddings = GenerationConfig(max_tokens=1, timeout=timeout, lora=lora), []
        try:
            for text in texts:
                embedding = Embedding(text, kind)
                sequence = self._new_sequence(text.token_ids, config, self._counted(embedding.take))
                sequence.pooling = embedding.pooling
                embedding.on_cancel = partial(self.abort, sequence)
                self._queue(sequence)
                embeddings.append(embedding)
        except Exception:
            for embedding in embeddings:
                embedding.cancel()
            raise
        finally:
            kernel_thread.wake(self)
        return embeddings

    def abort(self, sequence: Sequence) -> None:
        """End a request at the next step, whatever state it is in. Harmless when repeated."""
        sequence.aborted = True
        kernel_thread.wake(self)

    def forward(
        self,
        token_ids: np.ndarray,
        hooks: Mapping[str, Callable] | None = None,
        lora: Any = None,
    ) -> np.ndarray:
        """Logits (num_tokens, n_vocab) float32 of every position, computed beside all requests.

        Keys and values go to a cache of its own, so nothing is left behind.
        """
        self._check_open()
        return kernel_thread.call(lambda: self.runner.forward(token_ids, hooks, self.adapters.resolve(lora)))

    def forward_pieces(
        self, token_ids: np.ndarray, lora: Any = None, *, keep: bool = False, salt: str | None = None
    ) -> Iterator[np.ndarray]:
        """As `forward`, piece by piece: logits (num_tokens of the piece, n_vocab), in whose breaks requests go on.

        keep : leave keys and values in the KV cache if there is room, for requests with the same `salt` to find
        """
        self._check_open()
        cache, adapters = self.runner.own_cache(token_ids.size), self.adapters.resolve(lora)
        pieces = self.runner.pieces(token_ids, PIECE_TOKENS, adapters=adapters, cache=cache)

        def next_piece() -> np.ndarray | None:
            piece = next(pieces, None)
            return None if piece is None else piece.copy()

        while (piece := kernel_thread.call(next_piece)) is not None:
            yield piece
        if keep and self.config.prefix_caching:
            sequence = self._cache_only(token_ids.tolist(), salt, adapters)
            computed = SavedCache(sequence.token_ids, cache.arrays)
            with contextlib.suppress(InvalidConfigError):  # no room
                kernel_thread.call(lambda: put_in(self.scheduler.blocks, self.cache, sequence, computed))

    def save_cache(
        self,
        token_ids: SequenceOf[int],
        path: Path,
        salt: str | None = None,
        lora: Any = None,
    ) -> int:
        """Write what the KV cache holds of these tokens to a file; returns how many of them it holds."""
        self._check_open()
        sequence = self._cache_only([*token_ids, 0], salt, self.adapters.resolve(lora))
        saved = kernel_thread.call(lambda: take_out(self.scheduler.blocks, self.cache, sequence))
        if not saved.token_ids:
            raise InvalidConfigError("the KV cache holds nothing of these tokens, or prefix_caching is off")
        write_cache(path, self._cache_identity(sequence.adapters), saved)
        return len(saved.token_ids)

    def load_cache(self, path: Path, salt: str | None = None, lora: Any = None) -> list[int]:
        """Put the content of such a file into the KV cache, where requests find it; returns its tokens."""
        self._check_open()
        if not self.config.prefix_caching:
            raise InvalidConfigError("a saved cache cannot be used while prefix_caching is off")
        adapters = self.adapters.resolve(lora)
        saved = read_cache(path, self._cache_identity(adapters), self.cache, self.max_model_len)
        if not all(0 <= token_id < self.n_vocab for token_id in saved.token_ids):
            raise ModelLoadError(f"{path}: a token is outside of the vocabulary: 0 to {self.n_vocab - 1}")
        sequence = self._cache_only(saved.token_ids, salt, adapters)
        kernel_thread.call(lambda: put_in(self.scheduler.blocks, self.cache, sequence, saved))
        return saved.token_ids

    def _cache_only(self, token_ids: SequenceOf[int], salt: str | None, adapters: tuple[AdapterUse, ...]) -> Sequence:
        """A sequence that is never scheduled."""
        sequence = self._new_sequence(token_ids, GenerationConfig(cache_salt=salt, lora=()), lambda event: None)
        sequence.adapters, sequence.rope_set = adapters, self.model.rope_set(len(token_ids))
        return sequence

    def _cache_identity(self, adapters: tuple[AdapterUse, ...]) -> dict[str, Any]:
        """What the bytes of a saved cache depend on."""
        return {
            "model": self.model.fingerprint(),
            "densecore": __version__,
            "block_size": self.config.block_size,
            "kv_cache_dtype": self.config.kv_cache_dtype,
            "lora": [use.key.hex() for use in adapters] or None,
        }

    def compile_kernels(self, num_processes: int = 0) -> int:
        """Compile what the model needs and the cache lacks; see `densecore.precompile`."""
        self._check_open()
        dtype = self.config.kv_cache_dtype
        return kernel_thread.call(lambda: sum(precompile(model, dtype, num_processes) for model in self.models))

    def get_metrics(self) -> dict[str, Any]:
        """Counters and rates of `Metrics`, and the state of queue, cache and threads now."""
        scheduler, blocks = self.scheduler, self.scheduler.blocks
        return {
            **self.metrics.snapshot(),
            "active_requests": len(scheduler.running),
            "waiting_requests": self.num_waiting,
            "preemptions_total": scheduler.num_preemptions,
            "kv_cache_usage_percent": 100 * blocks.usage,
            "kv_cache_blocks_total": blocks.num_blocks,
            "kv_cache_blocks_used": blocks.num_blocks - blocks.num_free,
            "kv_cache_blocks_free": blocks.num_free,
            "kv_cache_blocks_cached": blocks.num_cached,
            "kv_cache_bytes": self.cache.num_bytes + (self.draft.cache.num_bytes if self.draft else 0),
            "num_threads": self.runner.workers.num_threads,
        }

    def close(self) -> None:
        """End all requests and refuse new ones."""
        if not self.closed:
            self.closed = True
            kernel_thread.call(self._end_all)

    def _new_sequence(
        self, prompt_ids: SequenceOf[int], config: GenerationConfig, emit: Callable[[Event], None]
    ) -> Sequence:
        room = config.max_tokens if config.context_shift else self.max_model_len - len(prompt_ids)
        max_output = min(config.max_tokens, room)
        longest = min(len(prompt_ids) + max_output - 1, self.max_model_len)  # what it says last is not read
        sampler = self.samplers.create(config, prompt_ids)
        detokenizer = self.tokenizer.detokenizer(
            prompt_ids, skip_special=config.skip_special_tokens, keep_first_space=config.structure is not None
        )
        return Sequence(
            prompt_ids=prompt_ids,
            config=config,
            sampler=sampler,
            text=TextAssembler(detokenizer, tuple(config.stop_sequences or ())),
            emit=emit,
            max_output=max_output,
            eog_ids=self.tokenizer.eog_ids,
            max_len=self.max_model_len,
            constraint=sampler.constraint,
            logprobs=sampler.logprobs,
            adapters=self.adapters.resolve(config.lora),
            rope_set=self.model.rope_set(longest),
        )

    def _queue(self, sequence: Sequence) -> None:
        with self._submitting:
            self.adapters.check_loaded(sequence.adapters)
            if self.num_waiting >= self.config.max_num_waiting:
                raise QueueFullError(
                    f"{self.num_waiting} requests are waiting, as many as max_num_waiting allows: "
                    "try again when some have ended, or raise max_num_waiting"
                )
            self._inbox.append(sequence)
        self.metrics.submitted()

    @property
    def adapters(self) -> AdapterRegistry:
        """The LoRA adapters that requests may use; InferenceError after `close`."""
        self._check_open()
        return self._adapters

    @property
    def num_waiting(self) -> int:
        """Requests that have not started, or were preempted."""
        return len(self.scheduler.waiting) + len(self._inbox)

    def _counted(self, emit: Callable[[Event], None]) -> Callable[[Event], None]:
        def send(event: Event) -> None:
            if isinstance(event, Finished):
                self.metrics.finished(event)
            emit(event)

        return send

    # ------------------------------------------------------------------ the kernel thread

    def step(self) -> bool:
        """One tick; False when there is nothing left to do."""
        start = time.perf_counter()
        try:
            self._admit()
            self.speculation.propose(self.scheduler.running)
            batch = self.scheduler.schedule()
            outputs = self.runner.run(batch)
            self._pool(batch, outputs.hidden)
            sampled = self._sample(batch, outputs)
            self.scheduler.postprocess(batch, sampled)
            self._measure(batch, sampled, time.perf_counter() - start)
            self._adapters.settle()
        except Exception as error:  # no single request caused it: the engine cannot tell what is still sound
            logger.exception("a step of the engine failed")
            self._end_all(InferenceError(f"the engine failed in a step: {error}"))
        return self.scheduler.has_work or bool(self._inbox)

    def _admit(self) -> None:
        while self._inbox:
            self.scheduler.add(self._inbox.popleft())

    def _adapters_in_use(self) -> list[AdapterUse]:
        """Those of all requests that have not ended."""
        with self._submitting:
            sequences = [*self._inbox, *self.scheduler.running, *self.scheduler.waiting]
        return [use for sequence in sequences for use in sequence.adapters]

    def _measure(self, batch: list[Scheduled], sampled: list[list[int | Exception]], seconds: float) -> None:
        """Let all who plan by it, and the metrics, know how long a step took."""
        if batch:
            num_decoding = sum(entry.num_tokens for entry in batch if entry.decodes)  # drafts included
            num_prompt_tokens = sum(entry.num_tokens for entry in batch) - num_decoding
            self.scheduler.budget.measured(num_decoding, num_prompt_tokens, seconds)
            self.speculation.measured(batch, sampled, seconds)
            self.metrics.step(batch, seconds)

    def _sample(self, batch: list[Scheduled], outputs: Outputs) -> list[list[int | Exception]]:
        """The next tokens of each sequence that has logits; an unusable row fails its own sequence only.

        Sequences without drafts are sampled together.
        """
        ends = list(accumulate(entry.num_logits for entry in batch))
        logits = outputs.logits[:, : self.n_vocab]
        samplers = [entry.sequence.sampler for entry in batch if entry.num_logits == 1]
        places = [end - 1 for entry, end in zip(batch, ends, strict=True) if entry.num_logits == 1]
        known = outputs.known if self.n_vocab == self.model.config.n_vocab else NO_ROWS_KNOWN
        tokens = iter(sample_batch(samplers, logits, self.runner.workers.num_threads, known, places))
        return [
            [next(tokens)]
            if entry.num_logits == 1
            else draw(entry.sequence, logits[end - entry.num_logits : end], entry.draft_ids)
            for entry, end in zip(batch, ends, strict=True)
        ]

    def _pool(self, batch: list[Scheduled], hidden: np.ndarray) -> None:
        """Give each sequence that is embedded its rows of hidden states (num_hidden, dim)."""
        first = 0
        for entry in batch:
            if entry.sequence.pooling is not None:
                entry.sequence.pooling.add(hidden[first : first + len(entry.hidden)], entry.hidden.start)
                first += len(entry.hidden)

    def _end_all(self, error: Exception | None = None) -> None:
        self._admit()
        for sequence in (*self.scheduler.running, *self.scheduler.waiting):
            self.scheduler.finish(sequence, "abort" if error is None else None, error)

    def _check_open(self) -> None:
        if self.closed:
            raise InferenceError("this model is closed: create a new DenseCore")
