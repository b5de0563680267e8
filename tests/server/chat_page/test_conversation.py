"""Conversations on the page: asking, stopping, editing, and what the browser keeps of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.server.chat_page.browser import write_long


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
