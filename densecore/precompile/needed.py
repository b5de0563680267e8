"""Which kernels a model needs that the cache does not hold: its steps are recorded in a plan that is never run."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np

from densecore.config import GenerationConfig
from densecore.kernels.activation import add
from densecore.kernels.cache import Compilation, NotCompiled, collect_needed, num_compiled
from densecore.kernels.plan import Operation, Plan
from densecore.kernels.threads import worker_thread_ids
from densecore.models import Batch, Encoder, EncoderBatch, KVCache, Model
from densecore.models.step import Workspace
from densecore.sampling import Sampler, sample_batch

__all__ = ["PARALLEL_KERNELS", "compile_parallel_kernels", "find_needed"]

NUM_TOKENS = (1, 2, 5, 40, 300)  # operations may differ for one, few and many tokens
BLOCK_SIZE = 32

PARALLEL_KERNELS = "the parallel kernels"  # stands for what `compile_parallel_kernels` compiles

# Seconds that kernels take, measured on one core of a Zen 4; those without an entry take less than half a second.
_SECONDS = {
    "attention.attention": 3.2,
    "sample_rows": 2.5,
    "sample ": 2.2,
    "matmul.matmul": 1.8,
    PARALLEL_KERNELS: 1.0,
    "quantize_q8": 0.5,
    "matmul.embed": 0.5,
}
_OTHER_SECONDS = 0.3


class _Calls(Plan):
    """A plan that only looks at the kernels that it would call."""

    def add(self, op: Operation, *arguments: Any, **options: Any) -> None:
        with contextlib.suppress(NotCompiled):
            op.address(arguments)


def find_needed(model: Model | Encoder, kv_cache_dtype: str) -> list[Compilation]:
    """What has to be compiled for the model's steps and for sampling, the slowest first; empty if nothing has to.

    Whether the parallel kernels are there shows when they are used, so they are in the list when anything is.
    """
    with collect_needed() as needed:
        if isinstance(model, Encoder):
            _record_encoder(model)
        else:
            _record_steps(model, kv_cache_dtype)
            _draw_tokens()
    if needed:
        needed[PARALLEL_KERNELS] = Compilation(PARALLEL_KERNELS, PARALLEL_KERNELS, compile_parallel_kernels)
    return sorted(needed.values(), key=lambda compilation: (-seconds(compilation), compilation.name))


def seconds(compilation: Compilation) -> float:
    """About how long it takes."""
    return next((s for name, s in _SECONDS.items() if name in compilation.description), _OTHER_SECONDS)


def _draw_tokens() -> None:
    for num_rows in (1, 2):  # one row is drawn without the pool
        samplers = [Sampler(GenerationConfig(seed=0), 8) for _ in range(num_rows)]
        with contextlib.suppress(NotCompiled):
            sample_batch(samplers, np.zeros((num_rows, 8), np.float32))


def _record_encoder(model: Encoder) -> None:
    for num_tokens in NUM_TOKENS:
        model.record(EncoderBatch.pack([[0] * num_tokens]), Workspace(), _Calls())


def _record_steps(model: Model, kv_cache_dtype: str) -> None:
    num_blocks = -(-max(NUM_TOKENS) // BLOCK_SIZE)
    cache = KVCache(model.config, num_blocks, BLOCK_SIZE, kv_cache_dtype)
    for num_tokens in NUM_TOKENS:
        batch = Batch.contiguous(np.zeros(num_tokens, np.int32), 0, num_blocks, BLOCK_SIZE)
        batch = replace(batch, logits_indices=batch.logits_indices[-1:])  # a large vocabulary's logits fill memory
        for rope_set in {0, model.rope_set(model.config.context_length)}:
            model.record(batch.with_rope_set(rope_set).copy(), cache, Workspace(), _Calls())


def compile_parallel_kernels() -> int:
    """Compile the kernels that run a plan and that tell threads apart, by using them; returns how many it compiled."""
    before = num_compiled()
    x = np.zeros((1, 1), np.float32)
    add(x, x)
    worker_thread_ids()
    return num_compiled() - before
