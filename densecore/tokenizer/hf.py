"""The tokenizer of a Hub repository, from its ``tokenizer.json``, behind the same class as that of a GGUF file.

Encoding is left to the pipeline in the file, which is the one that the model's authors use. For decoding, the
pipeline's decoder says how tokens are written; from there on everything is as for GGUF files.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Pipeline

from densecore.exceptions import ModelLoadError
from densecore.hub import commit_of, download, download_if_present
from densecore.tokenizer.backend import SPACE, SpaceRule
from densecore.tokenizer.end_of_generation import END_TEXTS, rendered_texts
from densecore.tokenizer.gpt2 import byte_piece
from densecore.tokenizer.tokenizer import TokenizerParts
from densecore.tokenizer.vocabulary import TokenType

__all__ = ["load_from_hub"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class HubBackend:
    """A Backend over a pipeline of the `tokenizers` library, given as the text of its JSON file."""

    def __init__(self, source: str, kind: str, space_rule: SpaceRule, tokens: list[str], types: list[int]) -> None:
        self.space_rule = space_rule
        self._source = source
        self._kind = kind
        self._tokens = tokens
        self._types = types
        self._parsing = _pipeline(source)
        self._plain: Pipeline | None = None
        self._lock = threading.Lock()

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """Ids of `text`, with or without special tokens in it."""
        pipeline = self._parsing if parse_special else self._without_special()
        return pipeline.encode(text, add_special_tokens=False).ids

    def piece(self, token_id: int) -> bytes:
        """Bytes of a token, by the way in which the kind writes tokens."""
        text = self._tokens[token_id]
        if self._types[token_id] == TokenType.USER_DEFINED:
            return text.encode()
        if self._types[token_id] == TokenType.UNUSED:
            return b""
        if self._kind == "gpt2":
            return byte_piece(text)
        if self._kind == "bert":
            return (text[2:] if text.startswith("##") else " " + text).encode()
        byte = _BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()

    def _without_special(self) -> Pipeline:
        """A second pipeline, made when needed: the switch is part of its state, and threads share it."""
        with self._lock:
            if self._plain is None:
                self._plain = _pipeline(self._source)
                self._plain.encode_special_tokens = True
            return self._plain


def load_from_hub(repo_id: str, *, revision: str | None = None) -> TokenizerParts:
    """Download what describes the tokenizer of `repo_id`, and read it.

    Raises ModelLoadError if a file is missing, broken, or describes a kind of tokenizer that is not supported.
    """
    path = download(repo_id, "tokenizer.json", revision=revision)
    revision = commit_of(path) or revision
    description = _json(path)
    config = _optional_json(repo_id, "tokenizer_config.json", revision)
    generation = _optional_json(repo_id, "generation_config.json", revision)
    template = download_if_present(repo_id, "chat_template.jinja", revision=revision)
    try:
        return _parts(path, description, config, generation, template)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelLoadError(f"{path}: not a tokenizer as expected: {type(error).__name__}: {error}") from error


def _parts(path: Path, description: dict, config: dict, generation: dict, template: Path | None) -> TokenizerParts:
    source = path.read_text("utf-8")
    pipeline = _checked_pipeline(path, source)
    tokens, types = _tokens(pipeline)
    kind = _kind(path, description)
    if kind == "bert" and (unknown := description["model"].get("unk_token")) in tokens:
        types[tokens.index(unknown)] = TokenType.UNUSED  # it stands for no text
    backend = HubBackend(source, kind, _space_rule(kind, description), tokens, types)
    prefix, suffix = _around(pipeline)
    added = {tokens[i]: i for i in pipeline.get_added_tokens_decoder()}
    bos, eos = (pipeline.token_to_id(_content(config.get(name)) or "") for name in ("bos_token", "eos_token"))
    return TokenizerParts(
        kind=kind,
        tokens=tokens,
        types=types,
        backend=backend,
        bos_id=bos,
        eos_id=eos,
        eog_ids=_eog_ids(added, eos, generation, len(tokens)),
        prefix=prefix,
        suffix=suffix,
        chat_template=template.read_text("utf-8") if template else _template(config.get("chat_template")),
    )


def _pipeline(source: str) -> Pipeline:
    pipeline = Pipeline.from_str(source)
    pipeline.no_truncation()
    pipeline.no_padding()
    return pipeline


def _checked_pipeline(path: Path, source: str) -> Pipeline:
    try:
        return _pipeline(source)
    except Exception as error:  # the library has no narrower class
        raise ModelLoadError(f"{path}: not a tokenizer that the tokenizers library can read: {error}") from error


def _tokens(pipeline: Pipeline) -> tuple[list[str], list[int]]:
    """Text and type of each id; ids that nobody uses are empty."""
    vocabulary = pipeline.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    if not 0 < size <= 4 * len(vocabulary) + 1024:
        raise ValueError(f"{len(vocabulary)} tokens with ids up to {size - 1}")
    tokens, types = [""] * size, [int(TokenType.UNUSED)] * size
    for text, token_id in vocabulary.items():
        tokens[token_id], types[token_id] = text, TokenType.NORMAL
    for token_id, token in pipeline.get_added_tokens_decoder().items():
        types[token_id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return tokens, types


def _steps(description: dict, part: str) -> list[dict]:
    """The steps of a part of the pipeline, sequences unfolded; an absent part has none."""
    pending, steps = [description.get(part)], []
    while pending:
        step = pending.pop(0)
        if not isinstance(step, dict):
            continue
        children = next((step[key] for key in ("decoders", "normalizers", "pretokenizers") if key in step), None)
        if children is None:
            steps.append(step)
        else:
            pending = [*children, *pending]
    return steps


def _kind(path: Path, description: dict) -> str:
    names = {step.get("type") for part in ("decoder", "pre_tokenizer") for step in _steps(description, part)}
    if "ByteLevel" in names:
        return "gpt2"
    if "WordPiece" in names or description["model"].get("type") == "WordPiece":
        return "bert"
    if names & {"Metaspace", "ByteFallback"}:
        return "llama"
    problem = f"its decoder {sorted(map(str, names))} is not supported"
    raise ModelLoadError(f"{path}: {problem}; allowed: ByteLevel, WordPiece, Metaspace")


def _space_rule(kind: str, description: dict) -> SpaceRule:
    if kind == "bert":
        return SpaceRule.START
    if any(step.get("type") == "Prepend" for step in _steps(description, "normalizer")):
        return SpaceRule.SEGMENT
    for step in _steps(description, "pre_tokenizer"):
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
            return {"always": SpaceRule.SEGMENT, "first": SpaceRule.START}.get(scheme, SpaceRule.NONE)
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            return SpaceRule.SEGMENT
    return SpaceRule.NONE


def _around(pipeline: Pipeline) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the pipeline puts before and after a text: the ids around those of a letter."""
    encoding = pipeline.encode("a", add_special_tokens=True)
    mask = encoding.special_tokens_mask
    first = mask.index(0) if 0 in mask else len(mask)
    last = len(mask) - (mask[::-1].index(0) if 0 in mask else 0)
    return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])


def _eog_ids(added: dict[str, int], eos: int | None, generation: dict, n_vocab: int) -> frozenset[int]:
    named = generation.get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    found = {i for i in [eos, *ids] if isinstance(i, int) and 0 <= i < n_vocab}
    texts = END_TEXTS - rendered_texts(added)
    return frozenset(found | {token_id for text, token_id in added.items() if text in texts})


def _content(token: Any) -> str | None:
    """Text of a token in tokenizer_config.json, where it is a str or an object."""
    return token.get("content") if isinstance(token, dict) else token


def _template(value: Any) -> str | None:
    """The template among several, each with a name, or the only one."""
    if isinstance(value, list):
        return next((entry["template"] for entry in value if entry.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _optional_json(repo_id: str, filename: str, revision: str | None) -> dict[str, Any]:
    path = download_if_present(repo_id, filename, revision=revision)
    return {} if path is None else _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path}: its JSON is a {type(value).__name__}; an object is needed")
    return value
