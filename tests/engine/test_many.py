"""Many requests at once, from one thread, several, and asyncio."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from densecore import DenseCore, GenerationConfig
from densecore.exceptions import InferenceError, InvalidConfigError, QueueFullError, TimeoutError
from tests.engine.waiting import wait_until_idle

ENDLESS = {"max_tokens": 200, "logit_bias": {2: -100}}
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 10}


@pytest.fixture(scope="module")
def model(tiny_path):
    with DenseCore(tiny_path, max_num_seqs=4, max_num_waiting=6) as opened:
        yield opened


@pytest.fixture
def paused(model):
    """Keeps the engine from computing until it is set."""
    go, run = threading.Event(), model._engine.runner.run
    model._engine.runner.run = lambda batch: (go.wait(20), run(batch))[1]
    yield go
    go.set()
    wait_until_idle(model)
    model._engine.runner.run = run


class TestBatch:
    def test_results_in_order(self, model):
        prompts = [[5 + i % 40, 6 + i % 7] for i in range(50)]
        results = model.complete_batch(prompts, **GREEDY)
        assert [result.token_ids for result in results] == [model.complete(p, **GREEDY).token_ids for p in prompts]
        assert model.generate_batch(prompts, GenerationConfig(**GREEDY)) == [result.text for result in results]
        assert model.generate_batch([]) == []

    def test_an_error_ends_the_others(self, model):
        with pytest.raises(TimeoutError):
            model.complete_batch([[5], [6], [7]], timeout=1e-9)
        with pytest.raises(InvalidConfigError, match="token id 100000 is outside"):
            model.complete_batch([[5], [100_000]], **ENDLESS)
        assert wait_until_idle(model)["active_requests"] == 0

    @pytest.mark.parametrize("prompts", ["text", b"bytes"])
    def test_a_text_is_no_list(self, model, prompts):
        with pytest.raises(InvalidConfigError, match="list of prompts"):
            model.generate_batch(prompts)

    def test_from_several_threads_with_a_short_queue(self, model):
        expected = model.complete([9, 8], **GREEDY).token_ids
        results = []

        def work():
            results.extend(model.complete_batch([[9, 8]] * 20, **GREEDY))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.token_ids for result in results] == [expected] * 40


class TestFuture:
    def test_result(self, model):
        future = model.submit([5, 6], **GREEDY)
        assert future.result(10) == future.result()
        assert future.done()
        assert not future.cancel()

    def test_cancel_in_the_middle(self, model):
        future = model.submit([5, 6], **ENDLESS)
        assert future.cancel()
        with pytest.raises(CancelledError):
            future.result(10)
        wait_until_idle(model)

    def test_error(self, model):
        assert isinstance(model.submit([5, 6], timeout=1e-9).exception(10), TimeoutError)

    def test_queue_is_bounded(self, model, paused):
        futures = [model.submit([5, 6], **GREEDY)]
        while model.get_metrics()["active_requests"] < 1:
            pass
        futures += [model.submit([5, 6], **GREEDY) for _ in range(6)]
        before = model.get_metrics()["requests_total"]
        with pytest.raises(QueueFullError, match=r"6 requests are waiting.*max_num_waiting"):
            model.submit([5, 6], **GREEDY)
        assert model.get_metrics()["requests_total"] == before
        futures[3].cancel()
        paused.set()
        assert len({tuple(future.result(10).token_ids) for future in futures if not future.cancelled()}) == 1

    def test_cancelled_whatever_state_it_is_in(self, model, paused):
        running = model.submit([5, 6], **ENDLESS)
        while model.get_metrics()["active_requests"] < 1:
            pass
        futures = [running, *(model.submit([5, 7 + i], **ENDLESS) for i in range(5))]
        assert all(future.cancel() for future in futures)
        paused.set()
        assert wait_until_idle(model)["total_tokens_generated"] >= 0
        assert all(future.cancelled() for future in futures)


class TestAsyncio:
    def test_gathered(self, model):
        async def collect():
            return await asyncio.gather(*(model.complete_async([5, 6 + i], **GREEDY) for i in range(5)))

        results = asyncio.run(collect())
        assert [r.token_ids for r in results] == [model.complete([5, 6 + i], **GREEDY).token_ids for i in range(5)]

    def test_a_cancelled_task_frees_its_blocks(self, model):
        async def give_up():
            task = asyncio.create_task(model.complete_async([5, 6], **ENDLESS))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
        wait_until_idle(model)


def test_closing_ends_what_waits(tiny_path):
    model = DenseCore(tiny_path, max_num_seqs=1)
    futures = [model.submit([5, 6], **ENDLESS) for _ in range(3)]
    model.close()
    assert all(future.result(5).finish_reason in ("abort", "length") for future in futures)
    with pytest.raises(InferenceError, match="closed"):
        model.submit([5])
