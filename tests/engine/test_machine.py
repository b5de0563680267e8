"""Scheduler and blocks under random requests: nothing is lost, mixed up or starved. See `simulation`."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.engine.sequences import new_sequence
from tests.engine.simulation import Simulation


class Machine(RuleBasedStateMachine):
    """Hypothesis chooses what happens, and finds the shortest way to a failure."""

    @initialize(
        seed=st.integers(0, 2**32), num_blocks=st.integers(10, 30), places=st.integers(1, 6), tokens=st.integers(1, 24)
    )
    def begin(self, seed, num_blocks, places, tokens):
        self.simulation = Simulation(seed, num_blocks, places, tokens)

    @rule()
    def submit(self):
        self.simulation.submit()

    @rule()
    def abort(self):
        self.simulation.abort()

    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            self.simulation.tick()

    @rule()
    def forget(self):
        self.simulation.scheduler.blocks.forget()

    @invariant()
    def all_is_well(self):
        if hasattr(self, "simulation"):
            self.simulation.check()

    def teardown(self):
        if hasattr(self, "simulation"):
            self.simulation.drain()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("size", ["tight", "medium", "large"])
def test_a_hundred_thousand_steps(size):
    """A third of them each."""
    sizes = {"tight": (10, 4, 16), "medium": (24, 6, 20), "large": (80, 12, 32)}
    simulation = Simulation(1, *sizes[size])
    submitting = 0.5
    while simulation.num_ticks < 33_400:
        if simulation.num_ticks % 500 == 0:  # busy times and quiet ones
            submitting = simulation.random.choice([0.05, 0.2, 0.5])
        if simulation.random.random() < submitting and len(simulation.open) < 40:
            simulation.submit()
        if simulation.random.random() < 0.03:
            simulation.abort()
        simulation.tick()
    simulation.drain()
    assert simulation.num_ended > 1000
    assert simulation.num_cached > 1000
    assert simulation.num_accepted > 1000
    assert simulation.scheduler.num_preemptions > {"tight": 1000, "medium": 100, "large": -1}[size]


def test_the_least_important_ends_beside_an_endless_stream_of_others():
    simulation = Simulation(seed=2, num_blocks=10, max_num_seqs=2)
    last = new_sequence([1, 2, 3], 5, created=0, priority=-5)
    last.failing = False
    simulation.scheduler.add(last)
    simulation.open.append(last)
    while last in simulation.open:
        if len(simulation.open) < 8:
            simulation.submit()
        simulation.tick()
        assert simulation.num_ticks < 2000
