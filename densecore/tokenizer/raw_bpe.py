"""Byte-pair merges over characters: the tokenizer of Gemma 4, a ``gpt2`` vocabulary without a byte-level alphabet.

Spaces are written as U+2581, text is cut into lines only, and what the vocabulary lacks is written in bytes,
``<0xNN>``. Source: the published ``tokenizer.json`` of Gemma 4. The rule ``whitespace``, that of Jina's embeddings for
Chinese, drops white space instead, and may ask for lower case.
"""

from __future__ import annotations

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from densecore.tokenizer.backend import SPACE, GGUFBackend, run
from densecore.tokenizer.gpt2 import merge_pairs, pre_tokenizer
from densecore.tokenizer.llama import byte_tokens
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["RawBPEBackend"]


class RawBPEBackend(GGUFBackend):
    """BPE over characters; raises ModelLoadError as the other backends do."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        self._bytes = byte_tokens(vocabulary)
        # Control tokens stay out: no text may turn into them unless it is parsed for them.
        hidden = (TokenType.CONTROL, TokenType.UNKNOWN)
        words = {text: i for text, i in vocabulary.ids.items() if vocabulary.types[i] not in hidden}
        unknown = vocabulary.special.get("unk")
        unk_token = vocabulary.tokens[unknown] or None if unknown is not None else None
        if unk_token is not None:
            words[unk_token] = vocabulary.ids[unk_token]
        rule = pre_tokenizer(vocabulary)
        merges = merge_pairs(vocabulary)
        try:
            model = models.BPE(words, merges, unk_token=unk_token, fuse_unk=True, byte_fallback=bool(self._bytes))
        except Exception as error:  # the library has no narrower class
            raise vocabulary.error("merges", "do not fit the tokens", "pairs of tokens that make a token") from error
        self._pipeline = Pipeline(model)
        behavior = "removed" if rule.drops_spaces else "isolated"
        cuts = [pre_tokenizers.Split(Regex(pattern), behavior) for pattern in rule.patterns]
        self._pipeline.pre_tokenizer = pre_tokenizers.Sequence(cuts)
        self._drops_spaces = rule.drops_spaces
        self._lowercase = vocabulary.metadata.boolean("tokenizer.ggml.normalizer.lowercase", False)

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text`."""
        if not self._drops_spaces:
            text = text.replace(" ", SPACE)
        elif self._lowercase:
            text = text.lower()
        return run(self._pipeline, text)

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token; user-defined ones are written as they are."""
        if token_id in self._bytes:
            return bytes([self._bytes[token_id]])
        text = self._tokens[token_id]
        if self._types[token_id] != TokenType.USER_DEFINED:
            text = text.replace(SPACE, " ")
        return text.encode("utf-8", "replace")
