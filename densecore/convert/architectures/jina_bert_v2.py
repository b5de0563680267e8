"""Jina's BERT, version 2: BERT with ALiBi in place of positions, and a gated feed-forward part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from densecore.convert.architectures.bert import Bert, norm
from densecore.convert.rules import linear, row

__all__ = ["JinaBertV2"]

MAX_ALIBI_BIAS = 8.0  # what the slopes of ALiBi's paper are


class JinaBertV2(Bert):
    """See the module's text. The models for German, Spanish and code name some tensors differently."""

    architecture = "jina-bert-v2"
    classes = ("JinaBertModel", "JinaBertForMaskedLM")
    model_types = ("jina_bert",)
    prefixes = ("bert.",)
    parts_left_out = ("cls.", "lm_head.")
    once = (
        row("token_embd", "embeddings.word_embeddings", "vocab dim"),
        row("token_types", "embeddings.token_type_embeddings", "types dim"),
        *norm("token_embd_norm", "embeddings.LayerNorm"),
    )
    block = (
        *linear("blk.{}.attn_q", "encoder.layer.{}.attention.self.query", "dim dim"),
        *linear("blk.{}.attn_k", "encoder.layer.{}.attention.self.key", "dim dim"),
        *linear("blk.{}.attn_v", "encoder.layer.{}.attention.self.value", "dim dim"),
        *linear("blk.{}.attn_q_norm", "encoder.layer.{}.attention.self.layer_norm_q", "dim", bias="absent"),
        *linear("blk.{}.attn_k_norm", "encoder.layer.{}.attention.self.layer_norm_k", "dim", bias="absent"),
        *linear("blk.{}.attn_output", "encoder.layer.{}.attention.output.dense", "dim dim"),
        *linear("blk.{}.attn_output_norm", "encoder.layer.{}.attention.output.LayerNorm", "dim", bias="absent"),
        *linear("blk.{}.attn_output_norm", "encoder.layer.{}.layer_norm_1", "dim", bias="absent"),
        *linear("blk.{}.ffn_up", "encoder.layer.{}.mlp.gated_layers", "gate_up dim", bias="absent"),
        *linear("blk.{}.ffn_up", "encoder.layer.{}.mlp.up_gated_layer", "gate_up dim", bias="absent"),
        *linear("blk.{}.ffn_down", "encoder.layer.{}.mlp.wo", "dim hidden", bias="absent"),
        *linear("blk.{}.ffn_down", "encoder.layer.{}.mlp.down_layer", "dim hidden", bias="absent"),
        *linear("blk.{}.layer_output_norm", "encoder.layer.{}.mlp.layernorm", "dim", bias="absent"),
        *linear("blk.{}.layer_output_norm", "encoder.layer.{}.layer_norm_2", "dim", bias="absent"),
    )

    def read_sizes(self) -> dict[str, int]:
        sizes = super().read_sizes()
        return sizes | {"gate_up": 2 * sizes["hidden"]}

    def metadata(self) -> Iterator[tuple[str, Any]]:
        yield from super().metadata()
        yield "attention.max_alibi_bias", MAX_ALIBI_BIAS

    def check_kind(self) -> None:
        kind = self.config.string("position_embedding_type", default="alibi")
        if kind != "alibi":
            raise self.config.error("position_embedding_type", f"is {kind!r}", "alibi")
        gate = self.config.string("feed_forward_type", default="geglu")
        if gate != "geglu":
            raise self.config.error("feed_forward_type", f"is {gate!r}", "geglu")
