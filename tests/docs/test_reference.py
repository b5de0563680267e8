"""The Python part of docs/API_REFERENCE.md: its signatures are those of the code, and nothing is missing."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from densecore import DenseCore, EngineConfig, GenerationConfig

TEXT = (Path(__file__).parents[2] / "docs" / "API_REFERENCE.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```", TEXT.split("\n## C API Reference\n")[0], re.M | re.S)
METHODS = [block for block in PYTHON if re.match(r"(@classmethod\n)?(async )?def \w+\(\s*(self|cls)\b", block)]
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("block", METHODS, ids=lambda block: re.findall(r"def (\w+)", block)[0])
def test_signature(block: str) -> None:
    (function,) = (node for node in ast.walk(ast.parse(f"{block.rstrip()}: ...")) if isinstance(node, FUNCTIONS))
    real = inspect.signature(getattr(DenseCore, function.name)).parameters
    arguments, defaults = function.args.args, function.args.defaults
    for argument, default in zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True):
        value = real[argument.arg].default
        if repr(value) == "<from config>":
            value = GenerationConfig.__dataclass_fields__[argument.arg].default
        written = ast.literal_eval(default)
        assert value == written or (argument.arg == "pooling" and str(value) == written), argument.arg
    assert {argument.arg for argument in arguments} - {"cls", "self"} <= set(real)


def test_python_is_python() -> None:
    for block in PYTHON:
        if block not in METHODS and not re.search(r"^    \w+: ", block, re.M):  # signatures of constructors
            compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_json_is_json() -> None:
    for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.M | re.S):
        json.loads(block.replace(", ...]", "]"))


def test_everything_public_is_named() -> None:
    public = {name for name in dir(DenseCore) if not name.startswith("_")}
    fields = {*GenerationConfig.__dataclass_fields__, *EngineConfig.__dataclass_fields__}
    assert {name for name in public | fields if not re.search(rf"\b{name}\b", TEXT)} == set()
