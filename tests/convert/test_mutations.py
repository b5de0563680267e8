"""Checkpoints in which anything may have been replaced by anything: converted, or refused with one line."""

from __future__ import annotations

import copy
import json
import random
import warnings

import pytest

from densecore.convert import convert_checkpoint
from densecore.exceptions import DenseCoreError
from tests.convert.tiny import byte_level_bpe, recorded, write_checkpoint

JUNK = [None, True, -1, 0, 1, 3, 64, 1 << 40, 1.5, "", "x", "F32", "\ud800", [], [1], ["x"], [[]], [0, 0], {}, {"a": 1}]
NAMES = ["llama", "mixtral", "deepseek3", "gpt-oss", "bert-ranking", "falcon-new"]


def places(value, path=()):
    """Paths to the values inside of a JSON value, a few of each list and object."""
    children = list(value.items())[:60] if isinstance(value, dict) else []
    children = list(enumerate(value))[:6] if isinstance(value, list) else children
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutated(value, rng):
    """A copy in which one value is another, or is missing."""
    value = copy.deepcopy(value)
    *outer, last = rng.choice(list(places(value)))
    inner = value
    for key in outer:
        inner = inner[key]
    if isinstance(inner, dict) and rng.random() < 0.3:
        del inner[last]
    else:
        inner[last] = rng.choice(JUNK)
    return value


def mutate_header(path, rng):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    text = json.dumps(mutated(json.loads(data[8:end]), rng)).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["config", "tokenizer", "header"])
def test_mutations(tmp_path, name, what):
    rng = random.Random(f"{name} {what}")
    config, tensors = recorded(name)
    for _ in range(8):
        settings = mutated(config, rng) if what == "config" else config
        tokenizer = mutated(byte_level_bpe(), rng) if what == "tokenizer" else None
        source = write_checkpoint(tmp_path / "source", settings, tensors, tokenizer=tokenizer)
        if what == "header":
            mutate_header(source / "model.safetensors", rng)
        refusal = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                convert_checkpoint(source, tmp_path / "model.gguf")
            except DenseCoreError as error:
                refusal = str(error)
        assert "\n" not in refusal
