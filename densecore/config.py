"""Settings of a request (`GenerationConfig`) and of an engine (`EngineConfig`).

Both are frozen and validate themselves: an error names the field, the value it got and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from densecore.exceptions import InvalidConfigError

__all__ = ["KV_CACHE_DTYPES", "PINNING_POLICIES", "EngineConfig", "GenerationConfig"]

KV_CACHE_DTYPES = ("f16", "f32")
PINNING_POLICIES = ("scatter", "compact", "off")  # the first two are numbers 0 and 1 of the C API

MAX_STOP_SEQUENCES = 64
MAX_STOP_LENGTH = 4096  # characters
MAX_INT = 2**31 - 1
MAX_SEED = 2**64 - 1
MAX_NODE = 1023  # Linux numbers no more NUMA nodes
MAX_BYTES = 2**62
MAX_PRIORITY = 100
MAX_SALT_LENGTH = 256  # characters


def _integer(name: str, value: Any, minimum: int, maximum: int = MAX_INT) -> int:
    """`value` as an int within [minimum, maximum]; numpy integers pass, bool and float do not."""
    try:
        number = value.__index__() if not isinstance(value, bool) else None
    except AttributeError:
        number = None
    if number is None or not minimum <= number <= maximum:
        raise InvalidConfigError(f"{name} must be an integer from {minimum} to {maximum}, not {value!r}")
    return int(number)


def _number(name: str, value: Any, minimum: float, maximum: float, *, open_below: bool = False) -> float:
    """`value` as a finite float within [minimum, maximum], or (minimum, maximum] with `open_below`."""
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not minimum <= number <= maximum or (open_below and number == minimum):
        bracket = "above" if open_below else "from"
        raise InvalidConfigError(f"{name} must be a number {bracket} {minimum:g} up to {maximum:g}, not {value!r}")
    return number


def _stop_sequences(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    sequences = (value,) if isinstance(value, str) else value
    try:
        sequences = tuple(sequences)
    except TypeError:
        raise InvalidConfigError(f"stop_sequences must be a list of strings, not {value!r}") from None
    if len(sequences) > MAX_STOP_SEQUENCES:
        raise InvalidConfigError(f"stop_sequences may hold {MAX_STOP_SEQUENCES} strings at most, not {len(sequences)}")
    for sequence in sequences:
        if not isinstance(sequence, str) or not 0 < len(sequence) <= MAX_STOP_LENGTH:
            raise InvalidConfigError(
                f"each of stop_sequences must be a string of 1 to {MAX_STOP_LENGTH} characters, not {sequence!r:.80}"
            )
    return sequences


def _cache_salt(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_SALT_LENGTH):
        raise InvalidConfigError(f"cache_salt must be a string of at most {MAX_SALT_LENGTH} characters or None")
    return value


def _logit_bias(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"logit_bias must map token ids to numbers, not {value!r:.80}")
    bias = {}
    for token_id, amount in value.items():
        if isinstance(token_id, str) and token_id.isascii() and token_id.isdigit() and len(token_id) < 11:
            token_id = int(token_id)  # JSON objects have string keys
        bias[_integer("a token id of logit_bias", token_id, 0)] = _number(
            f"logit_bias[{token_id}]", amount, -100.0, 100.0
        )
    return bias


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How one request is sampled and when it ends.

    Parameters
    ----------
    max_tokens : tokens to generate at most.
    temperature : 0 is greedy; otherwise logits are divided by it.
    top_p : keep the smallest set of tokens whose probabilities sum to this; 1 is off.
    top_k : keep the k most probable tokens; 0 is off.
    min_p : drop tokens less probable than this fraction of the most probable one; 0 is off.
    repetition_penalty : divides positive and multiplies negative logits of tokens seen in prompt or output
        (CTRL, Keskar et al. 2019); 1 is off.
    presence_penalty, frequency_penalty : subtracted once, or per occurrence, for tokens of the output
        (the OpenAI API's definition); 0 is off.
    logit_bias : token id -> number added to its logit.
    stop_sequences : generation ends before the first of these; no part of one is ever emitted.
    seed : makes sampling repeatable; None draws one.
    timeout : seconds until `TimeoutError`; None waits.
    priority : -100 to 100, higher goes first. A step of 1 is worth 10 seconds of waiting: nothing waits forever.
    context_shift : go on when the context is full: its first 4 tokens and its newer half stay, the rest is forgotten.
    cache_salt : requests share what the KV cache holds of their prompts only with those of the same salt: one a tenant.
    json_mode : only valid JSON (in a later version).
    """

    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    repetition_penalty: float = 1.1
    stop_sequences: tuple[str, ...] | list[str] | None = None
    json_mode: bool = False
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)
    seed: int | None = None
    timeout: float | None = None
    priority: int = 0
    context_shift: bool = False
    cache_salt: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        checked = {
            "max_tokens": _integer("max_tokens", self.max_tokens, 1),
            "temperature": _number("temperature", self.temperature, 0.0, 100.0),
            "top_p": _number("top_p", self.top_p, 0.0, 1.0, open_below=True),
            "top_k": _integer("top_k", self.top_k, 0),
            "min_p": _number("min_p", self.min_p, 0.0, 1.0),
            "repetition_penalty": _number("repetition_penalty", self.repetition_penalty, 0.0, 100.0, open_below=True),
            "presence_penalty": _number("presence_penalty", self.presence_penalty, -100.0, 100.0),
            "frequency_penalty": _number("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            "stop_sequences": _stop_sequences(self.stop_sequences),
            "logit_bias": _logit_bias(self.logit_bias),
            "priority": _integer("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY),
            "cache_salt": _cache_salt(self.cache_salt),
        }
        if self.seed is not None:
            checked["seed"] = _integer("seed", self.seed, 0, MAX_SEED)
        if self.timeout is not None:
            checked["timeout"] = _number("timeout", self.timeout, 0.0, 1e9, open_below=True)
        for name in ("json_mode", "context_shift"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def names(cls) -> frozenset[str]:
        """Names of all fields: what `generate` takes as keyword arguments."""
        return frozenset(f.name for f in fields(cls))


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How an engine uses the machine.

    Parameters
    ----------
    threads : worker threads; 0 takes the physical cores that affinity and cgroup quota allow.
    pinning : `scatter` spreads threads over physical cores, `compact` packs them on cores sharing a cache,
        `off` leaves placement to the system.
    numa_node_id : run the threads on the CPUs of this NUMA node, and take memory from there; -1 uses all nodes.
    max_model_len : longest sequence in tokens, prompt and output; None takes the model's context length,
        or less where memory does not allow it.
    max_num_seqs : sequences decoding at once.
    max_num_batched_tokens : tokens computed in one step at most; longer prompts are cut into chunks. Beside sequences
        that decode chunks are shorter, so that those keep their pace.
    max_num_waiting : requests that wait for their turn; one more is refused with `QueueFullError`.
    block_size : tokens in a block of the KV cache; multiples of 16 leave no room unused, and 32 is fastest.
    kv_cache_dtype : `f16` or `f32`.
    kv_cache_bytes : memory for the KV cache at most; None takes half of what is available, or less if that is enough
        for `max_num_seqs` sequences of full length.
    prefix_caching : use again what the cache holds of earlier prompts and outputs.
    """

    threads: int = 0
    pinning: str = "scatter"
    numa_node_id: int = -1
    max_model_len: int | None = None
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 512
    max_num_waiting: int = 1024
    block_size: int = 32
    kv_cache_dtype: str = "f16"
    kv_cache_bytes: int | None = None
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        _integer("threads", self.threads, 0, 4096)
        _integer("numa_node_id", self.numa_node_id, -1, MAX_NODE)
        _integer("max_num_seqs", self.max_num_seqs, 1, 4096)
        _integer("max_num_batched_tokens", self.max_num_batched_tokens, 1, 65536)
        _integer("max_num_waiting", self.max_num_waiting, 1, 1 << 20)
        _integer("block_size", self.block_size, 1, 1024)
        if self.kv_cache_bytes is not None:
            _integer("kv_cache_bytes", self.kv_cache_bytes, 1, MAX_BYTES)
        if not isinstance(self.prefix_caching, bool):
            raise InvalidConfigError(f"prefix_caching must be True or False, not {self.prefix_caching!r}")
        if self.max_model_len is not None:
            _integer("max_model_len", self.max_model_len, 1)
        if self.pinning not in PINNING_POLICIES:
            raise InvalidConfigError(f"pinning must be one of {', '.join(PINNING_POLICIES)}, not {self.pinning!r}")
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise InvalidConfigError(
                f"kv_cache_dtype must be one of {', '.join(KV_CACHE_DTYPES)}, not {self.kv_cache_dtype!r}"
            )
