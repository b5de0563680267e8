"""Activation functions: no key of a GGUF file names one, as runtimes know it by the architecture."""

from __future__ import annotations

import warnings

from densecore.convert.config import CheckpointConfig

__all__ = ["check_activation"]

_SILU = ("silu", "swish")
_GELU_ERF = ("gelu", "gelu_python")
_GELU_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate")
_SAME = {"silu": _SILU, "gelu": _GELU_ERF, "gelu_tanh": _GELU_TANH}
_ALIKE = {"silu": (), "gelu": _GELU_TANH, "gelu_tanh": _GELU_ERF}


def check_activation(config: CheckpointConfig, wanted: str, *names: str) -> None:
    """ModelLoadError unless the setting `names` is `wanted`: ``silu``, ``gelu`` or ``gelu_tanh``.

    The two forms of GELU differ by less than 5e-4, so that one for the other is a RuntimeWarning.
    """
    found = config.string(*names, default=_SAME[wanted][0])
    if found in _SAME[wanted]:
        return
    if found not in _ALIKE[wanted]:
        raise config.error(names[0], f"is {found!r}", f"{_SAME[wanted][0]}: GGUF files cannot express another")
    warnings.warn(
        f"config.json asks for {found!r}, and runtimes of this architecture compute {_SAME[wanted][0]!r}, which is"
        " nearly the same",
        RuntimeWarning,
        stacklevel=3,
    )
