"""How many tokens of prompts a step may compute.

A step cannot be interrupted, so that it should be short: `LONGEST` seconds, and less beside sequences that decode. A
prompt computed in one piece would hold them up for long; in tiny pieces it would take forever. So the number of tokens
follows measured time: a step with a piece of a prompt should take `SLOWDOWN` times as long as a step without, which
leaves most of the time to the prompt. Steps without prompts are timed for each number of decoding sequences, now and
then again; what a token of a prompt adds is taken from the steps that have some.
"""

from __future__ import annotations

__all__ = ["TokenBudget"]

LONGEST = 0.8  # seconds of a step: who cancels, or presses Ctrl-C, should not wait for more
SLOWDOWN = 4.0  # of a step; users are promised 5 at the 95th percentile
SMALLEST = 16  # tokens: less would not pay for reading the weights
UNKNOWN = 64  # tokens of the first step
REFRESH = 64  # steps with prompts until one without is timed again


class TokenBudget:
    """The budget of an engine; `most` is what a step may compute at most."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._smallest = min(SMALLEST, most)
        self._quiet: dict[int, float] = {}  # number of decoding sequences -> seconds of a step of theirs alone
        self._token_seconds: float | None = None  # what a token of a prompt adds
        self._since_quiet = 0

    def prompt_tokens(self, num_decoding: int) -> int:
        """For the next step, in which `num_decoding` sequences compute one token each."""
        room = max(self.most - num_decoding, 0)
        if self._token_seconds is None:
            return min(room, UNKNOWN)
        if not num_decoding:
            return min(room, _on_grid(LONGEST / self._token_seconds, self._smallest))
        if not self._quiet or self._since_quiet >= REFRESH:
            return 0  # time a step without prompts first
        seconds = min((SLOWDOWN - 1) * self._quiet_seconds(num_decoding), LONGEST)
        return min(room, _on_grid(seconds / self._token_seconds, self._smallest))

    def measured(self, num_decoding: int, num_prompt_tokens: int, seconds: float) -> None:
        """A step of these numbers took so long."""
        if not num_prompt_tokens:
            self._since_quiet = 0
            self._measured_quiet(num_decoding, seconds)
        elif num_prompt_tokens >= self._smallest:
            self._since_quiet += bool(num_decoding)
            quiet = self._quiet_seconds(num_decoding) if num_decoding and self._quiet else 0.0
            self._measured_prompt(max(seconds - quiet, 1e-9) / num_prompt_tokens, alone=not num_decoding)

    def _measured_quiet(self, num_decoding: int, seconds: float) -> None:
        """A step can only be held up: what is faster is right at once, what is slower has to last."""
        before = self._quiet.get(num_decoding, seconds)
        self._quiet[num_decoding] = seconds if seconds < before else before + 0.1 * (seconds - before)

    def _measured_prompt(self, seconds: float, *, alone: bool) -> None:
        """Seconds of a token. One odd step must not say much; but the first ones may have compiled kernels."""
        before = self._token_seconds or seconds
        within = min(max(seconds, before / 2), before * 2)
        self._token_seconds = seconds if alone and seconds < before else (before + within) / 2

    def _quiet_seconds(self, num_decoding: int) -> float:
        """Of as many sequences, or of the next smaller number, which is a little faster; else of the smallest."""
        smaller = [number for number in self._quiet if number <= num_decoding]
        return self._quiet[max(smaller) if smaller else min(self._quiet)]


def _on_grid(number: float, smallest: int) -> int:
    """`number` rounded down to `smallest` times a power of two, or one and a half of it.

    Few different numbers make few shapes of batches, each of which is recorded when it is first seen.
    """
    size = smallest
    while 2 * size <= number:
        size *= 2
    return size * 3 // 2 if size * 3 // 2 <= number else size
