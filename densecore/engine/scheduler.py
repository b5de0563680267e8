"""Who computes what in the next step."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from densecore.engine.block_manager import BlockManager
from densecore.engine.sequence import Sequence, Status
from densecore.engine.token_budget import TokenBudget
from densecore.exceptions import InferenceError, TimeoutError

__all__ = ["Scheduled", "Scheduler"]

PRIORITY_SECONDS = 10.0  # a step of priority is worth so much waiting


@dataclass(frozen=True)
class Scheduled:
    """`num_tokens` tokens of a sequence are computed in this step: the next uncached ones, and a draft.

    decodes : whether all but the newest token of the sequence are cached; nothing of it is part of a prompt.
    draft_ids : guesses of what follows, computed after the newest token; logits of all these are wanted.
    copy : blocks (source, destination) whose content is copied before, see `BlockManager.start`.
    """

    sequence: Sequence
    num_tokens: int
    decodes: bool = False
    copy: tuple[int, int] | None = None
    draft_ids: tuple[int, ...] = ()

    @cached_property
    def num_logits(self) -> int:
        """More than 0 if the step reaches the last token, so that the next one can be sampled."""
        sequence, num_own = self.sequence, self.num_tokens - len(self.draft_ids)
        wants_logits = sequence.pooling is None and sequence.num_cached_tokens + num_own == len(sequence.token_ids)
        return 1 + len(self.draft_ids) if wants_logits else 0

    @property
    def hidden(self) -> range:
        """The tokens, by their places in the sequence, whose hidden states are wanted."""
        first, pooling = self.sequence.num_cached_tokens, self.sequence.pooling
        if pooling is None:
            return range(0)
        return pooling.wanted(first, first + self.num_tokens, len(self.sequence.token_ids))

    def num_accepted(self, results: list[int | Exception]) -> int:
        """How many tokens of the draft are what was drawn in their places; the first that is not was the last draw."""
        return sum(result == guess for result, guess in zip(results, self.draft_ids, strict=False))


def _num_uncached(sequence: Sequence) -> int:
    return len(sequence.token_ids) - sequence.num_cached_tokens


def _rank(sequence: Sequence) -> tuple[float, int]:
    return sequence.rank


class Scheduler:
    """Decides by rank: the time of arrival, moved by priority. It never changes, so whoever is first gets on.

    Running sequences decode, then prompts are computed in chunks, then waiting sequences start. Where blocks or places
    are short, the sequence of the worst rank gives up its own, and is computed again later.

    Parameters
    ----------
    blocks : of the KV cache; they must be enough for any one sequence.
    max_num_seqs, max_num_batched_tokens : that run at once, and that a step computes.
    clock : seconds, as `time.perf_counter`; deadlines and ranks are in it.
    """

    def __init__(
        self,
        blocks: BlockManager,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.blocks, self.clock = blocks, clock
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.budget = TokenBudget(max_num_batched_tokens)
        self.waiting: list[Sequence] = []  # both in the order of rank
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        sequence.rank = (self.clock() - PRIORITY_SECONDS * sequence.config.priority, sequence.seq_id)
        insort(self.waiting, sequence, key=_rank)

    def schedule(self) -> list[Scheduled]:
        """The work of the next step, at most `max_num_batched_tokens` tokens."""
        self._drop_ended()
        self._displace()
        batch: list[Scheduled] = []
        room = self.max_num_batched_tokens
        decoding = [sequence for sequence in self.running if sequence.is_decoding]
        spare = max(room - len(decoding), 0)  # a draft must not take the place of another's token
        for sequence in decoding:
            draft_ids = tuple(sequence.draft_ids[:spare])
            spare -= len(draft_ids)
            room -= self._continue(sequence, room, batch, draft_ids)
        room = min(room, self.budget.prompt_tokens(sum(entry.num_tokens for entry in batch)))
        for sequence in [sequence for sequence in self.running if not sequence.is_decoding]:
            room -= self._continue(sequence, room, batch)
        if len(batch) == len(self.running):  # nobody who runs is short of anything
            self._start_waiting(room, batch)
        return batch

    def postprocess(self, batch: list[Scheduled], sampled: list[list[int | Exception]]) -> None:
        """Note what is cached now, hand sampled tokens to their sequences, and finish those that end.

        sampled : for each entry of the batch; several where a draft was right, none where no logits were wanted
        """
        for entry, results in zip(batch, sampled, strict=True):
            sequence, wants_logits = entry.sequence, entry.num_logits > 0
            sequence.num_cached_tokens += entry.num_tokens - len(entry.draft_ids)
            self.blocks.note(sequence, tail=wants_logits and entry.num_tokens > 1 and not entry.decodes)
            self._take_results(entry, results)
            if sequence.pooling is not None and sequence.num_cached_tokens == len(sequence.token_ids):
                self.finish(sequence, "abort" if sequence.aborted else "stop")

    def finish(self, sequence: Sequence, reason: str | None, error: Exception | None = None) -> None:
        """End a sequence in whatever state it is, and free its blocks. Harmless when called twice."""
        self._leave(sequence, keep=error is None)
        sequence.finish(reason, error)

    # ------------------------------------------------------------------ running sequences

    def _continue(self, sequence: Sequence, room: int, batch: list[Scheduled], draft_ids: tuple[int, ...] = ()) -> int:
        """Put as many tokens of a running sequence as fit into the batch, and its draft; return their number."""
        num_tokens = min(_num_uncached(sequence), room)
        if num_tokens <= 0 or sequence.status is not Status.RUNNING:  # preempted a moment ago, for one before it
            return 0
        if draft_ids and self.blocks.extend(sequence, sequence.num_cached_tokens + num_tokens + len(draft_ids)):
            batch.append(Scheduled(sequence, num_tokens + len(draft_ids), decodes=True, draft_ids=draft_ids))
            return num_tokens + len(draft_ids)
        while not self.blocks.extend(sequence, sequence.num_cached_tokens + num_tokens):
            if not self._preempt_for(sequence, batch):
                return 0
        batch.append(Scheduled(sequence, num_tokens, sequence.is_decoding))
        return num_tokens

    def _preempt_for(self, sequence: Sequence, batch: list[Scheduled]) -> bool:
        """Preempt the sequence of the worst rank that is not in the batch, if that is worse than `sequence`'s."""
        taken = {entry.sequence for entry in batch}
        for victim in reversed(self.running):
            if victim.rank <= sequence.rank:
                return False
            if victim not in taken:
                self._preempt(victim)
                return True
        return False

    def _preempt(self, victim: Sequence) -> None:
        """Take the blocks of a running sequence; what nobody else needs meanwhile it will find in the cache."""
        self._leave(victim)
        victim.status = Status.WAITING
        victim.num_preemptions += 1
        self.num_preemptions += 1
        insort(self.waiting, victim, key=_rank)

    def _take_results(self, entry: Scheduled, results: list[int | Exception]) -> None:
        """Give a sequence its next tokens, up to its end; all but the last one are cached, as its draft had them."""
        sequence = entry.sequence
        before, num_before = sequence.last_token, sequence.num_output_tokens
        if results:
            sequence.num_draft_tokens += len(entry.draft_ids)
            sequence.num_accepted_draft_tokens += entry.num_accepted(results)
        for number, result in enumerate(results):
            if number:
                sequence.num_cached_tokens += 1
            self._take_result(sequence, result)
            if sequence.status is Status.FINISHED:
                return
        if len(results) > 1:
            self.blocks.note(sequence)
            if before is not None and sequence.last_token is not None:
                sequence.last_gap = (sequence.last_token - before) / (sequence.num_output_tokens - num_before)

    def _take_result(self, sequence: Sequence, result: int | Exception) -> None:
        """Give a sequence its next token, or the error that ends it; whatever fails here is its own affair."""
        if sequence.aborted:
            self.finish(sequence, "abort")
        elif isinstance(result, Exception):
            self.finish(sequence, None, result)
        else:
            try:
                reason = sequence.append(result)
            except Exception as error:
                self.finish(sequence, None, InferenceError(f"token {result} has no text: {error}"))
                return
            if reason is not None:
                self.finish(sequence, reason)
            elif len(sequence.token_ids) > sequence.max_len:
                self.blocks.release(sequence)
                sequence.shift_context()  # it goes on running, and is computed again like a prompt

    # ------------------------------------------------------------------ waiting sequences

    def _displace(self) -> None:
        """Preempt sequences that run for a waiting one that comes before them and cannot start otherwise."""
        while self.waiting and not self._fits(self.waiting[0]):
            first = self.waiting[0]
            worse = [sequence for sequence in self.running if sequence.rank > first.rank]
            if not worse or self._num_missing(first) > sum(len(sequence.block_table) for sequence in worse):
                break
            self._preempt(worse[-1])

    def _fits(self, sequence: Sequence) -> bool:
        """Whether there is a place for it, and blocks for all that it consists of so far."""
        return len(self.running) < self.max_num_seqs and not self._num_missing(sequence)

    def _num_missing(self, sequence: Sequence) -> int:
        return self.blocks.missing(self.blocks.find_prefix(sequence), len(sequence.token_ids))

    def _start_waiting(self, room: int, batch: list[Scheduled]) -> None:
        """Start waiting sequences in order until one does not fit, or will soon find more of itself in the cache."""
        while room > 0 and self.waiting and self._fits(self.waiting[0]):
            sequence = self.waiting[0]
            prefix = self.blocks.find_prefix(sequence)
            if any(self.blocks.computes_next(other, sequence, prefix) for other in self.running):
                break
            self.waiting.pop(0)
            num_tokens = min(len(sequence.token_ids) - prefix.num_tokens, room)
            copy = self.blocks.start(sequence, prefix, prefix.num_tokens + num_tokens)
            self._run(sequence)
            batch.append(Scheduled(sequence, num_tokens, copy=copy))
            room -= num_tokens

    def _run(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=_rank)
        if sequence.started is None:
            sequence.started = time.perf_counter()
            sequence.num_prefix_tokens = sequence.num_cached_tokens

    # ------------------------------------------------------------------ ends

    def _leave(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a sequence out of both lists, and its blocks from it."""
        self.blocks.release(sequence, keep=keep)
        for sequences in (self.running, self.waiting):
            if sequence in sequences:
                sequences.remove(sequence)

    def _drop_ended(self) -> None:
        """Finish what was aborted, and what is past its deadline."""
        now = self.clock()
        for sequence in (*self.running, *self.waiting):
            if sequence.aborted:
                self.finish(sequence, "abort")
            elif now > sequence.deadline:
                self.finish(sequence, None, _too_late(sequence))


def _too_late(sequence: Sequence) -> TimeoutError:
    return TimeoutError(
        f"no end after {sequence.config.timeout:g} s and {sequence.num_output_tokens} tokens: "
        "increase timeout or reduce max_tokens"
    )
