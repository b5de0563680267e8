"""From a checkpoint in Hugging Face's layout to a GGUF file: ``densecore convert``."""

from __future__ import annotations

from densecore.convert.architectures import ALL_RULES, rules_for
from densecore.convert.convert import convert_checkpoint
from densecore.convert.encode import OUT_TYPES

__all__ = ["ALL_RULES", "OUT_TYPES", "convert_checkpoint", "rules_for"]
