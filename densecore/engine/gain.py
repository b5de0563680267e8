"""Whether speculation pays: what drafts bring, and what they cost.

A step with drafts takes longer, for all sequences in it. With t seconds for a step of n sequences without drafts, and
e seconds more for each sequence with one, a draft costs what all could have computed in that time: ``n * e / t``
tokens. It brings as many tokens as are accepted of it. Both are measured all the time.
"""

from __future__ import annotations

__all__ = ["Acceptance", "StepTimes"]

REFRESH = 64  # steps with drafts until one without is timed again
TRIES = 4  # drafts before a sequence is judged
FIRST_PAUSE, LONGEST_PAUSE = 32, 512  # steps without drafts, once they did not pay; doubled from time to time
MEMORY = 0.1  # weight of the newest


class StepTimes:
    """Seconds of steps without prompts, by how many sequences decode."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}  # a step without drafts
        self._extra: dict[int, float] = {}  # what each sequence with a draft adds
        self._since_plain = 0

    def wants_plain(self, num_decoding: int) -> bool:
        """Whether the next step should be one without drafts, to be timed."""
        return num_decoding not in self._plain or self._since_plain >= REFRESH

    def cost(self, num_decoding: int) -> float:
        """Of one sequence's draft, in tokens; 0 as long as it is not known."""
        if num_decoding not in self._extra:
            return 0.0
        return num_decoding * self._extra[num_decoding] / self._plain[num_decoding]

    def measured(self, num_decoding: int, num_drafts: int, seconds: float) -> None:
        """A step of so many sequences, some with drafts, took so long."""
        if not num_drafts:
            self._since_plain = 0
            self._plain[num_decoding] = _settled(self._plain.get(num_decoding), seconds)
        elif num_decoding in self._plain:
            self._since_plain += 1
            extra = max(seconds - self._plain[num_decoding], 0.0) / num_drafts
            self._extra[num_decoding] = _settled(self._extra.get(num_decoding), extra)


def _settled(before: float | None, seconds: float) -> float:
    """A step can only be held up: what is faster is right at once, what is slower has to last."""
    return seconds if before is None or seconds < before else before + MEMORY * (seconds - before)


class Acceptance:
    """How many tokens of a sequence's drafts are accepted, and whether it goes on having some."""

    def __init__(self) -> None:
        self.mean = 0.0  # tokens of a draft
        self._num_tries = 0
        self._left = 0  # of a pause, in steps
        self._pause = FIRST_PAUSE

    def wants_draft(self) -> bool:
        """To be asked once a step."""
        if self._left:
            self._left -= 1
            return False
        return True

    def measured(self, num_accepted: int, cost: float) -> None:
        """So many tokens of a draft were right, while a draft costs as much as `cost` tokens."""
        self._num_tries += 1
        self.mean += max(1 / self._num_tries, MEMORY) * (num_accepted - self.mean)
        if self._num_tries < TRIES:
            return
        if self.mean > cost:
            self._pause = FIRST_PAUSE
        else:
            self._left, self._num_tries = self._pause, 0
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
