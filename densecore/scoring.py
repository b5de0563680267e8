"""How probable a model finds a text that is given: the log-probability of each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np

from densecore.engine import Engine
from densecore.engine.logprobs import TokenLogprob, describe
from densecore.exceptions import InferenceError
from densecore.sampling import TokenLogprobs, log_probabilities

__all__ = ["score_tokens"]


def score_tokens(
    engine: Engine,
    token_ids: SequenceOf[int],
    top: int,
    lora: Any = None,
    *,
    keep: bool = False,
    salt: str | None = None,
) -> list[TokenLogprob | None]:
    """For each token its log-probability after those before it, with the `top` most probable ones; None for the first.

    `keep` and `salt` are as of `Engine.forward_pieces`.

    Raises
    ------
    InferenceError
        The model gave NaN or infinity.
    """
    scored: list[TokenLogprobs] = []
    pieces = engine.forward_pieces(np.array(token_ids, np.int32), lora, keep=keep, salt=salt)
    n_vocab = engine.n_vocab  # a model may have more rows, which no token belongs to
    for logits in pieces:  # (num_tokens of the piece, n_vocab)
        following = token_ids[len(scored) + 1 : len(scored) + 1 + len(logits)]
        for row, token_id in zip(logits[:, :n_vocab], following, strict=False):  # nothing follows the last one
            if not np.isfinite(row.max()):
                raise InferenceError(f"the model gave {row.max()} as a logit after token {len(scored)} of the text")
            scored.append(log_probabilities(row, token_id, top))
    return [None, *describe(scored, engine.tokenizer)]
