"""Qwen3-Reranker, which its name alone tells from a model that writes."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.convert import convert_checkpoint
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from tests.convert.tiny import byte_level_bpe, recorded, write_checkpoint


@pytest.mark.parametrize("tied", [False, True])
def test_reranker(tmp_path, tied):
    config, tensors = recorded("qwen3")
    matrix = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    if tied:
        del tensors["lm_head.weight"]
    description = byte_level_bpe()
    vocab = description["model"]["vocab"]
    vocab["yes"], vocab["no"] = vocab.pop("y"), vocab.pop("z")
    source = write_checkpoint(
        tmp_path / "Qwen3-Reranker-0.6B", config | {"tie_word_embeddings": tied}, tensors, tokenizer=description
    )
    with pytest.warns(RuntimeWarning, match="lacks 2 of the bytes"):
        path = convert_checkpoint(source, tmp_path / "model.gguf", "f32")
    with GGUFFile.open(path) as file:
        assert file.metadata["qwen3.pooling_type"] == 4
        assert file.metadata["qwen3.classifier.output_labels"] == ["yes", "no"]
        assert "{document}" in file.metadata["tokenizer.chat_template.rerank"]
        assert "output.weight" not in file.tensors
        rows = file.tensor_data("cls.output.weight").view(np.float32).reshape(2, 64)
    assert np.array_equal(rows, matrix[[vocab["yes"], vocab["no"]]])


def test_without_the_answers(tmp_path):
    source = write_checkpoint(tmp_path / "qwen3-reranker", *recorded("qwen3"))
    with pytest.raises(ModelLoadError, match="has no token 'yes', the answer of a reranker"):
        convert_checkpoint(source, tmp_path / "model.gguf")
