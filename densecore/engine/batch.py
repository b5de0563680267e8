"""From scheduled sequences to the flat arrays that a model takes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from densecore.engine.scheduler import Scheduled
from densecore.models import AdapterSet, AdapterUse, Batch, slots

__all__ = ["Row", "build_batch"]


@dataclass(frozen=True)
class Row:
    """Tokens of one sequence, from position `first` on; logits are wanted of the last `num_logits` of them.

    rope_set : see `Model.rope_set`; hidden : places, counted from `first`, of the tokens whose hidden states are wanted
    mass_scale : see `Sampler.mass_scale`
    """

    token_ids: list[int]
    first: int
    block_table: list[int]
    num_logits: int
    adapters: tuple[AdapterUse, ...] = ()
    hidden: range = range(0)
    rope_set: int = 0
    mass_scale: float = 0.0

    @classmethod
    def of(cls, entry: Scheduled) -> Row:
        """What a step computes of a sequence: its own tokens, then its draft."""
        sequence, first = entry.sequence, entry.sequence.num_cached_tokens
        own = sequence.token_ids[first : first + entry.num_tokens - len(entry.draft_ids)]
        hidden = range(entry.hidden.start - first, entry.hidden.stop - first)
        return cls(
            [*own, *entry.draft_ids],
            first,
            sequence.block_table,
            entry.num_logits,
            sequence.adapters,
            hidden,
            sequence.rope_set,
            sequence.sampler.mass_scale if entry.num_logits == 1 else 0.0,
        )


def build_batch(rows: SequenceOf[Row], block_size: int, adapters: AdapterSet) -> Batch:
    """The batch of one step, by a model that has these adapters."""
    counts = [len(row.token_ids) for row in rows]
    tables = _block_tables([row.block_table for row in rows])
    # Lists, as most rows have one token: an array for each row would take longer than all the rest.
    positions = np.array(
        [row.first + i for row, count in zip(rows, counts, strict=True) for i in range(count)], np.int32
    )
    seq_index = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    ends = zip(rows, accumulate(counts), strict=True)
    batch = Batch(
        token_ids=np.array([token_id for row in rows for token_id in row.token_ids], np.int32),
        positions=positions,
        slot_mapping=slots(tables, seq_index, positions, block_size),
        seq_index=seq_index,
        block_tables=tables,
        logits_indices=np.array([i for row, end in ends for i in range(end - row.num_logits, end)], np.int32),
        mass_scales=np.array([row.mass_scale for row in rows for _ in range(row.num_logits)], np.float32),
    )
    if any(row.hidden for row in rows):
        starts = zip(rows, accumulate(counts, initial=0), strict=False)
        hidden = [start + i for row, start in starts for i in row.hidden]
        batch = replace(batch, hidden_indices=np.array(hidden, np.int32))
    if any(row.rope_set for row in rows):
        batch = replace(batch, rope_sets=np.repeat(np.array([row.rope_set for row in rows], np.int32), counts))
    if not any(row.adapters for row in rows):
        return batch
    return batch.with_adapters(*adapters.columns([row.adapters for row in rows], counts))


def _block_tables(tables: SequenceOf[SequenceOf[int]]) -> np.ndarray:
    """Rows of blocks as (num_seqs, max_blocks) int32, padded with block 0, which is never read.

    The width is a power of two, so that growing sequences seldom change the shape of a batch: see `models.record`.
    """
    longest = max(map(len, tables))
    padded = np.zeros((len(tables), 1 << (longest - 1).bit_length()), np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded
