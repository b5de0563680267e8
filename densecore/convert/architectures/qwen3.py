"""Qwen3, Qwen3-Embedding and Qwen3-Reranker: Qwen2 with norms on the heads of q and k.

A reranker answers "yes" or "no": of its output matrix these two rows are kept, as ``cls.output``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.architectures.qwen2 import Qwen2
from densecore.convert.decoder import GATED_MLP, NORMS, attention
from densecore.convert.json_files import read_text_if_present
from densecore.convert.lazy import LazyTensor
from densecore.convert.pooling import RANK
from densecore.convert.rules import Row, row
from densecore.convert.vocabulary.source import TokenizerSource
from densecore.convert.vocabulary.tokens import model_tokens

__all__ = ["HEAD_NORMS", "Qwen3"]

HEAD_NORMS: tuple[Row, ...] = (
    row("blk.{}.attn_q_norm", "layers.{}.self_attn.q_norm", "head"),
    row("blk.{}.attn_k_norm", "layers.{}.self_attn.k_norm", "head"),
)
ANSWERS = ("yes", "no")
RERANKER = "qwen3-reranker"  # in the model's name or its card: no setting says so
# The prompt of the model's card.
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web '
    "search query, retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>"
    "\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)


class Qwen3(Qwen2):
    """See the module's text."""

    architecture = "qwen3"
    classes = ("Qwen3ForCausalLM", "Qwen3Model")
    model_types: ClassVar[tuple[str, ...]] = ("qwen3",)
    block = (*NORMS, *HEAD_NORMS, *attention(), *GATED_MLP)

    @property
    def ranks(self) -> bool:
        """Whether this is Qwen3-Reranker."""
        card = read_text_if_present(self.folder / "README.md") or ""
        return RERANKER in self.name.lower() or f"# {RERANKER}" in card.lower()

    def metadata(self) -> Iterator[tuple[str, Any]]:
        ranks = self.ranks
        for key, value in super().metadata():
            if not (ranks and key == "pooling_type"):
                yield key, value
        if ranks:
            yield "pooling_type", RANK
            yield "classifier.output_labels", list(ANSWERS)

    def prompts(self) -> Iterator[tuple[str, str]]:
        if self.ranks:
            yield "rerank", PROMPT

    def output_tensor(self) -> Iterator[tuple[str, LazyTensor]]:
        if not self.ranks:
            yield from super().output_tensor()
            return
        source = "embed_tokens.weight" if self.tied else "lm_head.weight"
        matrix = self.take(source, self.shape_of("vocab dim"))
        ids = model_tokens(TokenizerSource(self.folder, self.config))
        missing = [text for text in ANSWERS if text not in ids]
        if missing:
            raise self.error(f"has no token {missing[0]!r}, the answer of a reranker", "tokens for yes and no")
        answers = matrix.view[[ids[text] for text in ANSWERS]]
        yield "cls.output.weight", matrix.viewed(answers, shape=answers.shape)
