"""Rotary position embedding: settings of checkpoints, old and new, as keys of a GGUF file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from densecore.convert.config import CheckpointConfig

__all__ = ["RopeSettings", "llama3_factors"]

KNOWN = "default, linear, dynamic, yarn, longrope, llama3"


class RopeSettings:
    """``rope_parameters`` of a config, or ``rope_scaling`` and ``rope_theta`` as they were written before.

    Attributes:
        scaling: the settings of this kind of scaling, empty without one.
        kind: ``default``, ``linear``, ``dynamic``, ``yarn``, ``longrope`` or ``llama3``.
        local: the settings of layers with a sliding window, where they have their own.
    """

    def __init__(self, config: CheckpointConfig) -> None:
        self._config = config
        whole = config.section("rope_parameters", "rope_scaling")
        self.scaling = whole.section("full_attention") if whole.has("full_attention") else whole
        self.local = whole.section("sliding_attention")
        self.kind = self.scaling.string("rope_type", "type", default="default").lower()
        self.kind = {"su": "longrope", "mrope": "default"}.get(self.kind, self.kind)
        if self.kind not in KNOWN.split(", "):
            raise self.scaling.error("rope_type", f"is {self.kind!r}", KNOWN)

    def theta(self, default: float | None = 10000.0) -> float | None:
        """The base of the frequencies."""
        names = ("rope_theta", "global_rope_theta", "rotary_emb_base")
        if self.scaling.has("rope_theta"):
            return self.scaling.number("rope_theta", minimum=1e-6)
        return self._config.number(*names, default=default, minimum=1e-6)

    def local_theta(self) -> float | None:
        """The base of layers with a sliding window, None where it is the same."""
        if self.local.has("rope_theta"):
            return self.local.number("rope_theta", minimum=1e-6)
        return self._config.number("rope_local_base_freq", "local_rope_theta", default=None, minimum=1e-6)

    def fraction(self, default: float = 1.0) -> float:
        """The part of a head that is rotated, from 0 to 1."""
        names = ("partial_rotary_factor", "rotary_pct", "rope_pct")
        source = self.scaling if self.scaling.has(*names) else self._config
        found = source.number(*names, default=default, minimum=0.0)
        if found > 1.0:
            raise source.error(names[0], f"is {found:g}", "from 0 to 1")
        return found

    def original_context(self, default: int) -> int:
        """The context length before scaling."""
        name = "original_max_position_embeddings"
        source = self.scaling if self.scaling.has(name) else self._config
        return source.integer(name, default=default)

    def metadata(self, default_theta: float | None = 10000.0) -> Iterator[tuple[str, Any]]:
        """Keys without the architecture, and their values."""
        if (theta := self.theta(default_theta)) is not None:
            yield "rope.freq_base", theta
        if (local := self.local_theta()) is not None:
            yield "rope.freq_base_swa", local
        if self.kind == "dynamic":
            warnings.warn(
                "config.json asks for dynamic RoPE scaling, which GGUF files cannot express: it is left out, which"
                " changes nothing up to the context length that the model was trained with",
                RuntimeWarning,
                stacklevel=2,
            )
        elif self.kind == "longrope":
            yield "rope.scaling.type", "longrope"
        elif self.kind in ("linear", "yarn"):
            yield "rope.scaling.type", self.kind
            yield "rope.scaling.factor", self.scaling.number("factor", minimum=1e-6)
        if self.kind == "yarn":
            yield from self._yarn()

    def _yarn(self) -> Iterator[tuple[str, Any]]:
        default = self._config.integer("max_position_embeddings", default=None)
        yield "rope.scaling.original_context_length", self.original_context(default)
        for key, names in (
            ("yarn_ext_factor", ("extrapolation_factor",)),
            ("yarn_attn_factor", ("attention_factor", "attn_factor")),
            ("yarn_beta_fast", ("beta_fast",)),
            ("yarn_beta_slow", ("beta_slow",)),
        ):
            if self.scaling.has(*names):
                yield f"rope.scaling.{key}", self.scaling.number(*names)


def llama3_factors(settings: RopeSettings, head_dim: int, default_context: int = 8192) -> np.ndarray:
    """What Llama 3.1 divides its frequencies by, shape (head_dim / 2,) float32.

    High frequencies stay, low ones are divided by ``factor``, and those in between go from one to the other. Source:
    Grattafiori et al., "The Llama 3 Herd of Models" (2024), and the settings that its checkpoints name.
    """
    scaling = settings.scaling
    factor = scaling.number("factor", default=8.0, minimum=1e-6)
    low = scaling.number("low_freq_factor", default=1.0, minimum=1e-6)
    high = scaling.number("high_freq_factor", default=4.0, minimum=1e-6)
    if high <= low:
        raise scaling.error("high_freq_factor", f"is {high:g}", f"above low_freq_factor, which is {low:g}")
    context = settings.original_context(default_context)
    base = settings.theta() or 10000.0
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    blend = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)
