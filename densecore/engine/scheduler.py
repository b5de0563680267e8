"""Who computes what in the next step."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from densecore.engine.block_manager import BlockManager
from densecore.engine.sequence import Sequence, Status
from densecore.exceptions import TimeoutError

__all__ = ["Scheduled", "Scheduler"]


@dataclass(frozen=True)
class Scheduled:
    """The next `num_tokens` uncached tokens of a sequence are computed in this step."""

    sequence: Sequence
    num_tokens: int

    @property
    def wants_logits(self) -> bool:
        """Whether the step reaches the last token, so that the next one can be sampled."""
        return self.sequence.num_cached_tokens + self.num_tokens == len(self.sequence.token_ids)


def _num_uncached(sequence: Sequence) -> int:
    return len(sequence.token_ids) - sequence.num_cached_tokens


class Scheduler:
    """First come, first served; running sequences before waiting ones; long prompts in chunks."""

    def __init__(self, blocks: BlockManager, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.blocks = blocks
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Scheduled]:
        """The work of the next step: at most `max_num_batched_tokens` tokens, decoding sequences first."""
        self._drop_ended()
        batch: list[Scheduled] = []
        budget = self.max_num_batched_tokens
        for sequence in sorted(self.running, key=_num_uncached):
            if sequence.status is Status.RUNNING:  # not preempted a moment ago, for one before it
                budget -= self._take(sequence, budget, batch)
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            taken = self._take(self.waiting[0], budget, batch)
            if not taken:
                break
            budget -= taken
            self._start(self.waiting.popleft())
        return batch

    def postprocess(self, batch: list[Scheduled], sampled: list[int | Exception]) -> None:
        """Note what is cached now, hand each sampled token to its sequence, and finish those that end."""
        results = iter(sampled)
        for entry in batch:
            sequence, wants_logits = entry.sequence, entry.wants_logits
            sequence.num_cached_tokens += entry.num_tokens
            if not wants_logits:
                continue
            token_id = next(results)
            if isinstance(token_id, Exception):
                self.finish(sequence, None, token_id)
                continue
            reason = sequence.append(token_id)
            if reason is not None:
                self.finish(sequence, reason)

    def finish(self, sequence: Sequence, reason: str | None, error: Exception | None = None) -> None:
        """End a sequence in whatever state it is, and free its blocks. Harmless when called twice."""
        self.blocks.release(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        sequence.finish(reason, error)

    def _take(self, sequence: Sequence, budget: int, batch: list[Scheduled]) -> int:
        """Put as many of the sequence's tokens as fit into the batch, and return their number."""
        num_tokens = min(_num_uncached(sequence), budget)
        while num_tokens and not self.blocks.extend(sequence, sequence.num_cached_tokens + num_tokens):
            if not self._preempt_for(sequence, batch):
                return 0
        if num_tokens:
            batch.append(Scheduled(sequence, num_tokens))
        return num_tokens

    def _preempt_for(self, sequence: Sequence, batch: list[Scheduled]) -> bool:
        """Free the blocks of the youngest sequence that runs and is not in the batch; it is computed again later.

        Only a running sequence may displace another, and only one that came after it: the oldest always gets on.
        """
        if sequence.status is not Status.RUNNING:
            return False
        taken = {entry.sequence for entry in batch}
        younger = self.running[self.running.index(sequence) + 1 :]
        victims = [candidate for candidate in younger if candidate not in taken]
        if not victims:
            return False
        victim = victims[-1]
        self.blocks.release(victim)
        self.running.remove(victim)
        victim.status = Status.WAITING
        self.waiting.appendleft(victim)
        return True

    def _start(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        if sequence.started is None:
            sequence.started = time.perf_counter()
        self.running.append(sequence)

    def _drop_ended(self) -> None:
        """Finish what was aborted, and what is past its deadline."""
        now = time.perf_counter()
        for sequence in (*self.running, *self.waiting):
            if sequence.aborted:
                self.finish(sequence, "abort")
            elif now > sequence.deadline:
                seconds = sequence.config.timeout
                self.finish(
                    sequence,
                    None,
                    TimeoutError(
                        f"no end after {seconds:g} s and {sequence.num_output_tokens} tokens: "
                        "increase timeout or reduce max_tokens"
                    ),
                )
