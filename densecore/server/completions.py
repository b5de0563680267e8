"""``POST /v1/completions``: texts continued as they are, with `echo` and `logprobs` for evaluation harnesses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from densecore.llm import DenseCore, GenerationResult, TextPiece, TokenLogprob
from densecore.server.answers import completion_logprobs, head, token_name, usage
from densecore.server.body import reads
from densecore.server.documentation import STREAMS, describes
from densecore.server.errors import bad_request, context_exceeded
from densecore.server.generation import completion_config, for_answer
from densecore.server.prompting import checked_length
from densecore.server.schemas import MAX_PROMPTS, CompletionRequest
from densecore.server.service import Service, collect, open_streams, record_of, service_of, until_disconnected
from densecore.server.sse import EventStream, TextFrame, frame
from densecore.server.streaming import frames

__all__ = ["router"]

router = APIRouter()

Scored = tuple[str, int, TokenLogprob | None]  # a token's name, its width in characters, its probabilities


@dataclass(frozen=True)
class _Prompt:
    """One prompt; `scored` are its tokens, if they are echoed with their probabilities."""

    ids: list[int]
    text: str
    scored: list[Scored] | None = None


@router.post("/v1/completions", openapi_extra=describes(CompletionRequest), response_model=None, responses=STREAMS)
async def completions(
    http: HttpRequest, request: Annotated[CompletionRequest, Depends(reads(CompletionRequest))]
) -> Response:
    """Continuations of one or several prompts, given as text or as token ids."""
    service, record = service_of(http), record_of(http)
    record.stream = bool(request.stream)
    _check(request)
    async with AsyncExitStack() as resources:
        entry, model = await resources.enter_async_context(service.use(request.model, record))
        prompts = await until_disconnected(http, _prompts(service, model, request))
        config = completion_config(request, service.settings.request_timeout)
        number = 0 if request.max_tokens == 0 else request.n or 1
        wanted = [(prompt.ids, for_answer(config, index)) for prompt in prompts for index in range(number)]
        streams = await open_streams(model, wanted, resources)
        answer = _Answer(model, request, prompts, len(streams), entry.name)
        if request.stream:
            return EventStream(frames(answer, streams, service, record), resources.pop_all())
        record.results = await until_disconnected(http, collect(streams, record))
        return JSONResponse(answer.whole(record.results))


def _check(request: CompletionRequest) -> None:
    if request.suffix:
        raise bad_request("suffix is not supported: put what comes after into the prompt", "suffix")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise bad_request("best_of must be n: answers are not ranked here", "best_of")
    if request.max_tokens == 0 and not request.echo:
        raise bad_request("max_tokens must be at least 1 without echo", "max_tokens")


async def _prompts(service: Service, model: DenseCore, request: CompletionRequest) -> list[_Prompt]:
    """The prompts of a request, with what `echo` needs."""
    given: Any = request.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise bad_request("prompt is missing: a string, a list of strings, token ids, or a list of these", "prompt")
    if len(given) * (request.n or 1) > MAX_PROMPTS:
        raise bad_request(f"{MAX_PROMPTS} answers at most, over all prompts", "prompt")
    prompts = []
    for each in given:
        prompt = await asyncio.to_thread(_prompt, model, each, request)
        if request.echo and request.logprobs is not None:
            async with service.scoring:  # one at a time: each takes a KV cache of its own
                prompt = await asyncio.to_thread(_score, model, prompt, request)
        prompts.append(prompt)
    return prompts


def _prompt(model: DenseCore, given: Any, request: CompletionRequest) -> _Prompt:
    ids = model.prompt_tokens(given)
    if request.max_tokens != 0:
        checked_length(model, ids, "prompt")
    elif len(ids) > model.max_model_len:
        raise context_exceeded(len(ids), model.max_model_len, "prompt")
    return _Prompt(ids, given if isinstance(given, str) else model.tokenizer.decode(ids, skip_special=True))


def _score(model: DenseCore, prompt: _Prompt, request: CompletionRequest) -> _Prompt:
    """What goes on with the prompt finds it in the KV cache, so that it is computed once."""
    keep, salt = request.max_tokens != 0, request.cache_salt
    entries = model.score(prompt.ids, request.logprobs or 0, keep=keep, cache_salt=salt)
    return _Prompt(prompt.ids, prompt.text, _described(model, (), prompt.ids, entries))


def _described(
    model: DenseCore, before: Sequence[int], ids: Sequence[int], entries: Sequence[TokenLogprob | None]
) -> list[Scored]:
    """Tokens that follow those of `before`, with their names and widths in the text."""
    tokenizer = model.tokenizer
    detokenizer = tokenizer.detokenizer(before)
    return [
        (token_name(tokenizer.token_text(i), tokenizer.token_bytes(i)), len(detokenizer.push(i)), entry)
        for i, entry in zip(ids, entries, strict=True)
    ]


class _Answer:
    """The answer to a request, whole or in chunks. Choice i continues prompt i // n."""

    def __init__(
        self, model: DenseCore, request: CompletionRequest, prompts: Sequence[_Prompt], num_streams: int, name: str
    ) -> None:
        self._model, self._request, self._prompts = model, request, prompts
        self._number = request.n or 1
        self._head = head("cmpl", "text_completion", name)
        self._wants_usage = bool(request.stream_options and request.stream_options.include_usage)
        self._num_sent = [0] * num_streams  # log-probabilities
        self._widths = [0] * num_streams  # characters of the tokens that these are of
        self._text = [TextFrame(partial(self._plain, index)) for index in range(num_streams)]

    def _prompt_of(self, index: int) -> _Prompt:
        return self._prompts[index // self._number]

    def whole(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Without a stream."""
        if not self._text:  # nothing but echoes
            choices = [self._echoed(index, "length") for index in range(len(self._prompts) * self._number)]
        else:
            choices = [self._choice(index, result) for index, result in enumerate(results)]
        return {**self._head, "choices": choices, "usage": self._usage(results)}

    def _choice(self, index: int, result: GenerationResult) -> dict[str, Any]:
        prompt = self._prompt_of(index)
        scored = None
        if result.logprobs is not None:
            scored = _described(self._model, prompt.ids, result.token_ids, result.logprobs)
        text, offset = result.text, len(prompt.text)
        if self._request.echo:
            text = prompt.text + text
            if scored is not None and prompt.scored is not None:
                scored, offset = prompt.scored + scored, 0
        return self._shape(index, text, scored, offset, result.finish_reason)

    def _echoed(self, index: int, reason: str | None) -> dict[str, Any]:
        """A prompt alone."""
        prompt = self._prompt_of(index)
        return self._shape(index, prompt.text, prompt.scored, 0, reason)

    def _shape(
        self, index: int, text: str, scored: Sequence[Scored] | None, offset: int, reason: str | None
    ) -> dict[str, Any]:
        logprobs = None if scored is None else completion_logprobs(scored, offset)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _usage(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        if results:
            counts = usage(results, range(0, len(results), self._number))
            if self._prompts[0].scored is not None:  # all of it was computed for this request, if not for its answers
                counts["prompt_tokens_details"]["cached_tokens"] = 0
            return counts
        num_tokens = sum(len(prompt.ids) for prompt in self._prompts)
        return {"prompt_tokens": num_tokens, "completion_tokens": 0, "total_tokens": num_tokens}

    # In chunks: what `streaming.frames` asks for.

    def begin(self) -> Iterator[bytes]:
        if self._request.echo:
            for index in range(len(self._prompts) * self._number):
                yield self._chunk(self._echoed(index, None if self._text else "length"))

    def piece(self, index: int, piece: TextPiece) -> list[bytes]:
        if not piece.logprobs:
            return [self._text[index](piece.text)]
        return [self._chunk(self._part(index, piece.text, piece.logprobs, None))]

    def end(self, index: int, result: GenerationResult) -> list[bytes]:
        rest = (result.logprobs or [])[self._num_sent[index] :]
        return [self._chunk(self._part(index, "", rest, result.finish_reason))]

    def usage(self, results: Sequence[GenerationResult]) -> Iterator[bytes]:
        if self._wants_usage:
            yield frame({**self._head, "choices": [], "usage": self._usage(results)})

    def _part(self, index: int, text: str, entries: Sequence[TokenLogprob], reason: str | None) -> dict[str, Any]:
        """A piece of a choice, with the tokens that it is made of if they are wanted."""
        if self._request.logprobs is None or not entries:
            return self._shape(index, text, None, 0, reason)
        prompt = self._prompt_of(index)
        scored = [(token_name(entry.token, entry.bytes), len(entry.token), entry) for entry in entries]
        offset = len(prompt.text) + self._widths[index]
        self._num_sent[index] += len(entries)
        self._widths[index] += sum(width for _, width, _ in scored)
        return self._shape(index, text, scored, offset, reason)

    def _plain(self, index: int, text: str) -> dict[str, Any]:
        return self._in_chunk(self._shape(index, text, None, 0, None))

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return frame(self._in_chunk(choice))

    def _in_chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        chunk = {**self._head, "choices": [choice]}
        return chunk | {"usage": None} if self._wants_usage else chunk
