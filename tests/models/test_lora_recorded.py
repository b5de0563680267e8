"""With an adapter a model says what llama.cpp says with it: logits and greedy text, recorded by `record_lora`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from densecore import DenseCore
from tests.models.record_lora import ARCHITECTURES, NUM_TOKENS, PROMPT, RECORDED, SCALE, make_files
from tests.models.running import nmse


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_as_llama_cpp(tmp_path, arch):
    base, adapter = make_files(tmp_path, arch)
    expected = json.loads(RECORDED.read_text())[arch]
    with DenseCore(base, lora_path=(adapter, SCALE)) as model:
        logits = model.forward(PROMPT)[-1]
        config = {"max_tokens": NUM_TOKENS, "temperature": 0, "repetition_penalty": 1, "ignore_eos": True}
        assert nmse(logits, np.array(expected["logits"], np.float32)) < 1e-6
        assert model.complete(PROMPT, **config).token_ids == expected["greedy"]
        assert nmse(model.forward(PROMPT, lora=[])[-1], logits) > 0.1
