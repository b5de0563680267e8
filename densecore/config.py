"""Settings of a request (`GenerationConfig`) and of an engine (`EngineConfig`).

Both are frozen and validate themselves: an error names the field, the value it got and what is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, fields
from typing import Any

from densecore import checks
from densecore.checks import MAX_INT, integer, number
from densecore.exceptions import InvalidConfigError

__all__ = ["KV_CACHE_DTYPES", "PINNING_POLICIES", "SPECULATIONS", "STRUCTURES", "EngineConfig", "GenerationConfig"]

KV_CACHE_DTYPES = ("f16", "f32", "q8_0")
SPECULATIONS = ("prompt-lookup",)
PINNING_POLICIES = ("scatter", "compact", "off")  # the first two are numbers 0 and 1 of the C API

MAX_STOP_SEQUENCES = 64
MAX_STOP_LENGTH = 4096  # characters
MAX_CHOICES = 4096
MAX_CHOICE_LENGTH = 4096
MAX_BREAKERS = 64
MAX_BREAKER_LENGTH = 64
MAX_TOP_LOGPROBS = 100
MAX_SEED = 2**64 - 1
MAX_NODE = 1023  # Linux numbers no more NUMA nodes
MAX_BYTES = 2**62
MAX_PRIORITY = 100
MAX_SALT_LENGTH = 256  # characters

STRUCTURES = ("json_mode", "json_schema", "regex", "choice", "grammar")  # ways to say what an output must look like

# Lowest and highest values of the fields that are numbers; in _ABOVE the lowest itself is not allowed.
_INTEGERS = {
    "max_tokens": (1, MAX_INT),
    "priority": (-MAX_PRIORITY, MAX_PRIORITY),
    "top_k": (0, MAX_INT),
    "min_tokens": (0, MAX_INT),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
    "dry_allowed_length": (1, MAX_INT),
    "dry_penalty_last_n": (-1, MAX_INT),
}
_NUMBERS = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (0.0, 1000.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "repetition_penalty": (0.0, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 1.0),
}
_ABOVE = ("top_p", "typical_p", "repetition_penalty")
_FLAGS = ("json_mode", "context_shift", "ignore_eos", "logprobs", "speculate", "skip_special_tokens")


def _cache_salt(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_SALT_LENGTH):
        raise InvalidConfigError(f"cache_salt must be a string of at most {MAX_SALT_LENGTH} characters or None")
    return value


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How one request is sampled and when it ends. docs/SAMPLING.md explains the steps and their order.

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
    lora : adapters that are loaded, by name: a name, a list of names, or a mapping from names to scales; see
        `DenseCore.load_lora`. None takes the model's default ones, an empty list none.
    speculate : allow speculation, where the engine is set up for it; the output is the same with and without.
    json_mode : the output is a JSON object.
    json_schema : the output is JSON that is valid under this schema: a dict, or JSON text.
    regex : the output matches this regular expression, in the syntax of Rust's ``regex`` crate.
    choice : the output is one of these strings.
    grammar : the output follows this grammar, in Lark syntax or GBNF. At most one of these five may be given.
    typical_p : keep the tokens of most typical surprise that sum to this (Meister et al. 2022); 1 is off.
    top_n_sigma : keep logits within this many standard deviations of the highest (Tang et al. 2024); 0 is off.
    xtc_probability, xtc_threshold : how often to leave out all but the least probable of the tokens that have at
        least the threshold's probability; 0 is off.
    dry_multiplier, dry_base, dry_allowed_length : subtract ``multiplier * base ** (length - allowed_length)`` from
        the logit of a token that would lengthen a repetition of `length` tokens; a multiplier of 0 is off.
    dry_penalty_last_n : tokens to look back at for repetitions; -1 is all, 0 is off.
    dry_sequence_breakers : texts that end a repetition, in whatever tokens they come.
    mirostat : 2 holds the surprise of the output at `mirostat_tau` bits, learning at the rate `mirostat_eta`
        (Basu et al. 2020), in place of top-k, top-p and the like; 0 is off.
    min_tokens : no end of generation before this many tokens.
    ignore_eos : no end of generation at all, so that max_tokens or a stop sequence decides.
    bad_words : texts, or lists of token ids, that are never completed.
    logprobs : return the logarithm of each token's probability, before anything above changes it.
    top_logprobs : return those of this many of the most probable tokens as well; needs logprobs.
    skip_special_tokens : leave control tokens, such as those that begin a tool call, out of the text.
    logits_processors : functions ``(token_ids, logits) -> logits or None``, called in turn before anything else.
        `token_ids` is a list of prompt and output, `logits` (n_vocab,) float32, to change or to replace.
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
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    choice: SequenceOf[str] | None = None
    grammar: str | None = None
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: SequenceOf[str] | None = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    min_tokens: int = 0
    ignore_eos: bool = False
    bad_words: SequenceOf[str | SequenceOf[int]] | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    logits_processors: SequenceOf[Callable[..., Any]] | None = None
    priority: int = 0
    context_shift: bool = False
    cache_salt: str | None = field(default=None, repr=False)
    speculate: bool = True
    lora: str | SequenceOf[str] | Mapping[str, float | None] | None = field(default=None, hash=False)
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "stop_sequences": checks.strings(
                "stop_sequences", self.stop_sequences, MAX_STOP_SEQUENCES, MAX_STOP_LENGTH
            ),
            "logit_bias": checks.logit_bias(self.logit_bias),
            "dry_sequence_breakers": checks.strings(
                "dry_sequence_breakers", self.dry_sequence_breakers, MAX_BREAKERS, MAX_BREAKER_LENGTH
            ),
            "bad_words": checks.bad_words(self.bad_words),
            "logits_processors": checks.callables("logits_processors", self.logits_processors),
            "cache_salt": _cache_salt(self.cache_salt),
            "lora": checks.lora(self.lora),
        }
        for name, (lowest, highest) in _INTEGERS.items():
            checked[name] = integer(name, getattr(self, name), lowest, highest)
        for name, (least, most) in _NUMBERS.items():
            checked[name] = number(name, getattr(self, name), least, most, open_below=name in _ABOVE)
        for name in _FLAGS:
            checked[name] = checks.flag(name, getattr(self, name))
        if self.seed is not None:
            checked["seed"] = integer("seed", self.seed, 0, MAX_SEED)
        if self.timeout is not None:
            checked["timeout"] = number("timeout", self.timeout, 0.0, 1e9, open_below=True)
        for name, value in (checked | self._checked_structure()).items():
            object.__setattr__(self, name, value)
        self._check_combinations()

    def _checked_structure(self) -> dict[str, Any]:
        checked: dict[str, Any] = {}
        if self.json_schema is not None:
            checked["json_schema"] = checks.json_schema(self.json_schema)
        if self.choice is not None:
            checked["choice"] = checks.strings("choice", self.choice, MAX_CHOICES, MAX_CHOICE_LENGTH)
            if not 0 < sum(map(len, checked["choice"])) <= checks.MAX_GRAMMAR_LENGTH:
                raise InvalidConfigError(
                    f"choice must hold at least one string, and {checks.MAX_GRAMMAR_LENGTH} characters at most"
                )
        for name in ("regex", "grammar"):
            if getattr(self, name) is not None:
                checked[name] = checks.text(name, getattr(self, name))
        return checked

    def _check_combinations(self) -> None:
        given = [name for name in STRUCTURES if getattr(self, name) not in (None, False)]
        if len(given) > 1:
            raise InvalidConfigError(f"{' and '.join(given)} exclude each other: give one of them")
        if given and self.ignore_eos:
            raise InvalidConfigError(f"ignore_eos cannot be had with {given[0]}, whose output has an end")
        if self.mirostat not in (0, 2) or isinstance(self.mirostat, bool):
            raise InvalidConfigError(f"mirostat must be 0 (off) or 2, not {self.mirostat!r}")
        if self.top_logprobs and not self.logprobs:
            raise InvalidConfigError("top_logprobs needs logprobs=True")
        if self.min_tokens > self.max_tokens:
            raise InvalidConfigError(f"min_tokens is {self.min_tokens}, more than max_tokens, {self.max_tokens}")

    @property
    def structure(self) -> tuple[str, Any] | None:
        """Which of `STRUCTURES` was given, and its value; None if the output is free."""
        return next(((name, getattr(self, name)) for name in STRUCTURES if getattr(self, name)), None)

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
    kv_cache_dtype : `f16`, `f32`, or `q8_0`, which takes half of the memory of `f16` and changes results a little.
    kv_cache_bytes : memory for the KV cache at most; None takes half of what is available, or less if that is enough
        for `max_num_seqs` sequences of full length.
    preallocate_kv_cache : take that memory from the system at once, not as it is first used: too little of it shows at
        the start then, and no request waits for pages.
    prefix_caching : use again what the cache holds of earlier prompts and outputs.
    speculation : `prompt-lookup` guesses tokens from what followed the last ones earlier in the text, and verifies
        several at once; None does so only with a draft model. It rests while it loses time.
    num_speculative_tokens : tokens that are guessed at a time.
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
    preallocate_kv_cache: bool = False
    prefix_caching: bool = True
    speculation: str | None = None
    num_speculative_tokens: int = 4

    def __post_init__(self) -> None:
        integer("threads", self.threads, 0, 4096)
        integer("numa_node_id", self.numa_node_id, -1, MAX_NODE)
        integer("max_num_seqs", self.max_num_seqs, 1, 4096)
        integer("max_num_batched_tokens", self.max_num_batched_tokens, 1, 65536)
        integer("max_num_waiting", self.max_num_waiting, 1, 1 << 20)
        integer("block_size", self.block_size, 1, 1024)
        if self.kv_cache_bytes is not None:
            integer("kv_cache_bytes", self.kv_cache_bytes, 1, MAX_BYTES)
        for name in ("preallocate_kv_cache", "prefix_caching"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        integer("num_speculative_tokens", self.num_speculative_tokens, 1, 64)
        if self.speculation is not None and self.speculation not in SPECULATIONS:
            raise InvalidConfigError(
                f"speculation must be {' or '.join(SPECULATIONS)}, or None, not {self.speculation!r}"
            )
        if self.max_model_len is not None:
            integer("max_model_len", self.max_model_len, 1)
        if self.pinning not in PINNING_POLICIES:
            raise InvalidConfigError(f"pinning must be one of {', '.join(PINNING_POLICIES)}, not {self.pinning!r}")
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise InvalidConfigError(
                f"kv_cache_dtype must be one of {', '.join(KV_CACHE_DTYPES)}, not {self.kv_cache_dtype!r}"
            )
