"""One file an architecture; found by the class that a checkpoint's ``config.json`` names, or by its model type."""

from __future__ import annotations

from densecore.convert.architectures.bert import Bert
from densecore.convert.architectures.cohere2 import Cohere2
from densecore.convert.architectures.command_r import CommandR
from densecore.convert.architectures.deepseek2 import DeepSeek2
from densecore.convert.architectures.falcon import Falcon
from densecore.convert.architectures.gemma import Gemma
from densecore.convert.architectures.gemma2 import Gemma2
from densecore.convert.architectures.gemma3 import Gemma3
from densecore.convert.architectures.gpt2 import GPT2
from densecore.convert.architectures.gpt_oss import GptOss
from densecore.convert.architectures.gptneox import GPTNeoX
from densecore.convert.architectures.granite import Granite
from densecore.convert.architectures.jina_bert_v2 import JinaBertV2
from densecore.convert.architectures.llama import Llama
from densecore.convert.architectures.mistral3 import Mistral3
from densecore.convert.architectures.mixtral import Mixtral
from densecore.convert.architectures.nomic_bert import NomicBert
from densecore.convert.architectures.olmo2 import Olmo2
from densecore.convert.architectures.phi3 import Phi3
from densecore.convert.architectures.qwen2 import Qwen2
from densecore.convert.architectures.qwen2moe import Qwen2Moe
from densecore.convert.architectures.qwen3 import Qwen3
from densecore.convert.architectures.qwen3moe import Qwen3Moe
from densecore.convert.architectures.roberta import Roberta
from densecore.convert.architectures.smollm3 import SmolLM3
from densecore.convert.architectures.stablelm import StableLM
from densecore.convert.architectures.starcoder2 import StarCoder2
from densecore.convert.checkpoint import Checkpoint
from densecore.convert.rules import Rules
from densecore.gguf.errors import describe

__all__ = ["ALL_RULES", "rules_for"]

ALL_RULES: tuple[type[Rules], ...] = (
    Bert,
    Cohere2,
    CommandR,
    DeepSeek2,
    Falcon,
    Gemma,
    Gemma2,
    Gemma3,
    GPT2,
    GptOss,
    GPTNeoX,
    Granite,
    JinaBertV2,
    Llama,
    Mistral3,
    Mixtral,
    NomicBert,
    Olmo2,
    Phi3,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Roberta,
    SmolLM3,
    StableLM,
    StarCoder2,
)


def rules_for(checkpoint: Checkpoint) -> Rules:
    """The rules of a checkpoint's architecture; ModelLoadError if it is not covered."""
    name = checkpoint.config.architecture
    for rules in ALL_RULES:
        if name in rules.classes or name in rules.model_types:
            return rules(checkpoint)
    known = ", ".join(sorted(rules.classes[0] for rules in ALL_RULES))
    raise checkpoint.config.error("architectures", f"is {describe(name)}, which is not supported", known)
