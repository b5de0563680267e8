"""The SDK: `DenseCore`, a model loaded from a GGUF file. Thin over `engine`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from densecore.async_stream import AsyncTextStream, TextPiece
from densecore.checks import integer
from densecore.config import MAX_SEED, MAX_TOP_LOGPROBS, EngineConfig, GenerationConfig
from densecore.engine import Engine
from densecore.engine.adapters import LoraAdapter
from densecore.engine.logprobs import TokenLogprob
from densecore.exceptions import InvalidConfigError, ModelLoadError, UnsupportedFeatureError
from densecore.gguf import GGUFFile
from densecore.hub import fetch_model
from densecore.models import load_model
from densecore.pending import PendingResult, run_all
from densecore.results import GenerationResult, TextStream, drain, result_of
from densecore.scoring import score_tokens
from densecore.tokenizer import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncTextStream", "DenseCore", "GenerationResult", "TextPiece", "TextStream", "TokenLogprob"]

MAX_ANSWERS = 128  # as in the OpenAI API


LoraPath = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]
Lora = str | SequenceOf[str] | Mapping[str, float | None] | None  # as in GenerationConfig


class _FromConfig:
    """Stands for an argument that was not given: `config`, or `GenerationConfig`'s default, decides."""

    def __repr__(self) -> str:
        return "<from config>"


_FROM_CONFIG: Any = _FromConfig()


class DenseCore:
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

    def __init__(
        self,
        main_model_path: str | os.PathLike[str],
        threads: int = 0,
        hf_repo_id: str | None = None,
        *,
        draft_model_path: str | os.PathLike[str] | None = None,
        lora_path: LoraPath | SequenceOf[LoraPath] | None = None,
        **engine_options: Any,
    ) -> None:
        config = _engine_config(threads, engine_options)
        with contextlib.ExitStack() as files:
            file = files.enter_context(contextlib.closing(_open(main_model_path)))
            model, draft = load_model(file), None
            self._tokenizer = Tokenizer.from_hub(hf_repo_id) if hf_repo_id else Tokenizer.from_gguf(file)
            if draft_model_path is not None:
                draft_file = files.enter_context(contextlib.closing(_open(draft_model_path)))
                _check_same_vocabulary(file, draft_file)
                draft = load_model(draft_file)
            self._engine = Engine(model, self._tokenizer, config, draft)
            for path, scale in _paths_and_scales(lora_path):
                self.load_lora(path, scale=scale, default=True)
            self._files = files.pop_all()
        self._template = ChatTemplate.for_tokenizer(self._tokenizer)

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
        _engine_config(threads, engine_options)  # before anything large is downloaded
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
        self, prompt: str | SequenceOf[int], config: GenerationConfig | None = None, **options: Any
    ) -> PendingResult[GenerationResult]:
        """Start a request and return at once: a `concurrent.futures.Future` of what `complete` returns.

        ``future.cancel()`` ends the request.
        """
        return PendingResult(self._engine, self._prompt_ids(prompt), _generation_config(config, options), result_of)

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

    # ------------------------------------------------------------------ adapters

    def load_lora(
        self, path: str | os.PathLike[str], name: str | None = None, scale: float = 1.0, *, default: bool = False
    ) -> str:
        """Load a LoRA adapter from a GGUF file, beside running requests, and return its name.

        Requests ask for it by ``lora="name"``, or ``lora={"name": 0.5}`` for another scale. docs/LORA.md tells more.

        name : by default the file's, without its ending, and with a number where that is taken
        scale : of requests that give none; 1 is the adapter as it was trained
        default : let requests use it that do not say which adapters they want

        Raises
        ------
        ModelLoadError
            The file is missing or broken, no LoRA adapter, or for another model.
        InvalidConfigError
            The name is taken, the scale out of range (-100 to 100), or memory too short.
        """
        return self._engine.adapters.load(Path(path), name, scale, default=default)

    def unload_lora(self, name: str) -> None:
        """Unload an adapter: new requests cannot use it. Those that run or wait end with it, then its memory is free.

        InvalidConfigError if it is not loaded.
        """
        self._engine.adapters.unload(name)

    @property
    def lora_adapters(self) -> dict[str, LoraAdapter]:
        """The adapters that are loaded, by name."""
        return self._engine.adapters.loaded

    # ------------------------------------------------------------------ research

    def forward(
        self,
        token_ids: SequenceOf[int],
        hooks: Mapping[str, Callable[..., Any]] | None = None,
        *,
        lora: Lora = None,
    ) -> np.ndarray:
        """Logits (num_tokens, n_vocab) float32 of every position of `token_ids`; leaves no trace.

        hooks : activation name -> callable that reads or replaces it, see `densecore.models.hooks`
        lora : as of `GenerationConfig`

        Raises
        ------
        InvalidConfigError
            No tokens, too many, or ids out of range; a hook's or an adapter's name is unknown.
        """
        ids = np.array(self._checked_ids(token_ids), np.int32)
        if ids.size > self._engine.max_model_len:
            raise InvalidConfigError(f"{ids.size} tokens are more than the context of {self._engine.max_model_len}")
        return self._engine.forward(ids, hooks, lora)

    def score(
        self, prompt: str | SequenceOf[int], top_logprobs: int = 0, lora: Any = None
    ) -> list[TokenLogprob | None]:
        """Log-probability of each token of `prompt` after those before it; None for the first.

        top_logprobs : how many of the most probable tokens to tell beside each
        lora : adapters, as in `GenerationConfig`

        Raises
        ------
        InvalidConfigError
            No tokens, too many, or ids out of range.
        """
        ids = self.prompt_tokens(prompt)
        if len(ids) > self._engine.max_model_len:
            raise InvalidConfigError(f"{len(ids)} tokens are more than the context of {self._engine.max_model_len}")
        return score_tokens(self._engine, ids, integer("top_logprobs", top_logprobs, 0, MAX_TOP_LOGPROBS), lora)

    # ------------------------------------------------------------------ tokens

    def prompt_tokens(self, prompt: str | SequenceOf[int]) -> list[int]:
        """The tokens that `generate` continues for `prompt`: with the model's BOS before a text; ids as they are."""
        return self._prompt_ids(prompt)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS; special tokens in the text are recognised."""
        return self._tokenizer.encode(_checked_text("text", text), add_special=False, parse_special=True)

    def detokenize(self, token_ids: SequenceOf[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(list(token_ids))

    # ------------------------------------------------------------------ the rest of the contract

    def embed(self, text: str, pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Embedding of a text (in a later version)."""
        _later("embed")

    def embed_batch(self, texts: list[str], pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Embeddings of several texts (in a later version)."""
        _later("embed_batch")

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self._engine.max_model_len

    def get_metrics(self) -> dict[str, Any]:
        """Counts, rates, latencies and cache use now. Rates are those of the last minute, seconds of the last requests.

        * ``tokens_per_second`` (decode rate of a request), ``computed_tokens_per_second`` (of prompts and output, while
          the engine computes), ``requests_per_second`` (that end);
        * ``requests_total``, ``requests_completed``, ``requests_failed``, ``timeouts_total`` (of these),
          ``active_requests``, ``waiting_requests``, ``preemptions_total``;
        * ``prompt_tokens_total``, ``prompt_tokens_cached_total`` (of these, not computed again),
          ``prefix_cache_hits_total`` (requests that had such tokens),
          ``total_tokens_generated``, ``draft_tokens_total``, ``draft_tokens_accepted_total`` (of speculation);
        * percentiles ``..._p50``, ``..._p95``, ``..._p99`` of ``time_to_first_token_seconds``, ``inter_token_seconds``,
          ``queue_seconds`` and ``request_seconds``, of ``batch_size`` (requests in a step), and of ``draft_acceptance``
          (part of its guessed tokens that were right, of each request that had some);
        * ``kv_cache_usage_percent``, ``kv_cache_blocks_total``, ``kv_cache_blocks_used``, ``kv_cache_blocks_free``,
          ``kv_cache_blocks_cached`` (free ones that keep their content), ``kv_cache_bytes``, ``num_threads``.
        """
        return self._engine.get_metrics()

    def compile_kernels(self, num_processes: int = 0) -> int:
        """Compile now what this model needs and the compile cache lacks, and return how many kernels that were.

        num_processes : that share the work, this one included; 0 takes a process a core
        """
        return self._engine.compile_kernels(num_processes)

    def close(self) -> None:
        """End all requests and let go of the files. Harmless when repeated."""
        self._engine.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    def _stream(self, prompt_ids: list[int], config: GenerationConfig | None, options: Mapping[str, Any]) -> TextStream:
        return TextStream(self._engine, prompt_ids, _generation_config(config, options))

    def _prompt_ids(self, prompt: str | SequenceOf[int]) -> list[int]:
        """Tokens to continue: a text gets the model's BOS, unless it begins with it; ids are taken as they are."""
        if not isinstance(prompt, str):
            return self._checked_ids(prompt)
        tokenizer = self._tokenizer
        ids = tokenizer.encode(_checked_text("prompt", prompt), add_special=False, parse_special=True)
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
        return self._checked_ids(ids)

    def _checked_ids(self, token_ids: SequenceOf[int]) -> list[int]:
        n_vocab = self._engine.n_vocab
        try:
            ids = None if isinstance(token_ids, bytes | bytearray) else [item.__index__() for item in token_ids]
        except (TypeError, AttributeError):
            ids = None
        if ids is None:
            raise InvalidConfigError("expected text or a list of token ids (integers)")
        if not ids:
            raise InvalidConfigError("the prompt is empty: give at least one token")
        for token_id in ids:
            if not 0 <= token_id < n_vocab:
                raise InvalidConfigError(f"token id {token_id} is outside of the vocabulary: 0 to {n_vocab - 1}")
        return ids


def _open(path: str | os.PathLike[str]) -> GGUFFile:
    return GGUFFile.open(os.path.expanduser(os.fspath(path)))


def _paths_and_scales(lora_path: Any) -> list[tuple[Any, float]]:
    """The adapters that `lora_path` names."""
    if lora_path is None:
        return []
    entries = list(lora_path) if isinstance(lora_path, list | tuple) else [lora_path]
    if isinstance(lora_path, tuple) and len(lora_path) == 2 and isinstance(lora_path[1], int | float):
        entries = [lora_path]
    pairs = [entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, 1.0) for entry in entries]
    for path, _ in pairs:
        if not isinstance(path, str | os.PathLike):
            raise InvalidConfigError(
                f"lora_path must be a path, a path and a scale, or a list of these, not {lora_path!r:.80}"
            )
    return pairs


def _check_same_vocabulary(main: GGUFFile, draft: GGUFFile) -> None:
    """ModelLoadError if a token of one model is not the same one of the other."""
    ours, theirs = (file.metadata.strings("tokenizer.ggml.tokens") for file in (main, draft))
    if len(ours) != len(theirs):
        problem = f"has {len(theirs)} tokens, and that of {main.path} has {len(ours)}"
    elif ours != theirs:
        token_id = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        problem = f"has {theirs[token_id]!r} as token {token_id}, and that of {main.path} has {ours[token_id]!r}"
    else:
        return
    raise ModelLoadError(
        f"{draft.path}: the draft model's vocabulary {problem}: take a smaller model of the same family"
    )


def _for_answer(config: GenerationConfig, index: int) -> GenerationConfig:
    """The settings of answer `index` to a prompt: each has a seed of its own."""
    if config.seed is None:
        return config
    return dataclasses.replace(config, seed=(config.seed + index) % (MAX_SEED + 1))


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not _FROM_CONFIG}


def _checked_text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidConfigError(f"{name} must be a string, not {type(text).__name__}")
    return text


def _reject_unknown(kind: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidConfigError(f"unknown {kind} {name!r}: {hint}")


def _generation_config(config: GenerationConfig | None, options: Mapping[str, Any]) -> GenerationConfig:
    """`config` with what was given explicitly in its place."""
    if config is not None and not isinstance(config, GenerationConfig):
        raise InvalidConfigError(f"config must be a GenerationConfig, not {type(config).__name__}")
    _reject_unknown("argument", options, GenerationConfig.names())
    return dataclasses.replace(config or GenerationConfig(), **options)


def _engine_config(threads: int, options: Mapping[str, Any]) -> EngineConfig:
    known = frozenset(field.name for field in dataclasses.fields(EngineConfig)) - {"threads"}
    _reject_unknown("option", options, known)
    return EngineConfig(threads=threads, **options)


def _later(feature: str) -> NoReturn:
    raise UnsupportedFeatureError(f"{feature}: not in this version of DenseCore yet")
