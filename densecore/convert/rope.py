"""Rotary position embedding: settings of checkpoints, old and new, as keys of a GGUF file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from densecore.convert.config import CheckpointConfig

__all__ = ["RopeSettings"]

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

    def original_context(self, default: int | None = None) -> int:
        """The context length before scaling; `default` None is ``max_position_embeddings``."""
        name = "original_max_position_embeddings"
        source = self.scaling if self.scaling.has(name) else self._config
        if default is None and not source.has(name):
            return self._config.integer("max_position_embeddings")
        return source.integer(name, default=default)

    def factor(self) -> float:
        """How many times longer the context is than it was: where no setting says so, by the two lengths."""
        if self.scaling.has("factor"):
            return self.scaling.number("factor", minimum=1e-6)
        return self._config.integer("max_position_embeddings") / self.original_context()

    def magnitude(self) -> float:
        """What YaRN and long factors multiply rotated values by: as transformers computes it for each kind."""
        if self.scaling.has("attention_factor", "attn_factor"):
            return self.scaling.number("attention_factor", "attn_factor", minimum=1e-6)
        if self.kind == "longrope":
            scale = self.factor()
            return math.sqrt(1 + math.log(scale) / math.log(self.original_context())) if scale > 1.0 else 1.0
        if self.scaling.number("mscale", default=0.0) and self.scaling.number("mscale_all_dim", default=0.0):
            return self.growth(self.scaling.number("mscale")) / self.growth(self.scaling.number("mscale_all_dim"))
        return self.growth()

    def growth(self, strength: float = 1.0) -> float:
        """YaRN's factor on scores and rotated values, 1 + 0.1 strength log(factor)."""
        scale = self.factor()
        return 0.1 * strength * math.log(scale) + 1.0 if scale > 1.0 else 1.0

    def metadata(self, default_theta: float | None = 10000.0) -> Iterator[tuple[str, Any]]:
        """Keys without the architecture, and their values."""
        if (theta := self.theta(default_theta)) is not None:
            yield "rope.freq_base", theta
        kind = self.local.string("rope_type", "type", default="default")
        if kind != "default":
            raise self.local.error("rope_type", f"is {kind!r}", "'default': files have scaling for other layers alone")
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
            yield "rope.scaling.original_context_length", self.original_context()
            yield "rope.scaling.attn_factor", self.magnitude()
        elif self.kind in ("linear", "yarn"):
            yield "rope.scaling.type", self.kind
            yield "rope.scaling.factor", self.factor() if self.kind == "yarn" else self.scaling.number("factor")
        if self.kind == "yarn":
            yield from self._yarn()

    def _yarn(self) -> Iterator[tuple[str, Any]]:
        yield "rope.scaling.original_context_length", self.original_context()
        for key, names in (
            ("yarn_ext_factor", ("extrapolation_factor",)),
            ("yarn_beta_fast", ("beta_fast",)),
            ("yarn_beta_slow", ("beta_slow",)),
        ):
            if self.scaling.has(*names):
                yield f"rope.scaling.{key}", self.scaling.number(*names)
        if self.magnitude() != self.growth():
            yield "rope.scaling.yarn_attn_factor", self.magnitude()
        if not self.scaling.boolean("truncate", default=True):
            yield "rope.scaling.yarn_truncate", False  # DenseCore's own: other programs always truncate

    def tensors(self, rope_dim: int) -> Iterator[tuple[str, np.ndarray]]:
        """Factors on the wavelengths of the `rope_dim` / 2 pairs, which files have as tensors of these names."""
        if self.kind == "llama3":
            yield "rope_freqs.weight", llama3_factors(self, rope_dim)
        if not self.scaling.has("long_factor"):
            return
        for name in ("long_factor", "short_factor"):
            factors = self.scaling.numbers(name)
            if len(factors) != rope_dim // 2:
                raise self.scaling.error(name, f"has {len(factors)} numbers", f"{rope_dim // 2}")
            yield f"rope_factors_{name.removesuffix('_factor')}.weight", np.array(factors, np.float32)


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
