"""What a GGUF file says about its model, as plain dicts for JSON. Tolerates what DenseCore cannot run."""

from __future__ import annotations

from typing import Any

from densecore.cli.support import ENCODERS, reasons_against
from densecore.config import EngineConfig
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, TensorInfo
from densecore.kernels.kv_layout import CACHE_DTYPES, block_bytes

__all__ = ["model_facts", "tensor_facts"]

# Names of DESIGN's vocabulary, and the metadata keys that hold them.
_DIMENSIONS = {
    "dim": "embedding_length",
    "hidden_dim": "feed_forward_length",
    "n_layers": "block_count",
    "n_heads": "attention.head_count",
    "n_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "n_experts": "expert_count",
}


def model_facts(file: GGUFFile, ctx_size: int | None = None) -> dict[str, Any]:
    """Everything about a model but its single tensors; values that the file does not give are None.

    ctx_size : tokens for which the memory is computed; None takes the model's context length
    """
    metadata, tensors = file.metadata, list(file.tensors.values())
    arch = metadata.get("general.architecture")
    dimensions = _dimensions(file, str(arch))
    context_length = _integer(file, f"{arch}.context_length")
    reasons = reasons_against(file)
    return {
        "path": str(file.path),
        "files": len(file.paths),
        "file_bytes": sum(path.stat().st_size for path in file.paths),
        "gguf_version": file.version,
        "architecture": arch,
        "name": metadata.get("general.name"),
        "supported": not reasons,
        "reasons_against": reasons,
        "parameters": sum(tensor.n_elements for tensor in tensors),
        "n_tensors": len(tensors),
        "tensor_types": _tensor_types(tensors),
        "context_length": context_length,
        **dimensions,
        "vocabulary": _vocabulary(file),
        "chat_template": _chat_template(file),
        "memory": _memory(tensors, dimensions, None if arch in ENCODERS else ctx_size or context_length),
    }


def tensor_facts(tensor: TensorInfo) -> dict[str, Any]:
    """One tensor; the shape as in the file, contiguous dimension first."""
    return {
        "name": tensor.name,
        "type": tensor.type.name,
        "shape": list(tensor.shape),
        "n_bytes": tensor.n_bytes,
        "part": tensor.part,
        "offset": tensor.offset,
    }


def _integer(file: GGUFFile, key: str) -> int | None:
    """A number that may be missing, or something else such as a list with one entry a layer."""
    value = file.metadata.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _dimensions(file: GGUFFile, arch: str) -> dict[str, int | None]:
    found = {name: _integer(file, f"{arch}.{key}") for name, key in _DIMENSIONS.items()}
    dim, n_heads = found["dim"], found["n_heads"]
    if found["n_kv_heads"] is None and f"{arch}.attention.head_count_kv" not in file.metadata:
        found["n_kv_heads"] = n_heads
    if found["head_dim"] is None and dim and n_heads:
        found["head_dim"] = dim // n_heads
    return found


def _tensor_types(tensors: list[TensorInfo]) -> list[dict[str, Any]]:
    """By type: number of tensors, parameters, bytes, and share of all bytes; the largest first."""
    total = sum(tensor.n_bytes for tensor in tensors)
    rows = []
    for name in {tensor.type.name for tensor in tensors}:
        own = [tensor for tensor in tensors if tensor.type.name == name]
        n_bytes = sum(tensor.n_bytes for tensor in own)
        n_parameters = sum(tensor.n_elements for tensor in own)
        rows.append(
            {"type": name, "tensors": len(own), "parameters": n_parameters, "bytes": n_bytes, "share": n_bytes / total}
        )
    return sorted(rows, key=lambda row: (-row["bytes"], row["type"]))


def _vocabulary(file: GGUFFile) -> dict[str, Any]:
    """Kind, size and special ids; where the vocabulary is of no kind that is known, `problem` says so."""
    from densecore.tokenizer.vocabulary import read_vocabulary

    tokens = file.metadata.get("tokenizer.ggml.tokens")
    facts: dict[str, Any] = {
        "kind": file.metadata.get("tokenizer.ggml.model"),
        "pre": file.metadata.get("tokenizer.ggml.pre"),
        "size": len(tokens) if isinstance(tokens, list) else 0,
        "special": {},
        "problem": None,
    }
    try:
        vocabulary = read_vocabulary(file.metadata)
    except ModelLoadError as error:
        return facts | {"problem": str(error)}
    special = {name: {"id": i, "text": vocabulary.tokens[i]} for name, i in sorted(vocabulary.special.items())}
    ends = [{"id": i, "text": vocabulary.tokens[i]} for i in sorted(vocabulary.eog_ids)]
    return facts | {"special": special, "end_of_generation": ends}


def _chat_template(file: GGUFFile) -> dict[str, Any]:
    key = "tokenizer.chat_template"
    template = file.metadata.get(key)
    if not isinstance(template, str):
        return {"present": False, "key": None, "characters": 0}
    return {"present": True, "key": key, "characters": len(template)}


def _memory(tensors: list[TensorInfo], dimensions: dict[str, int | None], ctx_size: int | None) -> dict[str, Any]:
    """Bytes of the mapped weights, and of the KV cache for one sequence of `ctx_size` tokens; encoders have none."""
    facts: dict[str, Any] = {"ctx_size": ctx_size, "weights_bytes": sum(tensor.n_bytes for tensor in tensors)}
    n_layers, n_kv_heads, head_dim = (dimensions[name] for name in ("n_layers", "n_kv_heads", "head_dim"))
    block_size = EngineConfig().block_size
    for name, dtype in CACHE_DTYPES.items():
        facts[f"kv_cache_{name}_bytes"] = None
        if ctx_size and n_layers and n_kv_heads and head_dim:
            num_blocks = n_layers * -(-ctx_size // block_size)
            facts[f"kv_cache_{name}_bytes"] = num_blocks * block_bytes(n_kv_heads, block_size, head_dim, dtype)
    return facts
