"""One file an architecture; found by the class that a checkpoint's ``config.json`` names, or by its model type."""

from __future__ import annotations

from densecore.convert.architectures.bert import Bert
from densecore.convert.architectures.gemma import Gemma
from densecore.convert.architectures.gemma2 import Gemma2
from densecore.convert.architectures.granite import Granite
from densecore.convert.architectures.llama import Llama
from densecore.convert.architectures.mixtral import Mixtral
from densecore.convert.architectures.phi3 import Phi3
from densecore.convert.architectures.qwen2 import Qwen2
from densecore.convert.architectures.qwen3 import Qwen3
from densecore.convert.architectures.smollm3 import SmolLM3
from densecore.convert.checkpoint import Checkpoint
from densecore.convert.rules import Rules
from densecore.gguf.errors import describe

__all__ = ["ALL_RULES", "rules_for"]

ALL_RULES: tuple[type[Rules], ...] = (
    Bert,
    Gemma,
    Gemma2,
    Granite,
    Llama,
    Mixtral,
    Phi3,
    Qwen2,
    Qwen3,
    SmolLM3,
)


def rules_for(checkpoint: Checkpoint) -> Rules:
    """The rules of a checkpoint's architecture; ModelLoadError if it is not covered."""
    name = checkpoint.config.architecture
    for rules in ALL_RULES:
        if name in rules.classes or name in rules.model_types:
            return rules(checkpoint)
    known = ", ".join(sorted(rules.classes[0] for rules in ALL_RULES))
    raise checkpoint.config.error("architectures", f"is {describe(name)}, which is not supported", known)
