"""How long sequences may be, and how many blocks the KV cache has."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from densecore.config import EngineConfig
from densecore.engine.memory import available_memory
from densecore.exceptions import InvalidConfigError
from densecore.models import ModelConfig

__all__ = ["plan_cache"]

logger = logging.getLogger("densecore")

MEMORY_FRACTION = 0.5  # of the memory that is available when the engine starts


def plan_cache(models: Sequence[ModelConfig], config: EngineConfig) -> tuple[int, int]:
    """Longest sequence, and number of blocks: what memory allows, up to `max_num_seqs` sequences of full length.

    models : of the model and, behind it, of the one that drafts, if any; each has as many blocks

    Raises InvalidConfigError if `max_model_len` is beyond what the model was made for or what memory allows.
    """
    trained = models[0].context_length
    wanted = config.max_model_len or trained
    if wanted > trained:
        raise InvalidConfigError(f"max_model_len is {wanted}, but the model's context length is {trained}")
    block_size, dtype = config.block_size, config.kv_cache_dtype
    block_bytes = sum(model.kv_block_bytes(block_size, dtype) for model in models)
    room, source = _room(config)
    affordable = room // block_bytes
    needed = -(-wanted // block_size)
    if needed > affordable:
        fitting = affordable * block_size
        if config.max_model_len is not None or not fitting:
            raise InvalidConfigError(
                f"max_model_len is {wanted}, whose KV cache takes {needed * block_bytes / 2**20:.1f} MiB; "
                f"{source} ({room / 2**20:.1f} MiB) holds {fitting} tokens"
            )
        logger.warning("context limited to %d tokens of %d by %s", fitting, trained, source)
        wanted, needed = fitting, affordable
    return wanted, min(needed * config.max_num_seqs, affordable)


def _room(config: EngineConfig) -> tuple[int, str]:
    """Bytes that the cache may take, and what sets that limit."""
    available, chosen = available_memory(), config.kv_cache_bytes
    if chosen is None:
        return int(available * MEMORY_FRACTION), "half of the available memory"
    if chosen > available:
        raise InvalidConfigError(f"kv_cache_bytes is {chosen}, but only {available} bytes of memory are available")
    return chosen, "kv_cache_bytes"
