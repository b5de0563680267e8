"""Requests, as OpenAI's API defines them. Unknown fields are ignored, and null is the same as nothing, everywhere."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "ApplyTemplate",
    "ChatRequest",
    "CompletionRequest",
    "Detokenize",
    "EmbeddingRequest",
    "ModelName",
    "Request",
    "RerankRequest",
    "SamplingFields",
    "Tokenize",
    "UnloadModel",
]

MAX_MESSAGES = 10_000
MAX_TOOLS = 128
MAX_PROMPTS = 1024
MAX_ANSWERS = 128
MAX_TEXTS = 2048  # to embed or rank, as in the OpenAI API

Ids = list[int]

# What `conversation` checks, in words that tell more than pydantic's would; here for those who read the schema.
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
TEXT_PART: dict[str, Any] = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}}
TEXT_PART["required"] = ["type", "text"]
MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT_PART}, {"type": "null"}]},
        "tool_calls": {"type": ["array", "null"], "items": {"type": "object"}},
        "tool_call_id": {"type": ["string", "null"]},
    },
    "required": ["role"],
}
Messages = Annotated[
    list[dict[str, Any]],
    Field(min_length=1, max_length=MAX_MESSAGES, json_schema_extra={"items": MESSAGE}),
]


class Request(BaseModel):
    """What all requests share: which model is asked."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None


class SamplingFields(Request):
    """How tokens are chosen, and when it ends. What is absent is as in `GenerationConfig`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    bad_words: list[str | Ids] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timeout: float | None = Field(None, description="seconds; no longer than the server's own limit")
    priority: int | None = None
    cache_salt: str | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: list[str] | None = None
    user: str | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    type: str | None = None
    json_schema: dict[str, Any] | None = None


class Function(BaseModel):
    """A function that the model may call. `parameters` is a JSON Schema."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: str | None = "function"
    function: Function


class ChatRequest(SamplingFields):
    """``POST /v1/chat/completions``. `max_tokens` is by default what the context has room for."""

    messages: Messages
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(SamplingFields):
    """``POST /v1/completions``. `max_tokens` is 16 by default, and may be 0 with `echo`."""

    prompt: str | list[str] | Ids | Annotated[list[Ids], Field(max_length=MAX_PROMPTS)] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None
    best_of: int | None = None
    response_format: ResponseFormat | None = None


class EmbeddingRequest(Request):
    """``POST /v1/embeddings``. A text that is too long is refused, or with `truncate` cut at its end."""

    input: str | list[str] | Ids | list[Ids] | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate: bool | None = None
    user: str | None = None


class RerankRequest(Request):
    """``POST /v1/rerank``. Documents are texts, or objects with a `text`."""

    query: str
    documents: Annotated[list[str | dict[str, Any]], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: int | None = None
    return_documents: bool | None = None
    truncate: bool | None = None


class ModelName(BaseModel):
    """``POST /v1/models/load``."""

    model_config = ConfigDict(strict=True, extra="ignore")

    model: str


class UnloadModel(ModelName):
    """``POST /v1/models/unload``; with `force` requests that run are ended."""

    force: bool | None = None


class ApplyTemplate(Request):
    """``POST /apply-template``: the prompt that a conversation becomes."""

    messages: Messages
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Tokenize(Request):
    """``POST /tokenize``: of a text (`prompt` or `content`), or of a conversation."""

    prompt: str | None = None
    content: str | None = None
    messages: Messages | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None


class Detokenize(Request):
    """``POST /detokenize``."""

    tokens: Ids
