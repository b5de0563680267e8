"""Finds out which kind of vocabulary a checkpoint has."""

from __future__ import annotations

from densecore.convert.vocabulary.bpe import bpe_pairs
from densecore.convert.vocabulary.sentencepiece import UNIGRAM, read_sentencepiece
from densecore.convert.vocabulary.source import TokenizerSource, steps
from densecore.convert.vocabulary.special import Pairs, special_pairs
from densecore.convert.vocabulary.spm import spm_pairs
from densecore.convert.vocabulary.unigram import unigram_pairs
from densecore.convert.vocabulary.wordpiece import wordpiece_pairs
from densecore.gguf.errors import describe, load_error

__all__ = ["vocabulary_pairs"]

MODEL_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def vocabulary_pairs(source: TokenizerSource, *, pre: str | None = None, space_prefix: bool | None = None) -> Pairs:
    """Keys, values and types for a GGUF file.

    `pre` names the cuts of a byte-level BPE, which otherwise are recognized; `space_prefix` is what the architecture
    knows about a space in front of texts. Raises ModelLoadError for tokenizers that GGUF files cannot express.
    """
    path = next((source.folder / name for name in MODEL_FILES if (source.folder / name).exists()), None)
    kind = _kind(source) if source.description else "sentencepiece"
    if kind == "sentencepiece" and path is None:
        allowed = "tokenizer.json or tokenizer.model"
        raise load_error(source.folder, "tokenizer", "is missing", allowed)
    model = read_sentencepiece(path) if path is not None and kind in ("sentencepiece", "llama") else None
    if kind == "sentencepiece":
        assert model is not None
        kind = "t5" if model.kind == UNIGRAM else "llama"
    if kind == "bert":
        yield from wordpiece_pairs(source)
    elif kind == "gpt2":
        yield from bpe_pairs(source, pre)
    elif kind == "t5":
        yield from unigram_pairs(source, model)
    else:
        yield from spm_pairs(source, model, space_prefix)
    yield from special_pairs(source)


def _kind(source: TokenizerSource) -> str:
    """The value of ``tokenizer.ggml.model`` that the pipeline in ``tokenizer.json`` is."""
    name = source.model.get("type")
    if name is None and "merges" in source.model:
        name = "BPE"
    types = {step.get("type") for part in ("pre_tokenizer", "decoder") for step in steps(source.description, part)}
    if name == "WordPiece":
        return "bert"
    if name == "Unigram":
        return "t5"
    if name == "BPE":
        return "gpt2" if "ByteLevel" in types else "llama"
    raise source.error("model.type", f"is {describe(name)}", "BPE, WordPiece, Unigram")
