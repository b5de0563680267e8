"""Perplexity of a model on a text, as llama.cpp's ``llama-perplexity`` defines it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densecore.exceptions import InvalidConfigError

__all__ = ["Perplexity", "measure_perplexity", "negative_log_likelihoods", "split_into_chunks", "summarise"]

MIN_CHUNK_LENGTH = 4  # the shortest whose second half predicts something


@dataclass(frozen=True)
class Perplexity:
    """A measurement.

    Attributes
    ----------
    value : exp of the mean negative log-likelihood.
    standard_error : of `value`, from the spread of the single tokens (as if they were independent).
    mean_nll : mean negative log-likelihood in nats.
    num_scored : predictions that were scored.
    num_chunks, chunk_length : chunks, and tokens in each.
    """

    value: float
    standard_error: float
    mean_nll: float
    num_scored: int
    num_chunks: int
    chunk_length: int


def measure_perplexity(
    forward: Callable[[list[int]], np.ndarray],
    token_ids: list[int],
    chunk_length: int,
    *,
    bos_id: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Perplexity:
    """Perplexity over `token_ids`, a tokenized text.

    The tokens are cut into chunks of n = `chunk_length`; a rest that does not fill one is left out. In each chunk the
    tokens at n/2 + 1 ... n - 1 are predicted from those before them within the chunk, so that every scored prediction
    sees at least n/2 tokens. With p the probability given to the token that is there,

        perplexity = exp(mean of -log p)

    forward : token ids -> logits (num_tokens, n_vocab) of every position, such as `DenseCore.forward`
    bos_id : takes the place of the first token of each chunk, for a model that expects it; None changes nothing
    progress : called after each chunk with chunks done, chunks in all, and the perplexity so far

    Raises
    ------
    InvalidConfigError
        `chunk_length` is below 4, or the text does not fill one chunk.
    """
    chunks = split_into_chunks(token_ids, chunk_length, bos_id)
    nlls: list[np.ndarray] = []
    for chunk in chunks:
        logits = forward(chunk)  # (chunk_length, n_vocab)
        first = chunk_length // 2
        nlls.append(negative_log_likelihoods(logits[first:-1], chunk[first + 1 :]))
        if progress is not None:
            progress(len(nlls), len(chunks), float(np.exp(np.concatenate(nlls).mean())))
    return summarise(np.concatenate(nlls), len(chunks), chunk_length)


def negative_log_likelihoods(logits: np.ndarray, targets: list[int]) -> np.ndarray:
    """-log softmax(logits)[target] of each row, in float64: (num_tokens,) from (num_tokens, n_vocab) float32."""
    nlls = np.empty(len(targets))
    for row, (values, target) in enumerate(zip(logits, targets, strict=True)):  # by row: a vocabulary can be large
        highest = float(values.max())
        log_sum = highest + math.log(np.exp(values - np.float64(highest)).sum())
        nlls[row] = log_sum - float(values[target])
    return nlls


def split_into_chunks(token_ids: list[int], chunk_length: int, bos_id: int | None = None) -> list[list[int]]:
    """Chunks of `chunk_length` tokens, each beginning with `bos_id` if that is not None; a rest is left out.

    Raises InvalidConfigError if `chunk_length` is below 4, or if there are not enough tokens for one chunk.
    """
    if chunk_length < MIN_CHUNK_LENGTH:
        raise InvalidConfigError(f"a chunk must have at least {MIN_CHUNK_LENGTH} tokens, not {chunk_length}")
    if len(token_ids) < chunk_length:
        raise InvalidConfigError(
            f"the text has {len(token_ids)} tokens, and a chunk takes {chunk_length}: "
            "use a longer text or a smaller context"
        )
    starts = range(0, len(token_ids) - chunk_length + 1, chunk_length)
    chunks = [list(token_ids[start : start + chunk_length]) for start in starts]
    if bos_id is not None:
        for chunk in chunks:
            chunk[0] = bos_id
    return chunks


def summarise(nlls: np.ndarray, num_chunks: int, chunk_length: int) -> Perplexity:
    """The measurement that negative log-likelihoods make.

    By the delta method, the error of exp(m) is exp(m) times the error of the mean m.
    """
    mean = float(nlls.mean())
    spread = float(nlls.std(ddof=1)) if nlls.size > 1 else math.nan
    value = math.exp(mean)
    return Perplexity(value, value * spread / math.sqrt(nlls.size), mean, nlls.size, num_chunks, chunk_length)
