"""Records what transformers computes with tiny random models that have experts, for `test_experts`:

python -m tests.models.record_experts

It needs torch, transformers and safetensors. Each model is saved by transformers, so that the names of its tensors are
those of checkpoints; then its weights are those of `checkpoints.draw_weights`, and it is loaded again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny import COLUMNS
from tests.models.checkpoints import TOKENS, draw_weights
from tests.models.record_archs import SIZES, load_transformers

CONFIGURATIONS = Path(__file__).with_name("experts.json")
LOGITS = Path(__file__).with_name("experts.npz")

YARN = {"rope_type": "yarn", "rope_theta": 5e3, "factor": 4.0, "original_max_position_embeddings": 32,
        "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 0.7}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
MLA = {"num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
       "n_shared_experts": 2, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
       "v_head_dim": 12, "first_k_dense_replace": 1}  # fmt: skip

# By the name of the case: the class of transformers, and what its configuration has beside, or in place of, SIZES.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 40, "norm_topk_prob": False}),
    "deepseek2": ("DeepseekV2", MLA | {"routed_scaling_factor": 1.5, "rope_parameters": YARN,
                                       "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2}),
    "deepseek2-lite": ("DeepseekV2", MLA | {"q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek3": ("DeepseekV3", MLA | {"rope_parameters": YARN, "n_group": 4, "topk_group": 2, "norm_topk_prob": True,
                                       "routed_scaling_factor": 2.5}),
}  # fmt: skip


def record(kind: str, special: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Configuration and shapes of a case, and some columns of the logits (num_tokens, n_vocab) of TOKENS.

    Of an encoder, those of its hidden states.
    """
    import torch
    from safetensors import safe_open
    from safetensors.numpy import save_file

    transformers = load_transformers()
    config_class = getattr(transformers, f"{kind}Config")
    known = config_class()  # some have no heads of keys and values
    config = config_class(**{key: value for key, value in SIZES.items() if hasattr(known, key)} | special)
    named_otherwise = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM", "NomicBert": "NomicBertModel"}
    model_class = getattr(transformers, named_otherwise.get(kind, f"{kind}ForCausalLM"))
    with tempfile.TemporaryDirectory() as folder:
        model_class(config).float().save_pretrained(folder)
        path = Path(folder) / "model.safetensors"
        with safe_open(path, "np") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        save_file(draw_weights(shapes), path, {"format": "pt"})
        model, report = model_class.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
        assert not report["missing_keys"], report
        assert not report["unexpected_keys"], report
        with torch.no_grad():
            outputs = model.eval()(torch.from_numpy(TOKENS)[None].long())
            logits = outputs[0][0, :, COLUMNS].numpy()
        saved = json.loads((Path(folder) / "config.json").read_text())
    return {"config": saved, "shapes": shapes}, logits


def record_all(
    cases: dict[str, tuple[str, dict[str, Any]]], configurations: Path, logits: Path, rows: slice = slice(None)
) -> None:
    """Write what `record` finds of each case; of the logits these rows alone."""
    found = {name: record(*case) for name, case in cases.items()}
    for name, (_, values) in found.items():
        print(f"{name:20} logits of spread {values.std():.2f}")
    lines = ",\n".join(f'"{name}": {json.dumps(case)}' for name, (case, _) in found.items())
    configurations.write_text(f"{{\n{lines}\n}}\n")
    np.savez_compressed(logits, **{name: values[rows] for name, (_, values) in found.items()})


if __name__ == "__main__":
    record_all(CASES, CONFIGURATIONS, LOGITS)
