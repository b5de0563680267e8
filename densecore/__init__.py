"""DenseCore: large language models on CPUs, computed in Numba-compiled Python.

Public names are imported when first used, so that ``import densecore`` stays light: it loads neither numba
nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "DenseCore",
    "DenseCoreError",
    "EngineConfig",
    "GenerationConfig",
    "GenerationResult",
    "InferenceError",
    "InvalidConfigError",
    "ModelLoadError",
    "QueueFullError",
    "TimeoutError",
    "TokenLogprob",
    "Tokenizer",
    "UnsupportedFeatureError",
    "__version__",
]

_HOME = {
    "DenseCore": "densecore.llm",
    "GenerationResult": "densecore.llm",
    "TokenLogprob": "densecore.llm",
    "EngineConfig": "densecore.config",
    "GenerationConfig": "densecore.config",
    "Tokenizer": "densecore.tokenizer",
    "DenseCoreError": "densecore.exceptions",
    "InferenceError": "densecore.exceptions",
    "InvalidConfigError": "densecore.exceptions",
    "ModelLoadError": "densecore.exceptions",
    "QueueFullError": "densecore.exceptions",
    "TimeoutError": "densecore.exceptions",
    "UnsupportedFeatureError": "densecore.exceptions",
}

if TYPE_CHECKING:
    from densecore.config import EngineConfig, GenerationConfig
    from densecore.exceptions import (
        DenseCoreError,
        InferenceError,
        InvalidConfigError,
        ModelLoadError,
        QueueFullError,
        TimeoutError,
        UnsupportedFeatureError,
    )
    from densecore.llm import DenseCore, GenerationResult, TokenLogprob
    from densecore.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'densecore' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
