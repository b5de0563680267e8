"""Scheduler and blocks, without a model: budgets, order, preemption, ends."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from densecore.config import GenerationConfig
from densecore.engine.block_manager import BlockManager
from densecore.engine.scheduler import Scheduler
from densecore.engine.sequence import Finished, Sequence, Status
from densecore.engine.text import TextAssembler
from densecore.exceptions import InferenceError, TimeoutError
from tests.engine.test_text import Characters


def new_sequence(prompt: int = 5, output: int = 3, timeout: float | None = None) -> Sequence:
    events: list = []
    config = GenerationConfig(max_tokens=output, timeout=timeout)
    sequence = Sequence(
        prompt_ids=range(prompt),
        config=config,
        sampler=None,
        text=TextAssembler(Characters()),
        emit=events.append,
        max_output=output,
    )
    sequence.events = events
    return sequence


def new_scheduler(num_blocks=10, block_size=4, max_num_seqs=4, max_num_batched_tokens=16) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, block_size), max_num_seqs, max_num_batched_tokens)


def step(scheduler: Scheduler) -> list:
    batch = scheduler.schedule()
    scheduler.postprocess(batch, [ord("x") for entry in batch if entry.wants_logits])
    return batch


def sizes(batch) -> list[int]:
    return [entry.num_tokens for entry in batch]


def test_long_prompts_are_cut_and_decoding_goes_first():
    scheduler = new_scheduler(num_blocks=20)
    short, long = new_sequence(3, 9), new_sequence(40, 1)
    scheduler.add(short)
    assert sizes(step(scheduler)) == [3]
    scheduler.add(long)
    assert sizes(step(scheduler)) == [1, 15]
    assert sizes(step(scheduler)) == [1, 15]
    assert sizes(step(scheduler)) == [1, 10]
    assert long.status is Status.FINISHED
    assert long.events[-1].finish_reason == "length"


def test_at_most_max_num_seqs_run():
    scheduler = new_scheduler(max_num_seqs=2)
    for _ in range(3):
        scheduler.add(new_sequence(1, 5))
    assert len(step(scheduler)) == 2
    assert len(scheduler.waiting) == 1


def test_the_youngest_is_preempted_and_computed_again():
    scheduler = new_scheduler(num_blocks=4)
    old, young = new_sequence(7, 8), new_sequence(7, 8)
    scheduler.add(old)
    scheduler.add(young)
    step(scheduler)
    step(scheduler)  # both have 8 cached tokens now, in two blocks each; the next token of `old` needs a third
    assert young.status is Status.RUNNING
    step(scheduler)
    assert young.status is Status.WAITING
    assert young.block_table == []
    assert young.num_cached_tokens == 0
    assert young.num_output_tokens == 2
    while scheduler.has_work:
        step(scheduler)
    assert [len(s.output_ids) for s in (old, young)] == [8, 8]
    assert scheduler.blocks.num_free == 4


@pytest.mark.parametrize("started", [False, True], ids=["waiting", "running"])
def test_abort(started):
    scheduler = new_scheduler()
    sequence = new_sequence()
    scheduler.add(sequence)
    if started:
        step(scheduler)
    sequence.aborted = True
    assert step(scheduler) == []
    assert sequence.events[-1].finish_reason == "abort"
    assert scheduler.blocks.num_free == 10
    scheduler.finish(sequence, "abort")  # once more does nothing
    assert sum(isinstance(event, Finished) for event in sequence.events) == 1


def test_timeout():
    scheduler = new_scheduler()
    sequence = new_sequence(timeout=1e-9)
    scheduler.add(sequence)
    assert step(scheduler) == []
    assert isinstance(sequence.events[-1].error, TimeoutError)


def test_an_unusable_row_of_logits_fails_its_own_sequence_only():
    scheduler = new_scheduler()
    good, bad = new_sequence(), new_sequence()
    scheduler.add(bad)
    scheduler.add(good)
    batch = scheduler.schedule()
    scheduler.postprocess(batch, [InferenceError("NaN"), ord("x")])
    assert isinstance(bad.events[-1].error, InferenceError)
    assert good.num_output_tokens == 1


def test_a_receiver_that_raises_ends_its_own_request(caplog):
    scheduler = new_scheduler()
    sequence = new_sequence()

    def fail(event):
        raise RuntimeError("receiver is gone")

    sequence.emit = fail
    scheduler.add(sequence)
    step(scheduler)
    assert step(scheduler) == []
    assert scheduler.blocks.num_free == 10
    assert "receiver is gone" in caplog.text


class Machine(RuleBasedStateMachine):
    """Random requests, aborts and steps: blocks are free or owned once, and everything ends."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = new_scheduler()
        self.all: list[Sequence] = []

    @rule(target=sequences, prompt=st.integers(1, 30), output=st.integers(1, 10))
    def submit(self, prompt, output):
        sequence = new_sequence(prompt, output)
        self.scheduler.add(sequence)
        self.all.append(sequence)
        return sequence

    @rule(sequence=sequences)
    def abort(self, sequence):
        sequence.aborted = True

    @rule()
    def step(self):
        before = self.scheduler.has_work
        batch = step(self.scheduler)
        assert sum(sizes(batch)) <= 16
        assert len({entry.sequence.seq_id for entry in batch}) == len(batch)
        assert not before or batch or not self.scheduler.has_work, "work, but nothing was scheduled"

    @invariant()
    def blocks_are_free_or_owned_once(self):
        blocks = self.scheduler.blocks
        owned = [block for sequence in self.all for block in sequence.block_table]
        assert len(owned) + blocks.num_free == blocks.num_blocks
        assert sorted([*owned, *blocks._free]) == list(range(blocks.num_blocks))

    def teardown(self):
        for _ in range(2000):
            if not self.scheduler.has_work:
                break
            step(self.scheduler)
        for sequence in self.all:
            assert sequence.status is Status.FINISHED
            assert sum(isinstance(event, Finished) for event in sequence.events) == 1
            assert sequence.aborted or sequence.num_output_tokens == sequence.max_output
        assert self.scheduler.blocks.num_free == self.scheduler.blocks.num_blocks


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
