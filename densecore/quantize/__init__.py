"""Quantization: a model in fewer bits.

::

    from densecore.quantize import Q4_K_M_CFG, quantize_model

    result = quantize_model("model-f16.gguf", "model-q4_k_m.gguf", Q4_K_M_CFG)
    print(result.compression, result.bits_per_weight)

There is a preset for each mix: `Q4_K_M_CFG`, `Q5_K_M_CFG`, `Q8_0_CFG`, `Q4_0_CFG` and so on (`PRESETS`). What needs
the compiled kernels is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from densecore.quantize.config import PRESETS, QuantConfig

__all__ = ["PRESETS", "ImportanceMatrix", "QuantConfig", "QuantizationResult", "TensorResult", "quantize_model"]
__all__ += list(PRESETS)

_HOME = {
    "ImportanceMatrix": "imatrix_file",
    "QuantizationResult": "model",
    "TensorResult": "model",
    "quantize_model": "model",
}

if TYPE_CHECKING:
    from densecore.quantize.imatrix_file import ImportanceMatrix
    from densecore.quantize.model import QuantizationResult, TensorResult, quantize_model

    Q4_K_M_CFG: QuantConfig
    Q5_K_M_CFG: QuantConfig
    Q8_0_CFG: QuantConfig
    Q4_0_CFG: QuantConfig


def __getattr__(name: str) -> Any:
    if name in PRESETS:
        return PRESETS[name]
    if name not in _HOME:
        raise AttributeError(f"module 'densecore.quantize' has no attribute {name!r}")
    return getattr(importlib.import_module(f"densecore.quantize.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
