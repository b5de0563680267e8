"""Ids with a meaning, what belongs around a text, and chat templates: what all kinds of vocabularies have."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer as Pipeline

from densecore.convert.vocabulary.pipeline import library_errors, load_pipeline
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.gguf.types import ValueType

__all__ = ["Pairs", "special_pairs"]

Pairs = Iterator[tuple[str, Any, ValueType | None]]

# Names in tokenizer_config.json and config.json, and in GGUF files, mistakes included.
_IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
# Encoders name the tokens around a text differently.
_INSTEAD = {"bos": "cls", "eos": "sep"}


def special_pairs(source: TokenizerSource) -> Pairs:
    """The keys about special tokens: ids, ``add_bos_token`` and the like, chat templates."""
    ids = _special_ids(source)
    ids |= _end_of_texts(source, ids)
    for name, token_id in ids.items():
        yield f"tokenizer.ggml.{_IDS[name]}_token_id", token_id, ValueType.UINT32
    for name, added in _added(source, ids).items():
        yield f"tokenizer.ggml.add_{name}_token", added, None
    yield from _templates(source)


def _special_ids(source: TokenizerSource) -> dict[str, int]:
    by_text = {token.content: token.token_id for token in source.added}
    found = {}
    for name in _IDS:
        text = source.token_text(f"{name}_token")
        if text is None and name in _INSTEAD:
            text = source.token_text(f"{_INSTEAD[name]}_token")
        token_id = by_text.get(text) if text is not None else None
        if token_id is None and type(value := source.config.value(f"{name}_token_id")) is int:
            token_id = value
        if token_id is None or token_id < 0:  # -1 stands for none
            continue
        if token_id < source.n_vocab:
            found[name] = token_id
        else:
            warnings.warn(
                f"{source.folder}: {name}_token_id is {token_id}, and the model has {source.n_vocab} tokens:"
                " it is left out",
                RuntimeWarning,
                stacklevel=2,
            )
    return found


def _end_of_texts(source: TokenizerSource, ids: dict[str, int]) -> dict[str, int]:
    """What the tokenizer puts after a text as EOS, which is all that files can have there.

    Embedding models such as Qwen3's end texts with another token than answers. Of models that answer it is a warning.
    """
    if not source.description:
        return {}
    pipeline = load_pipeline(source)
    with library_errors(source):
        single = pipeline.encode("a", add_special_tokens=True)
    if single.special_tokens_mask[-1:] != [1]:
        return {}
    last = single.ids[-1]
    if last in (ids.get("eos"), ids.get("sep")):
        return {}
    if "eos" not in ids or (source.folder / "modules.json").exists():
        return {"eos": last}
    warnings.warn(
        f"{source.path}: token {last} is put after a text, which is not EOS: GGUF files cannot express it",
        RuntimeWarning,
        stacklevel=2,
    )
    return {}


def _added(source: TokenizerSource, ids: dict[str, int]) -> dict[str, bool]:
    """Whether BOS, EOS and a separator are added: seen from what the tokenizer does, unless the settings say so."""
    found = {}
    if source.description:
        pipeline = load_pipeline(source)
        with library_errors(source):
            found = {"bos": False, "eos": False} | _observed(pipeline, ids)  # said, as some kinds add them by default
    for name in ("bos", "eos", "sep"):
        if isinstance(value := source.settings.get(f"add_{name}_token"), bool):
            found[name] = value
    return {name: added for name, added in found.items() if name in ids or not added}


def _observed(pipeline: Pipeline, ids: dict[str, int]) -> dict[str, bool]:
    """What stands before and after a text, and between two, when special tokens are added."""
    single = pipeline.encode("a", add_special_tokens=True)
    if not any(single.special_tokens_mask):
        return {}
    inner = [index for index, special in enumerate(single.special_tokens_mask) if not special]
    first, last = (inner[0], inner[-1]) if inner else (len(single.ids), -1)
    found = {}
    if first > 0:
        found["bos"] = single.ids[0] == ids.get("bos")
    if last + 1 < len(single.ids):
        found["eos"] = single.ids[-1] in (ids.get("eos"), ids.get("sep"))
    pair = pipeline.encode("a", "a", add_special_tokens=True)
    between = pair.special_tokens_mask[pair.sequence_ids.index(0) : len(pair.ids) - pair.sequence_ids[::-1].index(1)]
    if any(between):
        found["sep"] = sum(between) > int(found.get("eos", False))
    return found


def _templates(source: TokenizerSource) -> Pairs:
    template = source.template
    if isinstance(template, str):
        yield "tokenizer.chat_template", template, None
        return
    names = []
    for entry in template or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
            continue
        name = str(entry.get("name", "default"))
        if name == "default":
            yield "tokenizer.chat_template", entry["template"], None
        elif name.isidentifier():
            names.append(name)
            yield f"tokenizer.chat_template.{name}", entry["template"], None
    if names:
        yield "tokenizer.chat_templates", names, None
