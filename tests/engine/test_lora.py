"""Requests with adapters: loading, choosing, company, the prefix cache, and the ends of all this."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from densecore import DenseCore, GenerationConfig, InferenceError, InvalidConfigError, ModelLoadError
from tests.engine.random_requests import record_logits
from tests.engine.waiting import wait_until_idle
from tests.gguf_factory import make_model
from tests.lora_factory import make_adapter, merge
from tests.models.running import nmse

PROMPT = [1, *range(60, 100)]
GREEDY = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
NONE: list[str] = []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model and three adapters for it, called a, b and c."""
    folder = tmp_path_factory.mktemp("lora")
    base = make_model(folder / "base.gguf", tensor_type="F32")
    names = {"a": None, "b": ["blk.0.attn_q", "blk.1.ffn_up"], "c": ["token_embd", "output", "blk.1.attn_v"]}
    paths = {
        name: make_adapter(folder / f"{name}.gguf", base, matrices, rank=4 + seed, seed=seed)
        for seed, (name, matrices) in enumerate(names.items())
    }
    return base, paths


@pytest.fixture
def model(files):
    base, paths = files
    with DenseCore(base) as opened:
        for path in paths.values():
            opened.load_lora(path)
        yield opened


def test_loading_and_choosing(files, tmp_path):
    base, paths = files
    with DenseCore(merge(tmp_path / "merged.gguf", base, {paths["a"]: 0.5})) as merged:
        expected = merged.complete(PROMPT, **GREEDY).token_ids
        logits = merged.forward(PROMPT)
    with DenseCore(base) as model:
        plain = model.complete(PROMPT, **GREEDY).token_ids
        assert model.load_lora(paths["a"], scale=0.5) == "a"
        assert model.complete(PROMPT, lora="a", **GREEDY).token_ids == expected
        assert model.complete(PROMPT, lora=["a"], **GREEDY).token_ids == expected
        assert model.complete(PROMPT, lora={"a": 0.5}, **GREEDY).token_ids == expected
        assert model.complete(PROMPT, lora={"a": None}, **GREEDY).token_ids == expected
        assert model.submit(PROMPT, lora="a", **GREEDY).result().token_ids == expected
        assert model.complete_batch([PROMPT, PROMPT], lora="a", **GREEDY)[1].token_ids == expected
        assert "".join(model.stream(PROMPT, lora="a", **GREEDY)) == model.generate(PROMPT, lora="a", **GREEDY)
        assert model.chat([{"role": "user", "content": "the cat"}], lora="a", **GREEDY)
        assert model.complete(PROMPT, **GREEDY).token_ids == plain != expected
        assert nmse(model.forward(PROMPT, lora="a"), logits) < 1e-9
        hooked = model.forward(PROMPT, {"blk.0.q": lambda value: None}, lora="a")
        assert np.array_equal(hooked, model.forward(PROMPT, lora="a"))
        info = model.lora_adapters["a"]
        assert (info.scale, info.default, info.rank, info.alpha, info.path) == (0.5, False, 4, 8.0, paths["a"])
        assert info.num_matrices == 16
        assert info.num_bytes == sum(pair.num_bytes for pair in model._engine.model.adapters.adapters[0].pairs.values())


def test_default_adapters(files):
    base, paths = files
    with DenseCore(base) as model:
        model.load_lora(paths["a"])
        plain, changed = (model.complete(PROMPT, lora=lora, **GREEDY).token_ids for lora in (None, "a"))
    for lora_path in (paths["a"], [paths["a"]], (paths["a"], 1), [(str(paths["a"]), 1.0)]):
        with DenseCore(base, lora_path=lora_path) as model:
            assert model.complete(PROMPT, **GREEDY).token_ids == changed
            assert model.complete(PROMPT, lora=NONE, **GREEDY).token_ids == plain
            assert model.complete(PROMPT, lora={"a": 0}, **GREEDY).token_ids == plain
            assert np.array_equal(model.forward(PROMPT), model.forward(PROMPT, lora="a"))


def test_names(files):
    base, paths = files
    with DenseCore(base, lora_path=[paths["a"], paths["b"]]) as model:
        assert model.load_lora(paths["a"]) == "a-2"
        assert model.load_lora(paths["a"], "mine") == "mine"
        assert list(model.lora_adapters) == ["a", "b", "a-2", "mine"]
        with pytest.raises(InvalidConfigError, match="'mine' is loaded already: unload it first"):
            model.load_lora(paths["b"], "mine")
        model.unload_lora("mine")
        assert model.load_lora(paths["b"], "mine") == "mine"
        with pytest.raises(InvalidConfigError, match="no adapter 'x' is loaded; loaded are: 'a', 'b', 'a-2', 'mine'"):
            model.unload_lora("x")
        with pytest.raises(InvalidConfigError, match="no adapter 'x' is loaded"):
            model.complete(PROMPT, lora={"a": 1, "x": 1})
        with pytest.raises(InvalidConfigError, match="no adapter 'x' is loaded"):
            model.forward(PROMPT, lora="x")


@pytest.mark.parametrize(
    "lora", [1, {"a": "much"}, {"a": float("nan")}, {"a": 101}, {3: 1.0}, [None], [str(i) for i in range(9)]]
)
def test_wrong_choices(model, lora):
    with pytest.raises(InvalidConfigError, match="lora"):
        model.complete(PROMPT, lora=lora)


@pytest.mark.parametrize("arguments", [{"name": ""}, {"name": 3}, {"scale": float("inf")}, {"default": 1}])
def test_wrong_arguments_of_load(files, model, arguments):
    with pytest.raises(InvalidConfigError, match=next(iter(arguments))):
        model.load_lora(files[1]["a"], **arguments)
    assert len(model.lora_adapters) == 3


@pytest.mark.parametrize("lora_path", [3, [None], [("a.gguf", 1, 2)]])
def test_wrong_lora_path(files, lora_path):
    with pytest.raises(InvalidConfigError, match="lora_path must be"):
        DenseCore(files[0], lora_path=lora_path)


def test_too_little_memory(files, model, monkeypatch):
    monkeypatch.setattr("densecore.engine.adapters.available_memory", lambda: 1000)
    with pytest.raises(InvalidConfigError, match="memory are available: unload others"):
        model.load_lora(files[1]["a"], "again")


MIX = [None, "a", "b", {"a": 0.5}, ["a", "c"], {"c": -1, "a": 0.25, "b": 2}, None, "c"]


@pytest.mark.parametrize("options", [{}, {"max_num_batched_tokens": 24, "block_size": 8}], ids=["whole", "chunks"])
@pytest.mark.parametrize("tensor_type", ["F32", "Q8_0"])
def test_eight_requests_as_alone(tmp_path, options, tensor_type):
    """Adapters of all kinds in one batch: each request's logits have the bits that they have alone."""
    base = make_model(tmp_path / "base.gguf", tensor_type=tensor_type)
    paths = [make_adapter(tmp_path / f"{name}.gguf", base, rank=r, seed=r) for r, name in enumerate("abc", 3)]
    prompts = [[1, *range(50 + i, 60 + 3 * i)] for i in range(len(MIX))]
    with DenseCore(base, prefix_caching=False, lora_path=paths) as model:
        seen = record_logits(model)
        alone = [finished(model.submit(*request), seen) for request in requests_of(prompts)]
    with DenseCore(base, lora_path=paths, **options) as model:
        seen = record_logits(model)
        futures = [model.submit(*request) for request in requests_of(prompts)]
        assert [finished(future, seen) for future in futures] == alone
        assert max(batch_width(shapes) for shapes in recorded_shapes(model)) > 1
    assert len({tuple(tokens) for tokens, _ in alone}) == len(MIX)


def requests_of(prompts):
    configs = [GenerationConfig(lora=NONE if lora is None else lora, **GREEDY) for lora in MIX]
    return list(zip(prompts, configs, strict=True))


def finished(future, seen) -> tuple[list[int], list[int]]:
    """Tokens of a request, and checksums of the logits that they were drawn from."""
    return future.result().token_ids, seen[future._sequence.seq_id]


def recorded_shapes(model: DenseCore) -> list[tuple]:
    """Shapes of batches that steps with adapters were recorded for."""
    (records,) = model._engine.model.adapters.recorded._by_cache.values()
    return list(records)


def batch_width(shapes: tuple) -> int:
    return shapes[4][0]  # rows of block_tables


def test_prefixes_are_not_shared_between_adapters(model):
    plain = model.complete(PROMPT, **GREEDY)
    for lora in ("a", {"a": 0.5}, "b", ["a", "b"]):
        first, second = (model.complete(PROMPT, lora=lora, **GREEDY) for _ in range(2))
        assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, len(PROMPT) - 1), lora
        assert first.token_ids == second.token_ids
    assert model.complete(PROMPT, lora={"b": 1, "a": 1}, **GREEDY).usage.cached_tokens == len(PROMPT) - 1
    assert model.complete(PROMPT, lora={"a": 0}, **GREEDY).usage.cached_tokens == len(PROMPT) - 1
    again = model.complete(PROMPT, **GREEDY)
    assert again.usage.cached_tokens == len(PROMPT) - 1
    assert again.token_ids == plain.token_ids


def test_another_adapter_of_the_same_name_finds_nothing(files, model):
    first = model.complete(PROMPT, lora="a", **GREEDY)
    model.unload_lora("a")
    model.load_lora(files[1]["c"], "a")
    other = model.complete(PROMPT, lora="a", **GREEDY)
    assert other.usage.cached_tokens == 0
    assert other.token_ids != first.token_ids
    model.unload_lora("a")
    model.load_lora(files[1]["a"])  # the same content: what it computed before still holds
    again = model.complete(PROMPT, lora="a", **GREEDY)
    assert again.usage.cached_tokens == len(PROMPT) - 1
    assert again.token_ids == first.token_ids


def test_saved_caches_belong_to_their_adapters(files, model, tmp_path):
    expected = model.complete(PROMPT, lora={"a": 0.5}, **GREEDY).token_ids
    assert model.save_cache(PROMPT, tmp_path / "cache", lora={"a": 0.5}) >= len(PROMPT) - 1
    with DenseCore(files[0]) as other:
        other.load_lora(files[1]["a"], "other name", scale=0.5)
        for lora in (None, {"other name": 1.0}):
            with pytest.raises(ModelLoadError, match="saved with lora"):
                other.load_cache(tmp_path / "cache", lora=lora)
        other.load_cache(tmp_path / "cache", lora="other name")
        assert other.complete(PROMPT, **GREEDY).usage.cached_tokens == 0
        result = other.complete(PROMPT, lora="other name", **GREEDY)
        assert result.usage.cached_tokens >= len(PROMPT) - 1
        assert result.token_ids == expected


def test_context_shift(files):
    base, paths = files
    options = {"max_model_len": 48, "block_size": 8, "lora_path": paths["a"]}
    long = GREEDY | {"max_tokens": 40, "context_shift": True}
    results = []
    for caching in (True, False):
        with DenseCore(base, prefix_caching=caching, **options) as model:
            model.complete(PROMPT, lora=NONE, **long)
            results.append(model.complete(PROMPT, **long).token_ids)
    assert results[0] == results[1]


@pytest.mark.parametrize("drafts", ["lookup", "model"])
def test_speculation_changes_nothing(files, drafts):
    """The draft model has no adapter, so it guesses worse; what is said is the same."""
    base, paths = files
    options = {"draft_model_path": base} if drafts == "model" else {"speculation": "prompt-lookup"}
    prompt, config = PROMPT * 3, GenerationConfig(**GREEDY | {"max_tokens": 40, "logit_bias": {60: 9, 61: 9, 62: 9}})
    with DenseCore(base, lora_path=paths["b"]) as model:
        expected = model.complete(prompt, config).token_ids
    with DenseCore(base, lora_path=paths["b"], **options) as model:
        model.complete(prompt, config, lora=NONE)
        result = model.complete(prompt, config)
    assert result.token_ids == expected
    assert result.usage.draft_tokens > 0


# ------------------------------------------------------------------ unloading


def test_unloading_while_in_use(files, model):
    """What runs ends with its adapter, new requests are refused, and the memory is free in the end."""
    expected = model.complete(PROMPT, lora="a", **GREEDY).token_ids
    adapter = weakref.ref(next(a for a in model._engine.model.adapters.adapters if a.path == files[1]["a"]))
    go, started = threading.Event(), threading.Event()

    def pause(ids, logits):
        started.set()
        go.wait(10)

    running = model.submit(PROMPT, lora="a", logits_processors=[pause], **GREEDY)
    assert started.wait(10)
    unloading = threading.Thread(target=model.unload_lora, args=("a",))
    unloading.start()
    while "a" in model.lora_adapters:
        pass
    with pytest.raises(InvalidConfigError, match="no adapter 'a' is loaded"):
        model.submit(PROMPT, lora="a")
    go.set()
    unloading.join(10)
    assert running.result().token_ids == expected
    wait_until_idle(model)
    model.complete(PROMPT, lora="b", max_tokens=1)
    gc.collect()
    del running
    gc.collect()
    assert len(model._engine.model.adapters.adapters) == 2
    assert adapter() is None


def test_an_adapter_unloaded_between_submit_and_queue(model):
    engine = model._engine
    sequence = engine._new_sequence(PROMPT, GenerationConfig(lora="a"), lambda event: None)
    model.unload_lora("a")
    with pytest.raises(InvalidConfigError, match="was unloaded before the request could start"):
        engine._queue(sequence)
    assert engine.num_waiting == 0


def test_loading_a_hundred_times(files):
    """Neither memory, nor records of steps, nor blocks are left behind."""
    base, paths = files
    with DenseCore(base) as model:
        adapters, blocks = [], model.get_metrics()["kv_cache_blocks_total"]
        for _ in range(100):
            name = model.load_lora(paths["a"])
            adapters += map(weakref.ref, model._engine.model.adapters.adapters)
            sets = weakref.ref(model._engine.model.adapters)
            model.complete(PROMPT, lora=name, **GREEDY | {"max_tokens": 2})
            model.unload_lora(name)
        wait_until_idle(model)
        gc.collect()
        assert [ref() for ref in adapters] == [None] * 100
        assert sets() is None
        assert model._engine.model.adapters.adapters == ()
        assert model.lora_adapters == {}
        metrics = model.get_metrics()
        assert metrics["kv_cache_blocks_free"] == blocks
        assert metrics["kv_cache_blocks_used"] == 0


def test_loading_while_others_run(files):
    """From many threads at once, beside requests with and without adapters."""
    base, paths = files
    with DenseCore(base) as model:
        model.load_lora(paths["b"], "stays")
        expected = {lora: model.complete(PROMPT, lora=lora, **GREEDY).token_ids for lora in (None, "stays")}
        failures = []

        def load_and_unload(number: int) -> None:
            try:
                for path in (paths["a"], paths["c"]) * 3:
                    name = model.load_lora(path, f"{number}")
                    future = model.submit(PROMPT, lora={name: 0.5, "stays": 1}, **GREEDY)
                    model.unload_lora(name)
                    assert len(future.result().token_ids) == GREEDY["max_tokens"]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=load_and_unload, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for lora, token_ids in expected.items():
                assert model.complete(PROMPT, lora=lora, **GREEDY).token_ids == token_ids
        assert failures == []
        assert list(model.lora_adapters) == ["stays"]


def test_a_closed_model(files, model):
    model.close()
    for call in (lambda: model.load_lora(files[1]["a"]), lambda: model.unload_lora("a"), lambda: model.lora_adapters):
        with pytest.raises(InferenceError, match="closed"):
            call()
