"""The chat page, in a real browser: a headless Chromium of the system, driven by Playwright (extra ``[browser]``).

Servers and models are real. Where an answer must be a certain text, the page's request gets a `choice` on its way,
which holds the model to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from densecore.server.page import wants_page
from densecore.server.registry import load_model
from tests.gguf_factory import make_model

from .conftest import Running, running

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
CHAT = "**/v1/chat/completions"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{# knows <think> and </think> #}"
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}  # as browsers ask


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


@pytest.fixture
def chat(browser: Any, server: Running) -> Iterator[Chat]:
    chat = Chat(browser, server.url)
    yield chat
    assert chat.complaints == []
    assert all(address.startswith((server.url, "data:", "blob:")) for address in chat.addresses)
    chat.context.close()


def write_long(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that goes on for a while: its end is forbidden."""
    return {"max_tokens": 1500, "min_tokens": 1500}


class TestServed:
    @pytest.mark.parametrize(
        ("accept", "page"),
        [
            (HTML["Accept"], True),
            ("text/html", True),
            ("TEXT/HTML; q=0.5, */*", True),
            ("application/json;q=0.5, text/html", True),
            ("application/json, text/html;q=0.9", False),
            ("text/html;q=0", False),
            ("*/*", False),
            ("application/json", False),
            ("", False),
            (";;q=,text", False),
        ],
    )
    def test_who_gets_it(self, accept, page):
        assert wants_page(accept) == page

    def test_page_for_browsers_and_json_for_programs(self, server):
        page, described = server.http.get("/", headers=HTML), server.http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.text.startswith("<!doctype html>")
        assert described.json()["name"] == "densecore"
        assert page.headers["vary"] == described.headers["vary"] == "Accept"

    def test_the_policy_names_its_script_and_style_and_nothing_else(self, server):
        page = server.http.get("/", headers=HTML)
        rules = dict(rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; "))
        for tag, rule in (("script", "script-src"), ("style", "style-src")):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.S)
            assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert rules["connect-src"] == "'self'"

    def test_nothing_is_loaded_from_elsewhere_and_no_text_becomes_markup(self, server):
        text = server.http.get("/", headers=HTML).text
        assert not re.findall(r"(?:src|href)=[\"']?(?!data:)[^\"'#\s>]", text)
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(| on\w+=", text)


class TestConversation:
    def test_it_streams_and_tells_rates(self, chat):
        chat.hold_to("Hello **you**")
        chat.ask("Good day")
        assert chat.questions.locator(".content").inner_text() == "Good day"
        assert chat.answers.locator(".content strong").inner_text() == "you"
        facts = chat.answers.locator(".facts").inner_text()
        assert re.search(r"\d+ tokens · \d+\.\d tokens/s · first after \d+\.\d\d s · prompt \d+", facts)
        (asked,) = chat.asked
        assert asked["messages"] == [{"role": "user", "content": "Good day"}]
        assert (asked["model"], asked["stream"], asked["stream_options"]) == ("tiny", True, {"include_usage": True})

    def test_the_model_sees_the_whole_conversation(self, chat):
        chat.hold_to("Yes")
        chat.ask("one")
        chat.ask("two")
        roles = [(message["role"], message["content"]) for message in chat.asked[-1]["messages"]]
        assert roles == [("user", "one"), ("assistant", "Yes"), ("user", "two")]
        assert "cached" in chat.answers.last.locator(".facts").inner_text()

    @pytest.mark.parametrize("how", ["button", "key"])
    def test_stop_ends_the_request_and_keeps_the_text(self, chat, server, how):
        chat.hold_to(write_long)
        chat.input.fill("Go on")
        chat.input.press("Enter")
        chat.wait_for("document.querySelector('.message.assistant .content').textContent.length > 20")
        chat.button("Stop").click() if how == "button" else chat.page.keyboard.press("Escape")
        chat.wait_for_end()
        assert "stopped" in chat.answers.locator(".facts").inner_text()
        text = chat.answers.locator(".content").text_content()
        server.wait_until_idle()
        assert server.model.get_metrics()["kv_cache_blocks_used"] == 0
        assert chat.answers.locator(".content").text_content() == text
        chat.page.reload()
        chat.page.locator("#chats .open").first.click()
        assert chat.answers.locator(".content").text_content() == text

    def test_regenerate(self, chat):
        chat.hold_to("first")
        chat.ask("one")
        chat.hold_to("second")
        chat.button("Regenerate").click()
        chat.wait_for_end()
        assert chat.answers.locator(".content").all_inner_texts() == ["second"]
        assert chat.asked[-1]["messages"] == [{"role": "user", "content": "one"}]

    def test_edit_a_message(self, chat):
        chat.hold_to("Yes")
        chat.ask("one")
        chat.ask("two")
        chat.questions.first.get_by_role("button", name="Edit").click()
        area = chat.page.get_by_label("Edit the message")
        area.press("Escape")
        assert chat.questions.first.inner_text().startswith("one")
        chat.questions.first.get_by_role("button", name="Edit").click()
        area.fill("three")
        area.press("Enter")
        chat.wait_for_end()
        assert chat.questions.locator(".content").all_inner_texts() == ["three"]
        assert chat.asked[-1]["messages"] == [{"role": "user", "content": "three"}]

    def test_reasoning_is_folded(self, chat):
        chat.hold_to("<think>They greet me.</think>\n\nHello")
        chat.ask("Hi")
        reasoning = chat.answers.locator("details.reasoning")
        assert chat.answers.locator("> .content").inner_text() == "Hello"
        assert not reasoning.locator(".markdown").is_visible()
        reasoning.locator("summary").click()
        assert reasoning.locator(".markdown").inner_text() == "They greet me."
        chat.ask("Again")
        assert chat.asked[-1]["messages"][1] == {"role": "assistant", "content": "Hello"}

    def test_settings_are_sent_and_kept(self, chat):
        chat.button("Settings").click()
        values = {"Temperature": "0", "Top-p": "0.5", "Max tokens": "3", "Seed": "7", "System prompt": "Be brief."}
        for name, value in values.items():
            chat.page.get_by_label(re.compile(f"^{name}")).fill(value)
        chat.button("Done").click()
        chat.page.reload()
        chat.ask("Hi")
        asked = chat.asked[-1]
        assert [asked[name] for name in ("temperature", "top_p", "max_tokens", "seed")] == [0, 0.5, 3, 7]
        assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
        assert "limit of tokens" in chat.answers.locator(".facts").inner_text()
        chat.button("Settings").click()
        chat.button("Defaults").click()
        chat.button("Done").click()
        chat.hold_to("Yes")
        chat.ask("Hi")
        assert not {"temperature", "top_p", "max_tokens", "seed"} & set(chat.asked[-1])

    def test_keys(self, chat):
        chat.hold_to("Yes")
        chat.input.press_sequentially("one")
        chat.input.press("Shift+Enter")
        chat.input.press_sequentially("two")
        chat.input.press("Enter")
        chat.wait_for_end()
        assert chat.asked[-1]["messages"][0]["content"] == "one\ntwo"
        chat.input.press("ArrowUp")
        assert chat.page.get_by_label("Edit the message").input_value() == "one\ntwo"
        chat.page.keyboard.press("Control+k")
        assert chat.page.locator(".message").count() == 0
        assert chat.page.evaluate("document.activeElement.id") == "input"


class TestHistory:
    def test_chats_are_kept_opened_exported_and_deleted(self, chat):
        chat.hold_to("Yes")
        chat.ask("one")
        chat.button("New chat Ctrl K").click()
        chat.ask("two")
        chat.page.reload()
        chats = chat.page.locator("#chats li")
        assert chats.locator(".open").all_inner_texts() == ["two", "one"]
        chats.nth(1).locator(".open").click()
        assert chat.page.locator(".message .content").all_inner_texts() == ["one", "Yes"]
        with chat.page.expect_download() as download:
            chat.button("Export").click()
        assert Path(download.value.path()).read_text() == "# one\n\n## User\n\none\n\n## tiny\n\nYes\n"
        with chat.page.expect_download() as download:
            chat.button("Export all").click()
        exported = json.loads(Path(download.value.path()).read_text())
        assert [kept["messages"][0]["content"] for kept in exported] == ["two", "one"]
        chats.nth(1).hover()
        chat.button("Delete one").click()
        chat.button("Keep").click()
        assert chats.count() == 2
        chat.button("Delete one").click()
        chat.button("Delete").click()
        chat.wait_for("document.querySelectorAll('#chats li').length === 1")
        assert chat.page.locator(".message").count() == 0
        chat.button("Delete all").click()
        chat.button("Delete").click()
        chat.wait_for("!Object.keys(localStorage).some((key) => key.startsWith('densecore.chat.'))")

    def test_an_answer_that_is_left_is_stopped_and_kept(self, chat, server):
        chat.hold_to(write_long)
        chat.input.fill("Go on")
        chat.input.press("Enter")
        chat.wait_for("document.querySelector('.message.assistant .content').textContent.length > 20")
        chat.page.keyboard.press("Control+k")
        server.wait_until_idle()
        assert chat.page.locator(".message").count() == 0
        chat.hold_to("Yes")
        chat.ask("another")
        chat.page.locator("#chats .open", has_text="Go on").click()
        assert "stopped" in chat.answers.locator(".facts").inner_text()

    def test_what_is_broken_in_the_storage_is_passed_over(self, chat):
        broken = {
            "a": "{",
            "b": "null",
            "c": "[]",
            "d": '{"messages": 1}',
            "e": '{"messages": [null, {"role": "user"}]}',
        }
        chat.page.evaluate(
            "(all) => { for (const [id, text] of Object.entries(all)) localStorage['densecore.chat.' + id] = text; }",
            broken,
        )
        chat.page.reload()
        assert chat.page.locator("#chats li").count() == 1  # of e, without its messages


class TestModels:
    def test_another_model_is_loaded_when_it_is_asked(self, chat, server):
        model = chat.page.get_by_label("Model")
        chat.wait_for("document.querySelector('#model option')")
        assert sorted(model.locator("option").all_inner_texts()) == ["other (not loaded)", "tiny"]
        model.select_option("other")
        chat.hold_to("Yes")
        chat.ask("Hi")
        assert chat.asked[-1]["model"] == "other"
        assert chat.answers.get_attribute("aria-label") == "other"
        chat.wait_for("document.querySelector('#model').selectedOptions[0].textContent === 'other'")
        chat.page.reload()
        chat.wait_for("document.querySelector('#model option')")
        assert model.input_value() == "other"
        model.select_option("tiny")
        chat.ask("Hi")
        assert chat.answers.get_attribute("aria-label") == "tiny"

    def test_it_waits_for_a_model_that_is_being_loaded(self, browser, model_path):
        go = threading.Event()

        def load(entry):
            entry.progress = "half way"
            go.wait(60)
            return load_model(entry, {})

        with running({"tiny": model_path}, load=load, ready=False) as server:
            chat = Chat(browser, server.url)
            chat.page.wait_for_selector("text=Loading tiny: half way")
            chat.hold_to("Yes")
            chat.input.fill("Hi")
            chat.input.press("Enter")
            chat.page.wait_for_selector("text=is being loaded: half way")
            go.set()
            chat.wait_for_end()
            assert chat.answers.locator(".content").inner_text() == "Yes"
            chat.context.close()


class TestProblems:
    def test_keys(self, browser, model_path):
        with running({"tiny": model_path}, auth_enabled=True, api_keys=("sk-one",)) as server:
            chat = Chat(browser, server.url)
            dialog = chat.page.get_by_role("dialog")
            dialog.get_by_label("API key").fill("sk-wrong")
            chat.button("Use it").click()
            chat.page.wait_for_selector("text=The API key is not one of this server's")
            dialog.get_by_label("API key").fill("sk-one")
            dialog.get_by_label("API key").press("Enter")
            chat.wait_for("document.querySelector('#model option')")
            chat.hold_to("Yes")
            chat.ask("Hi")
            assert chat.answers.locator(".content").inner_text() == "Yes"
            assert chat.page.evaluate("JSON.stringify(localStorage).includes('sk-one')") is False
            chat.page.reload()
            chat.wait_for("document.querySelector('#model option')")
            assert not dialog.is_visible()
            chat.button("Settings").click()
            chat.button("Forget the API key").click()
            chat.page.reload()
            chat.button("Cancel").click()
            chat.page.wait_for_selector("text=Without an API key")
            chat.context.close()

    def test_a_conversation_that_is_too_long(self, chat):
        chat.hold_to("Yes")
        chat.ask("word " * 300)
        chat.page.unroute(CHAT)
        chat.ask("more " * 300)
        problem = chat.page.get_by_role("alert")
        assert "maximum context length is 2048 tokens" in problem.inner_text()
        assert chat.complaints.pop().endswith("400 (Bad Request)")
        chat.hold_to("No")
        chat.button("Leave out the oldest messages").click()
        chat.wait_for_end()
        assert [message["role"] for message in chat.asked[-1]["messages"]] == ["user"]
        assert chat.answers.locator(".content").all_inner_texts() == ["Yes", "No"]
        assert problem.inner_text() == ""

    def test_a_full_queue(self, browser, model_path):
        with running({"tiny": model_path}, options={"max_num_seqs": 1, "max_num_waiting": 1}) as server:
            body = {"messages": [{"role": "user", "content": "ab"}], "stream": True} | write_long({})
            chat = Chat(browser, server.url)
            chat.wait_for("document.querySelector('#model option')")
            with ExitStack() as others:
                for state in ("active_requests", "waiting_requests"):
                    client = others.enter_context(httpx.Client(base_url=server.url))
                    others.enter_context(client.stream("POST", "/v1/chat/completions", json=body))
                    server.wait_until(lambda state=state: server.model.get_metrics()[state] == 1)
                chat.ask("Hi")
                chat.page.wait_for_selector("text=The server is busy")
            assert chat.answers.count() == 0
            chat.hold_to("Yes")
            chat.button("Try again").last.click()
            chat.wait_for_end()
            assert chat.answers.locator(".content").inner_text() == "Yes"
            chat.context.close()

    def test_a_server_that_is_gone(self, browser, model_path):
        with running({"tiny": model_path}) as server:
            chat = Chat(browser, server.url)
            chat.wait_for("document.querySelector('#model option')")
        chat.ask("Hi")
        assert "cannot be reached" in chat.page.get_by_role("alert").inner_text()
        assert chat.questions.count() == 1
        chat.context.close()

    def test_a_field_that_the_server_refuses(self, chat):
        chat.hold_to(lambda body: {"temperature": -1})
        chat.ask("Hi")
        assert "temperature" in chat.page.get_by_role("alert").inner_text()
        assert chat.complaints.pop().endswith("400 (Bad Request)")


HOSTILE = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1><a xlink:href=javascript:window.hit=1>",
    "[a](javascript:window.hit=1) [b](data:text/html,<script>window.hit=1</script>)",
    "[c](JaVaScRiPt:window.hit=1) [d]( javascript:window.hit=1) <javascript:window.hit=1>",
    '[e](https://x.test/"onmouseover=window.hit=1) ![f](https://x.test/pixel.png)',
    '```html"><img src=x onerror=window.hit=1>\n</code></pre><script>window.hit=1</script>\n```',
    "`</code><script>window.hit=1</script>` **<b onclick=window.hit=1>x</b>**",
    "| <img src=x onerror=window.hit=1> | b |\n|---|---|\n| <iframe srcdoc='<script>top.hit=1</script>'> | </table> |",
    "<think><img src=x onerror=window.hit=1></think><style>body{display:none}</style>",
    "&lt;script&gt;window.hit=1&lt;/script&gt; <base href=//x.test> <meta http-equiv=refresh content=0;url=//x.test>",
]
TEXT_TAGS = {"p", "br", "em", "strong", "del", "code", "pre", "span", "a", "hr", "blockquote"}
ALLOWED = TEXT_TAGS | {"div", "button", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"}


UNITS = [
    "*a ",
    "**a",
    "_a_",
    "***a**b*",
    "~~a",
    "`",
    "``a`",
    "[",
    "[a](",
    "![a](b(",
    "http://",
    "ahttp://",
    "http://....",
]
UNITS += ["\\", "<br", "> ", "- ", "  - a\n", "\n\n- a\n", "1. ", "\t", "| a ", "a|\n|-|\n", "#", "```\n"]


class TestHostileText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_model_writes_text_and_nothing_else(self, chat, text):
        chat.hold_to(text)
        chat.ask(text)
        chat.page.reload()
        chat.page.locator("#chats .open").first.click()
        chat.page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        tags = chat.page.evaluate("[...document.querySelectorAll('.markdown *')].map((e) => e.tagName.toLowerCase())")
        assert set(tags) <= ALLOWED
        for name in chat.page.evaluate(
            "[...document.querySelectorAll('.markdown *')].flatMap((e) => e.getAttributeNames())"
        ):
            assert name in {
                "class",
                "href",
                "target",
                "rel",
                "title",
                "type",
                "tabindex",
                "style",
                "aria-label",
                "start",
            }
        for href in chat.page.evaluate(
            "[...document.querySelectorAll('.markdown a')].map((a) => a.getAttribute('href'))"
        ):
            assert href.startswith("https://x.test/")
        assert chat.page.evaluate("window.hit") is None
        assert chat.page.locator("body").is_visible()

    def test_the_policy_stops_what_the_page_would_let_through(self, browser, server):
        chat = Chat(browser, server.url)
        assert "TrustedHTML" in chat.page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (error) { return error.message; } }"
        )
        chat.page.evaluate("""() => {
          const image = document.body.appendChild(document.createElement('img'));
          image.src = 'https://x.test/a.png';
          const bold = document.body.appendChild(document.createElement('b'));
          try { bold.setAttribute('onclick', 'window.hit=1'); } catch { /* refused at once */ }
          bold.click();
        }""")
        assert chat.page.evaluate("window.hit") is None
        assert any("Content Security Policy" in line or "TrustedScript" in line for line in chat.complaints)
        chat.context.close()

    @pytest.mark.parametrize("unit", UNITS)
    def test_time_is_linear_enough(self, chat, unit):
        """60,000 characters that could take a careless parser for ever."""
        script = """(text) => {
          const started = performance.now();
          showMarkdown(document.createElement('div'), text);
          return performance.now() - started;
        }"""
        assert chat.page.evaluate(script, unit * (60_000 // len(unit))) < 3000


MARKDOWN = [
    (
        "a **b** *c* ***d*** ~~e~~ `f`",
        "<p>a <strong>b</strong> <em>c</em> <strong><em>d</em></strong> <del>e</del> <code>f</code></p>",
    ),
    ("snake_case_name 2 * 3 * 4 \\*x\\*", "<p>snake_case_name 2 * 3 * 4 *x*</p>"),
    ("*a **b** c* **a *b***", "<p><em>a <strong>b</strong> c</em> <strong>a <em>b</em></strong></p>"),
    ("`` a`b `` `*c*`", "<p><code>a`b</code> <code>*c*</code></p>"),
    ("# A *b* #\n## C", "<h1>A <em>b</em></h1><h2>C</h2>"),
    ("a\nb\n\nc", "<p>a<br>b</p><p>c</p>"),
    (
        "- a\n- b\n  - c\n    1. d\n\n- e",
        "<ul><li>a</li><li>b<ul><li>c<ol><li>d</li></ol></li></ul></li><li>e</li></ul>",
    ),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("1. a\n\n   b\n2. c", "<ol><li><p>a</p><p>b</p></li><li>c</li></ol>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\n***", "<p>a</p><hr><hr>"),
    ("5 < 6 & <b>", "<p>5 &lt; 6 &amp; &lt;b&gt;</p>"),
    ("**open `and", "<p>**open `and</p>"),
]


class TestMarkdown:
    @pytest.mark.parametrize(("text", "html"), MARKDOWN, ids=[text for text, _ in MARKDOWN])
    def test_forms(self, chat, text, html):
        script = "(text) => { const e = document.createElement('div'); showMarkdown(e, text); return e.innerHTML; }"
        assert chat.page.evaluate(script, text).replace(' start="1"', "") == html

    def test_tables(self, chat):
        chat.hold_to("| a | b |\n|:--|--:|\n| 1\\|2 | `x` |\n| 3 |\n")
        chat.ask("Hi")
        rows = chat.page.locator(".markdown tr")
        assert [row.locator("th, td").all_inner_texts() for row in rows.all()] == [["a", "b"], ["1|2", "x"], ["3", ""]]
        assert rows.nth(1).locator("td").nth(1).evaluate("(cell) => cell.style.textAlign") == "right"

    def test_links(self, chat):
        chat.hold_to("[a](https://x.test/a_(b)) ![i](https://x.test/i.png) (see https://x.test/c). mailto:no")
        chat.ask("Hi")
        links = chat.page.locator(".markdown a")
        hrefs = [link.get_attribute("href") for link in links.all()]
        assert hrefs == ["https://x.test/a_(b)", "https://x.test/i.png", "https://x.test/c"]
        assert {link.get_attribute("rel") for link in links.all()} == {"noopener noreferrer nofollow"}

    def test_code_is_coloured_and_copied_as_it_is(self, chat):
        code = 'all:\n\tdef f(x):  # why\n\t\treturn "a" + 1\n\n\tend'
        chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
        chat.hold_to(f"Look:\n```python\n{code}\n```\nDone")
        chat.ask("Hi")
        block = chat.page.locator(".code")
        assert block.locator(".head span").inner_text() == "python"
        assert block.locator("pre").text_content() == code
        kinds = {
            name: block.locator(f".t-{name}").all_inner_texts() for name in ("keyword", "string", "number", "comment")
        }
        assert kinds == {"keyword": ["def", "return", "end"], "string": ['"a"'], "number": ["1"], "comment": ["# why"]}
        block.get_by_role("button").click()
        chat.page.wait_for_selector("text=Copied")
        assert chat.page.evaluate("navigator.clipboard.readText()") == code

    def test_text_that_grows_becomes_what_it_is_at_once(self, chat):
        text = MARKDOWN[6][0] + "\n\n```c\nint a;\n```\n\n" + "\n\n".join(text for text, _ in MARKDOWN)
        script = """(text) => {
          const [grown, whole] = [document.createElement('div'), document.createElement('div')];
          for (let end = 1; end <= text.length; end++) showMarkdown(grown, text.slice(0, end));
          showMarkdown(whole, text);
          return grown.innerHTML === whole.innerHTML;
        }"""
        assert chat.page.evaluate(script, text)


class TestLooks:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_has_contrast(self, browser, server, scheme):
        """At least 4.5 to 1, as WCAG 2.2 has it (1.4.3), by the system's wish and by the setting."""
        chat = Chat(browser, server.url, color_scheme=scheme)
        assert min(contrasts(chat)) >= 4.5
        chat.button("Settings").click()
        chat.page.get_by_label("Theme").select_option("light" if scheme == "dark" else "dark")
        chat.button("Done").click()
        back = chat.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (luminance(back) < 0.5) == (scheme == "light")
        assert min(contrasts(chat)) >= 4.5
        chat.context.close()

    def test_a_phone(self, browser, server):
        chat = Chat(browser, server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
        assert not chat.page.locator("#side").is_visible()
        long = "word" * 60
        chat.hold_to(f"{long}\n\n```python\n{long}\n```\n\n| {long} | b |\n|---|---|\n| c | d |")
        chat.input.fill("one")
        chat.input.press("Enter")
        assert chat.input.input_value() == "one\n"  # there is no Shift Enter
        chat.button("Send").tap()
        chat.wait_for_end()
        assert chat.page.evaluate("document.documentElement.scrollWidth") == 360
        assert chat.page.evaluate("document.querySelector('#scroller').scrollWidth") <= 360
        for name in ("Send", "Settings", "Chats"):
            box = chat.button(name).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
        chat.button("Chats").tap()
        chat.page.locator("#chats .open").tap()
        assert not chat.page.locator("#side").is_visible()
        chat.context.close()

    def test_everything_has_a_name(self, chat):
        chat.hold_to("```c\nint a;\n```")
        chat.ask("Hi")
        chat.button("Settings").click()
        nameless = chat.page.evaluate(
            "[...document.querySelectorAll('button, input, textarea, select')].filter((e) => "
            "!(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
        )
        assert nameless == []


def contrasts(chat: Chat) -> list[float]:
    """Of the page's colours of text with the backgrounds that they lie on."""
    script = """(pairs) => pairs.map((pair) => pair.map((name) => {
      const probe = document.body.appendChild(document.createElement('i'));
      probe.style.color = `var(--${name})`;
      const colour = getComputedStyle(probe).color;
      probe.remove();
      return colour;
    }))"""
    pairs = [(text, back) for text in ("ink", "faint", "accent") for back in ("page", "side")]
    pairs += [("ink", "raised"), ("faint", "raised"), ("on-accent", "accent"), ("bad", "bad-back"), ("bad", "page")]
    pairs += [(kind, "code") for kind in ("ink", "keyword", "string", "number", "comment")]
    found = []
    for text, back in chat.page.evaluate(script, pairs):
        darker, lighter = sorted([luminance(text), luminance(back)])
        found.append((lighter + 0.05) / (darker + 0.05))
    return found


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
