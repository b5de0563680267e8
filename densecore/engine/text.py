"""From token ids to the text that may be shown: whole characters, and nothing of a stop sequence."""

from __future__ import annotations

from densecore.tokenizer import IncrementalDetokenizer

__all__ = ["TextAssembler"]


class TextAssembler:
    """Turns tokens into text as they come, ending before the first stop sequence.

    Text that might be the beginning of a stop sequence is held back until it is known not to be one.
    """

    def __init__(self, detokenizer: IncrementalDetokenizer, stop_sequences: tuple[str, ...] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop_sequences = stop_sequences
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; may be empty."""
        return self._release(self._detokenizer.push(token_id))

    def flush(self) -> str:
        """What is left at the end: held text, and incomplete characters as U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._detokenizer.flush()) + ("" if self.stopped else self._held)
        self._held = ""
        return text

    def _release(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        text = self._held + new
        found = [at for at in map(text.find, self._stop_sequences) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = len(text) - self._possible_beginning(text)
        self._held = text[keep:]
        return text[:keep]

    def _possible_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop sequence begins."""
        longest = 0
        for stop in self._stop_sequences:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
