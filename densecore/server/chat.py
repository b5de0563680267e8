"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from densecore.llm import GenerationResult, TextPiece, TokenLogprob
from densecore.server.answers import chat_logprobs, head, usage
from densecore.server.body import reads
from densecore.server.documentation import STREAMS, describes
from densecore.server.generation import for_answer
from densecore.server.output import Delta, Message, OutputParser
from densecore.server.prompting import Prepared, prepare_chat
from densecore.server.schemas import ChatRequest
from densecore.server.service import collect, open_streams, record_of, service_of, until_disconnected
from densecore.server.sse import EventStream, TextFrame, frame
from densecore.server.streaming import frames

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=describes(ChatRequest), response_model=None, responses=STREAMS)
async def chat_completions(http: HttpRequest, request: Annotated[ChatRequest, Depends(reads(ChatRequest))]) -> Response:
    """The assistant's answer to a conversation, whole or as a stream of server-sent events."""
    service, record = service_of(http), record_of(http)
    record.stream = bool(request.stream)
    async with AsyncExitStack() as resources:
        entry, model = await resources.enter_async_context(service.use(request.model, record))
        prepared = await asyncio.to_thread(prepare_chat, model, request, service.settings.request_timeout)
        prompts = [(prepared.prompt_ids, for_answer(prepared.config, index)) for index in range(request.n or 1)]
        streams = await open_streams(model, prompts, resources)
        if request.stream:
            chunks = _Chunks(request, prepared, len(streams), entry.name, model.tokenizer.eog_ids)
            return EventStream(frames(chunks, streams, service, record), resources.pop_all())
        results = await until_disconnected(http, collect(streams, record))
        record.results = results
        answer = head("chatcmpl", "chat.completion", entry.name)
        eog_ids = model.tokenizer.eog_ids
        answer["choices"] = [_choice(i, result, prepared, eog_ids) for i, result in enumerate(results)]
        answer["usage"] = usage(results)
        return JSONResponse(answer)


def _choice(index: int, result: GenerationResult, prepared: Prepared, eog_ids: frozenset[int]) -> dict[str, Any]:
    parser = prepared.parser()
    message = Message.of(result.text, parser)
    logprobs = None if result.logprobs is None else chat_logprobs(_without_end(result.logprobs, eog_ids))
    return {
        "index": index,
        "message": message.to_json(),
        "logprobs": logprobs,
        "finish_reason": _reason(result, parser),
    }


def _reason(result: GenerationResult, parser: OutputParser) -> str:
    return "tool_calls" if parser.has_calls and result.finish_reason == "stop" else result.finish_reason


def _without_end(logprobs: Sequence[TokenLogprob], eog_ids: frozenset[int]) -> list[TokenLogprob]:
    """Those of tokens that have text: the one that ends a generation is no content."""
    return [entry for entry in logprobs if entry.token_id not in eog_ids]


class _Chunks:
    """The chunks of a streamed answer: the role, deltas, why it ended, and if asked for the usage."""

    def __init__(
        self, request: ChatRequest, prepared: Prepared, number: int, model: str, eog_ids: frozenset[int]
    ) -> None:
        self._number, self._eog_ids = number, eog_ids
        self._wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._wants_logprobs = bool(request.logprobs)
        self._head = head("chatcmpl", "chat.completion.chunk", model)
        self._parsers = [prepared.parser() for _ in range(number)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(number)]  # not sent yet
        self._num_logprobs = [0] * number  # seen so far
        self._content = [TextFrame(partial(self._shape_content, index)) for index in range(number)]

    def begin(self) -> list[bytes]:
        return [self._chunk(index, {"role": "assistant", "content": ""}) for index in range(self._number)]

    def piece(self, index: int, piece: TextPiece) -> list[bytes]:
        self._note(index, piece.logprobs)
        return [self._delta(index, delta) for delta in self._parsers[index].feed(piece.text)]

    def end(self, index: int, result: GenerationResult) -> list[bytes]:
        self._note(index, (result.logprobs or [])[self._num_logprobs[index] :])
        parser = self._parsers[index]
        chunks = [self._delta(index, delta) for delta in parser.finish()]
        reason = _reason(result, parser)
        return [*chunks, self._chunk(index, {}, logprobs=self._take_logprobs(index), finish_reason=reason)]

    def usage(self, results: Sequence[GenerationResult]) -> Iterator[bytes]:
        if self._wants_usage:
            yield frame({**self._head, "choices": [], "usage": usage(results)})

    def _note(self, index: int, logprobs: Sequence[TokenLogprob]) -> None:
        self._logprobs[index] += _without_end(logprobs, self._eog_ids)
        self._num_logprobs[index] += len(logprobs)

    def _delta(self, index: int, delta: Delta) -> bytes:
        if delta.content and not self._wants_logprobs:
            return self._content[index](delta.content)
        return self._chunk(index, delta.to_json(), logprobs=self._take_logprobs(index))

    def _take_logprobs(self, index: int) -> dict[str, Any] | None:
        taken, self._logprobs[index] = self._logprobs[index], []
        return chat_logprobs(taken) if taken else None

    def _chunk(self, index: int, delta: dict[str, Any], **more: Any) -> bytes:
        return frame(self._shape(index, delta, **more))

    def _shape_content(self, index: int, text: str) -> dict[str, Any]:
        return self._shape(index, {"content": text})

    def _shape(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if self._wants_logprobs:
            choice["logprobs"] = logprobs
        chunk = {**self._head, "choices": [choice]}
        return chunk | {"usage": None} if self._wants_usage else chunk
