"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from densecore.llm import AsyncTextStream, GenerationResult, TokenLogprob
from densecore.server.answers import chat_logprobs, head, usage
from densecore.server.body import reads
from densecore.server.documentation import STREAMS, describes
from densecore.server.generation import for_answer
from densecore.server.output import Delta, Message, OutputParser
from densecore.server.prompting import Prepared, prepare_chat
from densecore.server.schemas import ChatRequest
from densecore.server.service import (
    Service,
    checked,
    collect,
    error_of,
    open_streams,
    record_of,
    service_of,
    until_disconnected,
)
from densecore.server.sse import DONE, PING, EventStream, frame, merged

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
            chunks = _Chunks(service, request, prepared, streams, entry.name, model.tokenizer.eog_ids)
            return EventStream(chunks.frames(http), resources.pop_all())
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
        self,
        service: Service,
        request: ChatRequest,
        prepared: Prepared,
        streams: Sequence[AsyncTextStream],
        model: str,
        eog_ids: frozenset[int],
    ) -> None:
        self._service, self._streams, self._eog_ids = service, streams, eog_ids
        self._wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._wants_logprobs = bool(request.logprobs)
        self._head = head("chatcmpl", "chat.completion.chunk", model)
        self._parsers = [prepared.parser() for _ in streams]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in streams]  # not sent yet
        self._num_logprobs = [0] * len(streams)  # seen so far

    async def frames(self, http: HttpRequest) -> AsyncIterator[bytes]:
        """The whole stream."""
        record = record_of(http)
        for index in range(len(self._streams)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        try:
            async for event in merged(self._streams, self._service.settings.ping_seconds):
                if event is None:
                    yield PING
                    continue
                index, piece = event
                if piece is None:
                    record.results.append(checked(self._streams[index]))
                    for chunk in self._end(index, record.results[-1]):
                        yield chunk
                    continue
                record.token_sent()
                self._note(index, piece.logprobs)
                for delta in self._parsers[index].feed(piece.text):
                    yield self._delta(index, delta)
        except Exception as error:
            body = error_of(error, self._service)
            record.error = body["error"]["code"] or body["error"]["type"]
            yield frame(body)
            return
        if self._wants_usage:
            yield frame({**self._head, "choices": [], "usage": usage(record.results)})
        yield DONE

    def _note(self, index: int, logprobs: Sequence[TokenLogprob]) -> None:
        self._logprobs[index] += _without_end(logprobs, self._eog_ids)
        self._num_logprobs[index] += len(logprobs)

    def _delta(self, index: int, delta: Delta) -> bytes:
        return self._chunk(index, delta.to_json(), logprobs=self._take_logprobs(index))

    def _end(self, index: int, result: GenerationResult) -> list[bytes]:
        self._note(index, (result.logprobs or [])[self._num_logprobs[index] :])
        parser = self._parsers[index]
        chunks = [self._delta(index, delta) for delta in parser.finish()]
        reason = _reason(result, parser)
        return [*chunks, self._chunk(index, {}, logprobs=self._take_logprobs(index), finish_reason=reason)]

    def _take_logprobs(self, index: int) -> dict[str, Any] | None:
        taken, self._logprobs[index] = self._logprobs[index], []
        return chat_logprobs(taken) if taken else None

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish_reason}
        if self._wants_logprobs:
            choice["logprobs"] = logprobs
        chunk = {**self._head, "choices": [choice]}
        return frame(chunk | {"usage": None} if self._wants_usage else chunk)
