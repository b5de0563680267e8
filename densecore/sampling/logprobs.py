"""Logarithms of the probabilities that the model itself gives to tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["TokenLogprobs", "log_probabilities"]


class TokenLogprobs(NamedTuple):
    """Of one token, and of the most probable ones in its place, in order."""

    token_id: int
    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


def log_probabilities(logits: np.ndarray, token_id: int, top: int) -> TokenLogprobs:
    """Of `token_id` and the `top` most probable tokens, from unmodified logits (n_vocab,) float32, finite or -inf."""
    highest = logits.max()
    total = float(highest) + float(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    top = min(top, len(logits))
    if not top:
        return TokenLogprobs(token_id, float(logits[token_id]) - total, (), ())
    ids = np.flatnonzero(logits >= np.partition(logits, -top)[-top])
    ids = ids[np.argsort(-logits[ids], kind="stable")][:top]  # stable: equal ones in order of their ids
    logprobs = logits[ids].astype(np.float64) - total
    return TokenLogprobs(token_id, float(logits[token_id]) - total, tuple(ids.tolist()), tuple(logprobs.tolist()))
