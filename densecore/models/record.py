"""Steps without Python: a model's calls recorded once per shape of batch, then replayed by compiled code.

See :mod:`densecore.kernels.plan` for why and how. What changes from step to step is the contents of the batch; they
are copied to where the recorded operations read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from densecore.kernels.plan import Plan
from densecore.models.batch import Batch

__all__ = ["RecordedStep", "RecordedSteps"]

Result = TypeVar("Result")

MAX_RECORDED = 128  # shapes that are kept for a cache; each takes some 100 KB

Compute = Callable[[Any, Plan], Result]


class RecordedStep(Generic[Result]):
    """What `compute` calls for a batch of these shapes, and the buffers in which the results will be."""

    def __init__(self, batch: Batch, compute: Compute[Result]) -> None:
        self.batch, self.plan = batch.copy(), Plan()
        self.result = compute(self.batch, self.plan)

    def run(self, batch: Batch, num_threads: int) -> Result:
        """The step for another batch of the same shapes; the result is overwritten by the next run."""
        self.batch.assign(batch)
        self.plan.run(num_threads)
        return self.result


class RecordedSteps(Generic[Result]):
    """The records of a model, by cache and by the shapes of the batch; those of a cache go away with it.

    An encoder, which has no cache, takes something else that lives as long as its buffers.
    """

    def __init__(self) -> None:
        self._by_cache: WeakKeyDictionary[Any, dict[tuple, RecordedStep[Result]]] = WeakKeyDictionary()

    def find(self, batch: Batch, cache: Any, compute: Compute[Result]) -> RecordedStep[Result]:
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
