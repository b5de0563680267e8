"""The chat page, in a real browser: a headless Chromium of the system, driven by Playwright (extra ``[browser]``).

Servers and models are real. Where an answer must be a certain text, the page's request gets a `choice` on its way,
which holds the model to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_factory import make_model
from tests.server.chat_page.browser import BROWSERS, CHROMIUM, TEMPLATE, Chat
from tests.server.conftest import Running, running


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that reasons, with a context of 2048 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    return make_model(path, n_layers=1, max_len=2048, metadata_overrides={"tokenizer.chat_template": TEMPLATE})


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Running]:
    with running({"tiny": model_path, "other": model_path}) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser's tests need the extra [browser]")
    if CHROMIUM is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as runtime:
        browser = runtime.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def chat(browser: Any, server: Running) -> Iterator[Chat]:
    chat = Chat(browser, server.url)
    yield chat
    assert chat.complaints == []
    assert all(address.startswith((server.url, "data:", "blob:")) for address in chat.addresses)
    chat.context.close()
