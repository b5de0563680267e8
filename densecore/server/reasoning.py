"""Splits what a model thinks, between ``<think>`` and ``</think>``, from what it says."""

from __future__ import annotations

__all__ = ["CLOSE", "OPEN", "ReasoningSplitter", "held_back", "thinks"]

OPEN, CLOSE = "<think>", "</think>"


def thinks(template: str) -> bool:
    """Whether a chat template knows of reasoning."""
    return CLOSE in template


def held_back(text: str, marker: str) -> int:
    """Number of characters at the end of `text` with which `marker` might begin."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


class ReasoningSplitter:
    """Text in, pairs (is_reasoning, text) out; nothing of a marker is ever in them.

    Reasoning is only looked for at the beginning. `inside`: the prompt has opened it already, as some templates do.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._state = "inside" if inside else "start"
        self._held = ""
        self._strip = inside  # white space after a marker is no part of the text

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """What has become certain with `text`."""
        self._held += text
        found: list[tuple[bool, str]] = []
        if self._state == "start" and not self._begin():
            return found
        if self._state == "inside":
            self._think(found)
        if self._state == "outside":
            self._release(found, len(self._held), is_reasoning=False)
        return found

    def finish(self) -> list[tuple[bool, str]]:
        """What is left at the end."""
        found: list[tuple[bool, str]] = []
        self._release(found, len(self._held), is_reasoning=self._state == "inside")
        return found

    def _begin(self) -> bool:
        """Decide whether the text begins with reasoning; False while it is open."""
        text = self._held.lstrip()
        if text.startswith(OPEN):
            self._state, self._held, self._strip = "inside", text[len(OPEN) :], True
        elif not OPEN.startswith(text):
            self._state = "outside"
        return self._state != "start"

    def _think(self, found: list[tuple[bool, str]]) -> None:
        before, marker, after = self._held.partition(CLOSE)
        if not marker:
            self._release(found, len(self._held) - held_back(self._held, CLOSE), is_reasoning=True)
            return
        self._release(found, len(before), is_reasoning=True)
        self._state, self._held, self._strip = "outside", after, True

    def _release(self, found: list[tuple[bool, str]], length: int, *, is_reasoning: bool) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if self._strip:
            text = text.lstrip()
            self._strip = not text
        if is_reasoning:  # white space at its end is held until more follows
            self._held = text[len(text.rstrip()) :] + self._held
            text = text.rstrip()
        if text:
            found.append((is_reasoning, text))
