"""Which cuts a tokenizer.json makes: found by what they do to a text."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from densecore.convert.config import CheckpointConfig
from densecore.convert.vocabulary.pre import cuts_of, recognize_pre_tokenizer
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS
from tests.convert.tiny import byte_level_bpe


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
    if rule.split_first is not None or not rule.byte_level:
        return  # cuts that no byte-level tokenizer.json makes in this way
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    cut = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
    found = PRE_TOKENIZERS[recognize_pre_tokenizer(source_with(tmp_path, cut, ignore_merges=rule.ignore_merges))]
    assert cuts_of(found) == cuts_of(rule)
    assert found.ignore_merges == rule.ignore_merges


def test_probe_tells_rules_apart():
    """Rules with the same cuts of the probe cut every text alike."""
    by_cuts: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for rule in filter(lambda rule: rule.byte_level, PRE_TOKENIZERS.values()):
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


def test_cuts_inside_of_characters(tmp_path):
    """Steps that cut the bytes of characters beyond ASCII are taken for their rule for ASCII, with a warning."""
    byte_level = pre_tokenizers.ByteLevel(False, use_regex=True)
    cut = pre_tokenizers.Sequence([byte_level, pre_tokenizers.Split(Regex("[²³¹¼½¾]"), "isolated")])
    with pytest.warns(RuntimeWarning, match="is gpt-2 for ASCII text only: ids of other text may differ"):
        assert recognize_pre_tokenizer(source_with(tmp_path, cut)) == "gpt-2"


@pytest.mark.parametrize(
    "name", ["gpt-2", "llama-bpe", "qwen2", "starcoder", "deepseek-v3", "tekken", "gpt-4o", "falcon", "bloom"]
)
def test_usual_names(tmp_path, name):
    """Of several names of a rule the one that llama.cpp's converter writes for the model that it was made for."""
    rule = PRE_TOKENIZERS[name]
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    cut = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
    assert recognize_pre_tokenizer(source_with(tmp_path, cut, ignore_merges=rule.ignore_merges)) == name
