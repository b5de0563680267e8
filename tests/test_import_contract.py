"""Which layer may import which, and what stays light: rules that DESIGN states, made executable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each package, and the packages of this project that it may import. What is in OPEN_TO_ALL is open to all.
ALLOWED = {
    "kernels": {"kernels"},
    "gguf": {"gguf"},
    "sampling": {"sampling", "kernels"},
    "models": {"models", "gguf", "kernels"},
    "tokenizer": {"tokenizer", "gguf", "hub"},
    "hub": {"hub"},
    "convert": {"convert", "tokenizer", "gguf"},
    "data": set(),
    "precompile": {"precompile", "models", "sampling", "gguf", "kernels"},
    "engine": {"engine", "precompile", "models", "sampling", "tokenizer", "kernels"},
    "pending": {"engine"},
    "results": {"engine"},
    "async_stream": {"engine", "results"},
    "scoring": {"engine", "sampling"},
    "loaded_model": {"scoring", "engine", "models", "tokenizer", "gguf"},
    "embedding_model": {"loaded_model", "pending", "engine", "models"},
    "llm": {"embedding_model", "loaded_model", "async_stream", "pending", "results", "engine", "hub"},
    "server": {"server", "llm"},
    "capi": {"capi", "llm"},
    "perplexity": {"llm"},
    "quantize": {"quantize", "gguf", "kernels"},
    "imatrix": {"llm", "perplexity", "quantize", "kernels"},
    "prune": {"prune", "llm", "perplexity", "quantize", "gguf", "kernels", "benchmark"},
    "compare": {"llm", "perplexity", "benchmark"},
    "benchmark": {"benchmark", "engine", "models", "gguf", "kernels"},
    "cli": {
        *("cli", "server", "capi", "llm", "perplexity", "quantize", "imatrix", "prune", "compare", "convert"),
        *("benchmark", "models", "tokenizer", "gguf", "data", "hub", "kernels"),
    },
}
OPEN_TO_ALL = {"exceptions", "config", "checks", "split_names", "__init__"}
# In engine/, only what sets up threads knows the kernels: no weight is touched there.
KERNEL_USERS = {"densecore/engine/workers.py"}
IMPORTED_AS = {"opentelemetry-api": "opentelemetry"}  # where a distribution's name is another
KERNELS_MAY_IMPORT = {"numpy", "numba", "llvmlite"} | set(sys.stdlib_module_names)
GRIDS = {"kernels/formats/grids.py": {"gguf"}}  # whose package holds the tables of some formats


def sources() -> list[Path]:
    return sorted([*ROOT.glob("densecore/**/*.py"), *ROOT.glob("kernels/**/*.py")])


def package_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "kernels" else parts[1]


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, type-checking imports left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_layers(path):
    package = package_of(path)
    if package in OPEN_TO_ALL | {"__main__"}:
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "densecore":
            target = rest.split(".")[0]
            assert target in ALLOWED[package] | OPEN_TO_ALL | {"", "__version__"}, f"{path} imports {name}"
            if package == "engine" and target == "kernels":
                assert str(path.relative_to(ROOT)) in KERNEL_USERS, f"{path} imports {name}"
        if package == "kernels":
            assert top in KERNELS_MAY_IMPORT | GRIDS.get(str(path.relative_to(ROOT)), set()), f"{path} imports {name}"


def test_every_package_is_listed():
    found = {package_of(path) for path in sources()} - OPEN_TO_ALL - {"__main__"}
    assert found == set(ALLOWED)


LIGHT = [
    "densecore",
    "densecore.config",
    "densecore.exceptions",
    "densecore.gguf",
    "densecore.hub",
    "densecore.tokenizer",
    "densecore.cli",
]


@pytest.mark.parametrize("module", LIGHT)
def test_numba_is_not_imported(module):
    code = f"import sys, {module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_kernels_refuse_their_bare_name():
    result = subprocess.run(
        [sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "must be imported as densecore.kernels" in result.stderr


def test_public_names():
    import densecore

    assert sorted(densecore.__all__) == dir(densecore)
    for name in densecore.__all__:
        assert getattr(densecore, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Densecore'"):
        _ = densecore.Densecore


def test_dependencies_are_declared():
    """Everything imported by the package is a core dependency, or belongs to an extra and is imported inside a try."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.split(">")[0].strip().lower() for requirement in project["dependencies"]}
    extras = {
        requirement.split(">")[0].strip().lower()
        for group in project["optional-dependencies"].values()
        for requirement in group
    }
    extras = {IMPORTED_AS.get(name, name) for name in extras}
    for path in sources():
        for name in imported(path):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ("densecore", "__future__"):
                assert top.lower() in declared | extras, f"{path} imports {top}, which pyproject.toml does not declare"
