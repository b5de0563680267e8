"""RoBERTa and XLM-RoBERTa: BERT, with positions that begin behind the padding token's."""

from __future__ import annotations

from typing import ClassVar

from densecore.convert.architectures.bert import Bert
from densecore.convert.lazy import LazyTensor
from densecore.convert.rules import Row, Rules, linear, row

__all__ = ["Roberta"]


def _usable(rules: Rules, tensor: LazyTensor) -> LazyTensor:
    """The rows of positions that texts use."""
    view = tensor.view[rules.sizes["offset"] :]
    return tensor.viewed(view, shape=view.shape)


class Roberta(Bert):
    """See the module's text."""

    classes = (
        "XLMRobertaModel",
        "RobertaModel",
        "CamembertModel",
        "XLMRobertaForSequenceClassification",
        "RobertaForSequenceClassification",
        "XLMRobertaForMaskedLM",
        "RobertaForMaskedLM",
    )
    model_types = ("xlm-roberta", "roberta", "camembert")
    prefixes = ("roberta.",)
    once: ClassVar[tuple[Row, ...]] = tuple(
        row("position_embd", entry.source.removesuffix(".weight"), entry.shape, _usable)
        if entry.target == "position_embd.weight"
        else entry
        for entry in Bert.once
    )
    ranking = (
        *linear("cls", "classifier.dense", "dim dim"),
        *linear("cls.output", "classifier.out_proj", "labels dim"),
    )

    def read_sizes(self) -> dict[str, int]:
        return super().read_sizes() | {"offset": self.config.integer("pad_token_id", default=1, minimum=0) + 1}

    @property
    def context_length(self) -> int:
        return self.sizes["positions"] - self.sizes["offset"]

    def rename(self, name: str) -> str | None:
        short = super().rename(name)
        return None if short is None or short.startswith(("lm_head.", "pooler.")) else short
