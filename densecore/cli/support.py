"""What this version can run, told without loading the compiler; tests compare the lists with the real ones."""

from __future__ import annotations

from densecore.gguf import GGUFFile

__all__ = ["ARCHITECTURES", "TENSOR_TYPES", "reasons_against"]

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # densecore.models.ARCHITECTURES
TENSOR_TYPES = (  # densecore.kernels.formats.FORMATS
    "BF16", "F16", "F32", "IQ4_NL", "IQ4_XS", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K",
    "Q6_K", "Q8_0",
)  # fmt: skip


def reasons_against(file: GGUFFile) -> list[str]:
    """Why the model of a file cannot be run; empty if nothing is known against it."""
    arch = file.metadata.get("general.architecture")
    reasons = []
    if not file.tensors:
        reasons.append("the file holds a vocabulary only")
    if arch not in ARCHITECTURES:
        reasons.append(f"architecture {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    if file.metadata.get(f"{arch}.expert_count", 0):
        reasons.append("it has experts (a mixture of experts)")
    unknown = sorted({tensor.type.name for tensor in file.tensors.values()} - set(TENSOR_TYPES))
    if unknown:
        reasons.append(f"there are no kernels for tensors of type {', '.join(unknown)}")
    return reasons
