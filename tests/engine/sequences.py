"""Sequences and schedulers for tests, without a model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as SequenceOf

from densecore.config import GenerationConfig
from densecore.engine.block_manager import BlockManager
from densecore.engine.scheduler import Scheduled, Scheduler
from densecore.engine.sequence import Sequence
from densecore.engine.text import TextAssembler
from tests.engine.test_text import Characters

_fresh = itertools.count(1000)


def new_sequence(
    prompt: int | SequenceOf[int] = 5,
    output: int = 3,
    *,
    created: float | None = None,
    max_len: int = 2**31 - 1,
    **options,
) -> Sequence:
    """A sequence whose events are collected in `events`; a number makes a prompt of so many new tokens."""
    events: list = []
    sequence = Sequence(
        prompt_ids=[next(_fresh) for _ in range(prompt)] if isinstance(prompt, int) else prompt,
        config=GenerationConfig(max_tokens=output, **options),
        sampler=None,
        text=TextAssembler(Characters()),
        emit=events.append,
        max_output=output,
        max_len=max_len,
    )
    sequence.events = events
    if created is not None:
        sequence.created = created
    return sequence


def new_scheduler(num_blocks=10, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, **options) -> Scheduler:
    return Scheduler(BlockManager(num_blocks, block_size), max_num_seqs, max_num_batched_tokens, **options)


def step(scheduler: Scheduler) -> list[Scheduled]:
    """A step whose tokens are all ``x``."""
    batch = scheduler.schedule()
    scheduler.postprocess(batch, [[ord("x")] if entry.num_logits else [] for entry in batch])
    return batch


def sizes(batch: list[Scheduled]) -> list[int]:
    return [entry.num_tokens for entry in batch]
