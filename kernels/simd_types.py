"""Vector types of `simd`: how Numba knows them, their Python operators, and what instructions are made with."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba.extending
from llvmlite import ir
from numba import config, types
from numba.core.errors import TypingError
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin, models, register_model

from .tile_permission import tiles_allowed

intrinsic: Any = numba.extending.intrinsic  # its own type does not tell what its functions take

_SETTING = "DENSECORE_ISA"
_AVX2 = {"avx2", "fma", "f16c"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}
_TILES = {"amx-tile", "amx-int8"}
ISAS = {  # by what a CPU must have; the best first
    "amx": _AVX512 | _TILES,
    "avx512": _AVX512,
    "avxvnni": _AVX2 | {"avxvnni"},
    "avx2": _AVX2,
    "neon": {"neon", "dotprod"},
    "portable": set(),
}


def _cpu_features() -> set[str]:
    """Names of the features that Numba generates code for: the host's, or what NUMBA_CPU_FEATURES lists."""
    listed = getattr(config, "CPU_FEATURES", None)
    if listed is not None:
        return {name[1:] for name in listed.split(",") if name.startswith("+")}
    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    return features if features >= _TILES and tiles_allowed() else features - _TILES


def _choose_isa() -> str:
    """`DENSECORE_ISA` if set, else the best that the CPU runs. ImportError, named after it, if it cannot be had."""
    wanted = os.environ.get(_SETTING, "")
    if wanted and wanted not in ISAS:
        known = ", ".join(ISAS)
        raise ImportError(
            f"DENSECORE_ISA={wanted!r} is not known: use one of {known}, or leave it unset", name=_SETTING
        )
    features = _cpu_features()
    if missing := sorted(ISAS.get(wanted, set()) - features):
        lacks = f"DENSECORE_ISA={wanted}, but this CPU lacks {', '.join(missing)}: leave it unset"
        raise ImportError(lacks, name=_SETTING)
    return wanted or next(isa for isa, needed in ISAS.items() if needed <= features)


ISA = _choose_isa()
HAS_TILES = ISA == "amx"
HAS_BF16_TILES = HAS_TILES and "amx-bf16" in _cpu_features()
HAS_AVX512 = ISA in ("amx", "avx512")
IS_X86 = HAS_AVX512 or ISA in ("avxvnni", "avx2")

# ---------------------------------------------------------------------------------------------- types

I32 = ir.IntType(32)
_SCALARS: dict[str, tuple[types.Type, ir.Type]] = {
    "i8": (types.int8, ir.IntType(8)),
    "u8": (types.uint8, ir.IntType(8)),
    "i16": (types.int16, ir.IntType(16)),
    "i32": (types.int32, I32),
    "f32": (types.float32, ir.FloatType()),
}


class Vector(types.Type):
    """Numba type of `lanes` elements of kind `element` ("u8", "i8", "i16", "i32" or "f32")."""

    def __init__(self, element: str, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        self.scalar, llvm_scalar = _SCALARS[element]
        self.llvm = ir.VectorType(llvm_scalar, lanes)
        self.is_float = element == "f32"
        self.is_signed = element[0] == "i"
        self.num_bytes = lanes * int(element[1:]) // 8
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, vector.llvm)


U8x16, I8x16 = Vector("u8", 16), Vector("i8", 16)
U8x32, I8x32 = Vector("u8", 32), Vector("i8", 32)
I16x8, I16x16 = Vector("i16", 8), Vector("i16", 16)
I32x4, I32x8 = Vector("i32", 4), Vector("i32", 8)
F32x8 = Vector("f32", 8)

# ---------------------------------------------------------------------------------------------- LLVM helpers


def constant(kind: ir.Type, value: float) -> ir.Constant:
    """`value` as a constant of a scalar LLVM type, or in every lane of a vector type."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def splat(builder: ir.IRBuilder, vector: Vector, scalar: ir.Value) -> ir.Value:
    """All lanes equal to `scalar` (vpbroadcast)."""
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return shuffle(builder, one, undefined, [0] * vector.lanes)


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of `a` then `b`, picked by constant indices."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def join(builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
    """One vector of 2**n equal ones, one behind the other."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffle(builder, a, b, range(2 * a.type.count)) for a, b in pairs]
    return parts[0]


def call(builder: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
    """Call the LLVM intrinsic `name`."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def settle(builder: ir.IRBuilder, vectors: list[ir.Value | None], *, loads: bool = False) -> list[ir.Value | None]:
    """The same vectors; all are computed here, and what follows is computed later; with `loads`, read later, too.

    LLVM would go on with one chain of sums to its end and keep everything that the other chains need in memory. It
    takes an empty piece of assembly for something that might change the vectors, and does not look across.
    """
    given = [v for v in vectors if v is not None]
    if not IS_X86 or not given:
        return vectors
    kinds = [v.type for v in given]
    constraints = ["=x"] * len(given) + [str(i) for i in range(len(given))] + ["~{memory}"] * loads
    result = kinds[0] if len(given) == 1 else ir.LiteralStructType(kinds)
    fence = ir.InlineAsm(ir.FunctionType(result, kinds), "", ",".join(constraints), side_effect=True)
    settled = builder.call(fence, given)
    parts = iter([settled] if len(given) == 1 else [builder.extract_value(settled, i) for i in range(len(given))])
    return [None if v is None else next(parts) for v in vectors]


def accepts(wanted: types.Type, given: types.Type) -> bool:
    """A vector takes only its own type; a scalar is converted as in an assignment, but never float to integer."""
    if isinstance(wanted, types.Float):
        return isinstance(given, (types.Float, types.Integer))
    return isinstance(given, types.Integer) if isinstance(wanted, types.Integer) else given == wanted


def instruction(result: types.Type, args: Sequence[types.Type], doc: str) -> Callable:
    """Decorator: make `emit(builder, *values) -> value` callable from kernels with arguments of types `args`."""
    declared = f"({', '.join(map(str, args))}) -> {result}"

    def decorate(emit: Callable) -> Callable:
        name = emit.__name__

        def typed(*given: types.Type) -> Any:
            if not all(map(accepts, args, given)):
                raise TypingError(f"{name} takes {declared}, not ({', '.join(map(str, given))})")
            return result(*args), lambda context, builder, sig, values: emit(builder, *values)

        # Numba reads the number of arguments off the function's own parameters.
        by_count = (
            lambda typingctx, a: typed(a),
            lambda typingctx, a, b: typed(a, b),
            lambda typingctx, a, b, c: typed(a, b, c),
        )
        function = by_count[len(args) - 1]
        function.__name__ = function.__qualname__ = name
        function.__doc__ = f"{declared}\n\n{doc}"
        made: Any = intrinsic(function)
        made.emit = emit  # for instructions that are made of others
        return made

    return decorate


# ---------------------------------------------------------------------------------------------- operators


class _BinaryOperator(AbstractTemplate):
    """Vector with a vector of the same type, or with a scalar on the right that is broadcast."""

    on_integers: bool
    on_floats: bool

    def generic(self, args: tuple, kws: dict) -> Any:
        a, b = args
        if not isinstance(a, Vector) or not (self.on_floats if a.is_float else self.on_integers):
            return None
        if isinstance(b, Vector):
            return signature(a, a, a) if a == b else None
        return signature(a, a, a.scalar) if accepts(a.scalar, b) else None


def _register_operator(name: str, emit: Callable, *, on_integers: bool = True, on_floats: bool = True) -> None:
    """Let `emit(builder, vector, a, b)` implement an operator of Python, plain and in place."""

    def vector_vector(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return emit(builder, sig.args[0], args[0], args[1])

    def vector_scalar(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
        return emit(builder, sig.args[0], args[0], splat(builder, sig.args[0], args[1]))

    for op in (getattr(operator, name), getattr(operator, f"i{name.rstrip('_')}")):
        members = {"key": op, "on_integers": on_integers, "on_floats": on_floats}
        infer_global(op)(type(f"_Vector_{op.__name__}", (_BinaryOperator,), members))
        lower_builtin(op, Vector, Vector)(vector_vector)
        lower_builtin(op, Vector, types.Number)(vector_scalar)


def _arithmetic(on_integers: str, on_floats: str) -> Callable:
    def emit(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
        return getattr(builder, on_floats if vector.is_float else on_integers)(a, b)

    return emit


def _shift_right(builder: ir.IRBuilder, vector: Vector, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.ashr(a, b) if vector.is_signed else builder.lshr(a, b)


_register_operator("add", _arithmetic("add", "fadd"))  # vpaddb/w/d, vaddps
_register_operator("sub", _arithmetic("sub", "fsub"))  # vpsubb/w/d, vsubps
_register_operator("mul", _arithmetic("mul", "fmul"))  # vpmullw/d, vmulps
_register_operator("truediv", lambda b, v, x, y: b.fdiv(x, y), on_integers=False)  # vdivps
_register_operator("and_", lambda b, v, x, y: b.and_(x, y), on_floats=False)  # vpand
_register_operator("or_", lambda b, v, x, y: b.or_(x, y), on_floats=False)  # vpor
_register_operator("xor", lambda b, v, x, y: b.xor(x, y), on_floats=False)  # vpxor
_register_operator("lshift", lambda b, v, x, y: b.shl(x, y), on_floats=False)  # vpsllw, vpslld
_register_operator("rshift", _shift_right, on_floats=False)  # vpsrlw/d unsigned, vpsraw/d signed


@infer_global(operator.neg)
class _Negative(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        (vector,) = args
        return signature(vector, vector) if isinstance(vector, Vector) and vector.is_float else None


@lower_builtin(operator.neg, Vector)
def _lower_negative(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
    return builder.fneg(args[0])  # vxorps, or part of vfnmadd


@infer_global(operator.getitem)
class _Lane(AbstractTemplate):
    def generic(self, args: tuple, kws: dict) -> Any:
        vector, lane = args
        if isinstance(vector, Vector) and isinstance(lane, types.Integer):
            return signature(vector.scalar, vector, types.int32)
        return None


@lower_builtin(operator.getitem, Vector, types.Integer)
def _lower_lane(context: Any, builder: ir.IRBuilder, sig: Any, args: tuple) -> ir.Value:
    return builder.extract_element(args[0], args[1])  # vpextr


@instruction(F32x8, (F32x8, types.intp, types.float32), "A copy of the vector with one lane replaced.")
def with_lane(builder: ir.IRBuilder, a: ir.Value, lane: ir.Value, value: ir.Value) -> ir.Value:
    return builder.insert_element(a, value, lane)


# ---------------------------------------------------------------------------------------------- broadcasts


def _broadcast(vector: Vector) -> Callable:
    @instruction(vector, (vector.scalar,), f"A {vector.name} with every lane equal to the argument (vbroadcast).")
    def broadcast(builder: ir.IRBuilder, scalar: ir.Value) -> ir.Value:
        return splat(builder, vector, scalar)

    return broadcast


i16x8, i16x16, i32x8, f32x8 = _broadcast(I16x8), _broadcast(I16x16), _broadcast(I32x8), _broadcast(F32x8)
