"""Scheduler, without a model: budgets, order, priorities, preemption, ends."""

from __future__ import annotations

import pytest

from densecore.engine.scheduler import PRIORITY_SECONDS
from densecore.engine.sequence import Finished, Status
from densecore.exceptions import InferenceError, TimeoutError
from tests.engine.sequences import new_scheduler, new_sequence, sizes, step


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
    assert scheduler.num_preemptions == young.num_preemptions == 1
    while scheduler.has_work:
        step(scheduler)
    assert [len(s.output_ids) for s in (old, young)] == [8, 8]
    assert scheduler.blocks.num_free == 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestPriority:
    def test_the_higher_starts_first(self):
        scheduler = new_scheduler(max_num_seqs=1)
        low, high = new_sequence(), new_sequence(priority=1)
        for sequence in (low, high):
            scheduler.add(sequence)
        assert [entry.sequence for entry in step(scheduler)] == [high]

    @pytest.mark.parametrize("short_of", ["places", "blocks"])
    def test_the_higher_displaces_the_lower(self, short_of):
        scheduler = new_scheduler(max_num_seqs=2) if short_of == "places" else new_scheduler(num_blocks=4)
        sequences = [new_sequence(7, 5), new_sequence(7, 5)]
        for sequence in sequences:
            scheduler.add(sequence)
        step(scheduler)
        high = new_sequence(6, 2, priority=3)
        scheduler.add(high)
        step(scheduler)
        assert [sequence.status for sequence in (*sequences, high)] == [Status.RUNNING, Status.WAITING, Status.RUNNING]
        while scheduler.has_work:
            step(scheduler)
        assert [sequence.num_output_tokens for sequence in (*sequences, high)] == [5, 5, 2]

    def test_nobody_is_displaced_in_vain(self):
        """The blocks of those that come after it are not enough."""
        scheduler = new_scheduler(num_blocks=10)
        first, worse, high = new_sequence(30, 4, priority=9), new_sequence(3, 4), new_sequence(20, 2, priority=5)
        scheduler.add(first)
        scheduler.add(worse)
        for _ in range(3):
            step(scheduler)
        scheduler.add(high)
        step(scheduler)
        statuses = [sequence.status for sequence in (first, worse, high)]
        assert statuses == [Status.RUNNING, Status.RUNNING, Status.WAITING]
        while scheduler.has_work:
            step(scheduler)
        assert scheduler.num_preemptions == 0

    def test_an_equal_one_displaces_nobody(self):
        scheduler = new_scheduler(max_num_seqs=1)
        first = new_sequence(3, 5)
        scheduler.add(first)
        step(scheduler)
        scheduler.add(new_sequence())
        assert [entry.sequence for entry in step(scheduler)] == [first]

    def test_waiting_makes_up_for_it(self):
        clock = Clock()
        scheduler = new_scheduler(max_num_seqs=1, clock=clock)
        low = new_sequence(created=0)
        scheduler.add(low)
        clock.now = 2 * PRIORITY_SECONDS + 1
        scheduler.add(new_sequence(priority=2))
        assert [entry.sequence for entry in step(scheduler)] == [low]


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


def test_abort_while_a_step_computes_adds_no_token():
    scheduler = new_scheduler()
    sequence = new_sequence()
    scheduler.add(sequence)
    batch = scheduler.schedule()
    sequence.aborted = True
    scheduler.postprocess(batch, [[ord("x")]])
    assert [type(event) for event in sequence.events] == [Finished]
    assert scheduler.blocks.num_free == 10
    assert not scheduler.has_work


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
    scheduler.postprocess(batch, [[InferenceError("NaN")], [ord("x")]])
    assert isinstance(bad.events[-1].error, InferenceError)
    assert good.num_output_tokens == 1


@pytest.mark.parametrize("method", ["push", "flush"])
def test_text_that_cannot_be_made_fails_its_own_sequence_only(method):
    scheduler = new_scheduler()
    good, bad = new_sequence(3, 2), new_sequence(3, 2)

    def fail(*_):
        raise MemoryError("no room for a character")

    setattr(bad.text, method, fail)
    scheduler.add(bad)
    scheduler.add(good)
    while scheduler.has_work:
        step(scheduler)
    assert isinstance(bad.events[-1].error, InferenceError)
    assert "no room for a character" in str(bad.events[-1].error)
    assert good.events[-1].finish_reason == "length"
    assert scheduler.blocks.num_free == 10


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
