"""Mixtures of experts: how many there are, their weights, and what a layer computes with them.

The matrices of all experts of a layer lie in one tensor, such as ``blk.0.ffn_gate_exps.weight``, expert after expert.
`feed_forward` is the part between norm and residual; see :mod:`densecore.kernels.routing` for how it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from densecore.gguf import GGUFFile, Metadata
from densecore.kernels import activation, grouped, routing
from densecore.kernels.formats import Q8, Format
from densecore.models.config import MAX_DIMENSION
from densecore.models.step import Step
from densecore.models.weights import Linear, WeightLoader

__all__ = [
    "DenseFeedForward",
    "ExpertConfig",
    "ExpertLayer",
    "ExpertLinear",
    "SharedExpert",
    "dense_feed_forward",
    "feed_forward",
    "has_experts",
    "load_dense",
    "load_expert_layer",
    "load_experts_or_dense",
    "load_shared_expert",
    "multiply_grouped",
    "shared_feed_forward",
]

MAX_EXPERTS = 4096
NO_BIAS = np.empty(0, np.float32)

# Values of ``expert_gating_func``, as llama.cpp numbers them.
_GATING = {1: routing.SOFTMAX, 2: routing.SIGMOID, 3: routing.CHOSEN_SOFTMAX}


@dataclass(frozen=True)
class ExpertConfig:
    """Numbers of experts; each comes from the metadata key named beside it."""

    n_experts: int  # expert_count
    hidden_dim: int  # expert_feed_forward_length, or feed_forward_length
    rule: routing.Rule  # expert_used_count, expert_gating_func, expert_weights_*, expert_group_*

    @classmethod
    def read(cls, file: GGUFFile, *, gating: int = routing.SOFTMAX, normalise: bool = True) -> ExpertConfig:
        """Read and check.

        gating, normalise : of files that do not tell

        Raises ModelLoadError, which names the key, its value and what is allowed.
        """
        metadata = file.metadata
        arch = metadata.string("general.architecture")
        n_experts = metadata.integer(f"{arch}.expert_count", minimum=1, maximum=MAX_EXPERTS)
        n_used = metadata.integer(f"{arch}.expert_used_count", minimum=1, maximum=n_experts)
        function = metadata.integer(f"{arch}.expert_gating_func", 0, minimum=0, maximum=len(_GATING))
        normalise = metadata.boolean(f"{arch}.expert_weights_norm", normalise)
        scale = metadata.number(f"{arch}.expert_weights_scale", 0.0, minimum=0.0)  # 0 means not given
        n_groups, n_groups_used = _read_groups(metadata, arch, n_experts, n_used)
        length = metadata.integer(f"{arch}.feed_forward_length", 0, minimum=0, maximum=MAX_DIMENSION)
        return cls(
            n_experts=n_experts,
            hidden_dim=metadata.integer(
                f"{arch}.expert_feed_forward_length", *([length] if length else []), minimum=1, maximum=MAX_DIMENSION
            ),
            rule=routing.Rule(
                n_used=n_used,
                gating=_GATING.get(function, gating),
                normalise=int(normalise),
                scale=np.float32(scale or 1.0),
                n_groups=n_groups,
                n_groups_used=n_groups_used,
            ),
        )


def has_experts(file: GGUFFile) -> bool:
    """Whether the file of an architecture that may have experts has some."""
    arch = file.metadata.string("general.architecture")
    return file.metadata.integer(f"{arch}.expert_count", 0, minimum=0, maximum=MAX_EXPERTS) > 0


def _read_groups(metadata: Metadata, arch: str, n_experts: int, n_used: int) -> tuple[int, int]:
    """Groups of experts, and how many of them a token may use; 1 and 1 where the file has none."""
    key = f"{arch}.expert_group_count"
    n_groups = metadata.integer(key, 1, minimum=0, maximum=n_experts) or 1
    if n_experts % n_groups:
        raise metadata.error(key, f"is {n_groups}", f"a divisor of {arch}.expert_count = {n_experts}")
    key = f"{arch}.expert_group_used_count"
    n_groups_used = metadata.integer(key, n_groups, minimum=0, maximum=n_groups) or n_groups
    if n_groups_used * (n_experts // n_groups) < n_used:
        raise metadata.error(
            key,
            f"is {n_groups_used}, which leaves {n_groups_used * (n_experts // n_groups)} experts to choose from",
            f"enough groups of {n_experts // n_groups} for {arch}.expert_used_count = {n_used}",
        )
    return n_groups, n_groups_used


# ------------------------------------------------------------------------ weights


@dataclass(frozen=True, eq=False)
class ExpertLinear:
    """Matrices (n_out, n_in) of one format, `stride` bytes apart, and a bias of each where the file has one."""

    name: str  # as in the file, without ".weight"
    format: Format
    data: np.ndarray  # uint8, a view of the file
    stride: int
    n_out: int
    n_in: int
    bias: np.ndarray | None = None  # (n_experts, n_out) float32

    @property
    def role(self) -> str:
        """The last part of the name, such as ``ffn_gate_exps``: the same in every layer."""
        return self.name.rsplit(".", 1)[-1]


@dataclass(frozen=True, eq=False)
class ExpertLayer:
    """Weights of the experts of a layer, named as in the file."""

    ffn_gate_inp: Linear  # (n_experts, dim) the router
    ffn_gate_exps: ExpertLinear  # n_experts of (hidden_dim, dim)
    ffn_up_exps: ExpertLinear  # n_experts of (hidden_dim, dim)
    ffn_down_exps: ExpertLinear  # n_experts of (dim, hidden_dim)
    exp_probs_b: np.ndarray  # (n_experts,) added to scores for the choice alone, or (0,)


@dataclass(frozen=True, eq=False)
class DenseFeedForward:
    """Weights of a layer without experts, named as in the file."""

    ffn_gate: Linear  # (hidden_dim, dim)
    ffn_up: Linear  # (hidden_dim, dim)
    ffn_down: Linear  # (dim, hidden_dim)


@dataclass(frozen=True, eq=False)
class SharedExpert:
    """Weights of the expert of a layer that every token passes, named as in the file."""

    ffn_gate_shexp: Linear  # (shared_dim, dim)
    ffn_up_shexp: Linear  # (shared_dim, dim)
    ffn_down_shexp: Linear  # (dim, shared_dim)


def load_shared_expert(load: WeightLoader, prefix: str, dim: int, shared_dim: int) -> SharedExpert:
    """The shared expert of the layer whose tensors begin with `prefix`."""
    return SharedExpert(
        ffn_gate_shexp=load.linear(f"{prefix}.ffn_gate_shexp", shared_dim, dim),
        ffn_up_shexp=load.linear(f"{prefix}.ffn_up_shexp", shared_dim, dim),
        ffn_down_shexp=load.linear(f"{prefix}.ffn_down_shexp", dim, shared_dim),
    )


def load_dense(load: WeightLoader, prefix: str, dim: int, hidden_dim: int) -> DenseFeedForward:
    """The feed-forward part of a layer without experts, whose tensors begin with `prefix`."""
    return DenseFeedForward(
        ffn_gate=load.linear(f"{prefix}.ffn_gate", hidden_dim, dim),
        ffn_up=load.linear(f"{prefix}.ffn_up", hidden_dim, dim),
        ffn_down=load.linear(f"{prefix}.ffn_down", dim, hidden_dim),
    )


def load_expert_layer(load: WeightLoader, prefix: str, dim: int, experts: ExpertConfig) -> ExpertLayer:
    """The experts of the layer whose tensors begin with `prefix`."""
    n, hidden_dim = experts.n_experts, experts.hidden_dim
    bias = f"{prefix}.exp_probs_b.bias"
    return ExpertLayer(
        ffn_gate_inp=load.linear(f"{prefix}.ffn_gate_inp", n, dim),
        ffn_gate_exps=_load_expert_linear(load, f"{prefix}.ffn_gate_exps", n, hidden_dim, dim),
        ffn_up_exps=_load_expert_linear(load, f"{prefix}.ffn_up_exps", n, hidden_dim, dim),
        ffn_down_exps=_load_expert_linear(load, f"{prefix}.ffn_down_exps", n, dim, hidden_dim),
        exp_probs_b=load.vector(bias, n) if load.has(bias) else NO_BIAS,
    )


def load_experts_or_dense(
    load: WeightLoader, prefix: str, dim: int, hidden_dim: int, experts: ExpertConfig
) -> ExpertLayer | DenseFeedForward:
    """The experts of the layer whose tensors begin with `prefix`, or where it has none what is in their place."""
    if load.has(f"{prefix}.ffn_gate_inp.weight") or not load.has(f"{prefix}.ffn_gate.weight"):
        return load_expert_layer(load, prefix, dim, experts)
    return load_dense(load, prefix, dim, hidden_dim)


def _load_expert_linear(load: WeightLoader, name: str, n: int, n_out: int, n_in: int) -> ExpertLinear:
    fmt, data = load.matrices(name, n, n_out, n_in)
    bias = load.vectors(f"{name}.bias", n, n_out) if load.has(f"{name}.bias") else None
    return ExpertLinear(name, fmt, data, data.size // n, n_out, n_in, bias)


# ------------------------------------------------------------------------ a layer's part


Gate = Callable[
    [Step, np.ndarray, np.ndarray], np.ndarray
]  # makes of gate and up (num_pairs, hidden_dim) what goes down


def feed_forward(step: Step, x: np.ndarray, w: ExpertLayer, rule: routing.Rule, gate: Gate = Step.swiglu) -> np.ndarray:
    """What each token's experts make of it, weighed: (num_tokens, dim) from x (num_tokens, dim)."""
    weights, groups = _route(step, x, w, rule)
    _show_inputs(step, x, w, groups)
    gates, ups = _project(step, _operands(step, x, groups.tokens, w.ffn_gate_exps, w.ffn_up_exps), groups)
    down, hidden = w.ffn_down_exps, gate(step, gates, ups)
    step.hook_input(down.name, hidden)
    (outs,) = _project(step, [(down, step.activations(hidden, down.format.group))], groups)  # (num_pairs, dim)
    out = step.workspace.array("experts.out", x.shape)
    step.run(routing.combine, outs, groups.places, weights, out)
    return out


def dense_feed_forward(step: Step, x: np.ndarray, w: DenseFeedForward) -> np.ndarray:
    """What a layer without experts makes of x: both (num_tokens, dim)."""
    gate, up = step.project(x, w.ffn_gate, w.ffn_up)
    (out,) = step.project(step.swiglu(gate, up), w.ffn_down)
    return out


def shared_feed_forward(step: Step, x: np.ndarray, w: SharedExpert) -> np.ndarray:
    """What the shared expert makes of x: both (num_tokens, dim)."""
    gate, up = step.project(x, w.ffn_gate_shexp, w.ffn_up_shexp)
    (out,) = step.project(step.swiglu(gate, up), w.ffn_down_shexp)
    return out


def _route(step: Step, x: np.ndarray, w: ExpertLayer, rule: routing.Rule) -> tuple[np.ndarray, routing.Groups]:
    """Weights (num_tokens, n_used) of each token's experts, and all pairs sorted by expert."""
    (logits,) = step.project(x, w.ffn_gate_inp)
    num_tokens, n_experts = logits.shape
    num_pairs, array = num_tokens * rule.n_used, step.workspace.array
    experts = array("experts.chosen", (num_tokens, rule.n_used), np.int32)
    weights = array("experts.weights", (num_tokens, rule.n_used))
    step.run(routing.route, logits, w.exp_probs_b, rule, experts, weights)
    groups = routing.Groups(
        tokens=array("experts.tokens", (num_pairs,), np.int32),
        owners=array("experts.owners", (num_pairs,), np.int32),
        places=array("experts.places", (num_tokens, rule.n_used), np.int32),
        starts=array("experts.starts", (min(num_pairs, n_experts) + 1,), np.int32),
    )
    step.run(routing.group_pairs, experts, array("experts.counts", (n_experts,), np.int32), groups)
    return weights, groups


def _show_inputs(step: Step, x: np.ndarray, w: ExpertLayer, groups: routing.Groups) -> None:
    """Let hooks see which experts each token takes, and see and change what these get."""
    if step.hooks is not None:
        chosen = np.zeros((len(x), w.ffn_gate_inp.n_out), np.float32)
        chosen[groups.tokens, groups.owners] = 1
        step.hook("experts.input", chosen)
        for weight in (w.ffn_gate_exps, w.ffn_up_exps):
            step.hook_input(weight.name, x)


def _operands(
    step: Step, x: np.ndarray, rows: np.ndarray, *weights: ExpertLinear
) -> list[tuple[ExpertLinear, np.ndarray | Q8]]:
    """Each matrix with the rows of x in the form that it takes; int8 is made once for all that share a group length."""
    found: dict[int, np.ndarray | Q8] = {}
    for group in sorted({weight.format.group for weight in weights}):
        operand = step.activations(x, group)
        parts = operand if isinstance(operand, Q8) else (operand,)
        taken = [step.workspace.array(f"experts.{group}.{i}", (rows.size, part.shape[1]), part.dtype.type)
                 for i, part in enumerate(parts)]  # fmt: skip
        for i, (part, out) in enumerate(zip(parts, taken, strict=True)):
            step.run(activation.take_rows, part, rows, out, beside=i > 0)
        found[group] = Q8(*taken) if isinstance(operand, Q8) else taken[0]
    return [(weight, found[weight.format.group]) for weight in weights]


def _project(
    step: Step, products: list[tuple[ExpertLinear, np.ndarray | Q8]], groups: routing.Groups
) -> list[np.ndarray]:
    """Rows of pairs times the matrices of their experts, plus bias: a list of (num_pairs, n_out)."""
    outs = [step.workspace.array(weight.role, (groups.owners.size, weight.n_out)) for weight, _ in products]
    for i, ((weight, x), out) in enumerate(zip(products, outs, strict=True)):
        multiply_grouped(step, weight, x, groups.starts, groups.owners, out, beside=i > 0)
    for (weight, _), out in zip(products, outs, strict=True):
        if weight.bias is not None:
            step.run(routing.add_bias, out, weight.bias, groups.owners)
    return outs


def multiply_grouped(
    step: Step,
    weight: ExpertLinear,
    x: np.ndarray | Q8,
    starts: np.ndarray,
    owners: np.ndarray,
    out: np.ndarray,
    *,
    beside: bool = False,
) -> None:
    """out (num_rows, n_out) = x times the matrix of each row's owner; see `grouped.grouped_matmul`."""
    fmt = weight.format
    step.run(
        grouped.grouped_matmul, fmt, fmt.type_size, weight.data, weight.stride, x, starts, owners, out, beside=beside
    )
