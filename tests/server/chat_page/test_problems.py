"""Several models, and what the page says when something is wrong."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import httpx

from densecore.server.registry import load_model
from tests.server.chat_page.browser import CHAT, Chat, write_long
from tests.server.conftest import running


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
                    client = others.enter_context(httpx.Client(base_url=server.url, timeout=60))
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
