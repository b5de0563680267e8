"""The engine: scheduling of requests over one model and its KV cache."""

from __future__ import annotations

from densecore.engine.encoder_engine import EncoderEngine
from densecore.engine.engine import Engine

__all__ = ["EncoderEngine", "Engine"]
