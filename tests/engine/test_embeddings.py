"""Embeddings and ranks through the SDK: of encoders, and of decoders beside requests that generate."""

from __future__ import annotations

import inspect
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore
from densecore.exceptions import InferenceError, InvalidConfigError, ModelLoadError, QueueFullError
from densecore.llm import PoolingWarning
from tests.encoder_factory import make_encoder
from tests.gguf_factory import make_model

RECORDED = np.load(Path(__file__).parents[1] / "models" / "encoders.npz")
IDS = RECORDED["ids"].tolist()
TEXTS = ["the cat sat on the mat.", "", "a dog ran", "the the the the cats"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    with DenseCore(make_encoder(tmp_path_factory.mktemp("models") / "bert.gguf"), max_num_batched_tokens=24) as model:
        yield model


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    path = make_encoder(tmp_path_factory.mktemp("models") / "rank.gguf", n_labels=1, pooling=4)
    with DenseCore(path) as model:
        yield model


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """A decoder that embeds by its last token; steps and blocks are so small that texts are cut."""
    path = make_model(
        tmp_path_factory.mktemp("models") / "qwen3.gguf", "qwen3", metadata_overrides={"qwen3.pooling_type": 3}
    )
    with DenseCore(path, max_num_batched_tokens=8, block_size=8, kv_cache_dtype="f32") as model:
        yield model


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class TestEncoder:
    def test_one_text_and_many(self, bert):
        batch = bert.embed_batch(TEXTS)
        assert batch.shape == (4, 64)
        assert batch.dtype == np.float32
        assert np.allclose(np.linalg.norm(batch, axis=1), 1, rtol=1e-6)
        for text, row in zip(TEXTS, batch, strict=True):
            assert np.array_equal(bert.embed(text), row)
        assert bert.embed_batch([]).shape == (0, 64)
        assert (bert.embedding_dim, bert.pooling, bert.is_encoder) == (64, "mean", True)

    def test_poolings(self, bert):
        ids = bert.tokenizer.encode(TEXTS[0], add_special=True)
        assert (ids[0], ids[-1]) == (2, 3)
        states = bert.forward(ids)
        expected = {"mean": states.mean(0), "cls": states[0], "last": states[-1], "max": states.max(0)}
        for pooling, vector in (expected | {"model": states.mean(0)}).items():
            assert np.allclose(bert.embed(TEXTS[0], pooling, normalize=False), vector, rtol=1e-5, atol=1e-6)
        assert np.array_equal(bert.embed(ids), bert.embed(TEXTS[0]))

    def test_too_long(self, bert):
        text = "cat " * 200
        with pytest.raises(InvalidConfigError, match="maximum context length is 128 tokens, and text 1 has 202"):
            bert.embed_batch(["cat", text])
        ids = bert.tokenizer.encode("cat " * 126, add_special=True)
        assert np.array_equal(bert.embed(text, truncate=True), bert.embed(ids))
        assert np.array_equal(bert.embed([5] * 300, truncate=True), bert.embed([5] * 128))

    def test_progress(self, bert):
        seen = []
        bert.embed_batch(TEXTS, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_wrong_arguments(self, bert):
        for text in (5, b"cat", [b"cat"]):
            with pytest.raises(InvalidConfigError):
                bert.embed(text)
        with pytest.raises(InvalidConfigError, match="pooling must be one of mean, cls, last, max, model, not 'sum'"):
            bert.embed("a", "sum")
        with pytest.raises(InvalidConfigError, match="texts must be a list"):
            bert.embed_batch("a")
        with pytest.raises(InvalidConfigError, match="normalize must be True or False"):
            bert.embed("a", normalize=1)
        with pytest.raises(InvalidConfigError, match="outside of the vocabulary"):
            bert.embed([10_000])

    def test_it_does_not_generate(self, bert):
        with pytest.raises(InvalidConfigError, match=r"bert is an encoder.*cannot generate.*embed_batch or rerank"):
            bert.generate("the cat")
        with pytest.raises(InvalidConfigError, match="no head that scores"):
            bert.rerank("a", ["b"])

    def test_many_threads_share_steps(self, bert):
        expected = bert.embed_batch(TEXTS)
        results: dict[int, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda i=i: results.__setitem__(i, bert.embed_batch(TEXTS * 5))) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(np.array_equal(results[i], np.tile(expected, (5, 1))) for i in range(4))
        assert bert.get_metrics()["requests_failed"] == 0
        assert bert.get_metrics()["requests_completed"] == bert.get_metrics()["requests_total"]

    def test_large_steps_are_filled_up(self, bert, tmp_path):
        """With tokens that nobody sees: each text has the bits that it has alone."""
        texts = [text * n for n in range(1, 12) for text in TEXTS]
        with DenseCore(make_encoder(tmp_path / "model.gguf"), max_num_batched_tokens=1000) as model:
            assert sum(len(text.token_ids) for text in model.embedding_texts(texts)) % 16
            assert np.array_equal(model.embed_batch(texts), bert.embed_batch(texts))

    def test_the_default_is_not_the_models(self, tmp_path):
        with DenseCore(make_encoder(tmp_path / "model.gguf", pooling=2)) as model:
            with pytest.warns(PoolingWarning, match=r"made for the pooling 'cls'.*pooling='model'"):
                first = model.embed("the cat")
            assert np.array_equal(model.embed("the cat"), first)  # warnings are errors here: there is one
            assert np.array_equal(model.embed("the cat", "mean"), first)
            assert np.array_equal(model.embed("the cat", "model"), model.embed("the cat", "cls"))

    def test_limits(self, tmp_path):
        path = make_encoder(tmp_path / "model.gguf")
        with pytest.raises(InvalidConfigError, match=r"max_model_len is 129.*context length is 128"):
            DenseCore(path, max_model_len=129)
        with pytest.raises(InvalidConfigError, match=r"lora_path: .* is an encoder"):
            DenseCore(path, lora_path=path)
        with pytest.raises(ModelLoadError, match="is an encoder, which embeds"):
            DenseCore(path, draft_model_path=path)
        with DenseCore(path, max_model_len=8, max_num_waiting=2) as model:
            assert model.embed_batch(TEXTS, truncate=True).shape == (4, 64)  # in groups that may wait
            with pytest.raises(QueueFullError, match="max_num_waiting"):
                model._any_engine.embed(model.embedding_texts(["a"] * 3), "mean")
        with pytest.raises(InferenceError, match="closed"):
            model.embed("a")

    def test_a_model_with_nan(self, tmp_path):
        broken = {"blk.1.layer_output_norm.bias": np.full(64, np.nan, np.float32)}
        with DenseCore(make_encoder(tmp_path / "model.gguf", tensor_overrides=broken)) as model:
            with pytest.raises(InferenceError, match="NaN or infinity"):
                model.embed("the cat")
            assert model.get_metrics()["active_requests"] == 0


def test_the_examples_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_encoder("all-minilm-l6-v2-f16.gguf")
    make_encoder("reranker.gguf", n_labels=1, pooling=4)
    page = (Path(__file__).parents[2] / "docs" / "EMBEDDINGS.md").read_text()
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S):
        exec(compile(block, "example", "exec"), names)
    assert names["similarity"].shape == (3, 3)
    assert np.array_equal(names["one"], names["vectors"][0])
    assert capsys.readouterr().out.count("\n") == 1


def test_the_signatures_are_those_of_the_reference():
    """API_REFERENCE.md: what it names comes first, with its defaults."""
    for method, first in ((DenseCore.embed, "text"), (DenseCore.embed_batch, "texts")):
        parameters = list(inspect.signature(method).parameters.values())[1:]
        assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == [first, "pooling", "normalize"]
        assert (parameters[1].default, parameters[2].default) == ("mean", True)


class TestDecoder:
    def test_the_last_token_is_that_of_llama_cpp(self, qwen3):
        vector = qwen3.embed(IDS, "model", normalize=False)
        assert np.abs(vector - RECORDED["qwen3"]).max() < 1e-4

    def test_texts_of_many_chunks(self, qwen3):
        """All tokens count in the mean, also those that the KV cache already holds."""
        kinds = {kind: qwen3.embed(IDS, kind, normalize=False) for kind in ("mean", "cls", "last", "max")}
        again = {kind: qwen3.embed_batch([IDS, IDS[:9], IDS], kind, normalize=False) for kind in kinds}
        for kind, vector in kinds.items():
            assert np.array_equal(again[kind][0], vector)
            assert np.array_equal(again[kind][2], vector)
        assert np.array_equal(kinds["cls"], qwen3.embed(IDS[:1], "last", normalize=False))
        prefixes = [qwen3.embed(IDS[: n + 1], "last", normalize=False) for n in range(len(IDS))]
        assert np.allclose(kinds["mean"], np.mean(prefixes, 0), atol=1e-6)
        assert np.array_equal(kinds["max"], np.max(prefixes, 0))

    def test_beside_generation(self, qwen3):
        alone = qwen3.complete([5, 6, 7], max_tokens=20, temperature=0).token_ids
        expected = qwen3.embed_batch([IDS, IDS[5:]], "mean")
        future = qwen3.submit([5, 6, 7], max_tokens=20, temperature=0)
        assert np.array_equal(qwen3.embed_batch([IDS, IDS[5:]] * 3, "mean"), np.tile(expected, (3, 1)))
        assert future.result().token_ids == alone
        metrics = qwen3.get_metrics()
        assert metrics["active_requests"] == metrics["kv_cache_blocks_used"] == 0

    def test_cancelled(self, qwen3):
        futures = [qwen3.submit_embedding(IDS, "mean") for _ in range(3)]
        assert futures[2].cancel()
        assert np.isfinite(futures[0].result()).all()
        assert np.array_equal(futures[0].result(), qwen3.embed(IDS, "mean", normalize=False))

    def test_an_empty_text(self, qwen3):
        assert np.isfinite(qwen3.embed("", "model")).all()


class TestRank:
    def test_the_score_is_that_of_llama_cpp(self, ranker):
        (vector,) = ranker._run([ranker.embedding_texts([IDS])[0]], "cls", None)
        assert ranker._classifier.score(vector) == pytest.approx(RECORDED["rank"][0], abs=5e-3)

    def test_the_best_come_first(self, ranker):
        documents = ["the cat sat.", "a dog", "", "the mat ran on the cat"]
        results = ranker.rerank("cat", documents)
        assert sorted(result.index for result in results) == [0, 1, 2, 3]
        scores = [result.score for result in results]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 4
        assert all(result.document == documents[result.index] for result in results)
        assert ranker.rerank("cat", documents, top_n=2) == results[:2]
        assert ranker.rerank("cat", []) == []

    def test_a_pair_as_the_model_reads_it(self, ranker):
        (text,) = ranker.pair_texts("the cat", ["a dog ran"])
        ids = [ranker.tokenizer.encode(part) for part in ("the cat", "a dog ran")]
        assert text.token_ids == [2, *ids[0], 3, *ids[1], 3]
        assert text.token_types == [0] * 4 + [1] * 4
        with pytest.raises(InvalidConfigError, match="the query and document 0 has 206"):
            ranker.pair_texts("the cat", ["dog " * 201])
        (text,) = ranker.pair_texts("the cat", ["dog " * 201], truncate=True)
        assert len(text.token_ids) == 128
        assert text.token_ids[-1] == 3

    def test_it_does_not_embed(self, ranker):
        with pytest.raises(InvalidConfigError, match="use rerank, or choose a pooling"):
            ranker.embed("a", "model")
        assert ranker.embed("a", "mean").shape == (64,)

    def test_a_decoder_that_ranks(self, tmp_path):
        """As Qwen3-Reranker: the probability of "yes" beside "no" after the last token of a prompt."""
        head = np.random.default_rng(0).normal(0, 0.2, (2, 64)).astype(np.float32)
        template = "Query: {query} Document: {document} Answer:"
        path = make_model(
            tmp_path / "model.gguf",
            "qwen3",
            metadata_overrides={"qwen3.pooling_type": 4, "tokenizer.chat_template.rerank": template},
            tensor_overrides={"cls.output.weight": head},
        )
        with DenseCore(path, kv_cache_dtype="f32") as model:
            (result,) = model.rerank("cat", ["the cat"])
            prompt = model.tokenizer.encode("Query: cat Document: ", parse_special=True)
            text = [*prompt, *model.tokenizer.encode("the cat"), *model.tokenizer.encode(" Answer:")]
            logits = head @ model.embed(text, "last", normalize=False)
            assert result.score == pytest.approx(1 / (1 + np.exp(logits[1] - logits[0])), abs=1e-5)
            (cut,) = model.pair_texts("cat", ["the cat " * 200], truncate=True)
            assert len(cut.token_ids) == model.max_model_len
