"""Records what transformers computes for tiny checkpoints: ``cd tests/convert && python record_checkpoints.py``.

Needs torch and transformers, which takes a folder ``kernels`` where it is started for a package of its own. Each
checkpoint is saved by transformers, so that names of tensors and settings are its own; then its weights are replaced by
those of tiny.weights, it is loaded again, and logits are recorded.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny import COLUMNS, HERE, N_VOCAB, weights

BASE: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 263,
    "pad_token_id": None,
}
MLA = {
    "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 24,
    "first_k_dense_replace": 1,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
BERT = {key: value for key, value in BASE.items() if key != "num_key_value_heads"} | {"pad_token_id": 1}

# Name, configuration class, model class, and settings that differ from BASE (None: left out).
CHECKPOINTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"head_dim": 32}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "ministral3": ("Ministral3Config", "Ministral3ForCausalLM", {"head_dim": 32}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"head_dim": 32}),
    "qwen2moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "qwen3moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {"original_max_position_embeddings": 128}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {"head_dim": 32}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"head_dim": 32, "sliding_window": 4, "query_pre_attn_scalar": 32}),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {"num_hidden_layers": 6, "head_dim": 32, "sliding_window": 4, "query_pre_attn_scalar": 32},
    ),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", {"num_hidden_layers": 4}),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", {}),
    "falcon": ("FalconConfig", "FalconForCausalLM", {"num_key_value_heads": None, "intermediate_size": None}),
    "falcon-new": (
        "FalconConfig",
        "FalconForCausalLM",
        {
            "num_key_value_heads": None,
            "intermediate_size": None,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        dict.fromkeys(BASE, None)
        | {"vocab_size": N_VOCAB, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 263},
    ),
    "gptneox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {"num_key_value_heads": None}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", {"use_qkv_bias": True}),
    "stablelm-norms": (
        "StableLmConfig",
        "StableLmForCausalLM",
        {"qk_layernorm": True, "use_parallel_residual": True},
    ),
    "command-r": ("CohereConfig", "CohereForCausalLM", {}),
    "command-r-norms": ("CohereConfig", "CohereForCausalLM", {"use_qk_norm": True}),
    "cohere2": ("Cohere2Config", "Cohere2ForCausalLM", {"num_hidden_layers": 4, "sliding_window": 4}),
    "deepseek2": ("DeepseekV2Config", "DeepseekV2ForCausalLM", {**MLA, "n_shared_experts": 2}),
    "deepseek2-lite": (
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        {**MLA, "n_shared_experts": 1, "q_lora_rank": None},
    ),
    "deepseek3": (
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        {**MLA, "n_shared_experts": 1, "n_group": 2, "topk_group": 1},
    ),
    "gpt-oss": (
        "GptOssConfig",
        "GptOssForCausalLM",
        {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4},
    ),
    "bert": ("BertConfig", "BertModel", BERT),
    "bert-ranking": ("BertConfig", "BertForSequenceClassification", {**BERT, "num_labels": 1}),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", BERT),
    "xlm-roberta-ranking": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification", {**BERT, "num_labels": 1}),
}


def record(name: str, ids: torch.Tensor) -> tuple[dict[str, Any], np.ndarray]:
    """Settings with the shapes of all tensors, and the logits, or hidden states of an encoder."""
    config_name, class_name, changes = CHECKPOINTS[name]
    settings = {key: value for key, value in (BASE | changes).items() if value is not None or key.endswith("token_id")}
    if "q_lora_rank" in changes:
        settings["q_lora_rank"] = changes["q_lora_rank"]
    model_class = getattr(transformers, class_name)
    with tempfile.TemporaryDirectory() as folder:
        model_class(getattr(transformers, config_name)(**settings)).float().save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        with safe_open(path, "np") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        save_file(weights(shapes), path, {"format": "pt"})
        model, report = model_class.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
        assert not report["missing_keys"], report
        assert not report["unexpected_keys"], report
        with torch.no_grad():
            output = model.float().eval()(ids)
        config = json.loads((Path(folder) / "config.json").read_text())
    values = output.logits if hasattr(output, "logits") else output.last_hidden_state
    columns = values[0, :, COLUMNS] if values.dim() == 3 else values
    return {"config": config, "tensors": shapes}, columns.numpy().astype(np.float32)


def main() -> None:
    """Write checkpoints.json and checkpoints.npz."""
    ids = np.random.default_rng(7).integers(0, 256, 12)
    entries, arrays = {}, {"ids": ids}
    for name in CHECKPOINTS:
        entries[name], arrays[name] = record(name, torch.from_numpy(ids)[None])
        print(name, arrays[name].shape, float(np.abs(arrays[name]).max()))
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in entries.items()]
    (HERE / "checkpoints.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    np.savez_compressed(HERE / "checkpoints.npz", **arrays)


if __name__ == "__main__":
    main()
