"""Steps without Python: a model's calls recorded once per shape of batch, then replayed by compiled code.

See :mod:`densecore.kernels.plan` for why and how. What changes from step to step is the contents of the batch; they
are copied to where the recorded operations read them.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

from densecore.kernels.plan import Plan
from densecore.models.batch import Batch, KVCache

__all__ = ["RecordedStep", "RecordedSteps"]

MAX_RECORDED = 128  # shapes that are kept for a cache; each takes some 100 KB

Compute = Callable[[Batch, Plan], np.ndarray]


class RecordedStep:
    """What `compute` calls for a batch of these shapes."""

    def __init__(self, batch: Batch, compute: Compute) -> None:
        self.batch, self.plan = batch.copy(), Plan()
        self.logits = compute(self.batch, self.plan)

    def run(self, batch: Batch, num_threads: int) -> np.ndarray:
        """The step for another batch of the same shapes; the result is overwritten by the next run."""
        self.batch.assign(batch)
        self.plan.run(num_threads)
        return self.logits


class RecordedSteps:
    """The records of a model, by cache and by the shapes of the batch; those of a cache go away with it."""

    def __init__(self) -> None:
        self._by_cache: WeakKeyDictionary[KVCache, dict[tuple, RecordedStep]] = WeakKeyDictionary()

    def find(self, batch: Batch, cache: KVCache, compute: Compute) -> RecordedStep:
        """The record for this cache and batches of this shape, made if there is none."""
        records = self._by_cache.setdefault(cache, {})
        shapes = tuple(array.shape for array in batch.arrays)
        record = records.pop(shapes, None)
        if record is None:
            if len(records) >= MAX_RECORDED:
                records.pop(next(iter(records)))  # the one that was used least recently
            record = RecordedStep(batch, compute)
        records[shapes] = record
        return record
