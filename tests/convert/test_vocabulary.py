"""Tokenizers: the converted file gives the ids that the checkpoint's own tokenizer gives."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from densecore.convert import convert_checkpoint
from densecore.convert.config import CheckpointConfig
from densecore.convert.vocabulary.pre import cuts_of, recognize_pre_tokenizer
from densecore.convert.vocabulary.sentencepiece import read_sentencepiece
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.tokenizer import Tokenizer as GGUFTokenizer
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS
from densecore.tokenizer.vocabulary import TokenType
from tests.convert.tiny import byte_level_bpe, recorded, write_checkpoint

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


def source_with(folder, pre_tokenizer, **model):
    """What describes the tokenizer of a checkpoint that cuts text like `pre_tokenizer`."""
    description = byte_level_bpe()
    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizer
    description["pre_tokenizer"] = json.loads(pipeline.to_str())["pre_tokenizer"]
    description["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "config.json").write_text(json.dumps({"vocab_size": 288}))
    return TokenizerSource(folder, CheckpointConfig.read(folder / "config.json"))


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS))
def test_pre_is_recognized(tmp_path, name):
    """A tokenizer.json that cuts by a known rule is given that rule's name, or that of one with the same effect."""
    rule = PRE_TOKENIZERS[name]
    if rule.split_first is not None:
        return  # a cut that no tokenizer.json makes in this way: see test_published_steps
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    cut = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
    found = PRE_TOKENIZERS[recognize_pre_tokenizer(source_with(tmp_path, cut, ignore_merges=rule.ignore_merges))]
    assert cuts_of(found) == cuts_of(rule)
    assert found.ignore_merges == rule.ignore_merges


def test_probe_tells_rules_apart():
    """Rules with the same cuts of the probe cut every text alike."""
    by_cuts: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for rule in PRE_TOKENIZERS.values():
        by_cuts.setdefault(tuple(cuts_of(rule)), set()).add((*rule.patterns, str(rule.split_first)))
    together = [rules for rules in by_cuts.values() if len(rules) > 1]
    bailing, qwen2 = ((*PRE_TOKENIZERS[name].patterns, "None") for name in ("bailingmoe", "qwen2"))
    assert together == [{bailing, qwen2}]  # two spellings of one rule


PUBLISHED = {
    "gpt-2": pre_tokenizers.ByteLevel(False, use_regex=True),
    "starcoder": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, use_regex=True)]
    ),
    "falcon": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.ByteLevel(False, use_regex=True),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ]
    ),
    "deepseek-coder": pre_tokenizers.Sequence(
        [
            *(
                pre_tokenizers.Split(Regex(pattern), "isolated")
                for pattern in (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+")
            ),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(False, use_regex=False),
        ]
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_steps(tmp_path, name):
    """Steps that stand for regular expressions are recognized too."""
    found = recognize_pre_tokenizer(source_with(tmp_path, PUBLISHED[name]))
    assert PRE_TOKENIZERS[found].patterns == PRE_TOKENIZERS[name].patterns


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
    pipeline, _ = bpe()
    source = converted(tmp_path, pipeline, {}).parent / "source"
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(sentencepiece_file(number, PIECES))
    path = convert_checkpoint(source, tmp_path / "model.gguf")
    with GGUFFile.open(path) as file:
        assert file.metadata["tokenizer.ggml.model"] == kind
        assert file.metadata["tokenizer.ggml.tokens"][:267] == [text for text, _, _ in PIECES]
        assert list(file.metadata["tokenizer.ggml.token_type"][:267]) == [kind for _, _, kind in PIECES]
        assert np.array_equal(file.metadata["tokenizer.ggml.scores"][:267], [score for _, score, _ in PIECES])
        assert file.metadata["tokenizer.ggml.add_space_prefix"] is True
    tokenizer = GGUFTokenizer.from_gguf(path)
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


def test_cuts_inside_of_characters(tmp_path):
    """Steps that cut the bytes of characters beyond ASCII are taken for their rule for ASCII, with a warning."""
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=True)
    cut = pre_tokenizers.Sequence([byte_level, pre_tokenizers.Split(Regex("[²³¹¼½¾]"), "isolated")])
    with pytest.warns(RuntimeWarning, match="is gpt-2 for ASCII text only: ids of other text may differ"):
        assert recognize_pre_tokenizer(source_with(tmp_path, cut)) == "gpt-2"


HERE = Path(__file__).parent
SENTENCEPIECE = json.loads((HERE / "sentencepiece.json").read_text())


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def library_model(request, tmp_path_factory):
    """A model of the SentencePiece library, converted, and the ids that the library gives."""
    folder = tmp_path_factory.mktemp(request.param)
    pipeline, _ = bpe()
    source = converted(folder, pipeline, {}).parent / "source"
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes((HERE / f"sentencepiece-{request.param}.model").read_bytes())
    tokenizer = GGUFTokenizer.from_gguf(convert_checkpoint(source, folder / "model.gguf"))
    return tokenizer, SENTENCEPIECE[request.param]


@pytest.mark.parametrize("case", range(len(SENTENCEPIECE["cases"])))
def test_ids_of_sentencepiece(library_model, case):
    tokenizer, ids = library_model
    assert tokenizer.encode(SENTENCEPIECE["cases"][case]) == ids[case]
