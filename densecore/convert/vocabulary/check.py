"""Compares a converted vocabulary with the checkpoint's own tokenizer."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densecore.convert.vocabulary.pipeline import library_errors, load_pipeline
from densecore.convert.vocabulary.pre import PROBE
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.gguf import Metadata
from densecore.tokenizer import Tokenizer
from densecore.tokenizer.backend import name_takes_space

__all__ = ["check_ids", "check_name"]

# Many checkpoints compose characters first (NFC), which GGUF files cannot express: a text that is composed already.
TEXT = unicodedata.normalize("NFC", PROBE)


def check_ids(source: TokenizerSource, values: Mapping[str, Any], target: Path) -> None:
    """Warn if the keys `values` of the file `target` give other ids than the checkpoint; ModelLoadError if none."""
    arrays = {key: _as_read(value) for key, value in values.items()}
    tokenizer = Tokenizer.from_metadata(Metadata(arrays, path=target))
    if not source.description:
        return
    pipeline = load_pipeline(source)
    with library_errors(source):
        wanted = pipeline.encode(TEXT, add_special_tokens=False).ids
    found = tokenizer.encode(TEXT, parse_special=True)
    if found != wanted:
        at = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(map(len, (found, wanted)))
        )
        warnings.warn(
            f"{source.path}: for some text the GGUF file gives other token ids, such as"
            f" {found[at : at + 4]} instead of {wanted[at : at + 4]}",
            RuntimeWarning,
            stacklevel=2,
        )


def check_name(source: TokenizerSource, name: str) -> None:
    """Warn if special tokens take the white space after them, which files have no key for: runtimes go by the name."""
    if any(token.takes_space for token in source.added) and not name_takes_space(name):
        warnings.warn(
            f"{source.path}: special tokens take the white space after them, which GGUF files tell by a model's name:"
            " choose one with phi-3 in it (--name)",
            RuntimeWarning,
            stacklevel=2,
        )


def _as_read(value: Any) -> Any:
    """A value as a reader of the file gets it: numbers as arrays."""
    is_numbers = isinstance(value, list) and value and not isinstance(value[0], str)
    return np.asarray(value, np.int32) if is_numbers else value
