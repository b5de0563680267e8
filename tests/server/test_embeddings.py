"""``/v1/embeddings`` and ``/v1/rerank``, by the official client and as clients send them by hand."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest

from tests.encoder_factory import make_encoder
from tests.server.conftest import Running, running

TEXTS = ["the cat sat.", "a dog", "the mat"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_path) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    paths = {
        "bert": make_encoder(folder / "bert.gguf", pooling=2),
        "rank": make_encoder(folder / "rank.gguf", n_labels=1, pooling=4),
        "tiny": tiny_path,
    }
    with running(paths, max_loaded_models=3) as found:
        yield found


def expected(server: Running, texts=TEXTS) -> np.ndarray:
    return server.model.embed_batch(texts, "model")


class TestEmbeddings:
    def test_the_official_client(self, server: Running) -> None:
        """Which asks for base64 unless told otherwise; the pooling is the model's own, whatever the SDK's default."""
        answer = server.openai().embeddings.create(model="bert", input=TEXTS)
        assert np.array_equal(np.array([entry.embedding for entry in answer.data], np.float32), expected(server))
        assert [entry.index for entry in answer.data] == [0, 1, 2]
        num_tokens = sum(len(text.token_ids) for text in server.model.embedding_texts(TEXTS))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (num_tokens, num_tokens)
        assert answer.model == "bert"

    def test_formats(self, server: Running) -> None:
        (row,) = expected(server, TEXTS[:1])
        plain = server.post("/v1/embeddings", model="bert", input=TEXTS[0], encoding_format="float", user=None).json()
        assert plain["object"] == "list"
        assert plain["data"][0]["object"] == "embedding"
        assert np.array_equal(np.array(plain["data"][0]["embedding"], np.float32), row)
        coded = server.post("/v1/embeddings", model="bert", input=TEXTS[0], encoding_format="base64").json()
        assert np.array_equal(np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4"), row)

    def test_dimensions(self, server: Running) -> None:
        answer = server.openai().embeddings.create(model="bert", input=TEXTS[0], dimensions=16)
        (row,) = expected(server, TEXTS[:1])
        assert np.allclose(answer.data[0].embedding, row[:16] / np.linalg.norm(row[:16]), atol=1e-6)

    def test_token_ids(self, server: Running) -> None:
        ids = [server.model.tokenizer.encode(text, add_special=True) for text in TEXTS]
        client = server.openai()
        several = client.embeddings.create(model="bert", input=ids)
        assert np.array_equal(np.array([e.embedding for e in several.data], np.float32), expected(server))
        one = client.embeddings.create(model="bert", input=ids[1])
        assert one.data[0].embedding == several.data[1].embedding

    def test_an_empty_text(self, server: Running) -> None:
        assert len(server.openai().embeddings.create(model="bert", input="").data[0].embedding) == 64

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "input"),
            ({"input": []}, "input"),
            ({"input": "a", "dimensions": 65}, "dimensions"),
            ({"input": "a", "dimensions": 0}, "dimensions"),
            ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
            ({"input": [10_000]}, "input"),
            ({"input": ["a"] * 2049}, "input"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_bad_requests(self, server: Running, body: dict, param: str) -> None:
        answer = server.post("/v1/embeddings", model="bert", **body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == param

    def test_too_long(self, server: Running) -> None:
        client = server.openai()
        with pytest.raises(openai.BadRequestError, match="maximum context length is 128 tokens") as caught:
            client.embeddings.create(model="bert", input="cat " * 200)
        assert caught.value.code == "context_length_exceeded"
        answer = client.embeddings.create(model="bert", input="cat " * 200, extra_body={"truncate": True})
        assert answer.usage.prompt_tokens == 128

    def test_a_decoder_embeds_beside_generation(self, server: Running) -> None:
        client = server.openai()
        before = client.embeddings.create(model="tiny", input=TEXTS)
        with ThreadPoolExecutor(4) as pool:
            generating = [
                pool.submit(client.completions.create, model="tiny", prompt=[5, 6], max_tokens=50, temperature=0)
                for _ in range(2)
            ]
            embedding = [pool.submit(client.embeddings.create, model="tiny", input=TEXTS) for _ in range(2)]
            assert len({future.result().choices[0].text for future in generating}) == 1
            for future in embedding:
                assert [e.embedding for e in future.result().data] == [e.embedding for e in before.data]

    def test_it_does_not_generate(self, server: Running) -> None:
        with pytest.raises(openai.BadRequestError, match=r"encoder.*cannot generate"):
            server.openai().chat.completions.create(model="bert", messages=[{"role": "user", "content": "a"}])

    def test_figures(self, server: Running) -> None:
        server.post("/v1/embeddings", model="bert", input=TEXTS)
        figures = server.http.get("/metrics").text
        assert "densecore_kv_cache_usage_percent" in figures


class TestRerank:
    @pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
    def test_the_best_come_first(self, server: Running, path: str) -> None:
        documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
        answer = server.post(path, model="rank", query="cat", documents=documents, return_documents=True).json()
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        assert {result["index"]: result["document"]["text"] for result in answer["results"]} == dict(enumerate(TEXTS))
        assert answer["usage"]["prompt_tokens"] > 10
        best = server.post(path, model="rank", query="cat", documents=documents, top_n=1).json()
        assert best["results"] == [{key: answer["results"][0][key] for key in ("index", "relevance_score")}]

    @pytest.mark.parametrize(
        "body",
        [
            {"query": "a"},
            {"query": "a", "documents": []},
            {"query": "a", "documents": [{"body": "b"}]},
            {"query": "a", "documents": ["b"], "top_n": 0},
            {"query": "a", "documents": ["dog " * 200]},
            {"documents": ["b"]},
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_bad_requests(self, server: Running, body: dict) -> None:
        assert server.post("/v1/rerank", model="rank", **body).status_code == 400

    def test_a_model_that_does_not_rank(self, server: Running) -> None:
        answer = server.post("/v1/rerank", model="bert", query="a", documents=["b"])
        assert answer.status_code == 400
        assert "no head that scores" in answer.json()["error"]["message"]
        answer = server.post("/v1/embeddings", model="rank", input="a")
        assert answer.status_code == 400
        assert "use rerank" in answer.json()["error"]["message"]
