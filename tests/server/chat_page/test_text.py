"""What the page makes of a model's text: hostile text stays text, Markdown is shown."""

from __future__ import annotations

import pytest

from tests.server.chat_page.browser import Chat

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
