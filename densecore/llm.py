"""The SDK: `DenseCore`, a model loaded from a GGUF file. Thin over `engine`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from densecore.async_stream import AsyncTextStream, TextPiece
from densecore.checks import integer
from densecore.config import MAX_SEED, GenerationConfig
from densecore.engine.logprobs import TokenLogprob
from densecore.exceptions import InvalidConfigError, UnsupportedFeatureError
from densecore.hub import fetch_model
from densecore.loaded_model import LoadedModel, Lora, engine_config, reject_unknown
from densecore.pending import PendingResult, run_all
from densecore.results import GenerationResult, TextStream, drain, result_of

if TYPE_CHECKING:
    pass

__all__ = ["AsyncTextStream", "DenseCore", "GenerationResult", "TextPiece", "TextStream", "TokenLogprob"]

MAX_ANSWERS = 128  # as in the OpenAI API


class _FromConfig:
    """Stands for an argument that was not given: `config`, or `GenerationConfig`'s default, decides."""

    def __repr__(self) -> str:
        return "<from config>"


_FROM_CONFIG: Any = _FromConfig()


class DenseCore(LoadedModel):
    """A model ready to generate. Safe to use from several threads and from asyncio.

    Parameters
    ----------
    main_model_path : path of a GGUF file; of a split one, any part.
    threads : worker threads; 0 takes what the machine, affinity and cgroup quota allow.
    hf_repo_id : Hugging Face repository whose tokenizer is used instead of the file's.
    draft_model_path : a smaller model with the same vocabulary, whose guesses the main one verifies: the same output,
        sooner.
    lora_path : a LoRA adapter that all requests use unless they choose others, or a list of them; each a path, or a
        path and a scale. `load_lora` loads more.
    **engine_options : fields of `EngineConfig`, such as `max_model_len` or `kv_cache_dtype`.

    Raises
    ------
    ModelLoadError
        A file is missing, broken or of a kind that is not supported, or the draft model has another vocabulary.
    InvalidConfigError
        An option is unknown or out of range.
    """

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        cache_dir: str | None = None,
        threads: int = 0,
        *,
        draft_repo_id: str | None = None,
        revision: str | None = None,
        **engine_options: Any,
    ) -> DenseCore:
        """Download a model from the Hugging Face Hub, unless the cache has it, and load it.

        repo_id : ``owner/name``, or ``owner/name:Q4_K_M`` for one of its quantizations; Q4_K_M where there is a choice
        filename : a GGUF file of the repository; of a split one, any part
        cache_dir : instead of the cache that huggingface_hub's settings name
        draft_repo_id : repository of a smaller model with the same vocabulary, whose guesses the main one verifies
        revision : branch, tag or commit of `repo_id`

        Raises what the constructor raises; ModelLoadError also for what cannot be downloaded. See `densecore.hub`.
        """
        engine_config(threads, engine_options)  # before anything large is downloaded
        path = fetch_model(repo_id, filename, revision=revision, cache_dir=cache_dir)
        draft = None if draft_repo_id is None else fetch_model(draft_repo_id, cache_dir=cache_dir)
        return cls(path, threads, draft_model_path=draft, **engine_options)

    # ------------------------------------------------------------------ generation

    def generate(
        self,
        prompt: str,
        max_tokens: int = _FROM_CONFIG,
        temperature: float = _FROM_CONFIG,
        top_p: float = _FROM_CONFIG,
        top_k: int = _FROM_CONFIG,
        repetition_penalty: float = _FROM_CONFIG,
        stop_sequences: list[str] | None = _FROM_CONFIG,
        config: GenerationConfig | None = None,
        **options: Any,
    ) -> str:
        """Continue `prompt` and return the new text.

        Arguments are the fields of `GenerationConfig`; those given here override `config`.

        Raises
        ------
        InvalidConfigError
            An argument is out of range, or the prompt is longer than the context.
        TimeoutError
            `timeout` seconds passed before the end.
        InferenceError
            The model gave NaN, or the engine is closed.
        """
        named = _given(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            stop_sequences=stop_sequences,
        )
        return self.complete(prompt, config, **named, **options).text

    def complete(
        self, prompt: str | SequenceOf[int], config: GenerationConfig | None = None, **options: Any
    ) -> GenerationResult:
        """As `generate`, with token ids, finish reason, usage and timings; `prompt` may be token ids."""
        return drain(self._stream(self._prompt_ids(prompt), config, options))

    def complete_n(
        self, prompt: str | SequenceOf[int], n: int, config: GenerationConfig | None = None, **options: Any
    ) -> list[GenerationResult]:
        """`n` answers to one prompt, computed together; with a seed, answer i is what `complete` gives for seed + i."""
        config = _generation_config(config, options)
        prompt_ids = self._prompt_ids(prompt)
        streams: list[TextStream] = []
        with contextlib.ExitStack() as stack:  # where one fails, the others end
            for index in range(integer("n", n, 1, MAX_ANSWERS)):
                streams.append(stack.enter_context(self._stream(prompt_ids, _for_answer(config, index), {})))
            return [drain(stream) for stream in streams]

    def generate_batch(
        self, prompts: SequenceOf[str | SequenceOf[int]], config: GenerationConfig | None = None, **options: Any
    ) -> list[str]:
        """Continue many prompts at once and return their new texts in order: faster than one after the other.

        Arguments are those of `generate`, and hold for all. The first error ends the others and is raised.
        """
        return [result.text for result in self.complete_batch(prompts, config, **options)]

    def complete_batch(
        self, prompts: SequenceOf[str | SequenceOf[int]], config: GenerationConfig | None = None, **options: Any
    ) -> list[GenerationResult]:
        """As `generate_batch`, with token ids, finish reasons, usage and timings."""
        if isinstance(prompts, str | bytes):
            raise InvalidConfigError("prompts must be a list of prompts; for a single one there is generate")
        merged = _generation_config(config, options)
        prompt_ids = [self._prompt_ids(prompt) for prompt in prompts]
        most = 2 * self._engine.config.max_num_seqs  # enough for places never to be empty
        return run_all(lambda ids: self.submit(ids, merged), prompt_ids, most)

    def submit(
        self,
        prompt: str | SequenceOf[int],
        config: GenerationConfig | None = None,
        *,
        on_text: Callable[[str], object] | None = None,
        **options: Any,
    ) -> PendingResult[GenerationResult]:
        """Start a request and return at once: a `concurrent.futures.Future` of what `complete` returns.

        ``future.cancel()`` ends the request.

        on_text : called with each new piece of text, on the engine's thread, which it must not hold up
        """
        config = _generation_config(config, options)
        return PendingResult(self._engine, self._prompt_ids(prompt), config, result_of, on_text)

    async def complete_async(
        self, prompt: str | SequenceOf[int], config: GenerationConfig | None = None, **options: Any
    ) -> GenerationResult:
        """As `complete`, for asyncio; cancelling the task ends the request."""
        return await asyncio.wrap_future(self.submit(prompt, config, **options))

    def stream(self, prompt: str | SequenceOf[int], **kwargs: Any) -> TextStream:
        """Iterate over the new text as it is generated; arguments as for `generate`.

        The request starts at once. Closing the stream, or dropping it, ends the request.
        """
        config = kwargs.pop("config", None)
        return self._stream(self._prompt_ids(prompt), config, kwargs)

    async def stream_async(self, prompt: str | SequenceOf[int], **kwargs: Any) -> AsyncIterator[str]:
        """As `stream`, for asyncio: computing does not block the event loop."""
        config = kwargs.pop("config", None)
        async with await self.open_stream(prompt, config, **kwargs) as stream:
            async for piece in stream:
                yield piece.text

    async def open_stream(
        self, prompt: str | SequenceOf[int], config: GenerationConfig | None = None, **options: Any
    ) -> AsyncTextStream:
        """As `stream_async`, with log-probabilities beside the text, and a result at the end.

        The request has been accepted when this returns: what is wrong with it was raised.
        """
        return await AsyncTextStream.open(self._engine, self._prompt_ids(prompt), _generation_config(config, options))

    def chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        """The assistant's answer to a conversation, put together by the model's own chat template.

        messages : dicts with ``role`` and ``content``; all of them reach the model
        """
        return self.complete_chat(messages, **kwargs).text

    def complete_chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> GenerationResult:
        """As `chat`, with token ids, finish reason, usage and timings."""
        return drain(self.stream_chat(messages, **kwargs))

    def stream_chat(self, messages: list[dict[str, Any]], **kwargs: Any) -> TextStream:
        """As `chat`, as a stream of text."""
        config = self.chat_config(_generation_config(kwargs.pop("config", None), kwargs))
        return self._stream(self._prompt_ids(self.apply_chat_template(messages)), config, {})

    def chat_config(self, config: GenerationConfig) -> GenerationConfig:
        """`config` with what ends a turn: without a template of its own a model sees ChatML's marks as plain text."""
        if not self._template.is_fallback:
            return config
        return dataclasses.replace(config, stop_sequences=[*(config.stop_sequences or ()), "<|im_end|>"])

    def apply_chat_template(self, messages: list[dict[str, Any]], **variables: Any) -> str:
        """The prompt that `chat` makes of a conversation; ChatML where the model has no template."""
        return self._template.render(messages, **variables)

    @property
    def chat_template(self) -> str:
        """Source of the template, in Jinja."""
        return self._template.source

    def save_cache(
        self,
        prompt: str | SequenceOf[int],
        path: str | os.PathLike[str],
        cache_salt: str | None = None,
        lora: Lora = None,
    ) -> int:
        """Compute `prompt`, or find it in the KV cache, and save its keys and values to a file.

        A conversation, or a long document, is then gone on with in another process without computing it again: see
        `load_cache`. Returns the number of tokens in the file: all, or all but the last.

        Raises
        ------
        DenseCoreError
            The file cannot be written.
        """
        ids = self._prompt_ids(prompt)
        self.complete(ids, max_tokens=1, cache_salt=cache_salt, lora=lora)
        return self._engine.save_cache(ids, Path(path).expanduser(), cache_salt, lora)

    def load_cache(self, path: str | os.PathLike[str], cache_salt: str | None = None, lora: Lora = None) -> list[int]:
        """Put what `save_cache` saved into the KV cache, and return its tokens.

        Requests whose prompts begin with these tokens find it there, as long as nothing else needs the room.

        Raises
        ------
        ModelLoadError
            The file is missing, damaged, or was saved with another model, adapter, version or type of cache.
        InvalidConfigError
            Too few blocks of the cache are free.
        """
        return self._engine.load_cache(Path(path).expanduser(), cache_salt, lora)

    # ------------------------------------------------------------------ the rest of the contract

    def embed(self, text: str, pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Embedding of a text (in a later version)."""
        _later("embed")

    def embed_batch(self, texts: list[str], pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Embeddings of several texts (in a later version)."""
        _later("embed_batch")

    # ------------------------------------------------------------------ inside

    def _stream(self, prompt_ids: list[int], config: GenerationConfig | None, options: Mapping[str, Any]) -> TextStream:
        return TextStream(self._engine, prompt_ids, _generation_config(config, options))


def _for_answer(config: GenerationConfig, index: int) -> GenerationConfig:
    """The settings of answer `index` to a prompt: each has a seed of its own."""
    if config.seed is None:
        return config
    return dataclasses.replace(config, seed=(config.seed + index) % (MAX_SEED + 1))


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not _FROM_CONFIG}


def _generation_config(config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
    """`config` with what was given explicitly in its place."""
    if config is not None and not isinstance(config, GenerationConfig):
        raise InvalidConfigError(f"config must be a GenerationConfig, not {type(config).__name__}")
    reject_unknown("argument", options, GenerationConfig.names())
    return dataclasses.replace(config or GenerationConfig(), **options)


def _later(feature: str) -> NoReturn:
    raise UnsupportedFeatureError(f"{feature}: not in this version of DenseCore yet")
