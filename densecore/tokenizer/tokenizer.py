"""The tokenizer of a model: text to token ids and back, from a GGUF file or from a repository of the Hub."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from densecore.exceptions import InvalidConfigError
from densecore.gguf import GGUFFile, Metadata
from densecore.tokenizer.backend import Backend, SpaceRule
from densecore.tokenizer.bert import BertBackend
from densecore.tokenizer.detokenizer import IncrementalDetokenizer
from densecore.tokenizer.gpt2 import GPT2Backend, pre_tokenizer
from densecore.tokenizer.llama import LlamaBackend
from densecore.tokenizer.raw_bpe import RawBPEBackend
from densecore.tokenizer.t5 import T5Backend
from densecore.tokenizer.vocabulary import TokenType, Vocabulary, read_vocabulary

__all__ = ["Tokenizer", "TokenizerParts"]


def _bpe_backend(vocabulary: Vocabulary) -> Backend:
    return GPT2Backend(vocabulary) if pre_tokenizer(vocabulary).byte_level else RawBPEBackend(vocabulary)


_BACKENDS: dict[str, Callable[[Vocabulary], Backend]] = {
    "bert": BertBackend,
    "gpt2": _bpe_backend,
    "llama": LlamaBackend,
    "t5": T5Backend,
}


_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)


@dataclass(frozen=True)
class TokenizerParts:
    """What a Tokenizer is made of, whatever file it comes from."""

    kind: str
    tokens: list[str]  # (n_vocab,)
    types: list[int]  # (n_vocab,) of TokenType
    backend: Backend
    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    prefix: tuple[int, ...]  # ids that add_special puts before the text
    suffix: tuple[int, ...]  # and after it
    chat_template: str | None
    between: tuple[int, ...] = ()  # after the suffix of the first text of a pair


class Tokenizer:
    """Text to ids and back.

    ::

        tokenizer = Tokenizer.from_gguf("model.gguf")
        ids = tokenizer.encode("Hello, world!")
        assert tokenizer.decode(ids) == "Hello, world!"

    Attributes:
        kind: ``llama`` (SentencePiece BPE), ``gpt2`` (BPE over bytes, in Gemma 4 over characters), ``bert`` (WordPiece)
            or ``t5`` (Unigram).
        n_vocab: number of tokens; ids are 0 to n_vocab - 1.
        bos_id, eos_id: ids of the tokens that begin and end a text, or None.
        eog_ids: ids that end a reply.
        add_bos, add_eos: whether `encode` with add_special puts a token before and after the text.
        chat_template: source of the Jinja template that the file comes with, or None.

    A tokenizer does not change after it is made; threads may share it.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        self.kind = parts.kind
        self.n_vocab = len(parts.tokens)
        self.bos_id = parts.bos_id
        self.eos_id = parts.eos_id
        self.eog_ids = parts.eog_ids
        self.add_bos = bool(parts.prefix)
        self.add_eos = bool(parts.suffix)
        self.chat_template = parts.chat_template
        self.space_rule: SpaceRule = parts.backend.space_rule
        self._prefix = parts.prefix
        self._suffix = parts.suffix
        self._between = parts.between
        self._tokens = parts.tokens
        self._types = parts.types
        self._backend = parts.backend
        self._bytes: dict[int, bytes] = {}  # what token_bytes has computed so far

    @classmethod
    def from_gguf(cls, source: str | os.PathLike[str] | GGUFFile) -> Tokenizer:
        """The tokenizer of a GGUF file, given as path or opened.

        Raises ModelLoadError that names file and key for a vocabulary that is broken or of another kind.
        """
        if not isinstance(source, GGUFFile):
            with GGUFFile.open(source) as file:
                return cls.from_gguf(file)
        return cls.from_metadata(source.metadata)

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Tokenizer:
        """The tokenizer that the metadata of a GGUF file describes; raises as `from_gguf`."""
        vocabulary = read_vocabulary(metadata)
        prefix, suffix = _around(vocabulary)
        return cls(
            TokenizerParts(
                kind=vocabulary.kind,
                tokens=vocabulary.tokens,
                types=vocabulary.types,
                backend=_BACKENDS[vocabulary.kind](vocabulary),
                bos_id=vocabulary.special.get("bos"),
                eos_id=vocabulary.special.get("eos"),
                eog_ids=vocabulary.eog_ids,
                prefix=prefix,
                suffix=suffix,
                chat_template=vocabulary.chat_template,
                between=_between(vocabulary),
            )
        )

    @classmethod
    def from_hub(cls, repo_id: str, *, revision: str | None = None) -> Tokenizer:
        """The tokenizer of a repository of the Hugging Face Hub, from its ``tokenizer.json``.

        Raises ModelLoadError if the repository cannot be read or has no such file.
        """
        from densecore.tokenizer.hf import load_from_hub

        return cls(load_from_hub(repo_id, revision=revision))

    def encode(self, text: str, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Ids of `text`.

        With `add_special` the ids that the model expects around a text are added, such as BOS; a BOS that the text
        itself begins with is not repeated. With `parse_special` the texts of control tokens, such as ``<|im_end|>``,
        become those tokens; without, they are text like any other, which is what untrusted input needs.

        Raises InvalidConfigError for text with lone surrogates, which no token can stand for.
        """
        _check_text(text)
        ids = self._backend.encode(text, parse_special) if text else []
        if not add_special:
            return ids
        return self.add_special(ids)

    def add_special(self, ids: Sequence[int], max_length: int | None = None) -> list[int]:
        """`ids` with what the model expects around a text; of a text, the end is cut to `max_length` tokens in all."""
        n_prefix = len(self._prefix)
        prefix = () if n_prefix and tuple(ids[:n_prefix]) == self._prefix else self._prefix
        room = len(ids) if max_length is None else max(max_length - len(prefix) - len(self._suffix), 0)
        return [*prefix, *ids[:room], *self._suffix][:max_length]

    def pair(
        self, first: Sequence[int], second: Sequence[int], max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of two texts as a model reads a pair, and for each 0 or 1: which text it belongs to.

        Of the second text the end is cut to `max_length` tokens in all.
        """
        before = [*self._prefix, *first, *self._suffix, *self._between]
        room = len(second) if max_length is None else max(max_length - len(before) - len(self._suffix), 0)
        behind = [*second[:room], *self._suffix]
        return [*before, *behind][:max_length], ([0] * len(before) + [1] * len(behind))[:max_length]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD. With `skip_special` control tokens do not show.

        Raises InvalidConfigError for an id that is not in the vocabulary.
        """
        detokenizer = IncrementalDetokenizer(self, skip_special=skip_special)
        pieces = [detokenizer.push(token_id) for token_id in ids]
        return "".join(pieces) + detokenizer.flush()

    def detokenizer(
        self, prompt_ids: Sequence[int] = (), *, skip_special: bool = True, keep_first_space: bool = False
    ) -> IncrementalDetokenizer:
        """A decoder for the ids that follow `prompt_ids`, one at a time."""
        return IncrementalDetokenizer(self, prompt_ids, skip_special=skip_special, keep_first_space=keep_first_space)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token contributes to the text: not always whole characters; nothing for control tokens."""
        token_id = self.check_id(token_id)
        data = self._bytes.get(token_id)
        if data is None:
            hidden = self._types[token_id] in (TokenType.CONTROL, TokenType.UNKNOWN)
            data = self._bytes[token_id] = b"" if hidden else self._backend.piece(token_id)
        return data

    def token_text(self, token_id: int) -> str:
        """A token for display: its text, with U+FFFD for parts of characters, or the name of a control token."""
        return self.token_bytes(token_id).decode("utf-8", "replace") or self._tokens[token_id]

    def is_special(self, token_id: int) -> bool:
        """Whether a token is cut out of text before all others: control, unknown and user-defined tokens."""
        return self._types[self.check_id(token_id)] in _SPECIAL

    def has_added_space(self, token_id: int) -> bool:
        """Whether the space that a token starts with would be an added one at the start of a text."""
        if self.space_rule is SpaceRule.NONE or not self.token_bytes(token_id).startswith(b" "):
            return False
        return self._tokens[token_id] != "<0x20>"

    def check_id(self, token_id: SupportsIndex) -> int:
        """`token_id` as int; InvalidConfigError if it is not in the vocabulary."""
        try:
            index = operator.index(token_id)
        except TypeError:
            index = -1
        if not 0 <= index < self.n_vocab:
            raise InvalidConfigError(
                f"token id {token_id!r} is not in the vocabulary; allowed: 0 to {self.n_vocab - 1}"
            )
        return index


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InvalidConfigError(f"text is a {type(text).__name__}; a str is needed")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidConfigError(
            f"text has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start};"
            " only characters that UTF-8 can express have tokens"
        ) from None


def _around(vocabulary: Vocabulary) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that belong before and after a text, by what the file says or else by the kind's custom."""
    special = vocabulary.special
    if vocabulary.kind == "bert":
        return _known(special, "bos"), _known(special, "sep")
    bos_is_usual, eos_is_usual = _usual_ends(vocabulary)
    for name, added in (("bos", vocabulary.add_bos), ("eos", vocabulary.add_eos)):
        if added and name not in special:
            problem = f"is true, but {name}_token_id is not set"
            raise vocabulary.error(f"add_{name}_token", problem, "false, or an id to add")
    add_bos = bos_is_usual if vocabulary.add_bos is None else vocabulary.add_bos
    add_eos = eos_is_usual if vocabulary.add_eos is None else vocabulary.add_eos
    return _known(special, "bos") if add_bos else (), _known(special, "eos") if add_eos else ()


def _usual_ends(vocabulary: Vocabulary) -> tuple[bool, bool]:
    """Whether BOS and EOS are added where the file does not say."""
    if vocabulary.kind == "gpt2":
        return pre_tokenizer(vocabulary).add_bos, False
    return vocabulary.kind == "llama", vocabulary.kind == "t5"


def _between(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Another separator between the texts of a pair, where the file asks for it: RoBERTa's have two."""
    return _known(vocabulary.special, "sep") if vocabulary.add_sep else ()


def _known(special: dict[str, int], name: str) -> tuple[int, ...]:
    return (special[name],) if name in special else ()
