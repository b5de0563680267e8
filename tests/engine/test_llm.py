"""The SDK, on real and on tiny models."""

from __future__ import annotations

import asyncio
import builtins
import gc
import re
import threading

import numpy as np
import pytest

from densecore import DenseCore, GenerationConfig
from densecore.data import builtin_model_path
from densecore.exceptions import (
    DenseCoreError,
    InferenceError,
    InvalidConfigError,
    ModelLoadError,
    TimeoutError,
)
from tests.conftest import shared_path
from tests.engine.waiting import wait_until_idle
from tests.gguf_factory import llama_vocabulary, make_model

GREEDY = {"temperature": 0, "repetition_penalty": 1.0}


def state(model: DenseCore) -> dict:
    """Metrics but rates, which change with time."""
    return {name: value for name, value in model.get_metrics().items() if not name.endswith("per_second")}


@pytest.fixture(scope="module")
def recorded():
    """Prompt, greedy continuation and prompt ids that llama.cpp recorded for stories260K."""
    data = np.load(shared_path("golden", "stories260K.npz"))
    return str(data["prompt"]), data["greedy"].tolist(), data["ids"].tolist()


@pytest.fixture(scope="module")
def stories():
    with DenseCore(shared_path("models", "stories260K.gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def builtin():
    with DenseCore(builtin_model_path()) as model:
        yield model


class TestGolden:
    """The transcript of stories260K that llama.cpp recorded, through every way of asking."""

    def test_complete(self, stories, recorded):
        prompt, ids, _ = recorded
        result = stories.complete(prompt, max_tokens=160, **GREEDY)
        assert result.token_ids == ids
        assert result.text.startswith(" outside in the park. One day, she saw a big, red ball.")
        assert result.finish_reason == "length"
        assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (21, 160)
        assert result.usage.total_tokens == 181
        assert result.timings.tokens_per_second > 0

    def test_generate_stream_and_ids_agree(self, stories, recorded):
        prompt, ids, prompt_ids = recorded
        text = stories.generate(prompt, max_tokens=160, **GREEDY)
        assert text == stories.complete(prompt_ids, max_tokens=160, **GREEDY).text
        pieces = list(stories.stream(prompt, max_tokens=160, **GREEDY))
        assert len(pieces) > 100
        assert "".join(pieces) == text
        assert stories.detokenize(prompt_ids[1:] + ids) == prompt + text

    def test_stream_async(self, stories, recorded):
        prompt, _, _ = recorded

        async def collect():
            return [piece async for piece in stories.stream_async(prompt, max_tokens=160, **GREEDY)]

        assert "".join(asyncio.run(collect())) == stories.generate(prompt, max_tokens=160, **GREEDY)

    def test_several_threads_at_once(self, stories, recorded):
        prompt, ids, _ = recorded
        results: list = [None] * 6

        def work(index):
            results[index] = stories.complete(prompt, max_tokens=160 - 20 * index, **GREEDY).token_ids

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == [ids[: 160 - 20 * index] for index in range(6)]

    @pytest.mark.parametrize(
        "options",
        [{"threads": 1}, {"max_num_batched_tokens": 4}, {"block_size": 7}, {"pinning": "off"}, {"pinning": "compact"}],
        ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
    )
    def test_engine_options_change_no_token(self, recorded, options):
        prompt, ids, _ = recorded
        with DenseCore(shared_path("models", "stories260K.gguf"), **options) as model:
            assert model.complete(prompt, max_tokens=160, **GREEDY).token_ids == ids

    def test_stop_sequence_never_leaks(self, stories, recorded):
        prompt, _, _ = recorded
        pieces = list(stories.stream(prompt, max_tokens=160, stop_sequences=["red ball", "girl."], **GREEDY))
        assert "".join(pieces) == " outside in the park. One day, she saw a big, "
        result = stories.complete(prompt, max_tokens=160, stop_sequences=["red ball"], **GREEDY)
        assert result.finish_reason == "stop"

    def test_forward_matches_and_leaves_no_trace(self, stories, recorded):
        _, ids, prompt_ids = recorded
        before = state(stories)
        logits = stories.forward(prompt_ids + ids[:-1])
        assert logits.shape == (180, 512)
        assert logits.dtype == np.float32
        assert logits[20:].argmax(-1).tolist() == ids
        assert state(stories) == before


class TestArguments:
    def test_explicit_arguments_override_config(self, tiny):
        config = GenerationConfig(max_tokens=3, temperature=0)
        assert tiny.complete("ab", config).usage.completion_tokens == 3
        assert tiny.complete("ab", config, max_tokens=5).usage.completion_tokens == 5
        assert tiny.generate("ab", 5, 0.0, config=config) == tiny.complete("ab", config, max_tokens=5).text

    def test_seed_repeats(self, tiny):
        first = tiny.complete("ab", seed=5, temperature=1.5, max_tokens=20)
        assert tiny.complete("ab", seed=5, temperature=1.5, max_tokens=20).token_ids == first.token_ids
        others = {tuple(tiny.complete("ab", seed=s, temperature=1.5, max_tokens=20).token_ids) for s in range(5)}
        assert len(others) > 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_tokens": 0}, "max_tokens must be an integer from 1"),
            ({"temperature": -1}, "temperature must be a number from 0"),
            ({"temperature": float("nan")}, "temperature"),
            ({"top_p": 0}, "top_p must be a number above 0"),
            ({"top_k": -1}, "top_k"),
            ({"top_k": 1.5}, "top_k"),
            ({"stop_sequences": [""]}, "stop_sequences"),
            ({"max_token": 3}, "unknown argument 'max_token': did you mean 'max_tokens'"),
            ({"seed": -1}, "seed"),
            ({"timeout": 0}, "timeout"),
            ({"logit_bias": {10**6: 1}}, "1000000"),
            ({"config": {"max_tokens": 3}}, "config must be a GenerationConfig, not dict"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_mistakes_are_named(self, tiny, options, message):
        with pytest.raises(InvalidConfigError, match=message):
            tiny.generate("ab", **options)
        with pytest.raises(InvalidConfigError, match=message):
            tiny.stream("ab", **options)

    @pytest.mark.parametrize("prompt", [None, 3, b"ab", [1, "a"], [], [-1], [10**9], {"a": 1}], ids=repr)
    def test_prompts_that_are_none(self, tiny, prompt):
        with pytest.raises(InvalidConfigError):
            tiny.generate(prompt)

    def test_prompt_beyond_the_context_names_both_numbers(self, tiny):
        assert tiny.max_model_len == 256
        with pytest.raises(InvalidConfigError, match=r"prompt has 300 tokens.*context is 256"):
            tiny.generate([5] * 300)
        with pytest.raises(InvalidConfigError, match="257 tokens"):
            tiny.forward([5] * 257)

    def test_output_ends_with_the_context(self, tiny):
        result = tiny.complete([5] * 250, max_tokens=100, temperature=0, logit_bias={2: -100})
        assert result.usage.total_tokens == 256
        assert result.finish_reason == "length"

    def test_unknown_engine_option(self, tiny_path):
        with pytest.raises(InvalidConfigError, match="unknown option 'n_ctx'"):
            DenseCore(tiny_path, n_ctx=3)
        with pytest.raises(InvalidConfigError, match="max_model_len is 300, but the model's context length is 256"):
            DenseCore(tiny_path, max_model_len=300)


class TestLife:
    def test_timeout_is_also_the_builtin(self, tiny):
        with pytest.raises(builtins.TimeoutError) as caught:
            tiny.generate("ab", max_tokens=200, timeout=1e-4, logit_bias={2: -100})
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, DenseCoreError)
        wait_until_idle(tiny)

    def test_a_closed_stream_frees_its_blocks(self, tiny):
        with tiny.stream("ab", max_tokens=200, logit_bias={2: -100}) as stream:
            next(stream)
        assert list(stream) == []
        wait_until_idle(tiny)

    def test_a_dropped_stream_frees_its_blocks(self, tiny):
        next(tiny.stream("ab", max_tokens=200, logit_bias={2: -100}))
        gc.collect()
        wait_until_idle(tiny)

    def test_a_cancelled_task_frees_its_blocks(self, tiny):
        async def take_one():
            async for _ in tiny.stream_async("ab", max_tokens=200, logit_bias={2: -100}):
                break

        asyncio.run(take_one())
        wait_until_idle(tiny)

    def test_close_ends_requests_and_refuses_new_ones(self, tiny_path):
        model = DenseCore(tiny_path)
        stream = model.stream("ab", max_tokens=200, logit_bias={2: -100})
        model.close()
        model.close()
        list(stream)
        with pytest.raises(InferenceError, match="closed"):
            model.generate("ab")
        with pytest.raises(InferenceError, match="closed"):
            model.forward([5])

    def test_two_models_take_turns(self, tiny, tiny_path):
        with DenseCore(tiny_path, threads=1) as other:
            streams = [model.stream("ab", max_tokens=50, **GREEDY) for model in (tiny, other)]
            assert "".join(streams[0]) == "".join(streams[1])

    def test_nan_logits_fail_that_request_only(self, tmp_path):
        poison = np.full((1, 64), np.nan, np.float32)
        weights = np.random.default_rng(0).standard_normal((70, 64)).astype(np.float32)
        path = make_model(tmp_path / "nan.gguf")
        with DenseCore(path) as model:
            n_vocab = model.tokenizer.n_vocab
        weights = np.resize(weights, (n_vocab, 64))
        weights[7] = poison
        path = make_model(tmp_path / "nan.gguf", tensor_overrides={"token_embd.weight": weights})
        with DenseCore(path) as model:
            good = model.stream([5, 6], max_tokens=5, **GREEDY)
            with pytest.raises(InferenceError, match="nan"):
                model.complete([5, 7])
            list(good)
            assert good.result.usage.completion_tokens > 0


class TestFiles:
    def test_rows_beyond_the_vocabulary_are_never_sampled(self, tmp_path, tiny):
        n_vocab = tiny.tokenizer.n_vocab
        weights = np.random.default_rng(0).standard_normal((n_vocab + 10, 64)).astype(np.float32)
        weights[n_vocab:] = 0
        output = -np.abs(weights)
        path = make_model(tmp_path / "m.gguf", tensor_overrides={"token_embd.weight": weights, "output.weight": output})
        with DenseCore(path) as model:
            assert model.forward([5, 6]).shape == (2, n_vocab + 10)
            assert max(model.complete("ab", max_tokens=20, seed=1, temperature=5.0).token_ids) < n_vocab
            with pytest.raises(InvalidConfigError, match=f"token id {n_vocab} is outside"):
                model.generate([n_vocab])

    def test_missing_file(self):
        with pytest.raises(ModelLoadError, match=r"nonexistent\.gguf"):
            DenseCore("nonexistent.gguf")

    def test_unsupported_architecture(self, tmp_path):
        overrides = {"general.architecture": "mamba"}
        with pytest.raises(ModelLoadError, match=r"mamba.*supported are bert, .*gemma2, .*llama.*qwen3"):
            DenseCore(make_model(tmp_path / "m.gguf", metadata_overrides=overrides))

    def test_split_file(self, tmp_path, tiny):
        path = make_model(tmp_path / "split.gguf", n_layers=1, n_parts=3)
        with DenseCore(path) as model:
            assert model.generate("ab", max_tokens=30, **GREEDY) == tiny.generate("ab", max_tokens=30, **GREEDY)


class TestBuiltIn:
    def test_writes_python(self, builtin):
        text = builtin.generate("def __init__(self", max_tokens=20, temperature=0)
        assert text.lstrip().startswith((",", ")"))

    def test_chat_uses_every_message(self, builtin):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        prompt = builtin.apply_chat_template(messages)
        assert "Be brief." in prompt
        assert "Hello" in prompt
        assert builtin.chat(messages, max_tokens=5, seed=1) == builtin.generate(prompt, max_tokens=5, seed=1)

    def test_chat_without_a_template_stops_at_the_end_of_chatml(self, builtin, monkeypatch):
        seen = []
        monkeypatch.setattr(builtin._engine, "submit", lambda ids, config, emit: seen.append(config))
        builtin.stream_chat([{"role": "user", "content": "Hello"}], stop_sequences=["x"])
        assert seen[0].stop_sequences == ("x", "<|im_end|>")

    def test_tokenize_adds_no_bos_and_detokenize_inverts(self, builtin):
        text = "import os\n\n\nclass Äpfel:\n    pass  # 🦙"
        ids = builtin.tokenize(text)
        assert ids[0] != builtin.tokenizer.bos_id
        assert builtin.detokenize(ids) == text

    def test_metrics(self, builtin):
        builtin.generate("import", max_tokens=4, seed=0)
        metrics = builtin.get_metrics()
        assert metrics["tokens_per_second"] > 0
        assert metrics["active_requests"] == 0
        assert metrics["kv_cache_usage_percent"] == 0
        assert metrics["total_tokens_generated"] >= 4
        names = {re.sub(r"_p(50|95|99)$", "", name) for name in metrics}
        assert all(f"``{name}``" in DenseCore.get_metrics.__doc__ for name in names)


class TestOpenStream:
    def test_pieces_logprobs_and_result(self, builtin):
        async def collect():
            async with await builtin.open_stream("import os", max_tokens=12, logprobs=True, **GREEDY) as stream:
                return [piece async for piece in stream], stream.result

        pieces, result = asyncio.run(collect())
        expected = builtin.complete("import os", max_tokens=12, logprobs=True, **GREEDY)
        assert "".join(piece.text for piece in pieces) == result.text == expected.text
        assert result.logprobs == expected.logprobs
        assert [entry for piece in pieces for entry in piece.logprobs] == result.logprobs[: len(expected.logprobs)]

    def test_mistakes_are_raised_where_it_is_opened(self, builtin):
        async def open_it(**options):
            await builtin.open_stream("import os", **options)

        with pytest.raises(InvalidConfigError, match="grammar cannot be used"):
            asyncio.run(open_it(grammar="start: ("))
        with pytest.raises(InvalidConfigError, match="unknown argument"):
            asyncio.run(open_it(max_token=3))

    def test_leaving_it_ends_the_request(self, tiny):
        async def leave():
            async with await tiny.open_stream("ab", max_tokens=200, logit_bias={2: -100}) as stream:
                await anext(stream)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

        asyncio.run(leave())
        wait_until_idle(tiny)

    def test_a_loop_that_ends_ends_its_requests(self, tiny, caplog):
        async def leave_open():
            stream = await tiny.open_stream("ab", max_tokens=200, logit_bias={2: -100})
            await anext(stream)
            return stream

        stream = asyncio.run(leave_open())
        wait_until_idle(tiny)
        assert stream.result is None
        assert "the event loop of this request has ended" in caplog.text

    def test_many_streams_are_each_as_alone(self, tiny):
        prompts = [[5 + i, 6, 7 + i] for i in range(8)]

        async def collect(prompt):
            async with await tiny.open_stream(prompt, max_tokens=40, **GREEDY) as stream:
                return "".join([piece.text async for piece in stream]), stream.result.text

        async def collect_all():
            return await asyncio.gather(*map(collect, prompts))

        alone = [tiny.complete(prompt, max_tokens=40, **GREEDY).text for prompt in prompts]
        for _ in range(2):  # each loop has a mailbox of its own
            assert asyncio.run(collect_all()) == [(text, text) for text in alone]


def test_control_tokens_show_if_asked_for(tmp_path):
    vocabulary = llama_vocabulary()
    control = len(vocabulary["tokenizer.ggml.tokens"])
    for key, value in (("tokens", "[TOOL_CALLS]"), ("scores", 0.0), ("token_type", 3)):
        values = vocabulary[f"tokenizer.ggml.{key}"]
        longer = [*values, value]
        vocabulary[f"tokenizer.ggml.{key}"] = longer if key == "tokens" else np.array(longer, values.dtype)
    with DenseCore(make_model(tmp_path / "m.gguf", n_layers=1, vocab=vocabulary)) as model:
        options = {"max_tokens": 2, "logit_bias": {control: 100}} | GREEDY
        assert model.complete("ab", **options).token_ids == [control] * 2
        assert model.generate("ab", **options) == ""
        assert model.generate("ab", skip_special_tokens=False, **options) == "[TOOL_CALLS]" * 2
