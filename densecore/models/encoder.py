"""What all encoders share: the frame around layers in which each token sees its whole text.

Where `base.Model` continues a text token by token, with keys and values kept in a cache, an `Encoder` reads whole texts
at once and keeps nothing: what it gives are the hidden states of their tokens, which `pooling` makes embeddings of, or
`classifier` scores. Texts lie one behind the other in an `EncoderBatch`, without padding.

An architecture is a subclass in its own file, as with decoders: `load_layer` and `layer`, and what it does to the sum
of its embeddings, where it has more than the usual ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.kernels import gemm_bf16, matmul
from densecore.kernels.norm import layer_norm
from densecore.kernels.plan import Plan
from densecore.kernels.segment_attention import segment_attention, segment_pattern_ref
from densecore.models.batch import Batch
from densecore.models.classifier import Classifier
from densecore.models.config import ModelConfig
from densecore.models.hooks import Hooks
from densecore.models.pooling import file_pooling
from densecore.models.record import RecordedSteps
from densecore.models.step import Step, Workspace
from densecore.models.weights import LayerNorm, Linear, WeightLoader

__all__ = ["NO_SLOPES", "Encoder", "EncoderBatch", "EncoderStep"]

NO_SLOPES = np.empty(0, np.float32)


def _no_numbers() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class EncoderBatch(Batch):
    """Whole texts, one behind the other. What a `Batch` says about caches, logits and adapters is empty."""

    token_types: np.ndarray = field(default_factory=_no_numbers)  # (num_tokens,) 1 in the second text of a pair
    starts: np.ndarray = field(default_factory=_no_numbers)  # (num_texts + 1,) where each text begins, and the end

    @classmethod
    def pack(cls, texts: SequenceOf[SequenceOf[int]], types: SequenceOf[SequenceOf[int]] | None = None) -> EncoderBatch:
        """The tokens of these texts; `types` of the tokens are 0 unless given."""
        lengths = np.array([len(text) for text in texts])
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        seq_index = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        nothing = _no_numbers()
        token_types = np.zeros(starts[-1], np.int32) if types is None else np.concatenate(types).astype(np.int32)
        return cls(
            token_ids=np.concatenate(texts).astype(np.int32),
            positions=np.arange(starts[-1], dtype=np.int32) - starts[seq_index],
            slot_mapping=nothing,
            seq_index=seq_index,
            block_tables=nothing.reshape(0, 0),
            logits_indices=nothing,
            token_types=token_types,
            starts=starts,
        )


class SplitActivations(NamedTuple):
    """Activations (num_tokens, n_in) in two halves, as `gemm_bf16` takes them."""

    halves: np.ndarray
    num_tokens: int


class EncoderStep(Step):
    """The operations of one step of an encoder: those of `Step`, but with attention within texts.

    Products with float weights use tile registers of bfloat16 where the CPU has them, for any number of tokens.
    """

    batch: EncoderBatch

    def __init__(
        self, batch: EncoderBatch, workspace: Workspace, hooks: Hooks | None = None, plan: Plan | None = None
    ) -> None:
        super().__init__(batch, None, workspace, hooks, plan)  # type: ignore[arg-type]  # nothing is cached

    def add_rows(self, x: np.ndarray, weight: Linear, indices: np.ndarray) -> None:
        """x (num_tokens, n) += rows of a matrix (count, n), by a number for each token."""
        rows = self.workspace.array("embedding", x.shape)
        fmt = weight.format
        self.run(matmul.embed, fmt, fmt.qk, fmt.type_size, weight.data, indices, rows)
        self.add(x, rows)

    def project(self, x: Any, *weights: Linear) -> list[np.ndarray]:
        """As that of `Step`; x may also be what `project_gelu` gave."""
        if not isinstance(x, SplitActivations):
            if not all(map(_can_split, weights)):
                return super().project(x, *weights)
            x = self.split(x)
        outs = [self.workspace.array(weight.role, (x.num_tokens, weight.n_out)) for weight in weights]
        for i, (weight, out) in enumerate(zip(weights, outs, strict=True)):
            self.run(gemm_bf16.matmul_split, *_operands(weight, x), out, beside=i > 0)
        return outs

    def project_gelu(self, x: np.ndarray, weight: Linear, following: Linear) -> np.ndarray | SplitActivations:
        """gelu(x W^T + bias), by erf, for `project` with the matrix `following`."""
        if not (_can_split(weight) and _can_split(following)):
            (out,) = self.project(x, weight)
            return self.gelu_erf(out)
        split = self.split(x)
        halves = self._halves(weight.role, split.num_tokens, weight.n_out)
        self.run(gemm_bf16.matmul_gelu, *_operands(weight, split), split.num_tokens, halves)
        return SplitActivations(halves, split.num_tokens)

    def split(self, x: np.ndarray) -> SplitActivations:
        """x (num_tokens, n_in) in two halves."""
        halves = self._halves("split", *x.shape)
        self.run(gemm_bf16.split, x, halves)
        return SplitActivations(halves, len(x))

    def _halves(self, name: str, num_tokens: int, n_in: int) -> np.ndarray:
        return self.workspace.array(f"halves.{name}", gemm_bf16.split_shape(num_tokens, n_in), np.uint16)

    def normalise(self, x: np.ndarray, norm: LayerNorm, epsilon: np.float32) -> None:
        """x (num_tokens, n) = LayerNorm of its rows."""
        self.run(layer_norm, x, norm.weight, norm.bias, epsilon, x)

    def attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: np.float32, slopes: np.ndarray = NO_SLOPES
    ) -> np.ndarray:
        """Attention within texts; all (num_tokens, n_heads, head_dim). slopes : (n_heads,) of ALiBi, or empty"""
        out = self.workspace.array("attention", q.shape)
        if self.hooks is not None and f"blk.{self.layer}.pattern" in self.hooks:
            self._hooked_attend(q, k, v, scale, slopes, out)
        else:
            self.run(segment_attention, q, k, v, self.batch.seq_index, self.batch.starts, scale, slopes, out)
        return out

    def _hooked_attend(self, q, k, v, scale: np.float32, slopes: np.ndarray, out: np.ndarray) -> None:
        """Attention by its readable twin, with the matrix of weights open to hooks."""
        for start, end in pairwise(self.batch.starts):
            pattern = segment_pattern_ref(q[start:end], k[start:end], scale, slopes)
            self.hook("pattern", pattern)
            out[start:end] = np.einsum("htp,phd->thd", pattern, v[start:end])


def _can_split(weight: Linear) -> bool:
    """Whether products with a matrix use tiles of bfloat16."""
    return gemm_bf16.HAS_BF16_TILES and not weight.format.group and gemm_bf16.can_split(weight.n_out, weight.n_in)


def _operands(weight: Linear, x: SplitActivations) -> tuple[Any, ...]:
    """What products in halves begin with."""
    bias = np.zeros(weight.n_out, np.float32) if weight.bias is None else weight.bias[0]
    return weight.format, weight.format.type_size, weight.data, x.halves, bias


class Encoder(ABC):
    """An encoder: embeddings of tokens, types and positions, layers, hidden states.

    Attributes
    ----------
    config : dimensions.
    token_embd, token_types, position_embd : embedding matrices (rows, dim); the last two may be None.
    token_embd_norm : the norm of their sum.
    layers : one object of weights a layer, as `load_layer` made it.
    classifier : the head of a reranker, or None.
    pooling : what the file says makes a vector of a text: "mean", "cls", "last" or "rank"; None if it does not.
    path, mapped : the file, and the map, or those of its parts, in which the matrices lie.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.config = config = ModelConfig.read(file)
        if config.n_kv_heads != config.n_heads:
            raise ModelLoadError(f"{file.path}: an encoder must have as many KV heads as heads, {config.n_heads}")
        load = WeightLoader(file)
        self.token_embd = load.linear("token_embd", config.n_vocab, config.dim, bias=False)
        self.token_types = self._rows(load, "token_types")
        self.position_embd = self._rows(load, "position_embd", config.context_length)
        self.token_embd_norm = load.layer_norm("token_embd_norm", config.dim)
        self.layers = [self.load_layer(load, f"blk.{layer}") for layer in range(config.n_layers)]
        self.classifier = Classifier.load(load, config.dim, is_encoder=True)
        load.refuse_unused()
        self.pooling = file_pooling(file.metadata)
        self.path, self.mapped = file.path, file.mapped
        self.epsilon = np.float32(config.norm_epsilon)
        self.attention_scale = np.float32(config.head_dim**-0.5)
        self.workspace = Workspace()
        self._recorded: RecordedSteps[np.ndarray] = RecordedSteps()

    @property
    def num_token_types(self) -> int:
        """How many kinds of tokens are told apart; 1 is none."""
        return 1 if self.token_types is None else self.token_types.n_out

    @abstractmethod
    def load_layer(self, load: WeightLoader, prefix: str) -> Any:
        """The weights of the layer whose tensors begin with `prefix`, such as ``blk.0``."""

    @abstractmethod
    def layer(self, step: EncoderStep, x: np.ndarray, w: Any) -> None:
        """Compute one layer: x (num_tokens, dim) is the residual stream, changed in place."""

    def prepare(self, step: EncoderStep) -> None:  # noqa: B027  # nothing by default
        """What all layers of a step share, such as tables for RoPE."""

    def forward(self, batch: EncoderBatch, num_threads: int, hooks: Hooks | None = None) -> np.ndarray:
        """Hidden states (num_tokens, dim) float32: a buffer that the next call overwrites.

        Steps are recorded and replayed as those of `base.Model.forward`, with the same bits with hooks and without.
        """
        if hooks is not None:
            return self.compute(EncoderStep(batch, self.workspace, hooks))

        def record(inputs: EncoderBatch, plan: Plan) -> np.ndarray:
            return self.record(inputs, self.workspace, plan)

        return self._recorded.find(batch, self.workspace, record).run(batch, num_threads)

    def record(self, batch: EncoderBatch, workspace: Workspace, plan: Plan) -> np.ndarray:
        """Add the operations of a step to `plan`; returns the buffer in which they will leave the hidden states."""
        return self.compute(EncoderStep(batch, workspace, plan=plan))

    def compute(self, step: EncoderStep) -> np.ndarray:
        """The model, from token ids to hidden states."""
        self.prepare(step)
        x = self.embed(step)  # (num_tokens, dim)
        step.hook_global("embed", x)
        for step.layer, weights in enumerate(self.layers):
            self.layer(step, x, weights)
        return x

    def embed(self, step: EncoderStep) -> np.ndarray:
        """Where the residual stream begins: (num_tokens, dim)."""
        x = step.embed(self.token_embd)
        if self.token_types is not None:
            step.add_rows(x, self.token_types, step.batch.token_types)
        if self.position_embd is not None:
            step.add_rows(x, self.position_embd, step.batch.positions)
        step.normalise(x, self.token_embd_norm, self.epsilon)
        return x

    def _rows(self, load: WeightLoader, name: str, rows: int = 0) -> Linear | None:
        """The embedding matrix `name` with as many rows as it has, or with `rows`; None if there is none."""
        info = load.file.tensors.get(f"{name}.weight")
        if info is None:
            return None
        found = info.shape[1] if len(info.shape) == 2 else 1
        return load.linear(name, rows or found, self.config.dim, bias=False)
