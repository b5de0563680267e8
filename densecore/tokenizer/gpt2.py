"""Kind ``gpt2``: byte-level BPE, the tokenizer of GPT-2, Llama 3, Qwen and most others.

Text is cut into words (pretokenizers.py), each UTF-8 byte is written as one printable character, and pairs are
merged in the order of the file's list. Source: Radford et al., "Language Models are Unsupervised Multitask
Learners" (2019), and its published ``encoder.py`` for the table of characters.
"""

from __future__ import annotations

import warnings

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from densecore.gguf.errors import describe
from densecore.tokenizer.backend import UTF8_BYTES, GGUFBackend, run
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["GPT2Backend", "byte_of_char", "byte_piece", "merge_pairs", "pre_tokenizer"]


def byte_of_char() -> dict[int, int]:
    """GPT-2's table, from code point to byte: printable Latin-1 stands for itself, the rest for U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + n: byte for n, byte in enumerate(others)}


_BYTE_OF_CHAR = byte_of_char()
_CHAR_OF_BYTE = {byte: chr(char) for char, byte in _BYTE_OF_CHAR.items()}


def byte_piece(text: str) -> bytes:
    """Bytes of a token of byte-level characters; its UTF-8 if it holds any other character."""
    if all(ord(char) in _BYTE_OF_CHAR for char in text):
        return bytes(_BYTE_OF_CHAR[ord(char)] for char in text)
    return text.encode("utf-8", "replace")


class GPT2Backend(GGUFBackend):
    """Byte-level BPE over a GGUF vocabulary.

    Raises ModelLoadError for an unknown pre-tokenizer and for merges that are missing, malformed, or make
    tokens that the vocabulary does not hold. A vocabulary without some bytes only warns; they are lost.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        rule = pre_tokenizer(vocabulary)
        self._split_first = rule.split_first
        # Control tokens stay out: no text may turn into them unless it is parsed for them.
        words = {
            text: token_id
            for text, token_id in vocabulary.ids.items()
            if vocabulary.types[token_id] not in (TokenType.CONTROL, TokenType.UNKNOWN)
        }
        _warn_of_missing_bytes(vocabulary, words)
        model = _model(vocabulary, words, rule)
        self._pipeline = Pipeline(model)
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._pipeline.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text`."""
        if self._split_first is None:
            return run(self._pipeline, text)
        return [token_id for part in self._split_first(text) for token_id in run(self._pipeline, part)]

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token; user-defined ones are written as they are."""
        text = self._tokens[token_id]
        if self._types[token_id] == TokenType.USER_DEFINED:
            return text.encode("utf-8", "replace")
        return byte_piece(text)


def pre_tokenizer(vocabulary: Vocabulary) -> PreTokenizer:
    """The rule that ``tokenizer.ggml.pre`` names."""
    if not vocabulary.pre:
        error = vocabulary.error("pre", "is missing; `default` is used, which may give other ids", "a name")
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
    rule = PRE_TOKENIZERS.get(vocabulary.pre or "default")
    if rule is None:
        allowed = f"one of {len(PRE_TOKENIZERS)} known names, such as llama-bpe, qwen2 or gpt-2"
        raise vocabulary.error("pre", f"is {describe(vocabulary.pre)}, an unknown pre-tokenizer", allowed)
    return rule


def _model(vocabulary: Vocabulary, words: dict[str, int], rule: PreTokenizer) -> models.BPE:
    merges = merge_pairs(vocabulary)
    try:
        return models.BPE(words, merges, ignore_merges=rule.ignore_merges)
    except Exception as error:  # the library has no narrower class
        problem = f"do not fit the tokens: {describe(str(error))}"
        raise vocabulary.error("merges", problem, "pairs of tokens that make a token") from error


def merge_pairs(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The file's merges; ModelLoadError if there are none, or one is no pair."""
    if not vocabulary.merges:
        raise vocabulary.error("merges", "is missing or empty", "the list that gpt2 vocabularies come with")
    pairs = [tuple(merge.split(" ")) for merge in vocabulary.merges]
    if set(map(len, pairs)) != {2} or not all(map(all, pairs)):
        index = next(i for i, pair in enumerate(pairs) if len(pair) != 2 or not all(pair))
        problem = f"has at index {index} {describe(vocabulary.merges[index])}"
        raise vocabulary.error("merges", problem, "two tokens with one space between them")
    return pairs  # type: ignore[return-value]  # pairs, as just checked


def _warn_of_missing_bytes(vocabulary: Vocabulary, words: dict[str, int]) -> None:
    missing = [byte for byte in UTF8_BYTES if _CHAR_OF_BYTE[byte] not in words]
    if missing:
        problem = f"lacks {len(missing)} of the bytes that text is made of, such as 0x{missing[0]:02X}"
        warnings.warn(
            f"{vocabulary.error('tokens', problem, 'all of them, or text is lost')}",
            RuntimeWarning,
            stacklevel=2,
        )
