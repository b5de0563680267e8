"""Speculative decoding: several tokens of a sequence in one step.

A step of few tokens is as fast as memory brings the weights, whatever it computes. So tokens that may follow, a
*draft*, are guessed by something fast, a smaller model or `lookup`, and computed in the same step as the newest token.
Then each position's logits are there, and tokens are drawn from them one after the other, as long as they are what the
draft said.

Leviathan et al. 2023, "Fast inference from transformers via speculative decoding", accept a guess x drawn from q with
probability ``min(1, p(x) / q(x))``, and else draw from the residual ``max(p - q, 0)``, so that what comes out has the
model's distribution p. Guesses here are certain: q is 1 for one token. Then a guess is accepted with probability p(x),
and the residual is p without x. Drawing from p, and keeping the result whether it is x or not, does just that: what is
not x has the residual's distribution. It also uses the random numbers that it would use without drafts. So the same
seed gives the same output, bit for bit, with and without, and grammars, penalties and processors see what they always
see. A guess that were drawn, not the most probable one, would be accepted a little more often at high temperatures;
equal output is worth more.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from itertools import zip_longest
from weakref import WeakKeyDictionary

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.block_manager import BlockManager
from densecore.engine.draft import DraftModel
from densecore.engine.gain import Acceptance, StepTimes
from densecore.engine.lookup import PromptLookup
from densecore.engine.scheduler import Scheduled
from densecore.engine.sequence import Sequence

__all__ = ["Speculation", "draw"]


def draw(sequence: Sequence, rows: Iterable[np.ndarray], draft_ids: SequenceOf[int]) -> list[int | Exception]:
    """Tokens from the logits of a sequence's newest token and of its draft: the last one is not from the draft.

    Ends early with the output. An error takes the place of the token that could not be drawn.
    """
    drawn: list[int | Exception] = []
    for row, guess in zip_longest(rows, draft_ids):
        try:
            token_id = sequence.sampler.sample(row)
        except Exception as error:
            drawn.append(error)
            break
        drawn.append(token_id)
        if token_id != guess or sequence.ends_with(token_id):
            break
    return drawn


class Speculation:
    """Gives sequences their drafts, as long as those pay.

    Attributes
    ----------
    adaptive : whether sequences do without drafts while those cost more than they bring.
    """

    def __init__(self, config: EngineConfig, blocks: BlockManager, draft: DraftModel | None) -> None:
        self.config, self.blocks, self.draft = config, blocks, draft
        self.adaptive = True
        self.enabled = draft is not None or config.speculation is not None
        self.times = StepTimes()
        self._lookups: WeakKeyDictionary[Sequence, PromptLookup] = WeakKeyDictionary()
        self._acceptance: WeakKeyDictionary[Sequence, Acceptance] = WeakKeyDictionary()
        self._is_clean = True  # whether the next step's time is that of its batch alone

    def propose(self, running: list[Sequence]) -> None:
        """Set `draft_ids` of all running sequences for the next step."""
        if not self.enabled:
            return
        for sequence in running:
            sequence.draft_ids = []
        decoding = [sequence for sequence in running if sequence.is_decoding]
        self._is_clean = True
        if self.adaptive and self.times.wants_plain(len(decoding)):
            return
        num_running = len(running)
        left = [s for s in decoding if self._wants_draft(s, num_running) and not self._look_up(s)]
        if left and self.draft is not None:
            self.draft.propose(left, self.config.num_speculative_tokens)
            self._is_clean = any(sequence.draft_ids for sequence in left)  # else it computed prompts

    def measured(self, batch: list[Scheduled], drawn: list[list[int | Exception]], seconds: float) -> None:
        """Learn from a step that took so long, and from what was drawn of its drafts."""
        if not self.enabled:
            return
        num_decoding = sum(entry.decodes for entry in batch)
        num_drafts = sum(bool(entry.draft_ids) for entry in batch)
        if num_decoding == len(batch) and self._is_clean:
            self.times.measured(num_decoding, num_drafts, seconds)
        cost = self.times.cost(num_decoding)
        for entry, result in zip(batch, drawn, strict=True):
            if entry.draft_ids:
                self._acceptance[entry.sequence].measured(entry.num_accepted(result), cost)

    def _wants_draft(self, sequence: Sequence, num_running: int) -> bool:
        """Whether a draft is worth trying, and fits; the sequence gets blocks for it."""
        count = self.config.num_speculative_tokens
        if not sequence.config.speculate or sequence.aborted or sequence.draft_room < count:
            return False
        if not self._acceptance.setdefault(sequence, Acceptance()).wants_draft() and self.adaptive:
            return False
        # Nobody must be preempted for a guess: leave a block to each of those who run.
        return self.blocks.num_free > num_running and self.blocks.extend(sequence, len(sequence.token_ids) + count)

    def _look_up(self, sequence: Sequence) -> bool:
        if self.config.speculation is None:
            return False
        lookup = self._lookups.setdefault(sequence, PromptLookup())
        sequence.draft_ids = lookup.propose(sequence.token_ids, self.config.num_speculative_tokens)
        return bool(sequence.draft_ids)
