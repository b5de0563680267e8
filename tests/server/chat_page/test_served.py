"""The page as it is served: its headers, its policy, and who gets it."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from densecore.server.page import wants_page
from tests.server.chat_page.browser import HTML


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
