"""A model that is loaded and ready: what there is to do with it beside generating, which `llm` adds."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from densecore.checks import integer
from densecore.config import MAX_TOP_LOGPROBS, EngineConfig
from densecore.engine import EncoderEngine, Engine
from densecore.engine.adapters import LoraAdapter
from densecore.engine.logprobs import TokenLogprob
from densecore.exceptions import InvalidConfigError, ModelLoadError
from densecore.gguf import GGUFFile
from densecore.models import Encoder, load_any, load_model
from densecore.scoring import score_tokens
from densecore.tokenizer import ChatTemplate, Tokenizer

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LoadedModel", "Lora", "checked_text", "engine_config", "reject_unknown"]

LoraPath = str | os.PathLike[str] | tuple[str | os.PathLike[str], float]
Lora = str | SequenceOf[str] | Mapping[str, float | None] | None  # as in GenerationConfig


class LoadedModel:
    """Files, tokenizer and engine of a model: tokens, logits, adapters, metrics. See `llm.DenseCore` for arguments."""

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
        config = engine_config(threads, engine_options)
        with contextlib.ExitStack() as files:
            file = files.enter_context(contextlib.closing(_open(main_model_path)))
            model, draft = load_any(file), None
            self._tokenizer = Tokenizer.from_hub(hf_repo_id) if hf_repo_id else Tokenizer.from_gguf(file)
            if draft_model_path is not None:
                draft_file = files.enter_context(contextlib.closing(_open(draft_model_path)))
                _check_same_vocabulary(file, draft_file)
                draft = load_model(draft_file)
            if isinstance(model, Encoder):
                _refuse_for_encoders(file, draft_model_path=draft_model_path, lora_path=lora_path)
                self._any_engine: Engine | EncoderEngine = EncoderEngine(model, self._tokenizer, config)
            else:
                self._any_engine = Engine(model, self._tokenizer, config, draft)
            self._rerank_template = file.metadata.string("tokenizer.chat_template.rerank", "")
            for path, scale in _paths_and_scales(lora_path):
                self.load_lora(path, scale=scale, default=True)
            self._files = files.pop_all()
        self._template = ChatTemplate.for_tokenizer(self._tokenizer)

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

        Of an encoder, which has no logits, the hidden states (num_tokens, dim).

        hooks : activation name -> callable that reads or replaces it, see `densecore.models.hooks`
        lora : as of `GenerationConfig`

        Raises
        ------
        InvalidConfigError
            No tokens, too many, or ids out of range; a hook's or an adapter's name is unknown.
        """
        ids = np.array(self._checked_ids(token_ids), np.int32)
        if ids.size > self.max_model_len:
            raise InvalidConfigError(f"{ids.size} tokens are more than the context of {self.max_model_len}")
        if isinstance(self._any_engine, EncoderEngine):
            return self._any_engine.forward(ids, hooks)
        return self._engine.forward(ids, hooks, lora)

    def score(
        self,
        prompt: str | SequenceOf[int],
        top_logprobs: int = 0,
        lora: Any = None,
        *,
        keep: bool = False,
        cache_salt: str | None = None,
    ) -> list[TokenLogprob | None]:
        """Log-probability of each token of `prompt` after those before it; None for the first.

        top_logprobs : how many of the most probable tokens to tell beside each
        lora : adapters, as in `GenerationConfig`
        keep : leave the prompt in the KV cache, for requests that go on with it, and have the same `cache_salt`

        Raises
        ------
        InvalidConfigError
            No tokens, too many, or ids out of range.
        """
        ids = self.prompt_tokens(prompt)
        if len(ids) > self._engine.max_model_len:
            raise InvalidConfigError(f"{len(ids)} tokens are more than the context of {self._engine.max_model_len}")
        top = integer("top_logprobs", top_logprobs, 0, MAX_TOP_LOGPROBS)
        return score_tokens(self._engine, ids, top, lora, keep=keep, salt=cache_salt)

    # ------------------------------------------------------------------ tokens

    def prompt_tokens(self, prompt: str | SequenceOf[int]) -> list[int]:
        """The tokens that `generate` continues for `prompt`: with the model's BOS before a text; ids as they are."""
        return self._prompt_ids(prompt)

    @property
    def is_encoder(self) -> bool:
        """Whether the model reads whole texts, to embed or rank them, and cannot generate."""
        return isinstance(self._any_engine, EncoderEngine)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._tokenizer

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS; special tokens in the text are recognised."""
        return self._tokenizer.encode(checked_text("text", text), add_special=False, parse_special=True)

    def detokenize(self, token_ids: SequenceOf[int]) -> str:
        """Text of token ids."""
        return self._tokenizer.decode(list(token_ids))

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and output together, in tokens."""
        return self._any_engine.max_model_len

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
        return self._any_engine.get_metrics()

    def compile_kernels(self, num_processes: int = 0) -> int:
        """Compile now what this model needs and the compile cache lacks, and return how many kernels that were.

        num_processes : that share the work, this one included; 0 takes a process a core
        """
        return self._any_engine.compile_kernels(num_processes)

    def close(self) -> None:
        """End all requests and let go of the files. Harmless when repeated."""
        self._any_engine.close()
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ inside

    @property
    def _engine(self) -> Engine:
        """The engine that generates; InvalidConfigError for an encoder."""
        if isinstance(self._any_engine, Engine):
            return self._any_engine
        raise InvalidConfigError(
            f"{self._any_engine.model.config.architecture} is an encoder: it reads whole texts and cannot generate. "
            "Use embed, embed_batch or rerank, or load a model that generates"
        )

    def _prompt_ids(self, prompt: str | SequenceOf[int]) -> list[int]:
        """Tokens to continue: a text gets the model's BOS, unless it begins with it; ids are taken as they are."""
        if not isinstance(prompt, str):
            return self._checked_ids(prompt)
        tokenizer = self._tokenizer
        ids = tokenizer.encode(checked_text("prompt", prompt), add_special=False, parse_special=True)
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
        return self._checked_ids(ids)

    def _checked_ids(self, token_ids: SequenceOf[int]) -> list[int]:
        n_vocab = self._any_engine.n_vocab
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


def _refuse_for_encoders(file: GGUFFile, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidConfigError(f"{name}: {file.path} is an encoder, which has no use for it")


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


def checked_text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InvalidConfigError(f"{name} must be a string, not {type(text).__name__}")
    return text


def reject_unknown(kind: str, given: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidConfigError(f"unknown {kind} {name!r}: {hint}")


def engine_config(threads: int, options: Mapping[str, Any]) -> EngineConfig:
    known = frozenset(field.name for field in dataclasses.fields(EngineConfig)) - {"threads"}
    reject_unknown("option", options, known)
    return EngineConfig(threads=threads, **options)
