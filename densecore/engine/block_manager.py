"""Which blocks of the KV cache are free, and which sequence holds which."""

from __future__ import annotations

from collections import deque

from densecore.engine.sequence import Sequence

__all__ = ["BlockManager"]


class BlockManager:
    """Hands out the `num_blocks` blocks of a KV cache, each for `block_size` tokens."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = deque(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Part of all blocks that is in use, 0 to 1."""
        return 1 - self.num_free / self.num_blocks

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give `sequence` blocks for its first `num_tokens` tokens.

        Returns False, and changes nothing, if too few are free.
        """
        missing = -(-num_tokens // self.block_size) - len(sequence.block_table)
        if missing > self.num_free:
            return False
        sequence.block_table.extend(self._free.popleft() for _ in range(missing))
        return True

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of `sequence`. The only place where blocks become free; calling it twice is harmless."""
        self._free.extend(sequence.block_table)
        sequence.block_table.clear()
        sequence.num_cached_tokens = 0
