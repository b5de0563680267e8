"""Names of files as they are on the Hub, and what they say."""

from __future__ import annotations

import pytest

from densecore.exceptions import ModelLoadError
from densecore.hub.choice import PREFERENCE, choose, models_among, quantization_of
from densecore.hub.layout import is_safe_filename


@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("llama-2-7b-chat.Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Llama-3.2-1B-Instruct-IQ4_XS.gguf", "IQ4_XS"),
        ("model-Q8_0-00002-of-00003.gguf", "Q8_0"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("gemma-3-BF16.gguf", "BF16"),
        ("Q2_K/model-00001-of-00002.gguf", "Q2_K"),
        ("Q2_K/model-Q6_K.gguf", "Q6_K"),
        ("stories260K.gguf", None),
        ("q4model.gguf", None),
    ],
)
def test_quantizations(name: str, quantization: str | None) -> None:
    assert quantization_of(name) == quantization


@pytest.mark.parametrize("number", range(len(PREFERENCE)))
def test_the_first_of_the_preference_that_is_there(number: int) -> None:
    names = [f"m-{quantization}.gguf" for quantization in PREFERENCE[number:]]
    assert choose([*reversed(names), "m-IQ1_S.gguf"], None, "o/m").name == f"m-{PREFERENCE[number]}.gguf"


def test_what_is_no_language_model_is_not_chosen() -> None:
    names = ["mmproj-model-f16.gguf", "model-Q4_K_M.imatrix.gguf", "a.txt", "imatrix.gguf"]
    assert models_among(names) == []
    with pytest.raises(ModelLoadError, match="no GGUF file of a language model"):
        choose(names, None, "o/m")
    assert choose([*names, "model-IQ1_S.gguf"], None, "o/m").name == "model-IQ1_S.gguf"  # there is no other


def test_without_any_of_the_preference_a_choice_is_asked_for() -> None:
    with pytest.raises(ModelLoadError, match=r"add one of these .* IQ1_S, UD-Q4_K_XL"):
        choose(["m-IQ1_S.gguf", "m-UD-Q4_K_XL.gguf"], None, "o/m")
    assert choose(["m-IQ1_S.gguf", "m-UD-Q4_K_XL.gguf"], "q4_k_xl", "o/m").name == "m-UD-Q4_K_XL.gguf"


def test_long_lists_are_cut() -> None:
    with pytest.raises(ModelLoadError, match="and 88 more"):
        choose([f"{n:03}-Q4_K_M.gguf" for n in range(100)], "Q4_K_M", "o/m")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/..", "/a", "a/", "a//b", "a\\b", "C:a", "a\nb", "a\0", "b" * 256, 5]
)
def test_unsafe_names(name: object) -> None:
    assert not is_safe_filename(name)


@pytest.mark.parametrize("name", ["a", "a/b.gguf", "..a", "a.b.c", "é (1)/x.gguf"])
def test_safe_names(name: str) -> None:
    assert is_safe_filename(name)
