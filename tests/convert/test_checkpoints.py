"""Checkpoints of each architecture: names as llama.cpp's converter writes them, and logits as transformers computes."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from densecore.convert import ALL_RULES, convert_checkpoint
from densecore.gguf import GGUFFile
from densecore.models import ARCHITECTURES
from tests.convert.tiny import COLUMNS, expected, recorded, recorded_names, weights, write_checkpoint
from tests.models.checkpoints import configurations
from tests.models.running import open_model, run

# Tensors that the package's map names for another purpose, or not at all, and where they belong.
UNMAPPED = {
    "lm_head.weight": "output.weight",  # by the map of command-r, whose files have none
    "classifier.weight": "cls.output.weight",
    "classifier.bias": "cls.output.bias",
}
# Split in two, and only in some files.
NOT_WRITTEN = {
    "pooler.dense.weight",
    "pooler.dense.bias",
    *(f"model.layers.{n}.self_attn.kv_b_proj.weight" for n in (0, 1)),
}
# Of remote code, so written down here as published: names and shapes of one layer.
ENCODERS = {
    "nomic-bert": (
        {
            "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "n_embd": 64, "n_head": 4, "n_inner": 96,
            "n_layer": 1, "n_positions": 8192, "vocab_size": 288, "type_vocab_size": 2, "activation_function": "swiglu",
            "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "causal": False,
            "qkv_proj_bias": False, "rotary_emb_scale_base": None,
        },
        {
            "embeddings.word_embeddings.weight": [288, 64], "embeddings.token_type_embeddings.weight": [2, 64],
            "emb_ln.weight": [64], "emb_ln.bias": [64], "encoder.layers.0.attn.Wqkv.weight": [192, 64],
            "encoder.layers.0.attn.out_proj.weight": [64, 64], "encoder.layers.0.mlp.fc11.weight": [96, 64],
            "encoder.layers.0.mlp.fc12.weight": [96, 64], "encoder.layers.0.mlp.fc2.weight": [64, 96],
            "encoder.layers.0.norm1.weight": [64], "encoder.layers.0.norm1.bias": [64],
            "encoder.layers.0.norm2.weight": [64], "encoder.layers.0.norm2.bias": [64],
        },
    ),
    "jina-bert-v2": (
        {
            "architectures": ["JinaBertForMaskedLM"], "model_type": "bert", "hidden_size": 64, "intermediate_size": 96,
            "num_attention_heads": 4, "num_hidden_layers": 1, "max_position_embeddings": 8192, "vocab_size": 288,
            "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "alibi",
        },
        {
            "embeddings.word_embeddings.weight": [288, 64], "embeddings.token_type_embeddings.weight": [2, 64],
            "embeddings.LayerNorm.weight": [64], "embeddings.LayerNorm.bias": [64],
            **{
                f"encoder.layer.0.attention.{part}.{kind}": [64, 64] if kind == "weight" else [64]
                for part in ("self.query", "self.key", "self.value", "output.dense")
                for kind in ("weight", "bias")
            },
            "encoder.layer.0.attention.output.LayerNorm.weight": [64],
            "encoder.layer.0.attention.output.LayerNorm.bias": [64],
            "encoder.layer.0.mlp.gated_layers.weight": [192, 64], "encoder.layer.0.mlp.wo.weight": [64, 96],
            "encoder.layer.0.mlp.wo.bias": [64], "encoder.layer.0.mlp.layernorm.weight": [64],
            "encoder.layer.0.mlp.layernorm.bias": [64],
        },
    ),
}  # fmt: skip
KEYS = {
    value
    for group in (
        gguf.Keys.Classifier,
        gguf.Keys.General,
        gguf.Keys.LLM,
        gguf.Keys.Attention,
        gguf.Keys.Rope,
        gguf.Keys.Tokenizer,
    )
    for name, value in vars(group).items()
    if isinstance(value, str) and not name.startswith("_")
} | {
    "tokenizer.ggml.normalizer.lowercase",
    "tokenizer.ggml.normalizer.strip_accents",
    "{arch}.rope.scaling.yarn_truncate",  # this one and the next are DenseCore's own
    "{arch}.rope.layers",
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Converts a checkpoint by its name, once."""
    folder, done = tmp_path_factory.mktemp("converted"), {}

    def convert(name):
        if name not in done:
            config, tensors = checkpoint(name)
            source = write_checkpoint(folder / name, config, tensors, n_shards=2)
            done[name] = convert_checkpoint(source, folder / f"{name}.gguf", "f32", name="tiny")
        return done[name]

    return convert


def checkpoint(name):
    if name in ENCODERS:
        config, shapes = ENCODERS[name]
        return config, weights(shapes)
    return recorded(name)


@pytest.mark.parametrize("name", [*recorded_names(), *ENCODERS])
def test_names(converted, name):
    """Keys and tensors are those of the gguf package, and each tensor goes where its map sends it."""
    with GGUFFile.open(converted(name)) as file:
        arch = file.metadata["general.architecture"]
        number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
        for key in file.metadata:
            assert key.replace(f"{arch}.", "{arch}.", 1) in KEYS, key
        bases = {gguf.TENSOR_NAMES[tensor] for tensor in gguf.MODEL_TENSORS[number]} | {"output", "cls.output"}
        for tensor in file.tensors:
            base = tensor.rpartition(".")[0]
            words = ["{bid}" if word.isdecimal() else word for word in base.split(".")]
            assert ".".join(words) in bases, tensor
        check_map(gguf.get_tensor_name_map(number, 8), checkpoint(name)[1], set(file.tensors))


def check_map(names, source, found):
    """Each tensor of a checkpoint that the map knows is in the file under the name that the map gives it."""
    for name in source:
        short = name.removeprefix("bert.").removeprefix("roberta.")
        if short in NOT_WRITTEN:
            continue
        target = UNMAPPED.get(short) or names.get_name(short, (".weight", ".bias"))
        assert target is None or {target, f"{target}.weight"} & found, name


def is_recorded_decoder(name):
    return "bert" not in name


@pytest.mark.parametrize("name", [name for name in recorded_names() if is_recorded_decoder(name)])
def test_logits_of_transformers(converted, name):
    """Prefill and step by step, with the numbers that transformers has for the same weights."""
    ids, logits = expected(name)
    with GGUFFile.open(converted(name)) as file:
        arch = file.metadata["general.architecture"]
    if arch not in ARCHITECTURES:
        pytest.skip(f"models of {arch} are not computed yet")
    if name == "mixtral" and "qwen2moe" not in ARCHITECTURES:
        pytest.skip("experts are not computed yet")
    with open_model(converted(name)) as model:
        assert np.abs(run(model, ids)[:, COLUMNS] - logits).max() < 1e-3
        assert np.abs(run(model, ids, chunks=[1] * len(ids))[:, COLUMNS] - logits).max() < 1e-3


def test_all_rules_are_recorded(converted):
    """Each class of rules meets a checkpoint, here or among those of `tests.models.test_archs`."""
    seen = {recorded(name)[0]["architectures"][0] for name in recorded_names()}
    seen |= {case["config"]["architectures"][0] for case in configurations().values()}
    seen |= {config["architectures"][0] for config, _ in ENCODERS.values()}
    assert [rules.__name__ for rules in ALL_RULES if not seen & set(rules.classes)] == []


def test_names_are_unique():
    names = [name for rules in ALL_RULES for name in (*rules.classes, *rules.model_types)]
    assert len(names) == len(set(names))
