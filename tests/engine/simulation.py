"""A scheduler over a cache that is only simulated: what each slot holds is checked before it is read.

Instead of keys and values a slot holds a hash of the token and all before it, and the next token of a sequence follows
from the hash of its last one. So whoever reads a wrong, overwritten or foreign slot is found out at once, and every
sequence has one right output, whatever happens around it.
"""

from __future__ import annotations

import random

from densecore.engine.scheduler import Scheduled
from densecore.engine.sequence import Finished, Sequence, Status
from densecore.exceptions import InferenceError
from tests.engine.sequences import new_scheduler, new_sequence

BLOCK_SIZE = 4
MAX_LEN = 40
ALPHABET = 6  # few tokens, so that prefixes are often shared
FIRST_TOKEN = ord("a")


def hashes(salt: str | None, token_ids: list[int]) -> list[int]:
    """What the slots of these tokens hold."""
    found, last = [], hash(("salt", salt))
    for token_id in token_ids:
        last = hash((last, token_id))
        found.append(last)
    return found


def next_token(last: int) -> int:
    return FIRST_TOKEN + last % ALPHABET


def expected_output(sequence: Sequence) -> list[int]:
    """The output that the sequence has alone."""
    token_ids, output = list(sequence.prompt_ids), []
    for _ in range(sequence.max_output):
        output.append(next_token(hashes(sequence.config.cache_salt, token_ids)[-1]))
        token_ids.append(output[-1])
        if len(token_ids) > MAX_LEN:  # the context is shifted
            token_ids = token_ids[:4] + token_ids[4 + 18 :]
    return output


class Simulation:
    """Random requests, cancels, failures and steps; every method checks that all is well."""

    def __init__(
        self, seed: int, num_blocks: int = 10, max_num_seqs: int = 4, max_num_batched_tokens: int = 16
    ) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.scheduler = new_scheduler(
            num_blocks, BLOCK_SIZE, max_num_seqs, max_num_batched_tokens, clock=lambda: self.now
        )
        self.slots = [[0] * BLOCK_SIZE for _ in range(num_blocks)]
        self.open: list[Sequence] = []
        self.num_ticks = self.num_ended = self.num_cached = self.num_accepted = 0

    # ------------------------------------------------------------------ what users do

    def submit(self) -> None:
        rng = self.random
        stem = [FIRST_TOKEN + i % 3 for i in range(rng.choice([0, 3, 4, 8, 15]))]
        prompt = stem + [FIRST_TOKEN + rng.randrange(ALPHABET) for _ in range(rng.randint(1, 15))]
        sequence = new_sequence(
            prompt,
            rng.randint(1, 60) if rng.random() < 0.2 else rng.randint(1, 8),
            max_len=MAX_LEN,
            created=self.now,
            priority=rng.choice([0, 0, 0, 1, -1, 5]),
            cache_salt=rng.choice([None, None, "a"]),
            timeout=rng.choice([None, None, None, 60.0]),
        )
        sequence.failing = rng.random() < 0.03
        if rng.random() < 0.03:
            sequence.text.push = sequence.undefined = None  # not callable: the text of its first token fails
        self.scheduler.add(sequence)
        self.open.append(sequence)

    def abort(self) -> None:
        if self.open:
            self.random.choice(self.open).aborted = True

    # ------------------------------------------------------------------ what the engine does

    def tick(self) -> None:
        scheduler = self.scheduler
        had_work, num_open = scheduler.has_work, len(self.open)
        aborted = [sequence for sequence in self.open if sequence.aborted]
        self._propose()
        batch = scheduler.schedule()
        assert all(sequence.status is Status.FINISHED for sequence in aborted), "an abort takes one step at most"
        assert sum(entry.num_tokens for entry in batch) <= scheduler.max_num_batched_tokens
        assert len({entry.sequence for entry in batch}) == len(batch) <= scheduler.max_num_seqs
        self._compute(batch)
        if self.random.random() < 0.05 and self.open:
            self.abort()  # in the middle of a step
        scheduler.postprocess(batch, [self._sample(entry) for entry in batch])
        self._measure(batch)
        self._collect()
        self.check()
        self.num_ticks += bool(batch)
        self.now += self.random.choice([0.01, 0.1, 1.0])
        assert not had_work or batch or len(self.open) < num_open, "there was work, and nothing was done"

    def drain(self, most: int = 20_000) -> None:
        """Until nothing is left."""
        for _ in range(most):
            if not self.scheduler.has_work:
                break
            self.tick()
        assert not self.open
        assert not self.scheduler.has_work
        assert self.scheduler.blocks.num_free == self.scheduler.blocks.num_blocks

    def _propose(self) -> None:
        """Drafts that are right, or become wrong somewhere."""
        for sequence in self.scheduler.running:
            sequence.draft_ids = []
            count = min(self.random.choice([0, 0, 1, 3, 6]), sequence.draft_room)
            if not sequence.is_decoding or count < 1:
                continue
            token_ids = list(sequence.token_ids)
            for _ in range(count):
                token_ids.append(next_token(hashes(sequence.config.cache_salt, token_ids)[-1]))
                if self.random.random() < 0.2:
                    token_ids[-1] = FIRST_TOKEN
            sequence.draft_ids = token_ids[len(sequence.token_ids) :]

    def _compute(self, batch) -> None:
        for entry in batch:
            if entry.copy is not None:
                source, destination = entry.copy
                self.slots[destination] = list(self.slots[source])
        for entry in batch:
            sequence = entry.sequence
            held = hashes(sequence.config.cache_salt, [*sequence.token_ids, *entry.draft_ids])
            assert entry.num_tokens > 0
            assert len(sequence.block_table) * BLOCK_SIZE >= sequence.num_cached_tokens + entry.num_tokens
            for position in range(sequence.num_cached_tokens + entry.num_tokens):
                block, offset = sequence.block_table[position // BLOCK_SIZE], position % BLOCK_SIZE
                if position < sequence.num_cached_tokens:
                    assert self.slots[block][offset] == held[position], "a slot does not hold what it should"
                else:
                    assert self.scheduler.blocks._holders[block] == 1, "a shared block is written"
                    self.slots[block][offset] = held[position]

    def _sample(self, entry: Scheduled) -> list[int | Exception]:
        """What the model says as long as the draft says it too, and one more."""
        sequence, drawn = entry.sequence, []
        for row in range(entry.num_logits):
            if sequence.failing:
                return [*drawn, InferenceError("NaN")]
            held = hashes(sequence.config.cache_salt, [*sequence.token_ids, *entry.draft_ids[:row]])
            drawn.append(next_token(held[-1]))
            self.num_accepted += row > 0
            if drawn[-1:] != list(entry.draft_ids[row : row + 1]):
                break
        return drawn

    def _measure(self, batch) -> None:
        num_decoding = sum(entry.num_tokens for entry in batch if entry.decodes)
        num_prompt = sum(entry.num_tokens for entry in batch) - num_decoding
        if batch:
            self.scheduler.budget.measured(num_decoding, num_prompt, self.random.uniform(0.1, 10))

    def _collect(self) -> None:
        """Check what has ended, and forget it."""
        for sequence in self.open:
            ends = [event for event in sequence.events if isinstance(event, Finished)]
            assert len(ends) == (sequence.status is Status.FINISHED)
            if not ends:
                continue
            self.num_ended += 1
            self.num_cached += ends[0].usage.cached_tokens
            assert ends[0] is sequence.events[-1]
            assert ends[0].usage.cached_tokens < len(sequence.prompt_ids)
            if ends[0].finish_reason == "length":
                assert sequence.output_ids == expected_output(sequence)
            else:
                assert ends[0].error is not None or sequence.aborted
        self.open = [sequence for sequence in self.open if sequence.status is not Status.FINISHED]

    # ------------------------------------------------------------------ what always holds

    def check(self) -> None:
        """Every block is held, cached or blank; holders are counted right; lists hold what they should."""
        blocks, scheduler = self.scheduler.blocks, self.scheduler
        holders = [0] * blocks.num_blocks
        for sequence in self.open:
            for block in sequence.block_table:
                holders[block] += 1
        assert blocks._holders == holders
        free = [*blocks._blank, *blocks._cached]
        assert sorted(free) == [block for block, count in enumerate(holders) if not count]
        assert all(block in blocks._index for block in blocks._cached)
        assert not any(block in blocks._index for block in blocks._blank)
        for sequences, status in ((scheduler.running, Status.RUNNING), (scheduler.waiting, Status.WAITING)):
            ranks = [sequence.rank for sequence in sequences]
            assert ranks == sorted(ranks)
            assert all(sequence.status is status for sequence in sequences)
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert all(not sequence.block_table for sequence in scheduler.waiting)
        assert {*scheduler.running, *scheduler.waiting} == set(self.open)
