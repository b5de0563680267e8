"""Records what transformers computes with settings that no published model of the architecture has, for `test_options`:

python -m tests.models.record_options

It needs torch, transformers and safetensors. Each case is one that was once converted to a file that computed something
else, or to none: windows, scales and patterns for which DenseCore writes keys of its own, or which published models
have beside those of `record_archs`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.record_archs import LINEAR, LLAMA3, LOCAL, MINISTRAL, TIED, YARN
from tests.models.record_experts import EXPERTS, MLA, record_all

CONFIGURATIONS = Path(__file__).with_name("options.json")
LOGITS = Path(__file__).with_name("options.npz")
ROWS = slice(2, None, 5)  # of the logits that are recorded

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.0, 1.3, 1.9, 2.5, 4.0, 6.0],
        "short_factor": [1.0, 1.1, 1.1, 1.2, 1.3, 1.4]}  # fmt: skip
MSCALE = YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}
GPT_OSS = {"head_dim": 16, "num_local_experts": 5, "num_experts_per_tok": 3, "num_hidden_layers": 3,
           "sliding_window": 9, "layer_types": ["full_attention", *["sliding_attention"] * 2]}  # fmt: skip

# By the name of the case: the class of transformers, and what its configuration has beside, or in place of, SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral-window": ("Mistral", {"head_dim": 12, "sliding_window": 9}),
    "mixtral-window": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 9}),
    "mistral3-mscale": ("Ministral3", {"head_dim": 12, "sliding_window": 9,
                                       "rope_parameters": YARN | MINISTRAL | {"mscale": 0.8, "mscale_all_dim": 0.6}}),
    "qwen2-window": ("Qwen2", {"num_hidden_layers": 3, "use_sliding_window": True, "sliding_window": 9,
                               "max_window_layers": 1}),
    "qwen3-llama3": ("Qwen3", {"head_dim": 16, "use_sliding_window": True, "sliding_window": 9,
                               "max_window_layers": 0, "rope_parameters": LLAMA3}),
    "smollm3-window": ("SmolLM3", {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 9}),
    "smollm3-layers": ("SmolLM3", {"num_hidden_layers": 3, "no_rope_layers": [0, 1, 0]}),
    "falcon-biases": ("Falcon", TIED | {"bias": True}),
    "gemma2-other": ("Gemma2", TIED | {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 9,
                                       "attn_logit_softcapping": None, "final_logit_softcapping": None,
                                       "layer_types": ["full_attention", "sliding_attention"]}),
    "gemma3-other": ("Gemma3Text", TIED | {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 40,
                                           "layer_types": ["full_attention", "sliding_attention"]}),
    "phi3-short": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
    "phi3-long": ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 16}),
    "gpt2-untied": ("GPT2", {}),
    "command-r-linear": ("Cohere", TIED | {"rope_parameters": LINEAR | {"rope_theta": 1e4}}),
    "cohere2-pattern": ("Cohere2", TIED | {"head_dim": 12, "sliding_window": 9, "rope_parameters": LOCAL,
                                           "layer_types": ["full_attention", "sliding_attention"]}),
    "qwen2moe-normalized": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 40, "norm_topk_prob": True,
                                                   "qkv_bias": False}),
    "qwen2moe-some": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 40, "num_hidden_layers": 3,
                                             "mlp_only_layers": [1]}),
    "qwen3moe-raw": ("Qwen3Moe", EXPERTS | {"head_dim": 16, "norm_topk_prob": False, "use_sliding_window": True,
                                            "sliding_window": 9}),
    "qwen3moe-some": ("Qwen3Moe", EXPERTS | {"head_dim": 16, "norm_topk_prob": True, "decoder_sparse_step": 2}),
    "deepseek2-biases": ("DeepseekV2", MLA | {"topk_method": "greedy", "attention_bias": True, "mlp_bias": True}),
    "deepseek3-mscale": ("DeepseekV3", MLA | {"n_group": 4, "topk_group": 2, "rms_norm_eps": 1e-3,
                                              "rope_interleave": False, "rope_parameters": MSCALE}),
    "nomic-bert": ("NomicBert", {"pad_token_id": 0, "rope_parameters": LOCAL | {"rope_theta": 1e3}}),
    "gpt-oss-untruncated": ("GptOss", GPT_OSS | {"rope_parameters": YARN | {"truncate": False}}),
    "gpt-oss-published": ("GptOss", GPT_OSS | {"head_dim": 32, "layer_types": None}),  # the default's RoPE
}  # fmt: skip

if __name__ == "__main__":
    record_all(CASES, CONFIGURATIONS, LOGITS, ROWS)
