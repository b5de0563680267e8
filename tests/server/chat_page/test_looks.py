"""Colours, widths and names: whether the page can be read and used."""

from __future__ import annotations

import re

import pytest

from tests.server.chat_page.browser import Chat


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
