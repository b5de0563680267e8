"""The notebooks of docs/course: every cell runs in order, the claims that they assert hold, and there are plots."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "course").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib.use("agg")
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(len(plt.gcf().axes)))
    namespace: dict[str, object] = {"__name__": path.stem}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # kept out of the repository
            exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), namespace)
    plt.close("all")
    assert shown
    assert min(shown) > 0
    assert capsys.readouterr().err == ""


def test_the_list_is_complete() -> None:
    text = (NOTEBOOKS[0].parent / "README.md").read_text()
    assert len(NOTEBOOKS) == 6
    assert all(f"]({path.name})" in text for path in NOTEBOOKS)
