"""The Python of README and docs runs as it is printed, on the built-in model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from densecore.data import builtin_model_path
from tests.lora_factory import make_adapter

ROOT = Path(__file__).resolve().parents[1]


RUN = (
    "README", "HOOKS", "NUMA_OPTIMIZATION", "ENGINE", "SAMPLING", "STRUCTURED_OUTPUT", "LORA", "MODEL_OPTIMIZATION",
    "ARCHITECTURE",
)  # fmt: skip


def examples():
    for path in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in RUN[1:])):
        blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
        for number, block in enumerate(b for b in blocks if "DenseCore(" in b or path.stem == "ARCHITECTURE"):
            yield pytest.param(block, id=f"{path.name}-{number}")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter for the built-in model."""
    return make_adapter(tmp_path_factory.mktemp("docs") / "style-lora.gguf", builtin_model_path(), ["blk.0.attn_q"])


@pytest.mark.parametrize("block", list(examples()))
def test_example(block, adapter, capsys):
    code = re.sub(r'"[\w.-]+-lora\.gguf"', repr(str(adapter)), block)
    code = re.sub(r'"[\w.-]+\.gguf"', repr(str(builtin_model_path())), code)
    if "import" not in code:
        code = f"from densecore import DenseCore\n{code}"
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().err == ""


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target.replace("\\", "")).exists(), f"{path.name}: {target}"
