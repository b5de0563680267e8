"""Compiling helpers that exist only inside their callers: no optimisation and no machine code of their own."""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


class _CodegenWithoutEnvironments:
    """Numba's code generator, but that a function without machine code has no environment to set."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        pass


class InlinedLibrary(JITCodeLibrary):
    """What a helper was lowered to, kept for linking into callers, where it is optimised together with them."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def codegen(self) -> Any:
        return _CodegenWithoutEnvironments(self._codegen)

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0


class OutlinedLibrary(InlinedLibrary):
    """The same, but that LLVM keeps the helper a function of its own."""

    def add_ir_module(self, ir_module: Any) -> None:
        for function in ir_module.functions:
            if not function.is_declaration:
                function.attributes.add("noinline")
        super().add_ir_module(ir_module)


class InlinedCompiler(Compiler):
    """Numba's compiler, with such a library."""

    library: type[InlinedLibrary] = InlinedLibrary

    def define_pipelines(self) -> Any:
        state = self.state
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()


class OutlinedCompiler(InlinedCompiler):
    """The same for helpers that are not to be inlined."""

    library = OutlinedLibrary
