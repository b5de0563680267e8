"""Text as it comes: stop sequences never leak a part, and nothing is lost that is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from densecore.engine.text import TextAssembler


class Characters:
    """A detokenizer whose tokens are characters; as `IncrementalDetokenizer`, it may end with held bytes."""

    def __init__(self, rest: str = "") -> None:
        self.rest = rest

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return self.rest


def assemble(text: str, stops: tuple[str, ...], rest: str = "") -> tuple[list[str], bool]:
    assembler = TextAssembler(Characters(rest), stops)
    pieces = []
    for character in text:
        pieces.append(assembler.push(ord(character)))
        if assembler.stopped:
            break
    pieces.append(assembler.flush())
    return pieces, assembler.stopped


@pytest.mark.parametrize(
    ("text", "stops", "shown", "stopped"),
    [
        ("hello", (), "hello", False),
        ("hello END more", ("END",), "hello ", True),
        ("hello EN", ("END",), "hello EN", False),
        ("EENDx", ("END",), "E", True),
        ("aab", ("aab",), "", True),
        ("aaab", ("aab",), "a", True),
        ("abcabd", ("abd", "bca"), "a", True),
        ("xyz", ("yz", "xyz"), "", True),
    ],
)
def test_examples(text, stops, shown, stopped):
    pieces, did_stop = assemble(text, stops)
    assert "".join(pieces) == shown
    assert did_stop is stopped


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_shows_what_comes_before_the_first_stop_sequence_to_appear(text, stops):
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    first_end = min(ends)[0] if ends else len(text)
    starts = [text.find(stop) for stop in stops if stop in text[:first_end]]
    expected = text[: min(starts)] if starts else text
    pieces, stopped = assemble(text, tuple(stops))
    assert "".join(pieces) == expected
    assert stopped is bool(starts)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_part_of_a_stop_sequence_is_shown_before_it_is_decided(text, stops):
    """What has been shown at any time never ends in something that the rest of the text completes to a stop."""
    assembler, shown = TextAssembler(Characters(), tuple(stops)), ""
    for count, character in enumerate(text, 1):
        shown += assembler.push(ord(character))
        assert text.startswith(shown)
        for stop in stops:
            at = text.find(stop)
            assert at < 0 or len(shown) <= at or assembler.stopped or count < at


def test_a_stop_sequence_may_be_completed_by_the_last_bytes():
    pieces, stopped = assemble("abc", ("cd",), rest="d")
    assert "".join(pieces) == "ab"
    assert stopped
