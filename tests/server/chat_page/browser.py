"""The chat page in a browser, and what a person does there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
CHAT = "**/v1/chat/completions"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{# knows <think> and </think> #}"
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}  # as browsers ask


class Chat:
    """The page in a browser's context of its own, and what a person does there."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(30_000)
        self.page = self.context.new_page()
        self.addresses: list[str] = []
        self.complaints: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.page.on("request", lambda request: self.addresses.append(request.url))
        self.page.on(
            "request", lambda request: self.asked.append(request.post_data_json) if request.post_data else None
        )
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: self.complaints.append(line.text) if line.type == "error" else None)
        self.page.goto(url)
        self.input = self.page.get_by_label("Message", exact=True)
        self.answers = self.page.locator(".message.assistant")
        self.questions = self.page.locator(".message.user")

    def hold_to(self, text: str | Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Let the model answer `text`, or change what is asked by a function."""

        def change(route: Any) -> None:
            body = route.request.post_data_json
            body |= {"choice": [text]} if isinstance(text, str) else text(body)
            route.continue_(post_data=json.dumps(body))

        self.page.unroute(CHAT)
        self.page.route(CHAT, change)

    def ask(self, text: str) -> None:
        """Ask, and wait until the answer has ended."""
        self.input.fill(text)
        self.input.press("Enter")
        self.wait_for_end()

    def wait_for_end(self) -> None:
        self.page.wait_for_selector("body:not(.running)")

    def wait_for(self, expression: str) -> None:
        """Until an expression of JavaScript is true. Playwright's own way is `eval`, which the policy forbids."""
        end = time.monotonic() + 30
        while not self.page.evaluate(f"() => Boolean({expression})"):
            assert time.monotonic() < end, expression
            time.sleep(0.02)

    def button(self, name: str, **options: Any) -> Any:
        return self.page.get_by_role("button", name=name, exact=True, **options)


def write_long(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that goes on for a while: its end is forbidden."""
    return {"max_tokens": 1500, "min_tokens": 1500}
