"""Every error that DenseCore raises on purpose.

::

    DenseCoreError
     +-- ModelLoadError            a file that cannot be used: broken, unsupported, missing
     +-- InvalidConfigError        an argument out of range (also a ValueError)
     +-- InferenceError            a model that computed something unusable, or an engine that failed
     +-- TimeoutError              a request ran past its deadline (also the builtin TimeoutError)
     +-- QueueFullError            more requests than may wait: try again later
     +-- UnsupportedFeatureError   documented, and not in this version yet

Messages say what was wrong, where, and what would be right.
"""

from __future__ import annotations

import builtins

__all__ = [
    "DenseCoreError",
    "InferenceError",
    "InvalidConfigError",
    "ModelLoadError",
    "QueueFullError",
    "TimeoutError",
    "UnsupportedFeatureError",
]


class DenseCoreError(Exception):
    """Base class of all errors of this package."""


class ModelLoadError(DenseCoreError):
    """A model or vocabulary file is missing, broken, or of a kind that is not supported."""


class InvalidConfigError(DenseCoreError, ValueError):
    """An argument or a configuration value is outside of what is allowed."""


class InferenceError(DenseCoreError, RuntimeError):
    """Inference failed: a model produced NaN, or the engine cannot go on."""


class TimeoutError(DenseCoreError, builtins.TimeoutError):
    """A request did not finish before its deadline."""


class QueueFullError(DenseCoreError):
    """The engine has as many waiting requests as `max_num_waiting` allows."""


class UnsupportedFeatureError(DenseCoreError, NotImplementedError):
    """A documented feature that this version or installation lacks; the message says what to do."""
