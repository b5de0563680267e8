"""The operations of one step: what a model's layer calls, in terms of its words.

Each method is one kernel over preallocated buffers. A buffer is named after what it holds (`attn_q`, `ffn_gate`) and
is used again in the next layer and the next step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from densecore.kernels import activation, attention, block_masses, lora, matmul, norm, peaks, quantize, rope
from densecore.kernels.formats import Q8
from densecore.kernels.plan import Operation, Plan
from densecore.models.adapters import AdapterSet
from densecore.models.batch import Batch, KVCache
from densecore.models.hooks import Hooks, input_name
from densecore.models.weights import LayerNorm, Linear

__all__ = ["Step", "Workspace"]

_ROW = 256  # elements: the longest group that shares a scale


class Workspace:
    """Named buffers that grow to the largest shape asked for."""

    def __init__(self) -> None:
        self._flat: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """Buffer `name` with this shape; its contents are undefined."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size:
            flat = self._flat[name] = np.empty(size, dtype)
        return flat[:size].reshape(shape)

    def q8(self, num_tokens: int, n_in: int, group: int) -> Q8:
        """Buffers for int8 activations whose scales are shared by `group` elements."""
        return Q8(
            self.array(f"q8.{group}.q", (num_tokens, n_in), np.int8),
            self.array(f"q8.{group}.d", (num_tokens, n_in // group)),
            self.array(f"q8.{group}.sums", (num_tokens, n_in // quantize.SUM_LENGTH), np.int16),
        )


class Step:
    """One forward pass over a batch: its tokens, its cache, its buffers, and its hooks or its record.

    With a `plan` the operations are recorded in it, without they run at once.
    """

    def __init__(
        self,
        batch: Batch,
        cache: KVCache,
        workspace: Workspace,
        hooks: Hooks | None = None,
        plan: Plan | None = None,
        adapters: AdapterSet | None = None,
    ) -> None:
        self.batch, self.cache, self.workspace, self.hooks, self.plan = batch, cache, workspace, hooks, plan
        self.factors = adapters.factors if adapters is not None and batch.uses_adapters else {}
        self.row_adapters, self.row_scales = batch.adapters, batch.adapter_scales  # of the rows that are computed now
        self.adapted: set[str] = set()  # matrices that adapters have changed so far
        self.product: np.ndarray | None = None  # what the last operation made, if that was a product with a matrix
        self.layer = 0
        self.rope_tables: list[tuple[np.ndarray, np.ndarray]] = []  # cos and sin, for `rope`

    def run(self, operation: Operation, *arguments: Any, beside: bool = False, follows: bool = False) -> None:
        """Run an operation, or record it; `beside` and `follows` as in `Plan.add`."""
        self.product = None
        if self.plan is None:
            operation(*arguments)
        else:
            self.plan.add(operation, *arguments, beside=beside, follows=follows)

    def hook_global(self, name: str, value: np.ndarray) -> None:
        """Let hooks see and change `value`, which belongs to no layer."""
        if self.hooks is not None:
            self.hooks.apply(name, value)

    def hook(self, point: str, value: np.ndarray) -> None:
        """Let hooks see and change `value`, the activation at `point` of the current layer."""
        if self.hooks is not None:
            self.hooks.apply(f"blk.{self.layer}.{point}", value)

    def hook_input(self, matrix: str, value: np.ndarray) -> None:
        """Let hooks see and change `value`, what the matrix of this name gets to multiply."""
        self.hook_global(input_name(matrix), value)

    def embed(self, weight: Linear) -> np.ndarray:
        """Rows of the embedding matrix: (num_tokens, dim)."""
        out = self.workspace.array("residual", (self.batch.num_tokens, weight.n_in))
        fmt = weight.format
        self.run(matmul.embed, fmt, fmt.qk, fmt.type_size, weight.data, self.batch.token_ids, out)
        self._adapt([self._low_rank(lora.pick, self.batch.token_ids, weight)], [out])
        return out

    def add_position_embeddings(self, x: np.ndarray, weight: Linear) -> None:
        """x (num_tokens, dim) += the rows of a matrix (context_length, dim) at the tokens' positions."""
        out, fmt = self.workspace.array("positions", x.shape), weight.format
        self.run(matmul.embed, fmt, fmt.qk, fmt.type_size, weight.data, self.batch.positions, out)
        self.add(x, out)

    def norm(
        self, x: np.ndarray, weight: np.ndarray | LayerNorm, epsilon: np.float32, name: str = "norm"
    ) -> np.ndarray:
        """RMSNorm over the last axis, or LayerNorm where the weights are those of one; the result has x's shape."""
        if isinstance(weight, LayerNorm):
            return self.layer_norm(x, weight.weight, weight.bias, epsilon, name)
        out = self.workspace.array(name, x.shape)
        rows = (-1, weight.size)
        self.run(norm.rms_norm, x.reshape(rows), weight, epsilon, out.reshape(rows))
        return out

    def layer_norm(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: np.float32, name: str = "norm"
    ) -> np.ndarray:
        """LayerNorm over the last axis; the result has the shape of x."""
        out = self.workspace.array(name, x.shape)
        rows = (-1, weight.size)
        self.run(norm.layer_norm, x.reshape(rows), weight, bias, epsilon, out.reshape(rows))
        return out

    def head_norm(self, x: np.ndarray, weight: np.ndarray, epsilon: np.float32, name: str) -> np.ndarray:
        """LayerNorm of each head of x (num_tokens, heads, head_dim), each with its own row of `weight`, no bias."""
        heads, head_dim = weight.shape
        ones, zeros = np.ones(head_dim, np.float32), np.zeros(head_dim, np.float32)
        out = self.layer_norm(x, ones, zeros, epsilon, name)
        self.run(activation.multiply, out.reshape(-1, heads * head_dim), weight.reshape(1, -1))
        return out

    def project(self, x: np.ndarray, *weights: Linear) -> list[np.ndarray]:
        """x (num_tokens, n_in) times each matrix, plus its bias: a list of (num_tokens, n_out).

        Quantized weights take x in int8: it is converted once for all that share a group length.
        """
        if self.hooks is not None:
            for name in dict.fromkeys(weight.whole or weight.name for weight in weights):
                self.hook_input(name, x)
        operands = {group: self.activations(x, group) for group in sorted({weight.format.group for weight in weights})}
        outs = [self.workspace.array(weight.role, (len(x), weight.n_out)) for weight in weights]
        for i, (weight, out) in enumerate(zip(weights, outs, strict=True)):
            self.multiply(operands[weight.format.group], weight, out, beside=i > 0)
        self._adapt([self._low_rank(lora.shrink, x, weight, beside=True) for weight in weights], outs)
        for weight, out in zip(weights, outs, strict=True):
            if weight.bias is not None:
                self.run(activation.add, out, weight.bias)
        return outs

    def activations(self, x: np.ndarray, group: int) -> np.ndarray | Q8:
        """x (num_tokens, n_in) as weights take it that share a scale among `group` elements; 0 for float weights."""
        if not group:
            return x
        num_tokens, n_in = x.shape
        q8 = self.workspace.q8(num_tokens, n_in, group)
        width = _row_length(n_in)
        rows = Q8(
            q8.q.reshape(-1, width), q8.d.reshape(-1, width // group), q8.sums.reshape(-1, width // quantize.SUM_LENGTH)
        )
        self.run(quantize.quantize_q8, x.reshape(-1, width), rows, group)
        return q8

    def multiply(self, operand: np.ndarray | Q8, weight: Linear, out: np.ndarray, *, beside: bool = False) -> None:
        """out (num_tokens, n_out) = what `activations` made, times a matrix; `beside` as in `Plan.add`."""
        fmt = weight.format
        self.run(matmul.matmul, fmt, fmt.type_size, weight.data, operand, out, beside=beside)
        self.product = out

    def peaks(self, logits: np.ndarray) -> np.ndarray:
        """Peaks (num_logits, num_blocks) of logits (num_logits, n_vocab); while they are in cache, if just made."""
        out = self.workspace.array("peaks", (len(logits), peaks.num_blocks(logits.shape[1])), np.int32)
        self.run(peaks.block_peaks, logits, out, follows=logits is self.product)
        return out

    def masses(self, logits: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        """Masses (num_logits, num_blocks) of the blocks of logits whose `mass_scales` are not 0, after `peaks`."""
        out, scales = self.workspace.array("masses", peaks.shape), self.batch.mass_scales
        scales = scales if scales.size else np.zeros(len(logits), np.float32)
        self.run(block_masses.block_masses, logits, peaks, scales, out, follows=True)
        return out

    def _low_rank(
        self, operation: Operation, x: np.ndarray, weight: Linear, *, beside: bool = False
    ) -> tuple[np.ndarray, lora.Factors] | None:
        """What adapters make of the input of a matrix, (num_tokens, num_places, rank); None if none changes it."""
        factors = self.factors.get(weight.name)
        if factors is None:
            return None
        self.adapted.add(weight.name)
        assert len(x) == len(self.row_adapters)
        h = self.workspace.array(f"lora.{weight.role}", (*self.row_adapters.shape, int(factors.ranks.max())))
        self.run(operation, x, factors, self.row_adapters, self.row_scales, h, beside=beside)
        return h, factors

    def _adapt(self, changes: Sequence[tuple[np.ndarray, lora.Factors] | None], outs: Sequence[np.ndarray]) -> None:
        """Add to outs (num_tokens, n_out) of matrices what adapters change in them."""
        wanted = [(*change, out) for change, out in zip(changes, outs, strict=True) if change is not None]
        for i, (h, factors, out) in enumerate(wanted):
            self.run(lora.expand, h, factors, self.row_adapters, out, beside=i > 0)

    def prepare_rope(self, frequencies: np.ndarray, magnitude: float) -> None:
        """Tables of cos and sin (num_tokens, rope_dim / 2) for layers of this step, the next of `rope_tables`."""
        shape, number = (self.batch.num_tokens, frequencies.size), len(self.rope_tables)
        cos, sin = (self.workspace.array(f"{name}.{number}", shape) for name in ("cos", "sin"))
        self.run(rope.rope_table, self.batch.positions, frequencies, magnitude, cos, sin)
        self.rope_tables.append((cos, sin))

    def prepare_rope_sets(self, frequencies: np.ndarray, magnitude: float) -> None:
        """The same, with the frequencies (num_sets, rope_dim / 2) of each token's set."""
        shape, number = (self.batch.num_tokens, frequencies.shape[1]), len(self.rope_tables)
        cos, sin = (self.workspace.array(f"{name}.{number}", shape) for name in ("cos", "sin"))
        batch = self.batch
        self.run(rope.rope_table_of_sets, batch.positions, batch.rope_sets, frequencies, magnitude, cos, sin)
        self.rope_tables.append((cos, sin))

    def rope(self, x: np.ndarray, pairing: int, table: int = 0) -> None:
        """Rotate the heads of x (num_tokens, heads, head_dim) in place."""
        self.run(rope.rope, x, *self.rope_tables[table], pairing)

    def scale_by_position(self, x: np.ndarray, length: int, strength: float) -> None:
        """x (num_tokens, heads, head_dim) *= 1 + strength log(1 + floor(position / length))."""
        rows = x.reshape(len(x), -1)
        self.run(activation.scale_by_position, rows, self.batch.positions, length, np.float32(strength))

    def attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        scale: np.float32,
        window: int = 0,
        cap: float = 0.0,
        sinks: np.ndarray = attention.NO_SINKS,
    ) -> np.ndarray:
        """Store k and v, attend with q; all (num_tokens, heads, head_dim), and so is the result (n_heads).

        window : positions that a token sees, itself included; cap : scores become cap tanh(score / cap); 0 is none
        sinks : (n_heads,) scores that take no value
        """
        batch, k_cache, v_cache = self.batch, self.cache.k[self.layer], self.cache.v[self.layer]
        self.run(attention.store_kv, k, v, batch.slot_mapping, k_cache, v_cache)
        out = self.workspace.array("attention", q.shape)
        if self.hooks is not None and f"blk.{self.layer}.pattern" in self.hooks:
            self._hooked_attention(q, k_cache, v_cache, scale, window, cap, sinks, out)
        else:
            tables, seq_index, positions = batch.block_tables, batch.seq_index, batch.positions
            shape = attention.attention_scratch_shape(q, v_cache, tables)
            scratch = self.workspace.array("attention.scratch", shape)
            reach = window, np.float32(cap), sinks
            attend = attention.attention
            self.run(attend, q, k_cache, v_cache, tables, seq_index, positions, scale, *reach, scratch, out)
            self.run(attention.merge_chunks, scratch, positions, window, sinks, out)
        return out

    def _hooked_attention(
        self, q, k_cache, v_cache, scale: np.float32, window: int, cap: float, sinks: np.ndarray, out: np.ndarray
    ) -> None:
        """Attention by its readable twin, with the matrix of weights open to hooks."""
        for sequence in np.unique(self.batch.seq_index):
            tokens = np.flatnonzero(self.batch.seq_index == sequence)
            table, positions = self.batch.block_tables[sequence], self.batch.positions[tokens]
            reach = self.cache.block_size, window, cap, sinks
            pattern = attention.attention_pattern_ref(q[tokens], k_cache, table, positions, scale, *reach)
            self.hook("pattern", pattern)
            out[tokens] = attention.attention_output_ref(pattern, v_cache, table, q.shape[2])

    def swiglu(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        """silu(gate) * up, in the buffer of `gate`."""
        rows = (-1, _row_length(gate.shape[1]))
        self.run(activation.swiglu, gate.reshape(rows), up.reshape(rows), gate.reshape(rows))
        return gate

    def geglu(self, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        """gelu(gate) * up, in the buffer of `gate`."""
        rows = (-1, _row_length(gate.shape[1]))
        self.run(activation.geglu, gate.reshape(rows), up.reshape(rows), gate.reshape(rows))
        return gate

    def gelu(self, x: np.ndarray) -> np.ndarray:
        """gelu(x), by tanh, in its own buffer."""
        self.run(activation.gelu, x.reshape(-1, _row_length(x.shape[1])))
        return x

    def gelu_erf(self, x: np.ndarray) -> np.ndarray:
        """gelu(x), by erf, in its own buffer."""
        self.run(activation.gelu_erf, x.reshape(-1, _row_length(x.shape[1])))
        return x

    def multiply_by(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """x * y, in the buffer of x."""
        rows = (-1, _row_length(x.shape[1]))
        self.run(activation.multiply, x.reshape(rows), y.reshape(rows))
        return x

    def scale(self, x: np.ndarray, factor: float) -> None:
        """x *= factor."""
        self.run(activation.scale, x, np.float32(factor))

    def soft_cap(self, x: np.ndarray, cap: float) -> None:
        """x = cap tanh(x / cap)."""
        self.run(activation.soft_cap, x, np.float32(cap))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """x += y: onto the residual stream."""
        self.run(activation.add, x, y)

    def select(self, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Rows `indices` of x, which has a row a token; from now on these are computed."""
        if self.factors:
            self.row_adapters = self._take_rows("lora.adapters", self.batch.adapters, indices)
            self.row_scales = self._take_rows("lora.scales", self.batch.adapter_scales, indices)
        return self._take_rows("selected", x, indices)

    def rows(self, x: np.ndarray, indices: np.ndarray, name: str) -> np.ndarray:
        """Rows `indices` of x in the buffer `name`, beside those that are computed."""
        return self._take_rows(name, x, indices)

    def _take_rows(self, name: str, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        out = self.workspace.array(name, (indices.size, x.shape[1]), x.dtype.type)
        self.run(activation.take_rows, x, indices, out)
        return out


def _row_length(n: int) -> int:
    """How long the pieces of a row of n elements are that can be computed independently, with whole groups in each."""
    return _ROW if n % _ROW == 0 else n
