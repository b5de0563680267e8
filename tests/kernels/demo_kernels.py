"""Small kernels for tests of the compile cache, as text: each test writes them where it needs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from densecore.kernels import cache_directory
from densecore.kernels.cache import kernel, num_compiled

HELPER = """
from densecore.kernels.cache import inlined

@inlined
def step(x):
    return x + 1
"""
DEMO = """
from densecore.kernels.cache import kernel, num_compiled
from {helper} import step

@kernel
def inner(x):
    return step(x)

@kernel
def outer(x):
    return inner(x) * 10

def make(n):
    @kernel
    def add(x):
        return x + n
    return add

def report():
    return dict(outer=outer(1), add=[make(1)(0), make(2)(0)], compiled=num_compiled())
"""


def compilations(function: Callable, *arguments: object) -> tuple[int, object]:
    """(compilations, result) of a call of *function*, declared as a kernel anew."""
    before = num_compiled()
    result = kernel(function)(*arguments)
    return num_compiled() - before, result


def cache_files() -> list[Path]:
    directory = cache_directory.cache_directory()
    assert directory is not None
    return sorted(directory.glob("*"))
