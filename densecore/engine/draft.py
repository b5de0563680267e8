"""A second, smaller model that guesses what the first one will say.

It has a KV cache of its own, with the same blocks as the first one's: a sequence's table holds for both, and who has a
block may write it in both. What the draft model computed of a block is known by the digest of the block's tokens, so
that prefixes are found here too. It is computed late, once a sequence decodes and wants a draft, and a wrong or missing
part could only make guesses worse: what is said is decided by the first model alone.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.batch import Row
from densecore.engine.block_manager import BlockManager
from densecore.engine.runner import Runner
from densecore.engine.sequence import Sequence
from densecore.models import KVCache, Model

__all__ = ["DraftModel"]

MAX_CATCH_UP = 256  # tokens of prompts that a step computes at most: others wait for it


class DraftModel:
    """Proposes the tokens that a model finds most probable. On the kernel thread."""

    def __init__(self, model: Model, blocks: BlockManager, n_vocab: int, config: EngineConfig) -> None:
        self.blocks, self.n_vocab = blocks, min(n_vocab, model.config.n_vocab)
        self.context_length = model.config.context_length
        self.cache = KVCache(model.config, blocks.num_blocks, config.block_size, config.kv_cache_dtype)
        self.runner = Runner(model, self.cache, config)
        self._room = min(MAX_CATCH_UP, config.max_num_batched_tokens)
        self._digests: dict[int, bytes] = {}  # block -> digest of the tokens whose keys and values are here
        self._guesses: WeakKeyDictionary[Sequence, tuple[int, list[int]]] = WeakKeyDictionary()  # first position, ids

    def propose(self, sequences: list[Sequence], num_tokens: int) -> None:
        """Set `draft_ids` of the sequences that come so far; they have blocks for `num_tokens` more tokens."""
        fitting = [s for s in sequences if len(s.token_ids) + num_tokens <= self.context_length]
        ready = self._catch_up(fitting)
        for _ in range(num_tokens - 1):
            self._run([self._next_row(sequence) for sequence in ready], ready)
        for sequence in ready:
            self._guesses[sequence] = (len(sequence.token_ids), list(sequence.draft_ids))

    def _catch_up(self, sequences: list[Sequence]) -> list[Sequence]:
        """Compute the tokens that are new; returns the sequences that are done, each with a first guess."""
        rows, ready, room = [], [], self._room
        for sequence in sequences:
            self._find_computed(sequence)
            first = sequence.num_draft_tokens_cached
            end = min(len(sequence.token_ids), first + room)
            if first == end:
                continue
            done = end == len(sequence.token_ids)
            rows.append(Row(sequence.token_ids[first:end], first, sequence.block_table, int(done)))
            self._note(sequence, first, end)
            room -= end - first
            if done:
                ready.append(sequence)
        self._run(rows, ready)
        return ready

    def _next_row(self, sequence: Sequence) -> Row:
        """The newest guess, whose successor is wanted."""
        position = len(sequence.token_ids) + len(sequence.draft_ids) - 1
        self._digests.pop(sequence.block_table[position // self.blocks.block_size], None)
        return Row(sequence.draft_ids[-1:], position, sequence.block_table, 1)

    def _run(self, rows: list[Row], ready: list[Sequence]) -> None:
        """Compute rows, and add the most probable next token to the drafts of `ready`."""
        logits = self.runner.run_rows(rows).logits
        for sequence, row in zip(ready, logits, strict=True):
            sequence.draft_ids.append(int(np.argmax(row[: self.n_vocab])))

    def _find_computed(self, sequence: Sequence) -> None:
        """Count what is in the cache: of a new sequence whole blocks, else guesses that turned out to be right."""
        start, guesses = self._guesses.pop(sequence, (-1, []))
        if not sequence.num_draft_tokens_cached:
            sequence.num_draft_tokens_cached = self._find_prefix(sequence)
        elif start == sequence.num_draft_tokens_cached:
            for guess in guesses[:-1]:  # the last one was not computed
                at = sequence.num_draft_tokens_cached
                if at + 1 >= len(sequence.token_ids) or sequence.token_ids[at] != guess:
                    break
                self._note(sequence, at, at + 1)

    def _find_prefix(self, sequence: Sequence) -> int:
        """How many of its first tokens others left here, the last one never."""
        size = self.blocks.block_size
        number = 0
        while (number + 1) * size < len(sequence.token_ids):
            if self._digests.get(sequence.block_table[number]) != self.blocks.digest(sequence, number):
                break
            number += 1
        return number * size

    def _note(self, sequence: Sequence, first: int, end: int) -> None:
        """Tokens `first` to `end` of a sequence are here, or will be with the next run."""
        size = self.blocks.block_size
        for number in range(first // size, -(-end // size)):
            block = sequence.block_table[number]
            if (number + 1) * size <= end:
                self._digests[block] = self.blocks.digest(sequence, number)
            else:
                self._digests.pop(block, None)
        sequence.num_draft_tokens_cached = end
