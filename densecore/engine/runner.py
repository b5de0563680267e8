"""Runs batches through the model, and whole sequences for `forward`. Everything here is on the kernel thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.batch import Row, build_batch
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.scheduler import Scheduled
from densecore.engine.workers import WorkerThreads
from densecore.models import AdapterUse, Batch, Hooks, KVCache, Model, Outputs

__all__ = ["Runner"]


class Runner:
    """A model with its cache and its worker threads."""

    def __init__(self, model: Model, cache: KVCache, config: EngineConfig) -> None:
        self.model, self.cache, self.config = model, cache, config
        self.workers = WorkerThreads(config)

    def place_memory(self) -> None:
        """Put cache and weights on the NUMA nodes of the workers. On the kernel thread, before the first step."""
        self.workers.apply()
        self.workers.place([*self.cache.k, *self.cache.v], self.model.mapped)

    def run(self, scheduled: SequenceOf[Scheduled]) -> Outputs:
        """Logits and hidden states of the sequences that want them, in the batch's order.

        The results are buffers that the next run overwrites.
        """
        for entry in scheduled:
            if entry.copy is not None:
                self.cache.copy_block(*entry.copy)
        return self.run_rows([Row.of(entry) for entry in scheduled])

    def run_rows(self, rows: SequenceOf[Row]) -> Outputs:
        """The same, for tokens at any place of sequences."""
        if not rows:
            kernel_thread.run_deferred()
            return Outputs.none(self.model.config)
        batch = build_batch(rows, self.cache.block_size, self.model.adapters)
        kernel_thread.run_deferred()
        return self.model.outputs(batch, self.cache, self.workers.apply())

    def forward(
        self, token_ids: np.ndarray, hooks: Mapping[str, Callable] | None, adapters: tuple[AdapterUse, ...] = ()
    ) -> np.ndarray:
        """Logits (num_tokens, n_vocab) of one sequence at every position, with a cache of its own.

        Hooks see the sequence in one piece; without them it is computed in chunks as prompts are.
        """
        checked = Hooks(hooks, self.model.config.n_layers, self.model.hooked_matrices) if hooks else None
        logits = np.empty((token_ids.size, self.model.config.n_vocab), np.float32)
        chunk = token_ids.size if checked else self.config.max_num_batched_tokens
        first = 0
        for piece in self.pieces(token_ids, chunk, checked, adapters):
            logits[first : first + len(piece)] = piece
            first += len(piece)
        return logits

    def own_cache(self, num_tokens: int) -> KVCache:
        """A cache beside that of the engine, for one sequence whose blocks follow each other."""
        num_blocks = -(-num_tokens // self.config.block_size)
        return KVCache(self.model.config, num_blocks, self.config.block_size, self.config.kv_cache_dtype)

    def pieces(
        self,
        token_ids: np.ndarray,
        chunk: int,
        hooks: Hooks | None = None,
        adapters: tuple[AdapterUse, ...] = (),
        cache: KVCache | None = None,
    ) -> Iterator[np.ndarray]:
        """Logits (up to `chunk`, n_vocab) of one piece of a sequence after the other.

        Keys and values go to `cache`, of `own_cache`, or to one that nobody else sees.

        Each is a buffer that the next run overwrites.
        """
        cache, rope_set = cache or self.own_cache(token_ids.size), self.model.rope_set(token_ids.size)
        num_blocks = -(-token_ids.size // self.config.block_size)
        for first in range(0, token_ids.size, chunk):
            part = token_ids[first : first + chunk]
            batch = Batch.contiguous(part, first, num_blocks, self.config.block_size).with_rope_set(rope_set)
            if adapters:
                batch = batch.with_adapters(*self.model.adapters.columns([adapters], [part.size]))
            yield self.model.forward(batch, cache, self.workers.apply(), hooks)
