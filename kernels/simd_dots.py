"""Integer products of runs of 32 elements, by instruction set: what `simd_tiles` multiplies with.

x86 with VNNI has one instruction that adds four products of unsigned and signed bytes to an int32 (``vpdpbusd``), NEON
one for signed bytes (``sdot``): a chain of them is a dot product. AVX2 has products summed in pairs to int16
(``vpmaddubsw``), so many of which are added before they must be widened (``vpmaddwd``). All give the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from .simd_instructions import abs_u8, maddubs, multiply_pairs, sign
from .simd_types import HAS_AVX512, I32, IS_X86, ISA, call, constant, settle

LANES = 16 if HAS_AVX512 else 4 if ISA == "neon" else 8  # 32-bit lanes of the vectors that instructions take
HAS_DOT = HAS_AVX512 or ISA in ("avxvnni", "neon")
TAKES_UNSIGNED = HAS_DOT and IS_X86  # only: int8 weights are stored plus 128
TAKES_MAGNITUDES = not HAS_DOT  # of int8 weights: a panel holds them beside the weights
STEPS = 8  # of four elements in a run

Vectors = list[ir.Value]


@dataclass(frozen=True)
class Run:
    """How a run is multiplied: sum of scale * (q - bias) * x. See `panel.Unpacked`; all are constants."""

    steps: int
    scales: int
    is_signed: bool
    bias: int

    def __post_init__(self) -> None:
        assert self.scales < 2 or not self.total_bias, "a bias needs the sum of a run that has one scale"

    @property
    def total_bias(self) -> int:
        """With what is added to int8 weights where only unsigned ones can be multiplied."""
        return self.bias + (128 if self.is_signed and TAKES_UNSIGNED else 0)


@dataclass(frozen=True)
class Operands:
    """Where the vectors come from. A vector has `LANES` rows; there are some for each column of a tile.

    quants : (step) -> the quants of all rows, four of each
    activation : (step, column) -> four activations, in all lanes
    pair_of_sums : (column) -> two int16, in all lanes, whose sum is that of the run's activations
    factors : (number of the scale) -> the scales of all rows, each twice as int16
    magnitudes : (step) -> of signed quants, if they have been computed before
    """

    columns: int
    quants: Callable[[int], Vectors]
    activation: Callable[[int, int], ir.Value]
    pair_of_sums: Callable[[int], ir.Value]
    factors: Callable[[int], Vectors]
    magnitudes: Callable[[int], Vectors] | None = None


def multiply_run(builder: ir.IRBuilder, run: Run, operands: Operands) -> Vectors:
    """Sums of int32, column after column."""
    return (_by_dots if HAS_DOT else _by_pairs)(builder, run, operands)


def _offsets(builder: ir.IRBuilder, run: Run, operands: Operands, like: ir.VectorType) -> Vectors:
    """What the sums of each column begin with: -bias times the sum of the activations."""
    if not run.total_bias:
        return [constant(like, 0)] * operands.columns
    factor = constant(ir.VectorType(ir.IntType(16), 2 * like.count), -run.total_bias)
    return [multiply_pairs(builder, operands.pair_of_sums(c), factor) for c in range(operands.columns)]


# ---------------------------------------------------------------------------------------------- vpdpbusd, sdot


def dot(builder: ir.IRBuilder, total: ir.Value, q: ir.Value, x: ir.Value) -> ir.Value:
    """total + the sum of four products of bytes, lane by lane."""
    lanes = total.type.count
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}" if IS_X86 else "llvm.aarch64.neon.sdot.v4i32.v16i8"
    return call(builder, name, total.type, [total, q, x])


def _by_dots(builder: ir.IRBuilder, run: Run, operands: Operands) -> Vectors:
    chains = max(run.scales, 1)
    result: Vectors = []
    for chain in range(chains):
        sums: Vectors = []
        for step in range(chain * STEPS // chains, (chain + 1) * STEPS // chains):
            rows = operands.quants(step)
            like = ir.VectorType(I32, rows[0].type.count // 4)
            sums = sums or [v for v in _offsets(builder, run, operands, like) for _ in rows]
            for c in range(operands.columns):
                x = operands.activation(step, c)
                for p, q in enumerate(rows):
                    i = c * len(rows) + p
                    sums[i] = dot(builder, sums[i], q, x)
        if run.scales:
            pairs = [builder.bitcast(factor, sums[0].type) for factor in operands.factors(chain)]
            scales = [builder.ashr(pair, constant(pair.type, 16)) for pair in pairs]
            sums = [builder.mul(v, scales[i % len(scales)]) for i, v in enumerate(sums)]
        result = [builder.add(a, b) for a, b in zip(result, sums, strict=True)] if result else sums
    return result


# ---------------------------------------------------------------------------------------------- vpmaddubsw, vpmaddwd


def _by_pairs(builder: ir.IRBuilder, run: Run, operands: Operands) -> Vectors:
    one = constant(ir.VectorType(ir.IntType(16), 2 * LANES), 1)
    totals = _offsets(builder, run, operands, ir.VectorType(I32, LANES)) if run.total_bias else None
    sums: list[ir.Value | None] = []
    result: list[ir.Value | None] = []
    for step in range(STEPS):
        rows = operands.quants(step)
        if operands.magnitudes:
            magnitudes = operands.magnitudes(step)
        else:
            magnitudes = [abs_u8.emit(builder, q) for q in rows] if run.is_signed else rows
        if step == 0:
            sums = [None] * (operands.columns * len(rows))
            result = [v for v in totals or [None] * operands.columns for _ in rows]
        is_last = (step + 1) % run.steps == 0
        factors = [one]
        if is_last and run.scales:
            factors = operands.factors(step * run.scales // STEPS)
        for c in range(operands.columns):
            x = operands.activation(step, c)
            for p, q in enumerate(rows):
                i, signed = c * len(rows) + p, sign.emit(builder, x, q) if run.is_signed else x
                added = maddubs.emit(builder, magnitudes[p], signed)
                added = added if sums[i] is None else builder.add(sums[i], added)
                sums[i] = added
                if is_last:
                    wide = multiply_pairs(builder, added, factors[p % len(factors)])
                    result[i] = wide if result[i] is None else builder.add(result[i], wide)
                    sums[i] = None
        if is_last:
            result = settle(builder, result)
        else:
            sums = settle(builder, sums)
    return result
