"""Hooks: read and replace activations by name while a model computes.

Names, in the order in which a step reaches them (N is the layer; shapes are of float32 arrays):

==================  ================================  ===============================================================
``embed``           (num_tokens, dim)                 embeddings of the tokens
``blk.N.resid_pre`` (num_tokens, dim)                 residual stream before the layer
``blk.N.q``         (num_tokens, n_heads, head_dim)   queries, with bias and norm, before RoPE
``blk.N.k``         (num_tokens, n_kv_heads, head_dim)  keys, likewise
``blk.N.v``         (num_tokens, n_kv_heads, head_dim)  values
``blk.N.pattern``   (n_heads, num_tokens, length)     softmax weights of each token over the positions
``blk.N.z``         (num_tokens, n_heads, head_dim)   what each head read, before ``attn_output``
``blk.N.attn_out``  (num_tokens, dim)                 what attention adds to the residual stream
``blk.N.resid_mid`` (num_tokens, dim)                 residual stream between attention and feed-forward
``blk.N.mlp_out``   (num_tokens, dim)                 what the feed-forward part adds
``blk.N.resid_post`` (num_tokens, dim)                residual stream after the layer
``logits``          (num_tokens, n_vocab)             the result
``MATRIX.input``    (num_tokens, n_in)                what a matrix gets to multiply, such as ``blk.0.ffn_down.input``
==================  ================================  ===============================================================

Matrices of a layer's experts lie in one tensor. ``blk.N.experts.input`` (num_tokens, n_experts) is 1 where an expert
gets a token, else 0, and only to be read. ``blk.N.ffn_gate_exps.input`` and ``ffn_up_exps.input`` have a row a token,
``ffn_down_exps.input`` has one for each token and expert that gets it, sorted by expert, then by token.

A hook is called as ``hook(value, name)``, or ``hook(value)`` if it takes one argument. It owns `value`, a copy: it may
keep it, change it in place, or return an array of the same shape instead; either change is what the model goes on with.
Keys may be patterns: ``blk.*.resid_post``. Asking for ``pattern`` computes that layer's attention by its readable
twin, with the whole matrix of weights, whose results differ from the compiled kernel's in the last bits.
"""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from densecore.exceptions import InvalidConfigError

__all__ = ["LAYER_HOOKS", "Hooks", "input_name"]

LAYER_HOOKS = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_out", "resid_post")

Hook = Callable[..., Any]


def input_name(matrix: str) -> str:
    """The name of what the matrix `matrix` (as in the file, without ``.weight``) gets to multiply."""
    return f"{matrix}.input"


def hook_names(n_layers: int, matrices: Iterable[str] = ()) -> list[str]:
    """Every name that a model of `n_layers` layers and these matrices offers."""
    layers = [f"blk.{layer}.{point}" for layer in range(n_layers) for point in LAYER_HOOKS]
    return ["embed", *layers, "logits", *map(input_name, matrices)]


def _with_name(hook: Hook) -> Hook:
    """`hook` as a function of (value, name)."""
    try:
        parameters = inspect.signature(hook).parameters.values()
    except (TypeError, ValueError):  # some builtins do not tell
        return lambda value, name: hook(value)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if len(required) >= 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return hook
    return lambda value, name: hook(value)


class Hooks:
    """The hooks of one forward pass, their patterns resolved to names."""

    def __init__(self, hooks: Mapping[str, Hook], n_layers: int, matrices: Iterable[str] = ()) -> None:
        if not isinstance(hooks, Mapping):
            raise InvalidConfigError(f"hooks must map names to callables, not {type(hooks).__name__}")
        self._hooks: dict[str, list[Hook]] = {}
        names = hook_names(n_layers, matrices)
        for pattern, hook in hooks.items():
            if not callable(hook):
                raise InvalidConfigError(f"the hook for {pattern!r} is not callable: {hook!r:.80}")
            matching = fnmatch.filter(names, pattern)
            if not matching:
                raise InvalidConfigError(
                    f"no activation is called {pattern!r}: names are embed, logits, and blk.N.POINT with N below "
                    f"{n_layers} and POINT one of {', '.join(LAYER_HOOKS)}, or MATRIX.input with the name of a matrix"
                )
            for name in matching:
                self._hooks.setdefault(name, []).append(_with_name(hook))

    def __contains__(self, name: str) -> bool:
        return name in self._hooks

    def apply(self, name: str, value: np.ndarray) -> None:
        """Call the hooks of `name`; what they leave is written back to `value`."""
        for hook in self._hooks.get(name, ()):
            copy = value.copy()
            result = hook(copy, name)
            if result is None:
                result = copy
            result = np.asarray(result)
            if result.shape != value.shape:
                raise InvalidConfigError(f"the hook for {name} returned shape {result.shape}; expected {value.shape}")
            value[...] = result
