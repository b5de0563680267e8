"""The Python scripts of docs/examples run, on the built-in model, and print what they promise."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.data import builtin_model_path
from densecore.exceptions import UnsupportedFeatureError
from densecore.models import ARCHITECTURES

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
Example = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Runs a script and returns what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


def test_every_script_is_tested() -> None:
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    assert scripts == set(re.findall(r'example\("(\w+\.py)"', Path(__file__).read_text()))


def test_chat(example: Example) -> None:
    usages = re.findall(r"\[(\d+) tokens of prompt, (\d+) of them computed before\]", example("chat.py"))
    (_, first), (second_prompt, second) = (map(int, usage) for usage in usages)
    assert first == 0
    assert second_prompt > second > 50


def test_streaming(example: Example) -> None:
    whole, together, cut = example("streaming.py").split("\n---\n")
    with DenseCore(builtin_model_path()) as model:
        assert whole == model.generate("import os", max_tokens=30, temperature=0)
        assert together.splitlines()[1] == repr(model.generate("class Point:", max_tokens=20, seed=1))
        assert model.generate("# Numbers: ", max_tokens=200, temperature=0).startswith(cut[:-1])


def test_structured_output(example: Example) -> None:
    call, choice, date = example("structured_output.py").splitlines()
    assert re.fullmatch(r"[a-z_]{3,20}\(((int|str|list)(, )?){1,3}\)", call)
    assert choice in ("yes", "no", "maybe")
    assert re.fullmatch(r"20\d\d-[01]\d-[0-3]\d", date)


def test_embeddings_search(example: Example) -> None:
    try:
        lines = example("embeddings_search.py", builtin_model_path()).splitlines()
    except UnsupportedFeatureError:
        pytest.skip("this version has no embeddings")
    similarities = [float(line.split()[0]) for line in lines]
    assert similarities == sorted(similarities, reverse=True)
    assert len(lines) == 4


def test_logit_lens(example: Example) -> None:
    lines = example("logit_lens.py").splitlines()
    assert [line.split()[0] for line in lines] == [f"blk.{layer}.resid_post" for layer in range(6)]
    with DenseCore(builtin_model_path()) as model:
        text = "import os\nimport sys\n\n\ndef main():\n    for line in sys."
        best = model.generate(text, max_tokens=1, temperature=0, repetition_penalty=1)
    assert lines[-1].split("  ")[0].startswith(f"blk.5.resid_post {best!r} ")


def test_head_ablation(example: Example) -> None:
    first, *heads = example("head_ablation.py").splitlines()
    differences = [float(number) for line in heads for number in line.split()[1:]]
    assert len(differences) == 6 * 4
    assert 0 < float(first.split()[3]) < 5
    assert max(differences) > 0.05


def test_custom_sampler(example: Example) -> None:
    lipogram, cooling = (line.split(": ", 1)[1] for line in example("custom_sampler.py").splitlines())
    assert "e" not in lipogram.lower()
    assert len(lipogram) > 10
    assert len(cooling) > 10


def test_add_architecture(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "parallel-llama", None)  # taken away again behind the script
    text, difference = example("add_architecture.py").splitlines()
    assert len(text) > 5
    assert float(difference.split()[-1]) < 1e-4
