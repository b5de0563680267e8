"""Functions of the user that change logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from densecore.exceptions import InferenceError

__all__ = ["process"]


def process(
    processors: Sequence[Callable[..., Any]], token_ids: Sequence[int], logits: np.ndarray, request: str
) -> np.ndarray:
    """Logits (n_vocab,) float32 after all processors; `logits` is theirs to change.

    Raises InferenceError, which names the function, if one fails or gives something that is no logits.
    """
    for processor in processors:
        name = getattr(processor, "__qualname__", None) or type(processor).__name__
        try:
            returned = processor(list(token_ids), logits)
            changed = logits if returned is None else np.array(returned, np.float32)
        except Exception as error:
            raise InferenceError(f"{request}: the logits processor {name} failed: {error!r}") from error
        if changed.shape != logits.shape:
            raise InferenceError(
                f"{request}: the logits processor {name} returned the shape {changed.shape}; "
                f"return an array of the shape {logits.shape}, or None to keep what it changed in place"
            )
        if not changed.max() < np.inf:  # NaN too
            raise InferenceError(f"{request}: the logits processor {name} gave NaN or inf; -inf forbids a token")
        logits = changed
    return logits
