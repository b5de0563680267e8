"""``POST /v1/embeddings``, as OpenAI has it, and ``/v1/rerank`` (and ``/rerank``), as Cohere and Jina have it.

Texts of all requests are computed in the steps of one engine, those that generate included.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import Response

from densecore.exceptions import InvalidConfigError
from densecore.llm import DenseCore, unit_length
from densecore.server.body import reads
from densecore.server.documentation import describes
from densecore.server.errors import ApiError, bad_request
from densecore.server.registry import ModelEntry
from densecore.server.schemas import MAX_TEXTS, EmbeddingRequest, RerankRequest
from densecore.server.service import record_of, service_of, until_disconnected

__all__ = ["router"]

router = APIRouter()


def _use(http: HttpRequest, name: str | None) -> AbstractAsyncContextManager[tuple[ModelEntry, DenseCore]]:
    return service_of(http).use(name, record_of(http))


@router.post("/v1/embeddings", openapi_extra=describes(EmbeddingRequest), response_model=None)
async def embeddings(
    http: HttpRequest, request: Annotated[EmbeddingRequest, Depends(reads(EmbeddingRequest))]
) -> Response:
    """Embeddings of one or several texts, given as text or as token ids, by the model's own pooling; of length 1."""
    timeout = service_of(http).settings.request_timeout
    async with _use(http, request.model) as (entry, model):
        given = _inputs(request)
        _check(request, model)
        try:
            texts = await asyncio.to_thread(model.embedding_texts, given, truncate=bool(request.truncate))
        except InvalidConfigError as error:
            raise _bad_text(error, "input") from None
        record_of(http).prompt_tokens = num_tokens = sum(len(text.token_ids) for text in texts)
        vectors = await until_disconnected(http, model.embed_texts_async(texts, timeout))
        body = await asyncio.to_thread(_embeddings_body, request, entry.name, vectors, num_tokens)
        return Response(body, media_type="application/json")


def _inputs(request: EmbeddingRequest) -> Sequence[Any]:
    given: Any = request.input
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise bad_request("input is missing: a string, a list of strings, token ids, or a list of these", "input")
    if len(given) > MAX_TEXTS:
        raise bad_request(f"{MAX_TEXTS} texts at most, not {len(given)}", "input")
    return given


def _check(request: EmbeddingRequest, model: DenseCore) -> None:
    if request.encoding_format not in (None, "float", "base64"):
        raise bad_request("encoding_format must be float or base64", "encoding_format")
    if request.dimensions is not None and not 1 <= request.dimensions <= model.embedding_dim:
        raise bad_request(f"dimensions must be from 1 to {model.embedding_dim}", "dimensions")


def _embeddings_body(request: EmbeddingRequest, name: str, vectors: np.ndarray, num_tokens: int) -> bytes:
    """The answer. Takes time: not for the event loop."""
    if request.dimensions is not None:
        vectors = unit_length(vectors[:, : request.dimensions])
    encode = _base64 if request.encoding_format == "base64" else _numbers
    data = [
        {"object": "embedding", "embedding": encode(vector), "index": index} for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return json.dumps({"object": "list", "data": data, "model": name, "usage": usage}).encode()


def _numbers(vector: np.ndarray) -> list[float]:
    return vector.tolist()


def _base64(vector: np.ndarray) -> str:
    """Little-endian float32, as the official client reads it."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


@router.post("/v1/rerank", openapi_extra=describes(RerankRequest), response_model=None)
@router.post("/rerank", openapi_extra=describes(RerankRequest), response_model=None)
async def rerank(http: HttpRequest, request: Annotated[RerankRequest, Depends(reads(RerankRequest))]) -> dict[str, Any]:
    """Documents by how well they answer a query, the best first."""
    timeout = service_of(http).settings.request_timeout
    async with _use(http, request.model) as (entry, model):
        documents = [_text_of(document) for document in request.documents]
        if request.top_n is not None and request.top_n < 1:
            raise bad_request("top_n must be at least 1", "top_n")
        try:
            texts = await asyncio.to_thread(model.pair_texts, request.query, documents, truncate=bool(request.truncate))
        except InvalidConfigError as error:
            raise _bad_text(error, "documents") from None
        record_of(http).prompt_tokens = num_tokens = sum(len(text.token_ids) for text in texts)
        ranked = await until_disconnected(http, model.rerank_texts_async(texts, documents, request.top_n, timeout))
        results: list[dict[str, Any]] = [{"index": result.index, "relevance_score": result.score} for result in ranked]
        if request.return_documents:
            for shown, result in zip(results, ranked, strict=True):
                shown["document"] = {"text": result.document}
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "model": entry.name, "results": results, "usage": usage}


def _text_of(document: str | dict[str, Any]) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise bad_request('each document must be a string, or {"text": ...}', "documents")
    return text


def _bad_text(error: InvalidConfigError, param: str) -> ApiError:
    """What is wrong with a text; that it is too long, in the words and with the code that clients know."""
    code = "context_length_exceeded" if "maximum context length" in str(error) else None
    return bad_request(str(error), param, code)
