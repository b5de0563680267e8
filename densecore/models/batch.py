"""What a model computes in one step, and the cache that it reads and writes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from densecore.kernels.kv_layout import CACHE_DTYPES, cache_shapes
from densecore.models.config import ModelConfig

__all__ = ["Batch", "KVCache", "slots"]

_LINE = 64  # bytes


@dataclass(frozen=True, eq=False)
class Batch:
    """A flat list of tokens, of any mix of sequences: prefill and decode look the same.

    All arrays are int32, but for the scales, which are float32. `adapters` are numbers in the model's `AdapterSet`, -1
    for none; both these and their scales are empty if no token uses any, `rope_sets` is so if all are 0, and
    `mass_scales` may be.
    """

    token_ids: np.ndarray  # (num_tokens,)
    positions: np.ndarray  # (num_tokens,) in the token's sequence
    slot_mapping: np.ndarray  # (num_tokens,) where in the KV cache the token's keys and values go
    seq_index: np.ndarray  # (num_tokens,) row of block_tables
    block_tables: np.ndarray  # (num_seqs, max_blocks) blocks of each sequence in order
    logits_indices: np.ndarray  # (num_logits,) tokens whose logits are wanted
    adapters: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))  # (num_tokens, num_places)
    adapter_scales: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))  # (num_tokens, num_places)
    hidden_indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # (num_hidden,) tokens that embed
    rope_sets: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # (num_tokens,) see `Model.rope_set`
    mass_scales: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))  # (num_logits,) see `Step.masses`

    @property
    def uses_adapters(self) -> bool:
        return self.adapters.size > 0

    def with_adapters(self, adapters: np.ndarray, adapter_scales: np.ndarray) -> Batch:
        """The same tokens with these adapters."""
        return replace(self, adapters=adapters, adapter_scales=adapter_scales)

    def with_rope_set(self, rope_set: int) -> Batch:
        """The same tokens, all rotated with this set of factors."""
        return replace(self, rope_sets=np.full(self.num_tokens, rope_set, np.int32)) if rope_set else self

    @property
    def num_tokens(self) -> int:
        return self.token_ids.size

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(vars(self).values())

    def copy(self) -> Self:
        return type(self)(*(array.copy() for array in self.arrays))

    def assign(self, other: Batch) -> None:
        """Take over the contents of a batch of the same shapes."""
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            np.copyto(mine, theirs)

    @classmethod
    def contiguous(cls, token_ids: np.ndarray, first: int, num_blocks: int, block_size: int) -> Batch:
        """Tokens at positions `first`, `first` + 1, ... of one sequence that owns blocks 0 to `num_blocks` - 1.

        Logits are wanted of all of them.
        """
        positions = np.arange(first, first + token_ids.size, dtype=np.int32)
        tables = np.arange(num_blocks, dtype=np.int32)[None]
        seq_index = np.zeros(token_ids.size, np.int32)
        every = np.arange(token_ids.size, dtype=np.int32)
        slot_mapping = slots(tables, seq_index, positions, block_size)
        return cls(token_ids.astype(np.int32), positions, slot_mapping, seq_index, tables, every)


def slots(block_tables: np.ndarray, seq_index: np.ndarray, positions: np.ndarray, block_size: int) -> np.ndarray:
    """Where in the cache the tokens at these positions of their sequences lie: (num_tokens,) int32."""
    return block_tables[seq_index, positions // block_size] * block_size + positions % block_size


class KVCache:
    """Keys and values of all layers, in blocks of `block_size` tokens.

    `k[layer]` is (num_blocks, n_kv_heads, row, block_room) and `v[layer]` is (num_blocks, n_kv_heads, block_size,
    row), see `kernels.kv_layout`. Memory is reserved here, in one piece, so that the system can use huge pages, and
    taken from the system when it is first written.
    """

    def __init__(self, config: ModelConfig, num_blocks: int, block_size: int, dtype: str) -> None:
        shapes = cache_shapes(num_blocks, config.n_kv_heads, block_size, config.head_dim, CACHE_DTYPES[dtype])
        self.num_blocks, self.block_size, self.dtype = num_blocks, block_size, dtype
        arrays = _aligned_arrays([*shapes] * config.n_layers, CACHE_DTYPES[dtype])
        self.k, self.v = arrays[::2], arrays[1::2]

    @property
    def arrays(self) -> list[np.ndarray]:
        """Keys, then values, of each layer; the first axis is that of blocks."""
        return [array for pair in zip(self.k, self.v, strict=True) for array in pair]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def take_memory(self) -> None:
        """Write all of an empty cache, so that the system gives every page of it now."""
        for array in self.arrays:
            array.fill(0)

    def copy_block(self, source: int, destination: int) -> None:
        """Copy keys and values of a block, in all layers."""
        for array in self.arrays:
            array[destination] = array[source]


def _aligned_arrays(shapes: list[tuple[int, ...]], dtype: type) -> list[np.ndarray]:
    """Arrays of zeros, one behind the other, each beginning with a line of the CPU's caches."""
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape in shapes]
    rooms = [-(-size // _LINE) * _LINE for size in sizes]
    memory = np.zeros(sum(rooms) + _LINE, np.uint8)
    arrays: list[np.ndarray] = []
    start = -memory.ctypes.data % _LINE
    for shape, size, room in zip(shapes, sizes, rooms, strict=True):
        arrays.append(memory[start : start + size].view(dtype).reshape(shape))
        start += room
    return arrays
