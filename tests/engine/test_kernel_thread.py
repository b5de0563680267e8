"""The kernel thread gets the interpreter lock back soon, and leaves the process's settings as they were."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from densecore.engine.kernel_thread import SWITCH_INTERVAL, KernelThread


@pytest.fixture
def thread():
    before = sys.getswitchinterval()
    thread = KernelThread()
    yield thread
    thread.stop()
    sys.setswitchinterval(before)


def interval_after(thread: KernelThread) -> float:
    """The switch interval when the thread has nothing to do."""
    thread.stop()
    return sys.getswitchinterval()


def test_turns_are_short_while_it_works(thread):
    before = sys.getswitchinterval()
    assert thread.call(sys.getswitchinterval) == pytest.approx(SWITCH_INTERVAL)
    assert interval_after(thread) == before


def test_turns_are_as_before_after_an_error(thread):
    before = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0)
    assert interval_after(thread) == before


@pytest.mark.parametrize("chosen", [1e-5, 2e-3], ids=["shorter", "longer"])
def test_what_others_set_stays(thread, chosen):
    thread.call(lambda: sys.setswitchinterval(chosen))
    assert interval_after(thread) == pytest.approx(chosen)


def test_a_shorter_interval_is_left_alone(thread):
    sys.setswitchinterval(1e-5)
    assert thread.call(sys.getswitchinterval) == pytest.approx(1e-5)


class Steps:
    """Has work for `left` steps, each of which defers a call, and lets those of the step before run in its middle."""

    def __init__(self, thread: KernelThread, left: int) -> None:
        self.thread, self.left, self.seen, self.done = thread, left, [], threading.Event()

    def step(self) -> bool:
        number = self.left
        self.left -= 1
        self.thread.run_deferred()
        self.seen.append(f"step {number}")
        self.thread.defer(lambda: 1 / 0)
        self.thread.defer(lambda: self.seen.append(f"deferred by {number}"))
        if not self.left:
            self.thread.defer(self.done.set)
        return self.left > 0


def test_deferred_calls_run_in_the_next_step_or_after_the_last(thread, caplog):
    steps = Steps(thread, 2)
    thread.wake(steps)
    assert steps.done.wait(10)
    assert steps.seen == ["step 2", "deferred by 2", "step 1", "deferred by 1"]
    assert [record.getMessage() for record in caplog.records] == 2 * ["a deferred call failed"]


def test_deferred_calls_run_before_and_after_calls(thread):
    seen: list[str] = []

    def work() -> None:
        thread.defer(lambda: seen.append("deferred"))
        seen.append("call")

    thread.call(work)
    thread.call(lambda: None)  # a call ends before what it deferred begins
    thread.call(lambda: seen.append("another"))
    assert seen == ["call", "deferred", "another"]


def test_a_busy_python_thread_does_not_hold_it_up(thread):
    """Twenty calls that let go of the lock, each of which needs it again afterwards."""

    def release_often() -> float:
        start = time.perf_counter()
        for _ in range(20):
            time.sleep(1e-4)
        return time.perf_counter() - start

    stopped = threading.Event()

    def spin() -> None:
        while not stopped.is_set():
            pass

    sys.setswitchinterval(0.02)
    busy = threading.Thread(target=spin)
    busy.start()
    try:
        held_up = max(release_often() for _ in range(5))  # on any other thread; the busy one may be held up, too
        on_kernel_thread = min(thread.call(release_often) for _ in range(3))
    finally:
        stopped.set()
        busy.join()
    assert held_up > 0.2
    assert on_kernel_thread < held_up / 2


def test_an_engine_that_fails_does_not_end_it(thread, caplog):
    class Failing:
        def step(self):
            raise RuntimeError("broken")

    thread.wake(Failing())
    assert thread.call(lambda: 7) == 7
    assert thread.call(lambda: 8) == 8
    assert "an engine failed" in caplog.text
