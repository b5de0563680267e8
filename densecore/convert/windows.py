"""Sliding windows: which layers of a checkpoint have one, and the keys that say so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from densecore.convert.rules import Rules

__all__ = ["left_out_elsewhere", "local_layers", "window_metadata"]

LOCAL, GLOBAL = "sliding_attention", "full_attention"


def local_layers(rules: Rules, usual: list[bool]) -> list[bool]:
    """Of each layer, whether it has a window: as ``layer_types`` says, or `usual`."""
    kinds = rules.config.strings("layer_types", default=None)
    if kinds is None:
        return usual
    if len(kinds) != rules.n_layers or not {LOCAL, GLOBAL}.issuperset(kinds):
        allowed = f"{LOCAL} or {GLOBAL} for each of {rules.n_layers} layers"
        raise rules.config.error("layer_types", f"is {kinds}", allowed)
    return [kind == LOCAL for kind in kinds]


def window_metadata(
    rules: Rules, window: int, local: list[bool], usual: list[bool] | None = None
) -> Iterator[tuple[str, Any]]:
    """The keys of a window of `window` tokens in the layers `local`, and their values.

    `usual` are the layers that runtimes give a window as soon as they know its size; None if they know of none in
    this architecture, so that windows that no text fills need no key.
    """
    if usual is None and (not any(local) or window >= rules.config.integer("max_position_embeddings")):
        return
    yield "attention.sliding_window", window
    if local != (usual or [True] * rules.n_layers):
        yield "attention.sliding_window_pattern", local
    if usual is None:
        left_out_elsewhere(f"a sliding window of {window} tokens")
    elif local != usual:
        left_out_elsewhere("another pattern of windows than the published models'")


def left_out_elsewhere(what: str) -> None:
    """Warn of a setting whose key this architecture has in DenseCore alone."""
    warnings.warn(
        f"config.json asks for {what}: other programs than DenseCore leave it out", RuntimeWarning, stacklevel=3
    )
