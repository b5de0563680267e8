"""Settings that are wrong are refused where they are made, by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from densecore.config import EngineConfig, GenerationConfig
from densecore.exceptions import InvalidConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 0}, "typical_p must be a number above 0 up to 1, not 0"),
        ({"top_n_sigma": -1}, "top_n_sigma must be a number from 0 up to 1000"),
        ({"xtc_probability": 1.5}, "xtc_probability"),
        ({"xtc_threshold": float("nan")}, "xtc_threshold"),
        ({"dry_multiplier": -1}, "dry_multiplier"),
        ({"dry_base": 0.5}, "dry_base must be a number from 1"),
        ({"dry_allowed_length": 0}, "dry_allowed_length must be an integer from 1"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n must be an integer from -1"),
        ({"dry_sequence_breakers": [""]}, "each of dry_sequence_breakers must be a string of 1 to 64"),
        ({"mirostat": 1}, r"mirostat must be 0 \(off\) or 2, not 1"),
        ({"mirostat": True}, "mirostat"),
        ({"mirostat_tau": "5"}, "mirostat_tau"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 300}, "min_tokens is 300, more than max_tokens, 256"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False, not 1"),
        ({"bad_words": 5}, "bad_words must be a list"),
        ({"bad_words": [""]}, "each of bad_words"),
        ({"bad_words": [[]]}, "each of bad_words"),
        ({"bad_words": [[1, -2]]}, "a token id of bad_words must be an integer from 0"),
        ({"bad_words": [None]}, "each of bad_words"),
        ({"bad_words": ["a"] * 2000}, "bad_words may hold 1024 entries"),
        ({"logprobs": 5}, "logprobs must be True or False"),
        ({"top_logprobs": 5}, "top_logprobs needs logprobs=True"),
        ({"logits_processors": [None]}, "each of logits_processors must be a function"),
        ({"logits_processors": 3}, "logits_processors must be a list of functions"),
        ({"logits_processors": [print] * 20}, "logits_processors may hold 16"),
        ({"json_mode": "yes"}, "json_mode must be True or False"),
        ({"json_schema": []}, "json_schema must be a JSON object"),
        ({"json_schema": {"a": object()}}, "json_schema is not JSON"),
        ({"json_schema": {"a": float("inf")}}, "json_schema is not JSON"),
        ({"json_schema": '{"minimum": ' + "9" * 5000 + "}"}, "json_schema is not JSON"),
        ({"regex": 5}, "regex must be a string of 1 to 131072 characters, not 5"),
        ({"grammar": ""}, "grammar must be a string of 1 to 131072 characters, not one of 0"),
        ({"choice": [1]}, "each of choice must be a string"),
        ({"choice": ["a"] * 5000}, "choice may hold 4096"),
        ({"choice": ["a" * 4000] * 40}, "choice must hold at least one string, and 131072 characters at most"),
        ({"choice": ["a"], "grammar": "start: /a/"}, "choice and grammar exclude each other"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InvalidConfigError, match=message):
        GenerationConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_cache_dtype": "q4_0"}, "kv_cache_dtype must be one of f16, f32, q8_0, not 'q4_0'"),
        ({"preallocate_kv_cache": 1}, "preallocate_kv_cache must be True or False, not 1"),
        ({"prefix_caching": None}, "prefix_caching must be True or False, not None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_about_the_cache_are_named(options, message):
    with pytest.raises(InvalidConfigError, match=message):
        EngineConfig(**options)


def test_values_take_their_final_form():
    config = GenerationConfig(
        top_k=np.int64(5), bad_words=["a", np.array([1, 2])], logits_processors=print, json_schema={"type": "null"}
    )
    assert type(config.top_k) is int
    assert config.bad_words == ("a", (1, 2))
    assert config.logits_processors == (print,)
    assert config.json_schema == '{"type": "null"}'
    assert dataclasses.replace(config, top_k=3) == GenerationConfig(**(vars(config) | {"top_k": 3}))
    assert hash(config) == hash(dataclasses.replace(config))


def test_structure():
    assert GenerationConfig().structure is None
    assert GenerationConfig(json_mode=True).structure == ("json_mode", True)
    assert GenerationConfig(choice="yes").structure == ("choice", ("yes",))
