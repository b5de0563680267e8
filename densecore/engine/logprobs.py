"""Log-probabilities as users see them: with the texts of the tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from densecore.sampling import TokenLogprobs
from densecore.tokenizer import Tokenizer

__all__ = ["TokenLogprob", "describe"]


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the logarithm of its probability, in the shape of the OpenAI API.

    Attributes
    ----------
    token_id : its id.
    token : its text, with U+FFFD for parts of characters; of a control token its name.
    bytes : what it adds to the text.
    logprob : of the distribution that the model computed, before temperature, penalties, filters and grammars.
    top_logprobs : the most probable tokens in this place, most probable first, if the request asked for them.
    """

    token_id: int
    token: str
    bytes: bytes
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()


def describe(logprobs: Iterable[TokenLogprobs], tokenizer: Tokenizer) -> list[TokenLogprob]:
    """What the sampler noted, in words."""

    def describe_token(token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        text, data = tokenizer.token_text(token_id), tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id, text, data, logprob, top)

    return [
        describe_token(
            entry.token_id,
            entry.logprob,
            tuple(map(describe_token, entry.top_ids, entry.top_logprobs)),
        )
        for entry in logprobs
    ]
