"""Kind ``bert``: WordPiece, the tokenizer of BERT and most embedding models.

Text is normalized (control characters dropped, optionally lower case and no accents), cut at white space and
punctuation, and each word is covered by the longest tokens from the left. Source: Devlin et al., "BERT" (2018). In
GGUF files U+2581 marks tokens that start a word; in the original files ``##`` marks those that continue one.
"""

from __future__ import annotations

from tokenizers import Tokenizer as Pipeline
from tokenizers import models, normalizers, pre_tokenizers

from densecore.tokenizer.backend import SPACE, GGUFBackend, SpaceRule, run
from densecore.tokenizer.vocabulary import TokenType, Vocabulary

__all__ = ["BertBackend"]

MAX_WORD_LENGTH = 100  # characters; longer words are unknown, in the original too


class BertBackend(GGUFBackend):
    """WordPiece over a GGUF vocabulary.

    Decoding writes words with one space between them: normalization lost what stood there. The unknown token
    decodes to nothing. Raises ModelLoadError if there is no unknown token.
    """

    space_rule = SpaceRule.START

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary)
        if "unk" not in vocabulary.special:
            raise vocabulary.error("unknown_token_id", "is missing", "the id of a token")
        self._unknown = vocabulary.special["unk"]
        words: dict[str, int] = {}
        for token_id, text in enumerate(vocabulary.tokens):
            words.setdefault(_word_piece(text, vocabulary.types[token_id]), token_id)
        self._pipeline = Pipeline(
            models.WordPiece(
                words,
                unk_token=_word_piece(vocabulary.tokens[self._unknown], vocabulary.types[self._unknown]),
                max_input_chars_per_word=MAX_WORD_LENGTH,
                continuing_subword_prefix="##",
            )
        )
        self._pipeline.normalizer = normalizers.BertNormalizer(
            lowercase=vocabulary.lowercase, strip_accents=vocabulary.strip_accents
        )
        self._pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._types[self._unknown] = TokenType.UNUSED  # decoding may show control tokens, but this is no text

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text`."""
        return run(self._pipeline, text)

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token, with a space where it starts a word."""
        if token_id == self._unknown:
            return b""
        text = self._tokens[token_id]
        return (" " + text[1:] if text.startswith(SPACE) else text).encode("utf-8", "replace")


def _word_piece(text: str, token_type: int) -> str:
    """A token of the file as the original vocabulary writes it."""
    if token_type in (TokenType.CONTROL, TokenType.UNKNOWN):
        return text
    return text[1:] if text.startswith(SPACE) else "##" + text
