"""Which blocks of the KV cache are free, which sequences hold which, and whose content can be used again.

A block is in one of three states: *held* by one or more sequences; *free*, with nothing of use in it; or *cached*,
which is free too, but keeps its content until it is needed. Blank blocks are given out first, then the cached one that
was used least recently. Full blocks are shared; of a block that only begins with the wanted tokens, a copy is made,
because its other places will be written (copy-on-write, done when a sequence starts).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from densecore.engine.prefix_index import PrefixIndex, chain, root
from densecore.engine.sequence import Sequence

__all__ = ["BlockManager", "Prefix"]


@dataclass(frozen=True)
class Prefix:
    """What of a sequence is in the cache: full `blocks`, then the first `num_copied` tokens of the block `source`."""

    blocks: tuple[int, ...] = ()
    source: int = -1
    num_copied: int = 0
    num_tokens: int = 0  # all of them


class BlockManager:
    """Hands out the `num_blocks` blocks of a KV cache, each for `block_size` tokens."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_caching: bool = True) -> None:
        self.num_blocks, self.block_size, self.prefix_caching = num_blocks, block_size, prefix_caching
        self._holders = [0] * num_blocks
        self._blank = deque(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._index = PrefixIndex()

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Free blocks that keep their content."""
        return len(self._cached)

    @property
    def usage(self) -> float:
        """Part of all blocks that is held, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    # ------------------------------------------------------------------ giving out

    def find_prefix(self, sequence: Sequence) -> Prefix:
        """What of `sequence` is in the cache now. Its last token never is: somebody has to compute the logits."""
        if not (self.prefix_caching and sequence.may_skip_prefix):
            return Prefix()
        size, last = self.block_size, len(sequence.token_ids) - 1
        blocks = []
        for number in range(last // size):
            block = self._index.find(self.digest(sequence, number))
            if block is None:
                break
            blocks.append(block)
        start = len(blocks) * size
        rest = sequence.token_ids[start : min(start + size, last)]
        source, num_copied = self._index.longest(self.digest(sequence, len(blocks) - 1), rest)
        return Prefix(tuple(blocks), source, num_copied, start + num_copied)

    def computes_next(self, other: Sequence, sequence: Sequence, prefix: Prefix) -> bool:
        """Whether `other`, which runs, is about to compute the block that `sequence` needs after its `prefix`."""
        number, size = len(prefix.blocks), self.block_size
        end = (number + 1) * size
        if (
            not (self.prefix_caching and sequence.may_skip_prefix)
            or end >= len(sequence.token_ids)
            or not other.num_cached_tokens < end
        ):
            return False
        return end <= len(other.token_ids) and self.digest(other, number) == self.digest(sequence, number)

    def missing(self, prefix: Prefix, num_tokens: int) -> int:
        """How many blocks are too few for a sequence of `num_tokens` that starts with `prefix`; 0 if it fits."""
        revived = sum(self._holders[block] == 0 for block in prefix.blocks)
        needed = -(-num_tokens // self.block_size) - len(prefix.blocks)
        return max(0, needed - (self.num_free - revived))

    def start(self, sequence: Sequence, prefix: Prefix, num_tokens: int) -> tuple[int, int] | None:
        """Give `sequence`, which has no blocks, those of `prefix` and blank ones, for its first `num_tokens` tokens.

        `missing` must be 0. Returns the blocks (source, destination) of a copy to be made before the next step, if any.
        """
        assert not sequence.block_table
        for block in prefix.blocks:
            if not self._holders[block]:
                del self._cached[block]
            self._holders[block] += 1
        sequence.block_table.extend(prefix.blocks)
        sequence.num_noted_blocks = len(prefix.blocks)
        sequence.num_cached_tokens = prefix.num_tokens
        if prefix.source in self._cached:
            self._cached.move_to_end(prefix.source)
        # The source may still be given out here. That is no harm: the copy is made before anything is computed.
        enough = self.extend(sequence, num_tokens)
        assert enough
        return (prefix.source, sequence.block_table[len(prefix.blocks)]) if prefix.num_copied else None

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give `sequence` blocks for its first `num_tokens` tokens.

        Returns False, and changes nothing, if too few are free.
        """
        missing = -(-num_tokens // self.block_size) - len(sequence.block_table)
        if missing > self.num_free:
            return False
        sequence.block_table.extend(self._take() for _ in range(missing))
        return True

    def _take(self) -> int:
        if self._blank:
            block = self._blank.popleft()
        else:
            block, _ = self._cached.popitem(last=False)
        self._index.discard(block)
        self._holders[block] = 1
        return block

    # ------------------------------------------------------------------ taking back

    def note(self, sequence: Sequence, *, tail: bool = False) -> None:
        """Make what `sequence` has computed known to others: full blocks, and with `tail` also the last one."""
        if not self.prefix_caching:
            return
        size = self.block_size
        while (sequence.num_noted_blocks + 1) * size <= sequence.num_cached_tokens:
            number = sequence.num_noted_blocks
            self._note_block(sequence, number, self.digest(sequence, number))
            sequence.num_noted_blocks += 1
        if tail and sequence.num_cached_tokens % size:
            self._note_block(sequence, sequence.num_noted_blocks, None)

    def release(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take back all blocks of `sequence`. The only place where blocks become free; calling it twice is harmless.

        keep : note what they contain; False where that is in doubt
        """
        if keep:
            self.note(sequence, tail=True)
        for block in reversed(sequence.block_table):  # a prefix is worth more than what comes after it
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if block in self._index:
                self._cached[block] = None
            else:
                self._blank.append(block)
        sequence.block_table.clear()
        sequence.num_cached_tokens = sequence.num_noted_blocks = sequence.num_draft_tokens_cached = 0

    def forget(self) -> None:
        """Let go of the content of all blocks."""
        for block in range(self.num_blocks):
            self._index.discard(block)
        self._blank.extend(self._cached)
        self._cached.clear()

    def _note_block(self, sequence: Sequence, number: int, digest: bytes | None) -> None:
        first = number * self.block_size
        token_ids = tuple(sequence.token_ids[first : min(first + self.block_size, sequence.num_cached_tokens)])
        self._index.add(sequence.block_table[number], self.digest(sequence, number - 1), token_ids, digest)

    def digest(self, sequence: Sequence, number: int) -> bytes:
        """The digest of a full block of the sequence's tokens; number -1 is what comes before the first."""
        digests, size = sequence.digests, self.block_size
        if not digests:
            kind = b"".join(use.key for use in sequence.adapters) + b"long" * sequence.rope_set
            digests.append(root(sequence.config.cache_salt, kind))
        while len(digests) < number + 2:
            first = (len(digests) - 1) * size
            digests.append(chain(digests[-1], sequence.token_ids[first : first + size]))
        return digests[number + 1]
