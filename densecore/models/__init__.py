"""Models, one file an architecture, found by the name that GGUF files give them (`general.architecture`)."""

from __future__ import annotations

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.models.adapter_file import load_adapter
from densecore.models.adapters import Adapter, AdapterSet, AdapterUse
from densecore.models.base import Model, Outputs
from densecore.models.batch import Batch, KVCache, slots
from densecore.models.bert import Bert
from densecore.models.classifier import Classifier
from densecore.models.cohere2 import Cohere2
from densecore.models.command_r import CommandR
from densecore.models.config import ModelConfig
from densecore.models.deepseek2 import DeepSeek2
from densecore.models.encoder import Encoder, EncoderBatch
from densecore.models.experts import has_experts
from densecore.models.falcon import Falcon
from densecore.models.gemma import Gemma
from densecore.models.gemma2 import Gemma2
from densecore.models.gemma3 import Gemma3
from densecore.models.gpt2 import GPT2
from densecore.models.gpt_oss import GptOss
from densecore.models.gptneox import GPTNeoX
from densecore.models.granite import Granite
from densecore.models.hooks import Hooks
from densecore.models.jina_bert_v2 import JinaBertV2
from densecore.models.llama import Llama
from densecore.models.mistral3 import Mistral3
from densecore.models.mixtral import Mixtral
from densecore.models.nomic_bert import NomicBert
from densecore.models.olmo2 import Olmo2
from densecore.models.phi3 import Phi3
from densecore.models.pooling import KINDS as POOLING_KINDS
from densecore.models.pooling import RANK, Pooling
from densecore.models.qwen2 import Qwen2
from densecore.models.qwen2moe import Qwen2Moe
from densecore.models.qwen3 import Qwen3
from densecore.models.qwen3moe import Qwen3Moe
from densecore.models.smollm3 import SmolLM3
from densecore.models.stablelm import StableLM
from densecore.models.starcoder2 import StarCoder2

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "POOLING_KINDS",
    "RANK",
    "Adapter",
    "AdapterSet",
    "AdapterUse",
    "Batch",
    "Classifier",
    "Encoder",
    "EncoderBatch",
    "Hooks",
    "KVCache",
    "Model",
    "ModelConfig",
    "Outputs",
    "Pooling",
    "load_adapter",
    "load_any",
    "load_model",
    "slots",
]

ARCHITECTURES: dict[str, type[Model]] = {
    "cohere2": Cohere2,
    "command-r": CommandR,
    "deepseek2": DeepSeek2,
    "falcon": Falcon,
    "gemma": Gemma,
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "gpt-oss": GptOss,
    "gpt2": GPT2,
    "gptneox": GPTNeoX,
    "granite": Granite,
    "llama": Llama,
    "mistral3": Mistral3,
    "olmo2": Olmo2,
    "phi3": Phi3,
    "qwen2": Qwen2,
    "qwen2moe": Qwen2Moe,
    "qwen3": Qwen3,
    "qwen3moe": Qwen3Moe,
    "smollm3": SmolLM3,
    "stablelm": StableLM,
    "starcoder2": StarCoder2,
}


ENCODERS: dict[str, type[Encoder]] = {
    "bert": Bert,
    "jina-bert-v2": JinaBertV2,
    "nomic-bert": NomicBert,
}


def load_any(file: GGUFFile) -> Model | Encoder:
    """The model in an open file, which must stay open; ModelLoadError if it is incomplete or not supported."""
    arch = file.metadata.string("general.architecture")
    kinds: dict[str, type[Model] | type[Encoder]] = {**ARCHITECTURES, **ENCODERS}
    if arch not in kinds:
        raise ModelLoadError(
            f"{file.path}: architecture {arch!r} is not supported; supported are {', '.join(sorted(kinds))}"
        )
    if arch == "llama" and has_experts(file):
        return Mixtral(file)
    return kinds[arch](file)


def load_model(file: GGUFFile) -> Model:
    """As `load_any`, for a model that has to generate: ModelLoadError also for an encoder."""
    model = load_any(file)
    if isinstance(model, Encoder):
        raise ModelLoadError(f"{file.path}: architecture {model.config.architecture!r} is an encoder, which embeds")
    return model
