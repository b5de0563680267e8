"""The Python of README and docs runs as it is printed, on the built-in model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from densecore.data import builtin_model_path

ROOT = Path(__file__).resolve().parents[1]


def examples():
    names = ("HOOKS", "NUMA_OPTIMIZATION", "ENGINE", "SAMPLING", "STRUCTURED_OUTPUT")
    for path in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in names)):
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
        for number, block in enumerate(block for block in blocks if "DenseCore(" in block):
            yield pytest.param(block, id=f"{path.name}-{number}")


@pytest.mark.parametrize("block", list(examples()))
def test_example(block, capsys):
    code = re.sub(r'"[\w.-]+\.gguf"', repr(str(builtin_model_path())), block)
    if "import" not in code:
        code = f"from densecore import DenseCore\n{code}"
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().err == ""


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target.replace("\\", "")).exists(), f"{path.name}: {target}"
