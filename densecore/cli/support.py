"""What this version can run, told without loading the compiler; tests compare the lists with the real ones."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path

from densecore.gguf import GGUFFile

__all__ = ["ARCHITECTURES", "ENCODERS", "reasons_against", "tensor_types"]

# densecore.models.ARCHITECTURES
ARCHITECTURES = (
    "cohere2",
    "command-r",
    "deepseek2",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "gpt-oss",
    "gpt2",
    "gptneox",
    "granite",
    "llama",
    "mistral3",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen2moe",
    "qwen3",
    "qwen3moe",
    "smollm3",
    "stablelm",
    "starcoder2",
)
ENCODERS = ("bert", "jina-bert-v2", "nomic-bert")  # densecore.models.ENCODERS

WITH_EXPERTS = ("deepseek2", "gpt-oss", "llama", "qwen2moe", "qwen3moe")  # those that may have some


def tensor_types() -> set[str]:
    """Types with kernels: each has a file of its name in the folder of formats."""
    kernels = importlib.util.find_spec("densecore.kernels")
    assert kernels is not None
    assert kernels.submodule_search_locations
    formats = Path(kernels.submodule_search_locations[0], "formats")
    return {module.name.upper() for module in pkgutil.iter_modules([str(formats)])} - {"BASE", "GRIDS", "RUNS"}


def reasons_against(file: GGUFFile) -> list[str]:
    """Why the model of a file cannot be run; empty if nothing is known against it."""
    arch = file.metadata.get("general.architecture")
    reasons = []
    if not file.tensors:
        reasons.append("the file holds a vocabulary only")
    if arch not in ARCHITECTURES + ENCODERS:
        reasons.append(f"architecture {arch!r} is not one of {', '.join(ARCHITECTURES + ENCODERS)}")
    if file.metadata.get(f"{arch}.expert_count", 0) and arch not in WITH_EXPERTS:
        reasons.append("it has experts (a mixture of experts)")
    unknown = sorted({tensor.type.name for tensor in file.tensors.values()} - tensor_types())
    if unknown:
        reasons.append(f"there are no kernels for tensors of type {', '.join(unknown)}")
    return reasons
