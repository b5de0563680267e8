"""What the blocks of the KV cache contain, found by the tokens in them and all tokens before.

The digest of a block is a hash of the digest before it and of its own tokens, so that it stands for the whole prefix
(PagedAttention's automatic prefix caching, Kwon et al. 2023). The first one is made from the request's `cache_salt`:
tenants with different salts never find each other's blocks, and cannot tell by the time what others have asked. It is
also made from the request's adapters, as keys and values depend on them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["PrefixIndex", "chain", "root"]

DIGEST_BYTES = 16
MAX_COMPARED = 32  # blocks after the same prefix that are looked at for a common beginning


def root(salt: str | None, kind: bytes = b"") -> bytes:
    """The digest before the first block; `kind`, of adapters and RoPE, is equal for those that compute the same."""
    digest = blake2b((salt or "").encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
    # `person` keeps this apart from the digest of a block of tokens.
    return blake2b(digest + kind, digest_size=DIGEST_BYTES, person=b"adapters").digest() if kind else digest


def chain(parent: bytes, token_ids: Iterable[int]) -> bytes:
    """The digest of a block of these tokens after `parent`."""
    return blake2b(parent + array("i", token_ids).tobytes(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class Content:
    """What a block contains: `token_ids` after the prefix `parent`; `digest` is None while the block is not full."""

    parent: bytes
    token_ids: tuple[int, ...]
    digest: bytes | None


class PrefixIndex:
    """Blocks by their content. A block has one content at most, and a digest one block."""

    def __init__(self) -> None:
        self._contents: dict[int, Content] = {}
        self._full: dict[bytes, int] = {}
        self._after: dict[bytes, dict[int, None]] = {}  # parent -> blocks, in the order they came

    def __contains__(self, block: int) -> bool:
        return block in self._contents

    def __len__(self) -> int:
        return len(self._contents)

    def add(self, block: int, parent: bytes, token_ids: tuple[int, ...], digest: bytes | None) -> None:
        """Note what `block` contains, in place of what was noted before; a full block is noted once only."""
        if digest is not None and digest in self._full:
            return
        self.discard(block)
        self._contents[block] = Content(parent, token_ids, digest)
        self._after.setdefault(parent, {})[block] = None
        if digest is not None:
            self._full[digest] = block

    def discard(self, block: int) -> None:
        """Forget what `block` contains; harmless if nothing is known."""
        content = self._contents.pop(block, None)
        if content is None:
            return
        siblings = self._after[content.parent]
        del siblings[block]
        if not siblings:
            del self._after[content.parent]
        if content.digest is not None:
            del self._full[content.digest]

    def find(self, digest: bytes) -> int | None:
        """The full block of this digest."""
        return self._full.get(digest)

    def longest(self, parent: bytes, token_ids: Sequence[int]) -> tuple[int, int]:
        """The block after `parent` that begins with most of `token_ids`, and how many those are; (-1, 0) if none."""
        best, most = -1, 0
        for block, _ in zip(reversed(self._after.get(parent, {})), range(MAX_COMPARED), strict=False):
            length = _common(self._contents[block].token_ids, token_ids)
            if length > most:
                best, most = block, length
        return best, most


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
