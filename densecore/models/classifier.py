"""The head of a reranker: from the hidden state of one token to scores (Nogueira and Cho 2019).

As the converters of llama.cpp write it: an optional layer ``cls`` with tanh, then ``cls.output``; of a file that has
``cls`` alone with another number of rows than the model's dimension, ``cls`` is the output. Decoders that answer "yes"
or "no" (Qwen3-Reranker) have the two rows of their output matrix as ``cls.output``, and their score is the probability
of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.models.weights import WeightLoader

__all__ = ["Classifier"]

MAX_LABELS = 1024


@dataclass(frozen=True, eq=False)
class _Dense:
    """A layer so small that it is kept, and computed, in float32."""

    weight: np.ndarray  # (n_out, n_in)
    bias: np.ndarray  # (n_out,)

    @classmethod
    def load(cls, load: WeightLoader, name: str, n_in: int) -> _Dense:
        n_out = _rows(load, name)
        linear = load.linear(name, n_out, n_in)
        blocks = linear.data.reshape(-1, linear.format.type_size)
        weight = linear.format.dequantize_ref(blocks).reshape(n_out, n_in)
        bias = np.zeros(n_out, np.float32) if linear.bias is None else linear.bias[0]
        return cls(np.asarray(weight, np.float32), bias)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.weight @ x + self.bias


def _rows(load: WeightLoader, name: str) -> int:
    shape = load.file.tensors[f"{name}.weight"].shape
    return shape[1] if len(shape) == 2 else 1


@dataclass(frozen=True, eq=False)
class Classifier:
    """Scores of labels; most rerankers have one."""

    dense: _Dense | None
    output: _Dense
    has_choices: bool  # whether the labels exclude each other: softmax
    token: str  # which token is looked at: the pooling "cls" or "last"

    @classmethod
    def load(cls, load: WeightLoader, dim: int, *, is_encoder: bool) -> Classifier | None:
        """The head in a file, or None; ModelLoadError if its parts do not fit together."""
        dense = _Dense.load(load, "cls", dim) if load.has("cls.weight") else None
        output = _Dense.load(load, "cls.output", dim) if load.has("cls.output.weight") else None
        if output is None and dense is not None and len(dense.weight) != dim:
            dense, output = None, dense
        if output is None:
            if dense is not None:
                raise ModelLoadError(f"{load.file.path}: cls.weight is there, but not cls.output.weight")
            return None
        if dense is not None and len(dense.weight) != dim:
            raise ModelLoadError(f"{load.file.path}: cls.weight has {len(dense.weight)} rows; expected {dim}")
        return cls(dense, output, not is_encoder, "cls" if is_encoder else "last")

    def score(self, hidden: np.ndarray) -> float:
        """That of the first label, from the hidden state (dim,) of the token that is looked at."""
        if self.dense is not None:
            hidden = np.tanh(self.dense(hidden))
        scores = self.output(hidden)
        if self.has_choices and len(scores) > 1:
            weights = np.exp(scores - scores.max())
            return float(weights[0] / weights.sum())
        return float(scores[0])
