"""Which layers see everything, and which only a window of the last tokens."""

from __future__ import annotations

import numpy as np

from densecore.gguf import Metadata
from densecore.models.config import MAX_CONTEXT, ModelConfig

__all__ = ["layer_windows"]


def layer_windows(metadata: Metadata, config: ModelConfig, period: int, default: int = 0) -> list[int]:
    """The window of each layer, in tokens, the token itself included; 0 is none.

    A file without ``attention.sliding_window`` has `default`. The last of each `period` layers sees everything;
    ``attention.sliding_window_pattern`` gives another period, or tells of each layer whether it has a window.
    """
    key = f"{config.architecture}.attention.sliding_window"
    window = metadata.integer(key, default, minimum=0, maximum=MAX_CONTEXT)
    pattern = f"{key}_pattern"
    if isinstance(metadata.get(pattern), np.ndarray):
        is_local = metadata.array(pattern) != 0
        if len(is_local) != config.n_layers:
            raise metadata.error(pattern, f"has {len(is_local)} values", f"{config.n_layers}, one a layer")
    else:
        period = metadata.integer(pattern, period, minimum=1)
        layers = np.arange(1, config.n_layers + 1)
        is_local = layers % period != 0 if period else layers > 0
    return [window if local else 0 for local in is_local]
