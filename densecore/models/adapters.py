"""LoRA adapters in memory, and what a step needs to know of those that are loaded.

An adapter (Hu et al. 2021) changes matrices of a model: y = x W^T + s * alpha / rank * (x A^T) B^T. It lies beside the
model's weights, which stay as they are, so that each request has its own; see `densecore.kernels.lora`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densecore.kernels.lora import Factors
from densecore.models.record import RecordedSteps

__all__ = ["Adapter", "AdapterSet", "AdapterUse", "Pair", "digest_of"]

DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class Pair:
    """The change of one matrix (n_out, n_in), in float32."""

    a: np.ndarray  # (rank, n_in); for embeddings (n_vocab, rank)
    b: np.ndarray  # (rank, n_out): B^T
    multiplier: float  # alpha / rank

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes of a model, by the names of its matrices without ``.weight``."""

    path: Path
    alpha: float
    pairs: dict[str, Pair]
    digest: bytes  # of `pairs`: stands for what the adapter computes, whatever its file and name are

    @property
    def rank(self) -> int:
        """The highest one."""
        return max(pair.rank for pair in self.pairs.values())

    @property
    def num_bytes(self) -> int:
        return sum(pair.num_bytes for pair in self.pairs.values())


def digest_of(pairs: Mapping[str, Pair]) -> bytes:
    """A hash of all that the pairs contain."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for name, pair in sorted(pairs.items()):
        digest.update(f"{name} {pair.a.shape} {pair.b.shape} {pair.multiplier!r}".encode())
        digest.update(pair.a.data)
        digest.update(pair.b.data)
    return digest.digest()


class AdapterUse(NamedTuple):
    """An adapter, and how much of it: 1 as it was trained."""

    adapter: Adapter
    scale: float

    @property
    def key(self) -> bytes:
        """Equal for uses that compute the same."""
        return self.adapter.digest + struct.pack("<f", self.scale)


class AdapterSet:
    """The adapters that a model has loaded, which never change: with another one there is another set.

    adapters : in the order of their numbers
    factors : for each matrix that any of them changes, by name
    recorded : the steps that use them; they go away with the set
    """

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        self.adapters = tuple(adapters)
        self.recorded: RecordedSteps[Any] = RecordedSteps()
        names = {name for adapter in self.adapters for name in adapter.pairs}
        self.factors = {name: self._factors(name) for name in names}
        self._numbers = {adapter: number for number, adapter in enumerate(self.adapters)}

    def columns(self, uses: Sequence[Sequence[AdapterUse]], counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """`adapters` and `adapter_scales` of a batch with `counts[i]` tokens of a sequence that has `uses[i]`.

        KeyError if one is not in this set.
        """
        width = max(map(len, uses))
        numbers = np.full((len(uses), width), -1, np.int32)
        scales = np.zeros((len(uses), width), np.float32)
        for row, its_uses in enumerate(uses):
            for place, (adapter, scale) in enumerate(its_uses):
                numbers[row, place], scales[row, place] = self._numbers[adapter], scale
        return np.repeat(numbers, counts, axis=0), np.repeat(scales, counts, axis=0)

    def _factors(self, name: str) -> Factors:
        pairs = [adapter.pairs.get(name) for adapter in self.adapters]
        return Factors(
            a=np.array([pair.a.ctypes.data if pair else 0 for pair in pairs], np.int64),
            b=np.array([pair.b.ctypes.data if pair else 0 for pair in pairs], np.int64),
            ranks=np.array([pair.rank if pair else 0 for pair in pairs], np.int64),
            multipliers=np.array([pair.multiplier if pair else 0 for pair in pairs], np.float32),
        )
