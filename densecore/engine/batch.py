"""From scheduled sequences to the flat arrays that a model takes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from densecore.engine.scheduler import Scheduled
from densecore.models import Batch, slots

__all__ = ["build_batch"]


def build_batch(scheduled: SequenceOf[Scheduled], block_size: int) -> Batch:
    """The batch of one step; logits are wanted of each sequence's last token, where the step reaches it."""
    counts = [entry.num_tokens for entry in scheduled]
    ends = np.cumsum(counts, dtype=np.int32)
    tables = _block_tables([entry.sequence.block_table for entry in scheduled])
    token_ids, positions = [], []
    for entry in scheduled:
        first = entry.sequence.num_cached_tokens
        token_ids.append(entry.sequence.token_ids[first : first + entry.num_tokens])
        positions.append(np.arange(first, first + entry.num_tokens, dtype=np.int32))
    flat_positions = np.concatenate(positions)
    seq_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    wanted = [entry.wants_logits for entry in scheduled]
    return Batch(
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in token_ids]),
        positions=flat_positions,
        slot_mapping=slots(tables, seq_index, flat_positions, block_size),
        seq_index=seq_index,
        block_tables=tables,
        logits_indices=(ends - 1)[np.array(wanted, bool)],
    )


def _block_tables(tables: SequenceOf[SequenceOf[int]]) -> np.ndarray:
    """Rows of blocks as (num_seqs, max_blocks) int32, padded with block 0, which is never read.

    The width is a power of two, so that growing sequences seldom change the shape of a batch: see `models.record`.
    """
    longest = max(map(len, tables))
    padded = np.zeros((len(tables), 1 << (longest - 1).bit_length()), np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded
