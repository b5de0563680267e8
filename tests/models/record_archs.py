"""Records what transformers computes with tiny random models, for `test_archs`:

python -m tests.models.record_archs

It needs torch and transformers. Each case is one architecture, or a variant of one that takes other branches. Sizes are
odd where they may be: heads that do not fill the model's width, contexts beyond windows, scales that are not 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny import COLUMNS, N_VOCAB
from tests.models.checkpoints import CONFIGURATIONS, LOGITS, TOKENS, draw_weights

SIZES = {
    "vocab_size": N_VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": False,
    "bos_token_id": None, "eos_token_id": 263, "pad_token_id": None,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 5e3, "factor": 4.0, "original_max_position_embeddings": 64,
        "beta_fast": 2.0, "beta_slow": 0.5}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
TIED = {"tie_word_embeddings": True}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}  # of layers with a sliding window
LINEAR = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
MINISTRAL = {"original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}
OLMO3 = {"sliding_attention": LOCAL, "full_attention": YARN | {"attention_factor": 1.2}}
GEMMA3 = {"head_dim": 16, "num_hidden_layers": 7, "sliding_window": 9, "query_pre_attn_scalar": 16,
          "rope_parameters": {"sliding_attention": LOCAL, "full_attention": LINEAR}}  # fmt: skip
GRANITE = {"embedding_multiplier": 6.0, "residual_multiplier": 0.4, "attention_multiplier": 0.5, "logits_scaling": 0.7,
           "attention_bias": True}  # fmt: skip

# By the name of the case: the class of transformers, and what its configuration has beside, or in place of, SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
    "llama-linear": ("Llama", TIED | {"rope_parameters": LINEAR}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"head_dim": 8, "num_key_value_heads": 1, "sliding_window": None}),
    "mistral3": ("Ministral3", {"head_dim": 16, "rope_parameters": YARN | MINISTRAL}),
    "gemma": ("Gemma", TIED | {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma3": ("Gemma3", TIED | GEMMA3),
    "granite": ("Granite", TIED | GRANITE),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", {"num_hidden_layers": 5, "sliding_window": 9, "rope_parameters": OLMO3}),
    "smollm3": ("SmolLM3", TIED | {"num_hidden_layers": 5}),
    "falcon-7b": ("Falcon", TIED),
    "falcon-40b": ("Falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "starcoder2": ("Starcoder2", TIED | {"sliding_window": 9}),
    "gpt2": ("GPT2", TIED),
    "gptneox": ("GPTNeoX", {"rope_parameters": LOCAL | {"partial_rotary_factor": 0.5}}),
    "gptneox-serial": ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "stablelm": ("StableLm", {"use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "stablelm-12b": ("StableLm", {"use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "command-r": ("Cohere", TIED | {"logit_scale": 1.5}),
    "command-r-plus": ("Cohere", TIED | {"logit_scale": 1.5, "use_qk_norm": True}),
    "cohere2": ("Cohere2", TIED | {"logit_scale": 1.5, "num_hidden_layers": 5, "sliding_window": 9, "head_dim": 12}),
}


def load_transformers() -> Any:
    """The package, which must not find our folder ``kernels``: it would take it for another project's package."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path[:] = [path for path in sys.path if str(Path(path).resolve()) != root]
    import transformers

    return transformers


def build(name: str) -> Any:
    """The model of a case, its weights those of `checkpoints.draw_weights`."""
    import torch

    transformers = load_transformers()
    kind, special = CASES[name]
    causal = {"Gemma3": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    config_class = {"Gemma3": "Gemma3TextConfig"}.get(kind, f"{kind}Config")
    kind_of_config = getattr(transformers, config_class)
    known = kind_of_config()  # some have no heads of keys and values, or no width of the feed-forward part
    config = kind_of_config(**{key: value for key, value in SIZES.items() if hasattr(known, key)} | special)
    config.architectures = [causal]
    model = getattr(transformers, causal)._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    state = draw_weights(shapes_of(model))
    left = model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=False)
    assert not left.unexpected_keys
    model.tie_weights()
    return model


def shapes_of(model: Any) -> dict[str, list[int]]:
    """The tensors that a checkpoint of this model holds: parameters, of those that are one only the first."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def main() -> None:
    load_transformers()
    import torch

    configurations, logits = {}, {}
    for name in CASES:
        model = build(name)
        config = json.loads(model.config.to_json_string(use_diff=False))
        configurations[name] = {"config": config, "shapes": shapes_of(model)}
        with torch.no_grad():
            logits[name] = model(torch.from_numpy(TOKENS)[None].long()).logits[0, :, COLUMNS].float().numpy()
        spread = logits[name].std()
        print(f"{name:16} logits of spread {spread:.2f}, {sum(p.numel() for p in model.parameters())} parameters")
    lines = ",\n".join(f'"{name}": {json.dumps(value)}' for name, value in configurations.items())
    CONFIGURATIONS.write_text(f"{{\n{lines}\n}}\n")
    np.savez_compressed(LOGITS, **logits)


if __name__ == "__main__":
    main()
