"""BERT and its kin with learned positions: sentence encoders, and cross-encoders that rank pairs of texts.

A classifier's pooler and output matrix become ``cls`` and ``cls.output``, which ranking multiplies by after a tanh
between them; a sentence encoder's pooler is not used and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from densecore.convert.pooling import RANK, pooling_type
from densecore.convert.rules import Row, Rules, linear, row

__all__ = ["Bert", "norm"]


def norm(target: str, source: str) -> list[Row]:
    """A LayerNorm with its bias."""
    return linear(target, source, "dim", bias="required")


class Bert(Rules):
    """See the module's text."""

    architecture = "bert"
    classes: ClassVar[tuple[str, ...]] = (
        "BertModel",
        "BertForMaskedLM",
        "BertForSequenceClassification",
        "BertForPreTraining",
    )
    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    prefixes = ("bert.",)
    ignored = ("embeddings.position_ids",)
    once: ClassVar[tuple[Row, ...]] = (
        row("token_embd", "embeddings.word_embeddings", "vocab dim"),
        row("position_embd", "embeddings.position_embeddings", "positions dim"),
        row("token_types", "embeddings.token_type_embeddings", "types dim"),
        *norm("token_embd_norm", "embeddings.LayerNorm"),
    )
    block: ClassVar[tuple[Row, ...]] = (
        *linear("blk.{}.attn_q", "encoder.layer.{}.attention.self.query", "dim dim"),
        *linear("blk.{}.attn_k", "encoder.layer.{}.attention.self.key", "dim dim"),
        *linear("blk.{}.attn_v", "encoder.layer.{}.attention.self.value", "dim dim"),
        *linear("blk.{}.attn_output", "encoder.layer.{}.attention.output.dense", "dim dim"),
        *norm("blk.{}.attn_output_norm", "encoder.layer.{}.attention.output.LayerNorm"),
        *linear("blk.{}.ffn_up", "encoder.layer.{}.intermediate.dense", "hidden dim"),
        *linear("blk.{}.ffn_down", "encoder.layer.{}.output.dense", "dim hidden"),
        *norm("blk.{}.layer_output_norm", "encoder.layer.{}.output.LayerNorm"),
    )
    ranking: ClassVar[tuple[Row, ...]] = (
        *linear("cls", "pooler.dense", "dim dim"),
        *linear("cls.output", "classifier", "labels dim"),
    )

    @property
    def ranks(self) -> bool:
        """Whether this is a cross-encoder."""
        return self.config.architecture.endswith("ForSequenceClassification")

    def read_sizes(self) -> dict[str, int]:
        config = self.config
        dim = config.integer("hidden_size")
        n_heads = config.integer("num_attention_heads")
        if dim % n_heads:
            raise config.error("hidden_size", f"is {dim}", f"a multiple of num_attention_heads = {n_heads}")
        return {
            "dim": dim,
            "hidden": config.integer("intermediate_size"),
            "vocab": config.integer("vocab_size"),
            "n_heads": n_heads,
            "positions": config.integer("max_position_embeddings"),
            "types": config.integer("type_vocab_size", default=2),
            "labels": self._n_labels(),
        }

    def metadata(self) -> Iterator[tuple[str, Any]]:
        sizes, config = self.sizes, self.config
        self.check_kind()
        yield "block_count", self.n_layers
        yield "context_length", self.context_length
        yield "embedding_length", sizes["dim"]
        yield "feed_forward_length", sizes["hidden"]
        yield "attention.head_count", sizes["n_heads"]
        yield "attention.layer_norm_epsilon", config.number("layer_norm_eps", default=1e-12, minimum=0.0)
        yield "attention.causal", False
        if self.ranks:
            yield "pooling_type", RANK
            if names := self._label_names():
                yield "classifier.output_labels", names
        else:
            yield from pooling_type(self.folder)

    @property
    def context_length(self) -> int:
        """Number of positions that a text may take."""
        return self.sizes["positions"]

    def tensors(self) -> Iterator[Any]:
        if self.ranks:
            for entry in self.ranking:
                yield from self.apply(entry)
        yield from super().tensors()

    def rename(self, name: str) -> str | None:
        short = super().rename(name)
        if short is None or short.startswith("cls.") or (short.startswith("pooler.") and not self.ranks):
            return None
        # The first checkpoints named weight and bias of norms by Greek letters.
        return short.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    def _n_labels(self) -> int:
        return len(self.config.section("id2label")) or self.config.integer("num_labels", default=2)

    def _label_names(self) -> list[str]:
        """Names of the classifier's outputs, unless they are only numbered."""
        labels = self.config.section("id2label")
        names = [labels.string(str(number), default="") for number in range(len(labels))]
        return names if all(name and not name.startswith("LABEL_") for name in names) else []

    def check_activation(self) -> None:
        """See `check_kind`."""

    def check_kind(self) -> None:
        """ModelLoadError for a kind of BERT that runtimes do not compute."""
        kind = self.config.string("position_embedding_type", default="absolute")
        if kind != "absolute":
            raise self.config.error("position_embedding_type", f"is {kind!r}", "absolute")
        activation = self.config.string("hidden_act", default="gelu")
        if activation not in ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"):
            raise self.config.error("hidden_act", f"is {activation!r}", "gelu, as runtimes compute it")
