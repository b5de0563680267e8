"""Tokens and templates: ``/tokenize``, ``/detokenize``, ``/tokenizer_info`` and ``/apply-template``."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from densecore.llm import DenseCore
from densecore.server.body import reads
from densecore.server.documentation import describes
from densecore.server.errors import bad_request
from densecore.server.prompting import render
from densecore.server.registry import ModelEntry
from densecore.server.schemas import ApplyTemplate, Detokenize, Tokenize
from densecore.server.service import record_of, service_of

__all__ = ["router"]

router = APIRouter()


def _use(http: HttpRequest, name: str | None) -> AbstractAsyncContextManager[tuple[ModelEntry, DenseCore]]:
    return service_of(http).use(name, record_of(http))


@router.post("/tokenize", openapi_extra=describes(Tokenize), response_model=None)
async def tokenize(http: HttpRequest, request: Annotated[Tokenize, Depends(reads(Tokenize))]) -> dict[str, Any]:
    """Token ids of a text, or of the prompt that a conversation becomes."""
    async with _use(http, request.model) as (_, model):
        ids = await asyncio.to_thread(_encode, model, request)
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": model.max_model_len, "tokens": ids}
        if request.return_token_strs:
            answer["token_strs"] = [model.tokenizer.token_text(token_id) for token_id in ids]
        return answer


def _encode(model: DenseCore, request: Tokenize) -> list[int]:
    text = request.prompt if request.prompt is not None else request.content
    if (text is None) == (request.messages is None):
        raise bad_request("give either a text, as prompt or content, or messages", "prompt")
    if request.messages is not None:
        adds = request.add_generation_prompt is not False
        return model.prompt_tokens(
            render(model, request.messages, request.tools or [], adds, request.chat_template_kwargs)
        )
    assert text is not None
    return model.tokenizer.encode(
        text,
        add_special=request.add_special_tokens is not False,
        parse_special=request.parse_special is not False,
    )


@router.post("/detokenize", openapi_extra=describes(Detokenize), response_model=None)
async def detokenize(http: HttpRequest, request: Annotated[Detokenize, Depends(reads(Detokenize))]) -> dict[str, Any]:
    """The text of token ids, under both names that clients look for."""
    async with _use(http, request.model) as (_, model):
        text = await asyncio.to_thread(model.tokenizer.decode, request.tokens)
        return {"prompt": text, "content": text}


@router.get("/tokenizer_info", response_model=None)
async def tokenizer_info(http: HttpRequest, model: str | None = None) -> dict[str, Any]:
    """What there is to know about a model's tokenizer."""
    async with _use(http, model) as (entry, loaded):
        tokenizer = loaded.tokenizer
        return {
            "model": entry.name,
            "kind": tokenizer.kind,
            "n_vocab": tokenizer.n_vocab,
            "bos_id": tokenizer.bos_id,
            "eos_id": tokenizer.eos_id,
            "eog_ids": sorted(tokenizer.eog_ids),
            "bos_token": _text(loaded, tokenizer.bos_id),  # evaluation harnesses look for these two
            "eos_token": _text(loaded, tokenizer.eos_id),
            "add_bos": tokenizer.add_bos,
            "add_eos": tokenizer.add_eos,
            "max_model_len": loaded.max_model_len,
            "chat_template": tokenizer.chat_template,
        }


def _text(model: DenseCore, token_id: int | None) -> str | None:
    return None if token_id is None else model.tokenizer.token_text(token_id)


@router.post("/apply-template", openapi_extra=describes(ApplyTemplate), response_model=None)
async def apply_template(
    http: HttpRequest, request: Annotated[ApplyTemplate, Depends(reads(ApplyTemplate))]
) -> dict[str, Any]:
    """The prompt that a conversation becomes."""
    async with _use(http, request.model) as (_, model):
        adds = request.add_generation_prompt is not False
        prompt = await asyncio.to_thread(
            render, model, request.messages, request.tools or [], adds, request.chat_template_kwargs
        )
        return {"prompt": prompt}
