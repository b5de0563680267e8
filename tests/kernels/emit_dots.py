"""Prints the assembly of `simd`'s products for the CPU that the environment names, which need not be this one.

Run as ``python -m tests.kernels.emit_dots TRIPLE CPU`` with NUMBA_CPU_FEATURES set to the features of that CPU: these
choose the instruction set. Nothing is run, and nothing is compiled by Numba.
"""

from __future__ import annotations

import sys

import llvmlite.binding as llvm
from llvmlite import ir

from densecore.kernels import simd_types
from densecore.kernels.simd_amx import emit_tile_instruction
from densecore.kernels.simd_dots import LANES, STEPS, Operands, Run, multiply_run
from densecore.kernels.simd_instructions import lookup
from densecore.kernels.simd_memory import f16_to_f32
from densecore.kernels.simd_types import I8x16, U8x32

BYTE = ir.IntType(8)
QUANTS, PAIRS = ir.VectorType(BYTE, 4 * LANES), ir.VectorType(ir.IntType(16), 2 * LANES)
RUNS = {
    "unsigned_4_bits": Run(steps=8, scales=1, is_signed=False, bias=0),
    "unsigned_6_bits": Run(steps=2, scales=2, is_signed=False, bias=0),
    "signed_8_bits": Run(steps=1, scales=0, is_signed=True, bias=0),
}


def emit_run(module: ir.Module, name: str, run: Run, columns: int = 2) -> None:
    """A function (quants, activations, pairs, factors, out) of pointers: one vector of rows and some columns."""
    sums = ir.VectorType(ir.IntType(32), LANES)
    pointers = [kind.as_pointer() for kind in (QUANTS, QUANTS, PAIRS, PAIRS, sums)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), pointers), name)
    builder = ir.IRBuilder(function.append_basic_block())

    def load(argument: int, index: int) -> ir.Value:
        place = builder.gep(function.args[argument], [ir.Constant(ir.IntType(64), index)])
        return builder.load(place, align=1)

    operands = Operands(
        columns=columns,
        quants=lambda step: [load(0, step)],
        activation=lambda step, column: load(1, column * STEPS + step),
        pair_of_sums=lambda column: load(2, column),
        factors=lambda number: [load(3, number)],
    )
    for column, value in enumerate(multiply_run(builder, run, operands)):
        builder.store(value, builder.gep(function.args[4], [ir.Constant(ir.IntType(64), column)]), align=1)
    builder.ret_void()


def emit_lookup(module: ir.Module) -> None:
    function = ir.Function(module, ir.FunctionType(U8x32.llvm, [I8x16.llvm, U8x32.llvm]), "lookup_16")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(lookup.emit(builder, *function.args))


def emit_halves(module: ir.Module) -> None:
    halves, floats = ir.VectorType(ir.IntType(16), 8), ir.VectorType(ir.FloatType(), 8)
    function = ir.Function(module, ir.FunctionType(floats, [halves]), "halves_to_floats")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(f16_to_f32(builder, function.args[0]))


def emit_tiles(module: ir.Module) -> None:
    pointer = BYTE.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 4), "multiply_tiles")
    builder, number = ir.IRBuilder(function.append_basic_block()), ir.IntType(8)
    configuration, a, b, sums = function.args
    c, stride = [ir.Constant(number, n) for n in range(3)], ir.Constant(ir.IntType(64), 64)
    emit_tile_instruction(builder, "llvm.x86.ldtilecfg", configuration)
    emit_tile_instruction(builder, "llvm.x86.tilezero", c[0])
    emit_tile_instruction(builder, "llvm.x86.tileloadd64", c[1], a, stride)
    emit_tile_instruction(builder, "llvm.x86.tileloadd64", c[2], b, stride)
    emit_tile_instruction(builder, "llvm.x86.tdpbssd", *c)
    emit_tile_instruction(builder, "llvm.x86.tilestored64", c[0], sums, stride)
    emit_tile_instruction(builder, "llvm.x86.tilerelease")
    builder.ret_void()


def main(triple: str, cpu: str) -> None:
    """Print the instruction set, then the assembly."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module()
    module.triple = triple
    for name, run in RUNS.items():
        emit_run(module, name, run)
    emit_lookup(module)
    emit_halves(module)
    if simd_types.HAS_TILES:
        emit_tiles(module)
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=str(simd_types.config.CPU_FEATURES), opt=3
    )
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    print(simd_types.ISA)
    print(machine.emit_assembly(parsed))


if __name__ == "__main__":
    main(*sys.argv[1:])
