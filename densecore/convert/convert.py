"""Reads a checkpoint and writes a GGUF file, a few rows at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from densecore.convert.architectures import rules_for
from densecore.convert.checkpoint import Checkpoint
from densecore.convert.encode import FILE_TYPES, OUT_TYPES, encoded, type_of
from densecore.convert.lazy import LazyTensor
from densecore.convert.rules import Rules
from densecore.convert.size_label import size_label
from densecore.convert.vocabulary import vocabulary_pairs
from densecore.convert.vocabulary.check import check_ids, check_name
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.exceptions import DenseCoreError, InvalidConfigError
from densecore.gguf import GGMLType, GGUFWriter
from densecore.gguf.errors import describe, printable
from densecore.tokenizer.pretokenizers import PRE_TOKENIZERS

__all__ = ["convert_checkpoint"]

Progress = Callable[[int, int], None]  # bytes written, bytes in all
QUANTIZATION_VERSION = 2  # of the formats' layouts (GGML_QUANT_VERSION)


def convert_checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    outtype: str = "f16",
    *,
    name: str | None = None,
    pre: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the checkpoint in the folder `source` as the GGUF file `target`; returns its path.

    Parameters: `outtype` is ``f32``, ``f16``, ``bf16`` or ``q8_0``, the type of matrices, while vectors are F32; `name`
    is the model's name, by default the folder's; `pre` names the rule by which byte-level BPE cuts text, which
    otherwise is recognized; `progress` is called with the bytes written so far and in all.

    Weights are read and written a few megabytes at a time. The file appears under its name when it is complete, and
    replaces another one there at once. A RuntimeWarning tells what GGUF files cannot express. Raises ModelLoadError for
    a checkpoint that is broken or not covered, InvalidConfigError for arguments, and DenseCoreError if the file cannot
    be written.
    """
    if outtype not in OUT_TYPES:
        raise InvalidConfigError(f"outtype is {describe(outtype)}; allowed: {', '.join(OUT_TYPES)}")
    if pre is not None and pre not in PRE_TOKENIZERS:
        raise InvalidConfigError(f"pre is {describe(pre)}; allowed: {', '.join(sorted(PRE_TOKENIZERS))}")
    kind = OUT_TYPES[outtype]
    checkpoint = Checkpoint.open(Path(source).expanduser())
    rules = rules_for(checkpoint)
    settings = dict(rules.metadata())
    tensors = dict(rules.tensors())
    writer = GGUFWriter(Path(target).expanduser())
    name = name or checkpoint.name
    _add_model(writer, rules.architecture, name, tensors, kind)
    for key, value in settings.items():
        writer.add_metadata(f"{rules.architecture}.{key}", value)
    _add_vocabulary(writer, TokenizerSource(checkpoint.folder, checkpoint.config), rules, pre, name)
    _add_tensors(writer, tensors, kind)
    _check_room(writer)
    writer.write(progress=progress)
    return writer.path


def _add_model(
    writer: GGUFWriter, architecture: str, name: str, tensors: dict[str, LazyTensor], kind: GGMLType
) -> None:
    """What the model is."""
    writer.add_metadata("general.architecture", architecture)
    writer.add_metadata("general.type", "model")
    writer.add_metadata("general.name", name)
    writer.add_metadata("general.size_label", size_label({n: tensor.shape for n, tensor in tensors.items()}))
    writer.add_metadata("general.file_type", FILE_TYPES[kind])
    writer.add_metadata("general.quantization_version", QUANTIZATION_VERSION)


def _add_vocabulary(writer: GGUFWriter, source: TokenizerSource, rules: Rules, pre: str | None, name: str) -> None:
    values = {}
    for key, value, value_type in vocabulary_pairs(source, pre=pre, space_prefix=rules.space_prefix):
        writer.add_metadata(key, value, value_type)
        values[key] = value
    for prompt, text in rules.prompts():
        writer.add_metadata(f"tokenizer.chat_template.{prompt}", text)
    check_ids(source, values, writer.path)
    check_name(source, name)


def _add_tensors(writer: GGUFWriter, tensors: dict[str, LazyTensor], wanted: GGMLType) -> None:
    for name, tensor in tensors.items():
        kind = tensor.kind or type_of(name, tensor.shape, wanted)
        writer.add_stream(name, kind, tensor.shape[::-1], partial(encoded, name, tensor, kind))


def _check_room(writer: GGUFWriter) -> None:
    """DenseCoreError if the disk has less room than the file needs."""
    folder = writer.path.absolute().parent
    if not folder.is_dir():
        raise DenseCoreError(f"{printable(folder)}: the folder does not exist")
    free = shutil.disk_usage(folder).free
    if writer.n_data > free:
        needed = f"{writer.n_data / 2**30:.2f} GiB are needed, and {free / 2**30:.2f} GiB are free"
        raise DenseCoreError(f"{printable(folder)}: {needed}: make room, or write elsewhere")
