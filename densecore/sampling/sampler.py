"""One request's way from logits to token ids.

The order of operations, and why:

1. **Logits processors** of the user see what the model computed, and what they do is not undone.
2. **Restrictions**: what a grammar, bad words, `ignore_eos` or `min_tokens` forbid gets the logit -inf, so that nothing
   that follows counts it. The ends of generation are few, and known before: without a grammar they have a bias of -inf.
3. **Logit bias** (``logit_bias``) speaks of raw logits, so it comes before anything that depends on them.
4. **Repetition penalty** (CTRL, Keskar et al. 2019; tokens of prompt and output): positive logits are divided by it,
   negative ones multiplied. It looks at a logit's sign, so it must come before the subtractions that move it.
5. **Presence and frequency penalties** (OpenAI's API; tokens of the output alone): subtracted once, and once per
   occurrence, in logits as the API defines them, hence before temperature. Then **DRY**: see dry.py.
6. **Temperature** divides logits. 0 is greedy: the highest score after steps 1 to 5, the lowest id among equals.
7. **Top-k**, then **top-p** (Holtzman et al. 2020) on what top-k kept, renormalised, then **min-p** (Nguyen et al.
   2024): transformers' order. They follow temperature, since top-p and min-p are about probabilities that are drawn.
   Rarer filters, or mirostat in place of all: see filters.py.
8. **The draw**: the token at which the sum of kept probabilities passes a random number in [0, 1). For the i-th token
   of the output it is number i of the sequence that belongs to the seed: see rng.py. So a request's text depends on
   its seed and its own logits only, never on what else is in the batch. With top-k the most probable tokens come first;
   without, tokens are in order of their ids, and what top-p does not keep is drawn again (densecore.kernels.sampling
   says why).

Among equally probable tokens the lower id comes first, in the filters as in the draw. densecore.kernels.sampling
holds both a readable numpy version of steps 3 to 8 and the fast one, which requests take that ask for nothing else;
the other steps work on a copy of the logits.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np

from densecore.config import GenerationConfig
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.kernels.block_masses import halvings_per_logit
from densecore.kernels.sampling import (
    ALL_MASKED,
    NOT_FINITE,
    UNDECIDED,
    Settings,
    edit_ref,
    sums_all_masses,
)
from densecore.sampling.batch import Draw, sample_batch
from densecore.sampling.dry import Dry
from densecore.sampling.edits import EditTable
from densecore.sampling.filters import Filters, Mirostat
from densecore.sampling.logprobs import TokenLogprobs, log_probabilities
from densecore.sampling.processors import process
from densecore.sampling.restrictions import Restrictions, Vocabulary
from densecore.sampling.rng import splitmix64, uniform

__all__ = ["Sampler"]

_XTC_STREAM, _LAST_STREAM = 1, 2  # which other sequences of random numbers XTC, and what is left undecided, have


class Sampler:
    """Draws the tokens of one request.

    Parameters
    ----------
    config : the request's settings; without a seed, one is drawn from the operating system.
    n_vocab : length of the logits.
    prompt_ids : the prompt, which repetition penalty, DRY, bad words and logits processors see.
    vocabulary : what tokens mean; without it none ends a generation.
    name : of the request, for error messages.

    Attributes
    ----------
    constraint : the grammar that the output follows, or None.
    logprobs : (num_output,) of the tokens so far, if the request asks for them; `accept` adds none.
    mass_scale : for which `block_masses` of its logits make sampling faster; 0 if they do not.

    Raises
    ------
    InvalidConfigError
        `n_vocab` is not positive, or `logit_bias` or `prompt_ids` hold an id outside of the vocabulary.
    """

    def __init__(
        self,
        config: GenerationConfig,
        n_vocab: int,
        prompt_ids: Iterable[int] = (),
        *,
        vocabulary: Vocabulary | None = None,
        name: str = "the request",
    ) -> None:
        if n_vocab < 1:
            raise InvalidConfigError(f"n_vocab must be 1 or more, not {n_vocab}")
        self.name = name
        self.n_vocab = n_vocab
        self.seed = secrets.randbits(64) if config.seed is None else config.seed
        self.num_output = 0
        self.logprobs: list[TokenLogprobs] = []
        self._token_ids = list(prompt_ids)
        self._config = config
        self._settings = Settings(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            typical_p=1.0,
            max_surprise=np.inf,
        )
        penalties = config.repetition_penalty, config.presence_penalty, config.frequency_penalty
        self._has_penalties = penalties != (1, 0, 0)
        self._table = EditTable(n_vocab, config.logit_bias or {})
        if config.repetition_penalty != 1:
            self._table.see_prompt(self._token_ids)
        self._set_up_rare_steps(config, vocabulary or Vocabulary())

    def _set_up_rare_steps(self, config: GenerationConfig, vocabulary: Vocabulary) -> None:
        """Those that most requests do without; None stands for them there."""
        self.constraint = vocabulary.constraint
        restricted = vocabulary.bad_words or self.constraint is not None
        self._restrictions = Restrictions(config, vocabulary) if restricted else None
        self._eog_ids = vocabulary.eog_ids
        if self.constraint is None and (config.ignore_eos or config.min_tokens > 0):
            self._table.forbid(self._eog_ids)
        self._dry = Dry(config, vocabulary.is_breaker) if config.dry_multiplier > 0 else None
        self._mirostat: Mirostat | None = None
        self._filters: Filters | None = None
        if config.temperature > 0 and config.mirostat:
            self._mirostat = Mirostat(config.mirostat_tau, config.mirostat_eta)
            self._settings = self._settings._replace(top_k=0, top_p=1.0, min_p=0.0)
        elif config.temperature > 0:
            self._filters = Filters.of(config)
            if self._filters is not None and self._filters.is_typical_p_alone(self.n_vocab):
                self._settings = self._settings._replace(typical_p=config.typical_p)
        changes_logits = bool(config.logits_processors) or restricted or self._dry is not None
        self._takes_rows_as_they_are = not (changes_logits or self._has_rare_filters)
        sums_masses = config.temperature > 0 and (self._mirostat or sums_all_masses(self._settings, self.n_vocab))
        uses_masses = self._takes_rows_as_they_are and sums_masses
        self.mass_scale = halvings_per_logit(config.temperature) if uses_masses else 0.0

    @property
    def _has_rare_filters(self) -> bool:
        """Whether the fast path does not know all filters."""
        return self._filters is not None and self._settings.typical_p == 1

    def sample(self, logits: np.ndarray) -> int:
        """Draw the next token from logits (n_vocab,) float32, which stay as they are, and `accept` it.

        Raises InferenceError if logits are NaN or +inf, or all -inf: -inf masks a token, and one must be left. Also
        if a logits processor fails, or the grammar.
        """
        [result] = sample_batch([self], logits[None])
        if isinstance(result, Exception):
            raise result
        return result

    def prepare(self, logits: np.ndarray, place: int) -> Draw | int:
        """The first half of `sample`: what the fast path has to draw, or a token that was drawn in numpy.

        logits : (num_rows, n_vocab) float32, of which one row, number `place`, is this request's
        """
        if logits.shape[1] != self.n_vocab:
            raise InferenceError(f"{self.name}: logits have the shape {logits.shape[1:]}, not ({self.n_vocab},)")
        u = uniform(self.seed, self.num_output) if self._settings.temperature > 0 else 0.0  # greedy: not used
        if self._takes_rows_as_they_are:
            return self._draw(place, None, u, len(self._table))
        return self._draw_from_changed(place, self._allowed(logits[place]), u)

    def finish(
        self,
        logits: np.ndarray,
        place: int,
        token_id: int,
        surprise: float = 0.0,
        changed: np.ndarray | None = None,
    ) -> int:
        """The second half: `accept` the token that was drawn, or raise what its error code says.

        surprise : bits, of a token that was drawn by the fast path
        changed : (n_vocab,) the logits that it saw, if not that row of `logits`
        """
        if token_id == UNDECIDED:
            token_id = self._decide(logits[place] if changed is None else changed)
        if token_id < 0:
            raise InferenceError(f"{self.name}: {_complaint(logits[place] if changed is None else changed, token_id)}")
        if self._mirostat is not None:
            self._mirostat.learn(surprise)
        if self._config.logprobs:
            self.logprobs.append(log_probabilities(logits[place], token_id, self._config.top_logprobs))
        self.accept(token_id)
        return token_id

    def _decide(self, logits: np.ndarray) -> int:
        """Draw a token in numpy after all, with a random number of its own."""
        assert self._filters is not None, "typical-p alone is left undecided"
        scores = edit_ref(logits, self._settings, self._table.edits, len(self._table))
        return self._filters.draw(scores, uniform(splitmix64(self.seed, _LAST_STREAM), self.num_output), 1.0)

    def accept(self, token_id: int) -> None:
        """Count a token as output. `sample` does so; others do when tokens come from elsewhere.

        For instance, an interrupted request goes on with a new sampler once its output so far is accepted. Mirostat
        alone also learns from each draw, so that it needs its own sampler to go on.
        """
        self.num_output += 1
        self._token_ids.append(token_id)
        if self.num_output == self._config.min_tokens and self.constraint is None and not self._config.ignore_eos:
            self._table.allow(self._eog_ids)
        if self._has_penalties:
            self._table.see_output(token_id)
        if self.constraint is not None:
            self.constraint.accept(token_id)

    def _allowed(self, logits: np.ndarray) -> np.ndarray:
        """Logits (n_vocab,) after processors and restrictions: a copy, unless there are none."""
        processors = self._config.logits_processors
        if not processors and self._restrictions is None:
            return logits
        self._check(logits)
        logits = logits.copy()
        if processors:
            logits = process(processors, self._token_ids, logits, self.name)
        if self._restrictions is not None:
            self._restrictions.apply(logits, self._token_ids, self.num_output)
        return logits

    def _draw(self, place: int, changed: np.ndarray | None, u: float, n_edits: int) -> Draw:
        """For the fast path: from a row as it is, or from what takes its place."""
        settings = self._settings
        if self._mirostat is not None:
            settings = settings._replace(max_surprise=self._mirostat.mu)
        return Draw(place, changed, settings, self._table.edits, n_edits, u, self._table.addresses)

    def _draw_from_changed(self, place: int, logits: np.ndarray, u: float) -> Draw | int:
        """From logits (n_vocab,) after processors and restrictions, by the fast path if that can do the rest."""
        if self._dry is None and not self._has_rare_filters:
            return self._draw(place, logits, u, len(self._table))
        self._check(logits)
        scores = edit_ref(logits, self._settings, self._table.edits, len(self._table))
        self._check(scores)  # the end of generation may have been all that was left
        if self._dry is not None:
            for token_id, penalty in self._dry.penalties(self._token_ids).items():
                scores[token_id] -= np.float32(penalty)
        if self._filters is not None and self._has_rare_filters:
            return self._filters.draw(scores, u, uniform(splitmix64(self.seed, _XTC_STREAM), self.num_output))
        return self._draw(place, scores, u, 0)

    def _check(self, logits: np.ndarray) -> None:
        """What the kernel checks, for logits that do not come to it as they are."""
        highest = logits.max()
        if not highest < np.inf:  # NaN too
            raise InferenceError(f"{self.name}: {_complaint(logits, NOT_FINITE)}")
        if highest == -np.inf:
            raise InferenceError(f"{self.name}: {_complaint(logits, ALL_MASKED)}")


def _complaint(logits: np.ndarray, code: int) -> str:
    """What is wrong with logits for which `sample` returned `code`."""
    if code == NOT_FINITE:
        token_id = int(np.argmin(logits < np.inf))  # the first for which that is False
        return f"the model computed {logits[token_id]} as the logit of token {token_id}; it must be below +inf"
    return f"all of the {len(logits)} logits are -inf; a token must be left to choose"
