"""Tokenizers: the converted file gives the ids that the checkpoint's own tokenizer gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from densecore.convert import convert_checkpoint
from densecore.gguf import GGUFFile
from densecore.tokenizer import Tokenizer as GGUFTokenizer
from densecore.tokenizer.vocabulary import TokenType
from tests.convert.tiny import recorded, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [path.read_text() for path in (ROOT / "README.md", ROOT / "docs" / "CLI.md", ROOT / "docs" / "SAMPLING.md")]
CASES = [
    "Hello world",
    " two  spaces   three ",
    "I'll we've 'tis DON'T",
    "naïve café Übergröße e\u0301",
    "1234567 3.14 ½ ٣٤",
    "你好，世界 日本語 한국어",
    "🚀 (normal) 😶\u200d🌫️",
    "def f(x):\n    return x\t+ 1\n\n\n",
    "<|end|>",
    "un<mask>able",
    *(TEXTS[0][start : start + 150] for start in range(0, 3000, 150)),
]
N_VOCAB = 420


def bpe():
    pipeline = Tokenizer(models.BPE())
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    pattern = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    pipeline.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|bos|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    pipeline.train_from_iterator(TEXTS, trainer)
    return pipeline, {"bos_token": "<|bos|>", "eos_token": "<|end|>"}


def sentencepiece_bpe():
    """As Llama 2's tokenizer.json: spaces as U+2581, bytes for what is missing."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocab = {text: i for i, text in enumerate(texts)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    pipeline = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    pipeline.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    pipeline.decoder = decoders.Sequence(steps)
    pipeline.add_special_tokens(["<unk>", "<s>", "</s>"])
    pipeline.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return pipeline, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def wordpiece():
    pipeline = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pipeline.normalizer = normalizers.BertNormalizer()
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    pipeline.train_from_iterator(TEXTS, trainer)
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    pipeline.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = ("pad", "unk", "cls", "sep", "mask")
    return pipeline, {f"{name}_token": text for name, text in zip(names, special, strict=True)}


def unigram():
    pipeline = Tokenizer(models.Unigram())
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    pipeline.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    pipeline.train_from_iterator(TEXTS, trainer)
    ends = [("<s>", 0), ("</s>", 2)]
    pipeline.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> </s> $B </s>", ends)
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return pipeline, {f"{name}_token": text for name, text in names.items()}


KINDS = {"gpt2": bpe, "llama": sentencepiece_bpe, "bert": wordpiece, "t5": unigram}


def converted(folder, pipeline, settings, **config_changes):
    """The file that a checkpoint with this tokenizer becomes."""
    config, tensors = recorded("llama")
    config |= {"vocab_size": N_VOCAB, "eos_token_id": None} | config_changes
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = np.zeros((config["vocab_size"], 64), np.float32)
    description = json.loads(pipeline.to_str())
    source = write_checkpoint(folder / "source", config, tensors, tokenizer=description)
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    return convert_checkpoint(source, folder / "model.gguf")


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    pipeline, settings = KINDS[request.param]()
    path = converted(tmp_path_factory.mktemp(request.param), pipeline, settings)
    return request.param, pipeline, path, GGUFTokenizer.from_gguf(path)


@pytest.mark.parametrize("text", CASES)
def test_ids(both, text):
    kind, pipeline, _, tokenizer = both
    assert tokenizer.kind == kind
    assert tokenizer.encode(text, parse_special=True) == pipeline.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text, add_special=True, parse_special=True) == pipeline.encode(text).ids


def test_plain_text_stays_text(both):
    """Control tokens in text are found only if they are asked for."""
    _, pipeline, _, tokenizer = both
    special = {token_id for token_id, token in pipeline.get_added_tokens_decoder().items() if token.special}
    text = " ".join(token.content for token in pipeline.get_added_tokens_decoder().values())
    assert special <= set(tokenizer.encode(text, parse_special=True))
    plain = set(tokenizer.encode(text)) - {pipeline.token_to_id(name) for name in ("<unk>", "[UNK]")}
    assert not plain & special


def test_types_and_padding(both):
    kind, pipeline, path, _ = both
    with GGUFFile.open(path) as file:
        types = file.metadata["tokenizer.ggml.token_type"]
        tokens = file.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == N_VOCAB
    assert set(types[pipeline.get_vocab_size() :]) == {TokenType.UNUSED}
    assert tokens[-1] == f"[PAD{N_VOCAB - 1}]"
    for token_id in pipeline.get_added_tokens_decoder():
        assert types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN)
    if kind == "llama":
        assert list(types[3:259]) == [TokenType.BYTE] * 256


def test_added_tokens_and_templates(tmp_path):
    """Tokens added as text, tokens of structure that are not called special, ids out of range, templates by name."""
    pipeline, settings = bpe()
    pipeline.add_tokens(["<think>", "<|im_start|>"])
    settings |= {
        "add_bos_token": True,
        "chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}],
    }
    path = converted(tmp_path, pipeline, settings, pad_token_id=-1)
    with GGUFFile.open(path) as file:
        types = file.metadata["tokenizer.ggml.token_type"]
        assert types[pipeline.token_to_id("<think>")] == TokenType.USER_DEFINED
        assert types[pipeline.token_to_id("<|im_start|>")] == TokenType.CONTROL
        assert file.metadata["tokenizer.chat_template"] == "A"
        assert file.metadata["tokenizer.chat_template.tool_use"] == "B"
        assert file.metadata["tokenizer.chat_templates"] == ["tool_use"]
        assert file.metadata["tokenizer.ggml.add_bos_token"] is True
        assert "tokenizer.ggml.padding_token_id" not in file.metadata
    assert GGUFTokenizer.from_gguf(path).encode("a", add_special=True)[0] == pipeline.token_to_id("<|bos|>")


def test_tokens_that_take_white_space(tmp_path):
    """Phi-3's, by the name of the model alone."""
    pipeline, settings = bpe()
    pipeline.add_special_tokens([AddedToken("<|user|>", rstrip=True, special=True)])
    with pytest.warns(RuntimeWarning, match="choose one with phi-3 in it"):
        path = converted(tmp_path, pipeline, settings)
    named = convert_checkpoint(path.parent / "source", tmp_path / "named.gguf", name="My Phi-3")
    text = "<|user|>\n hi"
    assert GGUFTokenizer.from_gguf(named).encode(text, parse_special=True) == pipeline.encode(text).ids


def test_embedding_models_end_texts_with_a_token_of_their_own(tmp_path):
    """As Qwen3-Embedding's tokenizer does, whose EOS is that of answers; a model that answers keeps it, and warns."""
    pipeline, settings = bpe()
    end = pipeline.token_to_id("<|bos|>")
    pipeline.post_processor = processors.TemplateProcessing("$A <|bos|>", "$A $B", special_tokens=[("<|bos|>", end)])
    settings = {"eos_token": "<|end|>"}
    with pytest.warns(RuntimeWarning, match=f"token {end} is put after a text, which is not EOS"):
        path = converted(tmp_path, pipeline, settings)
    source = path.parent / "source"
    (source / "modules.json").write_text("[]")
    embedding = convert_checkpoint(source, tmp_path / "embedding.gguf")
    assert GGUFTokenizer.from_gguf(path).encode("a", add_special=True) == pipeline.encode("a").ids[:-1]
    assert GGUFTokenizer.from_gguf(embedding).encode("a", add_special=True) == pipeline.encode("a").ids
