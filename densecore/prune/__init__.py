"""Pruning: a model with fewer layers, channels or heads.

::

    from densecore.prune import PruneConfig, prune_model

    config = PruneConfig("depth", target_n_layer=24, importance_method="activation")
    result = prune_model("model-f16.gguf", "smaller-f16.gguf", config, calibration_text=text)

What needs the compiled kernels is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from densecore.prune.config import PRESETS, PruneConfig

__all__ = ["PRESETS", "PruneConfig", "PruneResult", "plot_importance", "prune_model"]
__all__ += list(PRESETS)

_HOME = {"PruneResult": "model", "plot_importance": "plot", "prune_model": "model"}

if TYPE_CHECKING:
    from densecore.prune.model import PruneResult, prune_model
    from densecore.prune.plot import plot_importance

    DEPTH_PRUNE_25_CFG: PruneConfig
    DEPTH_PRUNE_50_CFG: PruneConfig


def __getattr__(name: str) -> Any:
    if name in PRESETS:
        return PRESETS[name]
    if name not in _HOME:
        raise AttributeError(f"module 'densecore.prune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"densecore.prune.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
