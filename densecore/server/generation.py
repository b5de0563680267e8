"""From the fields of a request to the `GenerationConfig` of the engine."""

from __future__ import annotations

import dataclasses
from typing import Any

from densecore.config import MAX_SEED, MAX_TOP_LOGPROBS, GenerationConfig
from densecore.server.errors import bad_request
from densecore.server.schemas import ChatRequest, CompletionRequest, ResponseFormat, SamplingFields

__all__ = ["chat_config", "completion_config", "for_answer"]

COMPLETION_TOKENS = 16  # as OpenAI's API has it
SAME_NAMES = tuple(name for name in SamplingFields.model_fields if name in GenerationConfig.names() - {"timeout"})


def chat_config(request: ChatRequest, timeout: float, max_model_len: int) -> GenerationConfig:
    """The settings that a chat asks for; `max_model_len` tokens are what is allowed where it does not say."""
    given = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    if request.top_logprobs and not request.logprobs:
        raise bad_request("top_logprobs needs logprobs to be true", "top_logprobs")
    return GenerationConfig(
        **_shared(request, timeout),
        max_tokens=max_model_len if given is None else given,
        logprobs=bool(request.logprobs),
        top_logprobs=request.top_logprobs or 0,
        **_structure(request.response_format),
    )


def completion_config(request: CompletionRequest, timeout: float) -> GenerationConfig:
    """The settings that a completion asks for. A `max_tokens` of 0 is the caller's affair, and becomes 1 here."""
    if request.logprobs is not None and not 0 <= request.logprobs <= MAX_TOP_LOGPROBS:
        raise bad_request(f"logprobs must be from 0 to {MAX_TOP_LOGPROBS}, not {request.logprobs}", "logprobs")
    max_tokens = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens == 0 and request.echo:
        max_tokens = 1
    return GenerationConfig(
        **_shared(request, timeout),
        max_tokens=max_tokens,
        logprobs=request.logprobs is not None,
        top_logprobs=request.logprobs or 0,
        **_structure(request.response_format),
    )


def for_answer(config: GenerationConfig, index: int) -> GenerationConfig:
    """The settings of answer `index` to a prompt, whose seed is its own."""
    if config.seed is None or not index:
        return config
    return dataclasses.replace(config, seed=(config.seed + index) % (MAX_SEED + 1))


def _shared(request: SamplingFields, timeout: float) -> dict[str, Any]:
    fields = {name: getattr(request, name) for name in SAME_NAMES if name != "max_tokens"}
    given = {name: value for name, value in fields.items() if value is not None}
    if request.stop is not None:
        given["stop_sequences"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if "seed" in given and given["seed"] < 0:
        given["seed"] %= MAX_SEED + 1  # clients send -1 and the like; any number names a sequence
    return given | {"timeout": timeout if request.timeout is None else min(request.timeout, timeout)}


def _structure(wanted: ResponseFormat | None) -> dict[str, Any]:
    """What `response_format` asks for, as fields of `GenerationConfig`."""
    if wanted is None or wanted.type in (None, "text"):
        return {}
    if wanted.type == "json_object":
        return {"json_mode": True}
    if wanted.type == "json_schema":
        schema = (wanted.json_schema or {}).get("schema")
        if not isinstance(schema, dict):
            raise bad_request("response_format.json_schema.schema must be an object", "response_format")
        return {"json_schema": schema}
    raise bad_request(
        f"response_format.type must be text, json_object or json_schema, not {wanted.type!r:.80}", "response_format"
    )
