"""The shapes of answers that chats and completions share: usage and log-probabilities."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from densecore.llm import GenerationResult, TokenLogprob

__all__ = ["chat_logprobs", "completion_logprobs", "head", "token_name", "usage"]


def head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What an answer, and every chunk of a stream, begins with."""
    return {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def usage(results: Sequence[GenerationResult], prompts: Iterable[int] = (0,)) -> dict[str, Any]:
    """Tokens of all results; those of a prompt are counted once: `prompts` are the results that have one each."""
    prompt = sum(results[index].usage.prompt_tokens for index in prompts)
    cached = sum(results[index].usage.cached_tokens for index in prompts)
    completion = sum(result.usage.completion_tokens for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chat_logprobs(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """As chats have them."""
    content = [_entry(entry) | {"top_logprobs": [_entry(top) for top in entry.top_logprobs]} for entry in entries]
    return {"content": content, "refusal": None}


def _entry(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.bytes)}


def token_name(text: str, data: bytes) -> str:
    """A token as a key: its text, or its bytes where they are no whole characters."""
    return text if "\ufffd" not in text else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def completion_logprobs(entries: Sequence[tuple[str, int, TokenLogprob | None]], offset: int) -> dict[str, Any]:
    """As completions have them.

    entries : (name of a token, characters that it adds to the text, its probabilities); None for a first token, which
        nothing predicts
    offset : where the text of the first one begins, in characters
    """
    offsets = []
    for _, width, _ in entries:
        offsets.append(offset)
        offset += width
    return {
        "tokens": [name for name, _, _ in entries],
        "token_logprobs": [None if entry is None else entry.logprob for _, _, entry in entries],
        "top_logprobs": [None if entry is None else _top(entry) for _, _, entry in entries],
        "text_offset": offsets,
    }


def _top(entry: TokenLogprob) -> dict[str, float]:
    """The most probable tokens, and the one that is there."""
    top = {token_name(other.token, other.bytes): other.logprob for other in entry.top_logprobs}
    return top | {token_name(entry.token, entry.bytes): entry.logprob}
