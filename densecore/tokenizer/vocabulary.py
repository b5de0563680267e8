"""The vocabulary of a GGUF file: tokens, their types and scores, and the ids with a meaning, all checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import Metadata
from densecore.gguf.errors import describe
from densecore.tokenizer.end_of_generation import END_TEXTS, rendered_texts

__all__ = ["KINDS", "TokenType", "Vocabulary", "read_vocabulary"]

KINDS = ("bert", "gpt2", "llama", "t5")
_RAW_BPE = "gemma4"  # a kind by itself in files, and the name of its cuts
MAX_SPECIAL_LENGTH = 256  # characters; bounds the search for special tokens in hostile text


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type``: what a token is. Any other number counts as NORMAL."""

    NORMAL = 1
    UNKNOWN = 2  # stands for text that the vocabulary cannot express
    CONTROL = 3  # structure, not text: BOS, the start of a turn
    USER_DEFINED = 4  # text that is always one token
    UNUSED = 5
    BYTE = 6  # one byte, written <0xNN>


@dataclass(frozen=True)
class Vocabulary:
    """The checked contents of the ``tokenizer.ggml.*`` keys of one file."""

    metadata: Metadata  # for errors only
    kind: str  # one of KINDS
    pre: str  # name of the pre-tokenizer; "" if absent
    tokens: list[str]
    ids: dict[str, int]  # text to id; of duplicates the first; without empty tokens
    types: list[int]  # (n_vocab,) of TokenType
    scores: np.ndarray | None  # (n_vocab,) float32
    merges: list[str]
    special: dict[str, int]  # "bos", "eos", ... -> id, those that are set and in range
    eog_ids: frozenset[int]
    add_bos: bool | None  # None: the kind's default
    add_eos: bool | None  # None: the kind's default
    add_space_prefix: bool
    remove_extra_whitespaces: bool
    charsmap: bytes  # table by which t5 normalizes characters; empty if absent
    lowercase: bool
    strip_accents: bool
    add_sep: bool  # another separator between the texts of a pair
    chat_template: str | None
    name: str  # general.name, in lower case

    def error(self, key: str, problem: str, allowed: str) -> ModelLoadError:
        """A ModelLoadError about ``tokenizer.ggml.<key>``."""
        return self.metadata.error(f"tokenizer.ggml.{key}", problem, allowed)


def _first_ids(tokens: list[str]) -> dict[str, int]:
    ids = dict(zip(reversed(tokens), range(len(tokens) - 1, -1, -1), strict=True))
    ids.pop("", None)
    return ids


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Read and check the vocabulary in `metadata`.

    Raises ModelLoadError that names file and key. Ids out of range and duplicate tokens only warn: files
    with them are common and work.
    """
    kind = _kind(metadata)
    tokens = metadata.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise metadata.error("tokenizer.ggml.tokens", "is empty", "at least one token")
    ids = _first_ids(tokens)
    special = _special_ids(metadata, kind, len(tokens))
    types = _types(metadata, tokens)
    merges = metadata.strings("tokenizer.ggml.merges", [])
    ends = _ends(ids, types, merges) if kind != "bert" else {}
    named = {special[name] for name in _ENDS if name in special}
    lowercase = metadata.boolean("tokenizer.ggml.normalizer.lowercase", True)
    _warn_of_duplicates(metadata, tokens, ids)
    return Vocabulary(
        metadata=metadata,
        kind=kind,
        pre=_pre(metadata),
        tokens=tokens,
        ids=ids,
        types=types,
        scores=_scores(metadata, len(tokens)),
        merges=merges,
        special=special,
        eog_ids=frozenset(named.union(ends.values())),
        add_bos=metadata.boolean("tokenizer.ggml.add_bos_token", None),
        add_eos=metadata.boolean("tokenizer.ggml.add_eos_token", None),
        add_space_prefix=metadata.boolean("tokenizer.ggml.add_space_prefix", True),
        remove_extra_whitespaces=metadata.boolean("tokenizer.ggml.remove_extra_whitespaces", False),
        charsmap=_charsmap(metadata),
        lowercase=lowercase,
        strip_accents=metadata.boolean("tokenizer.ggml.normalizer.strip_accents", lowercase),
        add_sep=metadata.boolean("tokenizer.ggml.add_sep_token", False),
        chat_template=metadata.string("tokenizer.chat_template", None),
        name=metadata.string("general.name", "").lower(),
    )


def _pre(metadata: Metadata) -> str:
    default = _RAW_BPE if metadata.string("tokenizer.ggml.model") == _RAW_BPE else ""
    return metadata.string("tokenizer.ggml.pre", default) or default


def _kind(metadata: Metadata) -> str:
    kind = metadata.string("tokenizer.ggml.model")
    if kind == _RAW_BPE:
        return "gpt2"
    if kind not in KINDS:
        raise metadata.error(
            "tokenizer.ggml.model", f"is {describe(kind)}, a kind that is not supported", ", ".join(KINDS)
        )
    return kind


# Keys of ids as files spell them, mistakes included, and the names used here. Of two the later one counts.
_SPECIAL_KEYS = {
    "cls_token_id": "bos", "bos_token_id": "bos", "eos_token_id": "eos", "eot_token_id": "eot",
    "eom_token_id": "eom", "unknown_token_id": "unk", "seperator_token_id": "sep", "padding_token_id": "pad",
    "fim_pad_token_id": "fim_pad", "fim_rep_token_id": "fim_rep", "fim_sep_token_id": "fim_sep",
}  # fmt: skip
_ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_DEFAULTS = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0},
    "gpt2": {},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


def _special_ids(metadata: Metadata, kind: str, n_vocab: int) -> dict[str, int]:
    special = {name: i for name, i in _DEFAULTS[kind].items() if i < n_vocab}
    for key, name in _SPECIAL_KEYS.items():
        full_key = f"tokenizer.ggml.{key}"
        token_id = metadata.integer(full_key, None)
        if token_id is None:
            continue
        if 0 <= token_id < n_vocab:
            special[name] = token_id
        else:
            problem = f"is {token_id} and is ignored"
            _warn(metadata.error(full_key, problem, f"0 to {n_vocab - 1}"))
    return special


def _types(metadata: Metadata, tokens: list[str]) -> list[int]:
    key = "tokenizer.ggml.token_type"
    array = metadata.array(key, None, dtype=np.int32)
    if array is None:
        return [int(TokenType.NORMAL)] * len(tokens)
    _check_length(metadata, key, len(array), len(tokens))
    types = array[: len(tokens)].tolist()
    _check_special_lengths(metadata, tokens, types)
    return types


def _ends(ids: dict[str, int], types: list[int], merges: list[str]) -> dict[str, int]:
    """Tokens that end a reply by their text; sets `types` right where a file has them as something else."""
    rendered = rendered_texts(ids)
    ends = {text: ids[text] for text in END_TEXTS - rendered if text in ids}
    normal = [text for text, token_id in ends.items() if types[token_id] == TokenType.NORMAL]
    for text in _made_by_merges(normal, merges):
        del ends[text]  # Qwen's </s> is the HTML tag: ordinary text
    for token_id in ends.values():
        types[token_id] = TokenType.CONTROL
    for text in rendered:
        types[ids[text]] = TokenType.USER_DEFINED
    return ends


def _made_by_merges(texts: list[str], merges: list[str]) -> set[str]:
    pairs = {f"{text[:cut]} {text[cut:]}": text for text in texts for cut in range(1, len(text))}
    return {pairs[merge] for merge in merges if merge in pairs} if pairs else set()


def _check_special_lengths(metadata: Metadata, tokens: list[str], types: list[int]) -> None:
    for token_id, (text, token_type) in enumerate(zip(tokens, types, strict=True)):
        if token_type in (2, 3, 4) and len(text) > MAX_SPECIAL_LENGTH:
            raise metadata.error(
                "tokenizer.ggml.tokens",
                f"has the special token {token_id} of {len(text)} characters",
                f"special tokens of up to {MAX_SPECIAL_LENGTH} characters",
            )


def _scores(metadata: Metadata, n_vocab: int) -> np.ndarray | None:
    key = "tokenizer.ggml.scores"
    scores = metadata.array(key, None, dtype=np.float32)
    if scores is None:
        return None
    _check_length(metadata, key, len(scores), n_vocab)
    if np.isnan(scores[:n_vocab]).any():
        raise metadata.error(key, "contains NaN", "numbers")
    return scores[:n_vocab]


def _charsmap(metadata: Metadata) -> bytes:
    """``precompiled_charsmap``: bytes, which files have as signed ones, too."""
    key = "tokenizer.ggml.precompiled_charsmap"
    table = metadata.array(key, None)
    if table is None:
        return b""
    if table.dtype.itemsize != 1 or table.dtype.kind not in "iu":
        raise metadata.error(key, f"is an array of {table.dtype.name}", "an array of bytes")
    return table.tobytes()


def _check_length(metadata: Metadata, key: str, length: int, n_vocab: int) -> None:
    if length < n_vocab:
        raise metadata.error(key, f"has {length} entries", f"one for each of the {n_vocab} tokens")


def _warn_of_duplicates(metadata: Metadata, tokens: list[str], ids: dict[str, int]) -> None:
    n_empty = tokens.count("")
    if len(ids) + n_empty < len(tokens):
        token_id, text = next((i, t) for i, t in enumerate(tokens) if t and ids[t] != i)
        problem = f"has {len(tokens) - n_empty - len(ids)} duplicates, such as id {token_id} ({describe(text)})"
        _warn(metadata.error("tokenizer.ggml.tokens", problem, "each text once; the first id is used"))


def _warn(error: ModelLoadError) -> None:
    warnings.warn(str(error), RuntimeWarning, stacklevel=2)
