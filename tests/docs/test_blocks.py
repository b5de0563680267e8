"""Every code block of README and docs is run or checked by a test, or says above it why not.

``<!-- not run: REASON -->`` on the line before a block is such a reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from densecore.cli.parser import VERBS, parse
from tests.test_docs import RUN

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```", re.M | re.S)
ELSEWHERE = ("EMBEDDINGS", "MODEL_OPTIMIZATION")  # run by engine/test_embeddings and quantize/test_docs
DRAWINGS = ("text", "prometheus")  # nothing to run


def blocks() -> Iterator:
    for page in PAGES:
        for number, block in enumerate(BLOCK.finditer(page.read_text())):
            yield pytest.param(page, block, id=f"{page.relative_to(ROOT)}-{number}")


def is_checked_elsewhere(page: Path, language: str, text: str) -> bool:
    """By test_docs, which runs Python, or by capi/test_reference and test_reference, which compare with the code."""
    if page.name == "API_REFERENCE.md":
        return language in ("c", "json", "python")
    if page.stem in ELSEWHERE:
        return language == "python"
    return language == "python" and page.stem in RUN and ("DenseCore(" in text or page.stem == "ARCHITECTURE")


@pytest.mark.parametrize(("page", "block"), list(blocks()))
def test_block(page: Path, block: re.Match) -> None:
    language, text = block["language"], block["text"]
    if block["reason"] or language in DRAWINGS or is_checked_elsewhere(page, language, text):
        return
    assert language == "sh", f"{page.name}: no test runs this {language} block, and no reason is given:\n{text}"
    for line in text.splitlines():
        command = re.split(r" [|<>] |\s+\(", re.sub(r"^echo .* \| ", "", line))[0]
        words = shlex.split(command, comments=True)
        assert not words or words[0] == "densecore", f"{page.name}: no test runs {line!r}, and no reason is given"
        assert not words or parse(words[1:]).verb in VERBS


def test_the_engines_own_lines() -> None:
    (lines,) = re.findall(r"lines are the engine's own.*?```python\n(.*?)```", PAGES[0].read_text(), re.S)
    engine = [line.strip() for line in (ROOT / "densecore/engine/engine.py").read_text().splitlines()]
    places = [engine.index(line) for line in lines.splitlines()]
    assert places == sorted(places)
