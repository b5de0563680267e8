"""From the tokenizer of a checkpoint to the keys ``tokenizer.*`` of a GGUF file."""

from __future__ import annotations

from densecore.convert.vocabulary.read import vocabulary_pairs

__all__ = ["vocabulary_pairs"]
