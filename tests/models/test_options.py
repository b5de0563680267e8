"""Settings that published models of an architecture do not have: computed as transformers does, or refused by name."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from densecore import DenseCore
from densecore.convert import convert_checkpoint
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from tests.convert.tiny import COLUMNS
from tests.models.checkpoints import TOKENS, configurations, write_case
from tests.models.record_options import CONFIGURATIONS, LOGITS, ROWS
from tests.models.running import open_model, run

CASES = json.loads(CONFIGURATIONS.read_text())
RECORDED = np.load(LOGITS)
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "logit_bias": {263: -100}}

# What other programs make of the file is something else in these cases, and a warning says so.
WARNINGS = {
    "mistral-window": "a sliding window of 9 tokens",
    "mixtral-window": "a sliding window of 9 tokens",
    "mistral3-mscale": "a sliding window of 9 tokens",
    "qwen2-window": "a sliding window of 9 tokens",
    "qwen3-llama3": "a sliding window of 9 tokens",
    "smollm3-window": "a sliding window of 9 tokens",
    "smollm3-layers": "other layers without RoPE",
    "gemma2-other": "query_pre_attn_scalar = 24",
    "gemma3-other": "query_pre_attn_scalar = 40",
    "cohere2-pattern": "another pattern of windows",
    "qwen2moe-normalized": "norm_topk_prob = true",
    "qwen3moe-raw": "norm_topk_prob = false",
    "gpt-oss-untruncated": "another pattern of windows",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function that gives the GGUF file of a case, and the warnings of its conversion; made once."""
    folder, made = tmp_path_factory.mktemp("options"), {}

    def file_of(name):
        if name not in made:
            path = folder / f"{name}.gguf"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                convert_checkpoint(write_case(folder / name, CASES[name]), path, "f32")
            made[name] = path, " ".join(str(warning.message) for warning in caught)
        return made[name]

    return file_of


@pytest.mark.parametrize("name", CASES)
def test_logits_of_transformers(name, files):
    path, said = files(name)
    assert WARNINGS[name] in said if name in WARNINGS else not said
    if name == "nomic-bert":
        with DenseCore(path) as encoder:
            assert np.abs(encoder.forward(TOKENS)[ROWS, COLUMNS] - RECORDED[name]).max() < 1e-3
        return
    with open_model(path) as model:
        logits = run(model, TOKENS)
        assert np.abs(logits[ROWS, COLUMNS] - RECORDED[name]).max() < 1e-3
        assert np.array_equal(run(model, TOKENS, chunks=[40, *[1] * 8]), logits)


def test_keys_of_our_own(files):
    """They are there where nothing else tells; gpt-oss's published settings are known by their numbers."""
    with GGUFFile.open(files("smollm3-layers")[0]) as file:
        assert file.metadata["smollm3.rope.layers"].tolist() == [False, True, False]
    for name, value in (("gpt-oss-untruncated", False), ("gpt-oss-published", None), ("phi3-long", None)):
        with GGUFFile.open(files(name)[0]) as file:
            assert file.metadata.get(f"{name[:7]}.rope.scaling.yarn_truncate") is value


@pytest.mark.parametrize(
    ("name", "setting", "value", "words"),
    [
        ("llama", "hidden_act", "relu", "hidden_act is 'relu'.*silu"),
        ("llama", "hidden_act", "gelu", "hidden_act is 'gelu'.*silu"),
        ("gpt2", "activation_function", "relu", "activation_function is 'relu'"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx"),
        ("falcon-7b", "alibi", True, "alibi is True"),
        ("gemma3", "layer_types", ["full_attention"], "for each of 7 layers"),
        ("gemma3", "attn_logit_softcapping", 5.0, "attn_logit_softcapping"),
        ("smollm3", "no_rope_layers", [0, 1], "no_rope_layers.*each of 5 layers"),
        ("llama", "rope_parameters", {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}, "long_fa"),
        (
            "olmo3",
            "rope_parameters",
            {"sliding_attention": {"rope_type": "linear", "factor": 2.0}},
            "sliding_attention",
        ),
    ],
)
def test_refused(name, setting, value, words, tmp_path):
    """By the name of the setting, before anything is written."""
    case = configurations()[name]
    case["config"][setting] = value
    with pytest.raises(ModelLoadError, match=words):
        convert_checkpoint(write_case(tmp_path / "checkpoint", case), tmp_path / "m.gguf", "f32")
    assert not (tmp_path / "m.gguf").exists()


def test_the_other_gelu_is_a_warning(tmp_path):
    case = configurations()["gpt2"]
    case["config"]["activation_function"] = "gelu"
    with pytest.warns(RuntimeWarning, match=r"asks for 'gelu'.*nearly the same"):
        convert_checkpoint(write_case(tmp_path / "checkpoint", case), tmp_path / "m.gguf", "f32")


def test_long_texts_are_rotated_by_other_factors(files):
    """By what a request may grow to: one has the same bits whatever is in the cache of prefixes, and beside it."""
    path, _ = files("phi3-long")  # short factors to 16 tokens
    prompt = TOKENS[:9].tolist()
    with open_model(path) as model:
        short, long = (run(model, prompt + TOKENS[9 : 9 + more].tolist())[8] for more in (7, 8))
    assert np.abs(short - long).max() > 1e-2
    with DenseCore(path, prefix_caching=False, kv_cache_dtype="f32") as model:
        alone = {n: model.complete(prompt, max_tokens=n, **GREEDY).token_ids for n in (8, 20)}
        assert np.array_equal(model.forward(prompt + TOKENS[9:17].tolist())[8], long)
    assert alone[8][0] == short.argmax()
    assert alone[20][0] == long.argmax()
    with DenseCore(path, block_size=4, kv_cache_dtype="f32") as model:
        for n in (8, 20, 8, 20):
            assert model.complete(prompt, max_tokens=n, **GREEDY).token_ids == alone[n]
        both = [model.submit(prompt, max_tokens=n, **GREEDY) for n in (8, 20)]
        assert [future.result().token_ids for future in both] == [alone[8], alone[20]]
