"""How near the kernels of a model come to the machine's roofs (Williams, Waterman and Patterson 2009, "Roofline").

A kernel that reads some bytes and does some multiplications takes at least as long as the slower of the two does
at the machine's best. That time divided by the measured one is its share of the roof.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densecore.benchmark.results import markdown_table
from densecore.benchmark.roofs import Roofs, best_seconds, l3_bytes, measure_roofs
from densecore.benchmark.steps import StepTimer
from densecore.engine.kernel_thread import kernel_thread
from densecore.kernels import attention
from densecore.kernels.plan import Plan
from densecore.models import Batch, KVCache
from densecore.models.step import Step, Workspace
from densecore.models.weights import Linear

__all__ = ["Measurement", "matrices_by_type", "measure_kernels", "roofline_table"]

PROMPT = 512  # tokens of a prefill
REPEATS = 5


@dataclass(frozen=True)
class Measurement:
    """One kernel: what it reads and multiplies in a step of the model, how long that takes, and its roofs.

    Attributes
    ----------
    kernel, test : such as ``matmul Q4_K`` and ``prefill 512``.
    num_bytes : of weights, or of keys and values, each counted once.
    num_macs : multiply-adds.
    seconds : measured.
    roofs : of the machine, with the threads that computed.
    is_integer : whether the products are of int8, and not of floats.
    """

    kernel: str
    test: str
    num_bytes: int
    num_macs: int
    seconds: float
    roofs: Roofs
    is_integer: bool

    @property
    def peak(self) -> float:
        """The multiply roof, in 1e9 multiply-adds a second."""
        return self.roofs.int8_macs if self.is_integer else self.roofs.float_macs

    @property
    def read_seconds(self) -> float:
        """Time at the roof of memory."""
        return self.num_bytes / self.roofs.read / 1e9

    @property
    def multiply_seconds(self) -> float:
        """Time at the roof of multiplication."""
        return self.num_macs / self.peak / 1e9

    @property
    def bound(self) -> str:
        """Which roof is the lower one."""
        return "read" if self.read_seconds > self.multiply_seconds else "multiply"

    @property
    def share(self) -> float:
        """Share of the lower roof that is reached; what is in the CPU's caches can be read faster than that."""
        return max(self.read_seconds, self.multiply_seconds) / self.seconds


def measure_kernels(timer: StepTimer, roofs: Roofs, num_tokens: int = PROMPT, depth: int = 0) -> list[Measurement]:
    """Matrix products by type of tensor, and attention, each for one token and for `num_tokens` at once.

    roofs : measured before; they are measured again in the end, and the higher ones count

    depth : tokens in the cache of the decoding sequence; 0 takes eight times what the last cache of the CPU holds,
        as far as the model's context reaches
    """
    measured = list(_measure_all(timer, roofs, num_tokens, depth or _depth(timer)))
    highest = roofs.best(measure_roofs(roofs.num_threads))
    return [dataclasses.replace(measurement, roofs=highest) for measurement in measured]


def _measure_all(timer: StepTimer, roofs: Roofs, num_tokens: int, depth: int) -> Iterator[Measurement]:
    matrices = matrices_by_type(timer.model)
    for name, weights in matrices.items():
        yield _measure_matmul(timer, name, weights, 1, "decode", roofs)
        layers = [weight for weight in weights if weight is not timer.model.output]  # it sees the last token only
        if layers:
            yield _measure_matmul(timer, name, layers, num_tokens, f"prefill {num_tokens}", roofs)
    yield _measure_attention(timer, 1, depth, roofs)
    yield _measure_attention(timer, num_tokens, 0, roofs)


def matrices_by_type(model: Any) -> dict[str, list[Linear]]:
    """The matrices that a step multiplies every token with, by the name of their type: not those of experts."""
    found: dict[str, list[Linear]] = {}
    for weight in (*(weight for layer in model.layers for weight in _linears(layer)), model.output):
        found.setdefault(weight.format.name, []).append(weight)
    return found


def _linears(weights: Any) -> Iterator[Linear]:
    """The matrices of a layer, or of a part of it."""
    for field in dataclasses.fields(weights):
        value = getattr(weights, field.name)
        if isinstance(value, Linear):
            yield value
        elif dataclasses.is_dataclass(value):
            yield from _linears(value)


def _measure_matmul(
    timer: StepTimer, name: str, weights: Sequence[Linear], num_tokens: int, test: str, roofs: Roofs
) -> Measurement:
    """All matrices of one type, one after the other, as in a step: their sum is seldom in a cache."""
    plan = Plan()
    step = _step(timer, num_tokens, 0, plan)
    for n_in in {weight.n_in for weight in weights}:
        x = timer.random.standard_normal((num_tokens, n_in), np.float32)
        operand = step.activations(x, weights[0].format.group)
        for i, weight in enumerate(weight for weight in weights if weight.n_in == n_in):
            out = step.workspace.array(f"output{i % 2}", (num_tokens, weight.n_out))
            step.multiply(operand, weight, out)
    return Measurement(
        kernel=f"matmul {name}",
        test=test,
        num_bytes=sum(weight.data.nbytes for weight in weights),
        num_macs=num_tokens * sum(weight.n_in * weight.n_out for weight in weights),
        seconds=_run(timer, plan),
        roofs=roofs,
        is_integer=bool(weights[0].format.group),
    )


def _measure_attention(timer: StepTimer, num_tokens: int, depth: int, roofs: Roofs) -> Measurement:
    """`num_tokens` of one sequence after `depth`, in all layers."""
    c = timer.model.config
    plan = Plan()
    step = _step(timer, num_tokens, depth, plan)
    q, k, v = (
        timer.random.standard_normal((num_tokens, heads, c.head_dim), np.float32)
        for heads in (c.n_heads, c.n_kv_heads, c.n_kv_heads)
    )
    for step.layer in range(c.n_layers):
        step.attention(q, k, v, timer.model.attention_scale)
    seen = sum(range(depth + 1, depth + num_tokens + 1))  # positions, over all tokens
    block_size = step.cache.block_size
    return Measurement(
        kernel="attention",
        test=f"prefill {num_tokens}" if num_tokens > 1 else f"decode at {depth}",
        num_bytes=(depth + num_tokens) * c.kv_block_bytes(block_size, step.cache.dtype) // block_size,
        num_macs=2 * c.n_layers * seen * c.n_heads * c.head_dim,
        seconds=_run(timer, plan),
        roofs=roofs,
        is_integer=False,
    )


def _step(timer: StepTimer, num_tokens: int, depth: int, plan: Plan) -> Step:
    """A step of one sequence that records into `plan`; its cache holds random numbers."""
    config = timer.config
    num_blocks = -(-(depth + num_tokens) // config.block_size)
    cache = KVCache(timer.model.config, num_blocks, config.block_size, config.kv_cache_dtype)
    if depth:
        shape = depth, timer.model.config.n_kv_heads, timer.model.config.head_dim
        k, v = (timer.random.standard_normal(shape, np.float32) for _ in range(2))
        for layer in range(timer.model.config.n_layers):
            attention.store_kv(k, v, np.arange(depth, dtype=np.int32), cache.k[layer], cache.v[layer])
    batch = Batch.contiguous(np.zeros(num_tokens, np.int32), depth, num_blocks, config.block_size)
    return Step(batch, cache, Workspace(), plan=plan)


def _run(timer: StepTimer, plan: Plan) -> float:
    return kernel_thread.call(lambda: best_seconds(lambda: plan.run(timer.workers.apply()), REPEATS))


def _depth(timer: StepTimer) -> int:
    """Tokens whose keys and values are eight times as large as the last cache, within the model's context."""
    config = timer.model.config
    block_size = timer.config.block_size
    blocks = -(-8 * l3_bytes() // config.kv_block_bytes(block_size, timer.config.kv_cache_dtype))
    return min(blocks * block_size, config.context_length - 1)


def roofline_table(roofs: Sequence[Roofs], measurements: Sequence[Measurement]) -> str:
    """Two Markdown tables: the roofs, and the kernels below them."""
    roof_rows = [[str(r.num_threads), f"{r.read:.1f}", f"{r.int8_macs:.0f}", f"{2 * r.float_macs:.0f}"] for r in roofs]
    rows = [
        [
            m.kernel,
            m.test,
            f"{1e3 * m.seconds:.2f}",
            f"{m.num_bytes / m.seconds / 1e9:.1f}",
            f"{m.num_macs / m.seconds / 1e9:.1f}",
            m.bound,
            f"{100 * m.share:.0f} %",
        ]
        for m in measurements
    ]
    titles = ["kernel", "test", "ms", "GB/s", "GMAC/s", "bound by", "of its roof"]
    roof_titles = ["threads", "read GB/s", "int8 GMAC/s", "float GFLOP/s"]
    return markdown_table(roof_titles, roof_rows) + "\n\n" + markdown_table(titles, rows, left=2)
