"""A request inside the engine, and the events that it sends to whoever waits for it."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from enum import Enum

from densecore.config import MAX_INT, GenerationConfig
from densecore.engine.text import TextAssembler
from densecore.exceptions import InferenceError
from densecore.models import AdapterUse, Pooling
from densecore.sampling import Constraint, Sampler, TokenLogprobs

__all__ = ["Event", "Finished", "Sequence", "Status", "TextDelta", "Timings", "Usage"]

logger = logging.getLogger("densecore")

KEPT_TOKENS = 4  # at the beginning of a context that is shifted

_ids = itertools.count(1)


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    `cached_tokens` of the prompt were not computed again; of `draft_tokens` that were guessed, `accepted_draft_tokens`
    turned out to be right.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    draft_tokens: int = 0
    accepted_draft_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def draft_acceptance(self) -> float:
        """Part of the guessed tokens that were right, 0 to 1."""
        return self.accepted_draft_tokens / self.draft_tokens if self.draft_tokens else 0.0


@dataclass(frozen=True)
class Timings:
    """Seconds of a request; rates leave out the other phase."""

    queue_seconds: float  # until the first step that computed a part of it
    prompt_seconds: float  # from there to the first token
    decode_seconds: float  # from the first to the last token
    prompt_tokens: int
    decode_tokens: int  # all but the first
    submitted: float = 0.0  # when, on the clock of `time.perf_counter`

    @property
    def time_to_first_token(self) -> float:
        return self.queue_seconds + self.prompt_seconds

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.decode_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class TextDelta:
    """New text, never empty: whole characters, no part of a stop sequence.

    `logprobs` are of the tokens since the delta before, whose text may be held back in part, if they were asked for.
    """

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event of a request: why it ended, or the error that ended it."""

    finish_reason: str | None
    token_ids: tuple[int, ...]
    usage: Usage
    timings: Timings
    error: Exception | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()  # of all tokens, if they were asked for


Event = TextDelta | Finished


@dataclass(eq=False)
class Sequence:
    """One prompt and what has been generated for it.

    `num_cached_tokens` of its tokens have keys and values in the blocks of `block_table`; the rest are computed next.
    The last five fields below belong to the scheduler and the block manager.
    """

    prompt_ids: SequenceOf[int]
    config: GenerationConfig
    sampler: Sampler
    text: TextAssembler
    emit: Callable[[Event], None]
    max_output: int  # tokens, within both max_tokens and the context
    eog_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None  # the sampler's grammar, which may come to its end
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # the sampler's: of the output so far
    max_len: int = MAX_INT  # tokens of the context; only `shift_context` keeps within it
    adapters: tuple[AdapterUse, ...] = ()  # that all of it is computed with
    rope_set: int = 0  # that it is rotated with: see `Model.rope_set`
    pooling: Pooling | None = None  # of a prompt whose hidden states are wanted, and nothing after it

    seq_id: int = field(default_factory=_ids.__next__)
    status: Status = Status.WAITING
    token_ids: list[int] = field(default_factory=list)  # prompt, then output; less what was shifted out
    output_ids: list[int] = field(default_factory=list)
    block_table: list[int] = field(default_factory=list)
    num_cached_tokens: int = 0
    num_sent_logprobs: int = 0
    num_prefix_tokens: int = 0  # of the prompt, found in the cache at the first start
    draft_ids: list[int] = field(default_factory=list)  # guesses that the next step verifies
    num_draft_tokens: int = 0  # verified so far
    num_accepted_draft_tokens: int = 0
    aborted: bool = False  # set from any thread; the scheduler acts on it
    created: float = field(default_factory=time.perf_counter)
    started: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    last_gap: float | None = None  # seconds between the last two tokens

    rank: tuple[float, int] = (0.0, 0)  # who comes first; smaller is sooner
    num_preemptions: int = 0
    digests: list[bytes] = field(default_factory=list)  # of the full blocks so far, after that of the salt
    num_noted_blocks: int = 0  # full blocks that the block manager knows the content of
    num_draft_tokens_cached: int = 0  # that a draft model has keys and values of, in the same blocks

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.output_ids)

    @property
    def is_decoding(self) -> bool:
        """Whether only its newest token is left to compute."""
        if self.pooling is not None:
            return False
        return len(self.token_ids) - self.num_cached_tokens == 1 and self.num_cached_tokens > 0

    @property
    def may_skip_prefix(self) -> bool:
        """Whether it does without the hidden states of what the KV cache has of it."""
        return self.pooling is None or self.pooling.kind == "last"

    @property
    def draft_room(self) -> int:
        """How long a draft may be: output and context have room for it, and for the token that follows."""
        return min(self.max_output - self.num_output_tokens - 1, self.max_len - len(self.token_ids))

    def ends_with(self, token_id: int) -> bool:
        """Whether nothing follows this token, which the sampler drew; stop sequences and lengths aside."""
        return token_id in self.eog_ids or (self.constraint is not None and self.constraint.is_complete)

    @property
    def deadline(self) -> float:
        """In `time.perf_counter` seconds; infinity without a timeout."""
        return self.created + self.config.timeout if self.config.timeout is not None else float("inf")

    def append(self, token_id: int) -> str | None:
        """Take a sampled token: send its text, and return the finish reason if this was the last one."""
        before, self.last_token = self.last_token, time.perf_counter()
        if before is not None:
            self.last_gap = self.last_token - before
        if self.first_token is None:
            self.first_token = self.last_token
        self.token_ids.append(token_id)
        self.output_ids.append(token_id)
        if token_id in self.eog_ids:
            return "stop"
        delta = self.text.push(token_id)
        self._send_text(delta)
        if self.text.stopped or (self.constraint is not None and self.constraint.is_complete):
            return "stop"
        return "length" if self.num_output_tokens >= self.max_output else None

    def shift_context(self) -> None:
        """Drop the older half of the context but its first tokens; it must have no blocks.

        Models put much of their attention on the first tokens, whatever they are (Xiao et al. 2023, "Efficient
        streaming language models with attention sinks").
        """
        assert not self.block_table
        kept = min(KEPT_TOKENS, self.max_len // 2)
        self.token_ids = self.token_ids[:kept] + self.token_ids[kept + (self.max_len - kept + 1) // 2 :]
        self.digests.clear()

    def finish(self, finish_reason: str | None, error: Exception | None = None) -> None:
        """Send what text was held back, and the last event. Only the first call does anything."""
        if self.status is Status.FINISHED:
            return
        self.status = Status.FINISHED
        try:
            self._send_text(self.text.flush() if error is None else "")
        except Exception as failure:
            finish_reason, error = None, InferenceError(f"the end of the output has no text: {failure}")
        usage = Usage(
            len(self.prompt_ids),
            self.num_output_tokens,
            self.num_prefix_tokens,
            self.num_draft_tokens,
            self.num_accepted_draft_tokens,
        )
        logprobs = tuple(self.logprobs[: self.num_output_tokens])
        self._send(Finished(finish_reason, tuple(self.output_ids), usage, self._timings(), error, logprobs))

    def _send_text(self, text: str) -> None:
        if text:
            first, self.num_sent_logprobs = self.num_sent_logprobs, self.num_output_tokens
            self._send(TextDelta(text, tuple(self.logprobs[first : self.num_output_tokens])))

    def _send(self, event: Event) -> None:
        """A receiver that fails ends its own request, and no other."""
        try:
            self.emit(event)
        except Exception:
            logger.exception("the receiver of request %d failed", self.seq_id)
            self.aborted = True

    def _timings(self) -> Timings:
        now = time.perf_counter()
        started = self.started if self.started is not None else now
        first = self.first_token if self.first_token is not None else now
        last = self.last_token if self.last_token is not None else first
        return Timings(
            queue_seconds=started - self.created,
            prompt_seconds=first - started,
            decode_seconds=last - first,
            prompt_tokens=len(self.prompt_ids),
            decode_tokens=max(self.num_output_tokens - 1, 0),
            submitted=self.created,
        )
