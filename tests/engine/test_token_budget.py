"""The token budget on models whose speed is known: decoding keeps its pace, and prompts get on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from densecore.engine.token_budget import SMALLEST, UNKNOWN, TokenBudget


class Machine:
    """Seconds of a step: reading weights, or computing, whichever takes longer, and attention that grows."""

    def __init__(self, read: float, compute: float, noise: float = 0.0) -> None:
        self.read, self.compute, self.noise = read, compute, noise
        self.random = random.Random(0)

    def seconds(self, num_decoding: int, num_prompt_tokens: int, done: int = 0) -> float:
        tokens = num_decoding + num_prompt_tokens
        whole = max(self.read, self.compute * tokens) + 0.05 * self.compute * tokens * done / 4000
        return whole * (1 + self.noise * self.random.expovariate(1))


def compute_prompt(budget: TokenBudget, machine: Machine, num_decoding: int, length: int = 4000) -> list[float]:
    """Times of the steps until a prompt is done."""
    times, done = [], 0
    while done < length:
        count = min(budget.prompt_tokens(num_decoding), length - done)
        times.append(machine.seconds(num_decoding, count, done))
        budget.measured(num_decoding, count, times[-1])
        done += count
        assert len(times) < 10_000
    return times


@pytest.mark.parametrize("noise", [0, 0.1], ids=["calm", "noisy"])
@pytest.mark.parametrize("num_decoding", [1, 4, 16])
@pytest.mark.parametrize("model", ["0.5B", "7B"])
def test_pace_and_speed(model, num_decoding, noise):
    machine = Machine(*{"0.5B": (0.012, 0.0022), "7B": (0.2, 0.03)}[model], noise)
    budget = TokenBudget(512)
    alone = sum(compute_prompt(budget, machine, 0))
    quiet = [machine.seconds(num_decoding, 0) for _ in range(100)]
    for seconds in quiet:
        budget.measured(num_decoding, 0, seconds)
    beside = compute_prompt(budget, machine, num_decoding)
    assert np.percentile(beside, 95) <= 5 * np.percentile(quiet, 95)
    assert sum(beside) <= 2 * alone


def test_a_step_is_short():
    budget = TokenBudget(512)
    assert budget.prompt_tokens(0) == UNKNOWN
    budget.measured(0, UNKNOWN, 64.0)  # kernels were compiled
    assert budget.prompt_tokens(0) == SMALLEST
    budget.measured(0, SMALLEST, 0.01 * SMALLEST)
    assert budget.prompt_tokens(0) == 64  # 80 would take 0.8 seconds
    budget.measured(0, 64, 0.001 * 64)
    assert budget.prompt_tokens(0) == 512
    budget.measured(3, 0, 0.0001)
    assert budget.prompt_tokens(0) == 512
    assert budget.prompt_tokens(3) == SMALLEST


def test_a_step_without_prompts_is_timed_first():
    budget = TokenBudget(512)
    budget.measured(0, 512, 1.0)
    assert budget.prompt_tokens(2) == 0
    budget.measured(2, 0, 0.1)
    assert budget.prompt_tokens(2) == 128  # 153 would take four times 0.1 seconds


def test_a_busy_engine_takes_the_time_for_a_step_without_prompts():
    budget = TokenBudget(512)
    budget.measured(2, 64, 0.5)
    assert budget.prompt_tokens(2) == 0


def test_one_odd_step_says_little():
    budget = TokenBudget(512)
    budget.measured(0, 500, 1.0)
    budget.measured(2, 0, 0.1)
    before = budget.prompt_tokens(2)
    budget.measured(2, before, 1000.0)
    assert budget.prompt_tokens(2) >= before / 2


@pytest.mark.parametrize("most", [1, 4, 20])
def test_never_more_than_a_step_may_have(most):
    budget = TokenBudget(most)
    budget.measured(0, most, 1e-6)
    budget.measured(1, 0, 10.0)
    for num_decoding in range(1, 30):
        assert 0 <= budget.prompt_tokens(num_decoding) <= max(most - num_decoding, 0)
