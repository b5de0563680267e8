"""Files of the SentencePiece library: read without it, and with the ids that it gives."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from densecore.convert import convert_checkpoint
from densecore.convert.vocabulary.sentencepiece import read_sentencepiece
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.tokenizer import Tokenizer
from tests.convert.tiny import HERE, recorded, write_checkpoint

N_VOCAB = 420
SENTENCEPIECE = json.loads((HERE / "sentencepiece.json").read_text())


def checkpoint(folder, data):
    """A checkpoint whose tokenizer is the file `data` alone."""
    config, tensors = recorded("llama")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((N_VOCAB, 64), np.float32)
    source = write_checkpoint(folder / "source", config | {"vocab_size": N_VOCAB, "eos_token_id": 2}, tensors)
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(data)
    return source


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def library_model(request, tmp_path_factory):
    """A model of the SentencePiece library, converted, and the ids that the library gives."""
    folder = tmp_path_factory.mktemp(request.param)
    source = checkpoint(folder, (HERE / f"sentencepiece-{request.param}.model").read_bytes())
    tokenizer = Tokenizer.from_gguf(convert_checkpoint(source, folder / "model.gguf"))
    return tokenizer, SENTENCEPIECE[request.param]


@pytest.mark.parametrize("case", range(len(SENTENCEPIECE["cases"])))
def test_ids_of_sentencepiece(library_model, case):
    tokenizer, ids = library_model
    assert tokenizer.encode(SENTENCEPIECE["cases"][case]) == ids[case]


def field(number, wire, payload):
    """A field of a Protocol Buffers message."""
    tag = bytes([number << 3 | wire])
    return tag + (bytes([len(payload)]) + payload if wire == 2 else payload)


def piece(text, score, kind):
    return field(1, 2, field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, bytes([kind])))


def sentencepiece_file(kind, pieces):
    """A tokenizer.model as SentencePiece writes it."""
    body = b"".join(piece(*entry) for entry in pieces)
    trainer = field(2, 2, field(3, 0, bytes([kind])))
    normalizer = field(3, 2, field(1, 2, b"identity") + field(3, 0, b"\1") + field(4, 0, b"\0"))
    return body + trainer + normalizer


PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    *((text, -float(n), 1) for n, text in enumerate(("▁a", "ab", "▁ab", "▁", "a", "b", "c"))),
    ("<tool>", 0.0, 4),
]


@pytest.mark.parametrize(("number", "kind", "ids"), [(2, "llama", [261, 265]), (1, "t5", [261, 265])])
def test_tokenizer_model_alone(tmp_path, number, kind, ids):
    """Without tokenizer.json, pieces, scores and types come from SentencePiece's own file."""
    source = checkpoint(tmp_path, sentencepiece_file(number, PIECES))
    path = convert_checkpoint(source, tmp_path / "model.gguf")
    with GGUFFile.open(path) as file:
        assert file.metadata["tokenizer.ggml.model"] == kind
        assert file.metadata["tokenizer.ggml.tokens"][:267] == [text for text, _, _ in PIECES]
        assert list(file.metadata["tokenizer.ggml.token_type"][:267]) == [kind for _, _, kind in PIECES]
        assert np.array_equal(file.metadata["tokenizer.ggml.scores"][:267], [score for _, score, _ in PIECES])
        assert file.metadata["tokenizer.ggml.add_space_prefix"] is True
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.encode("abc") == ids
    assert tokenizer.encode("<tool>") == [266]


@pytest.mark.parametrize(
    "data", [b"", b"\x0a", b"\x0a\x05ab", b"\xff" * 40, b"\x0b", field(1, 2, field(3, 0, b"\x09"))]
)
def test_broken_tokenizer_model(tmp_path, data):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"tokenizer\.model: file (is broken|holds no pieces)"):
        read_sentencepiece(path)
