"""One request's way from logits to token ids.

The order of operations, and why:

1. **Logit bias** (``logit_bias``) speaks of raw logits, so it comes before anything that depends on them.
2. **Repetition penalty** (CTRL, Keskar et al. 2019; tokens of prompt and output): positive logits are divided by it,
   negative ones multiplied. It looks at a logit's sign, so it must come before the subtractions that move it.
3. **Presence and frequency penalties** (OpenAI's API; tokens of the output alone): subtracted once, and once per
   occurrence, in logits as the API defines them, hence before temperature.
4. **Temperature** divides logits. 0 is greedy: the highest score after steps 1 to 3, the lowest id among equals.
5. **Top-k**, then **top-p** (Holtzman et al. 2020) on what top-k kept, renormalised, then **min-p** (Nguyen et al.
   2024): transformers' order. They follow temperature, since top-p and min-p are about probabilities that are drawn.
6. **The draw**: the token at which the sum of kept probabilities, most probable first, passes a random number in
   [0, 1). For the i-th token of the output it is number i of the sequence that belongs to the seed: see rng.py. So a
   request's text depends on its seed and its own logits only, never on what else is in the batch.

Among equally probable tokens the lower id comes first, in the filters as in the draw. densecore.kernels.sampling
holds both a readable numpy version of these steps and the fast one.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable

import numpy as np

from densecore.config import GenerationConfig
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.kernels.sampling import NOT_FINITE, Settings, Workspace, sample
from densecore.sampling.edits import EditTable
from densecore.sampling.rng import uniform

__all__ = ["Sampler"]


class Sampler:
    """Draws the tokens of one request.

    Parameters
    ----------
    config : the request's settings; without a seed, one is drawn from the operating system.
    n_vocab : length of the logits.
    prompt_ids : the prompt, which the repetition penalty counts as seen.
    name : of the request, for error messages.

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
        name: str = "the request",
    ) -> None:
        if n_vocab < 1:
            raise InvalidConfigError(f"n_vocab must be 1 or more, not {n_vocab}")
        self.name = name
        self.n_vocab = n_vocab
        self.seed = secrets.randbits(64) if config.seed is None else config.seed
        self.num_output = 0
        self._settings = Settings(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            min_p=config.min_p,
            repetition_penalty=config.repetition_penalty,
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
        )
        self._has_penalties = self._settings[4:] != (1.0, 0.0, 0.0)
        self._table = EditTable(n_vocab, config.logit_bias or {})
        if config.repetition_penalty != 1:
            self._table.see_prompt(prompt_ids)

    def sample(self, logits: np.ndarray) -> int:
        """Draw the next token from logits (n_vocab,) float32, which stay as they are, and `accept` it.

        Raises InferenceError if logits are NaN or +inf, or all -inf: -inf masks a token, and one must be left.
        """
        if logits.shape != (self.n_vocab,):
            raise InferenceError(f"{self.name}: logits have the shape {logits.shape}, not ({self.n_vocab},)")
        # Any other layout, or read-only memory, would compile the kernel a second time: copy it instead.
        logits = np.require(logits, np.float32, ("C", "W"))
        u = uniform(self.seed, self.num_output)
        table = self._table
        token_id = sample(logits, _workspace(self.n_vocab), self._settings, table.edits, len(table), u)
        if token_id < 0:
            raise InferenceError(f"{self.name}: {_complaint(logits, token_id)}")
        self.accept(token_id)
        return token_id

    def accept(self, token_id: int) -> None:
        """Count a token as output. `sample` does so; others do when tokens come from elsewhere.

        For instance, an interrupted request goes on with a new sampler once its output so far is accepted.
        """
        self.num_output += 1
        if self._has_penalties:
            self._table.see_output(token_id)


_scratch = threading.local()


def _workspace(n_vocab: int) -> Workspace:
    """Scratch for logits (n_vocab,), one per thread: what all its requests share stays in the CPU's cache."""
    workspaces = _scratch.__dict__.setdefault("workspaces", {})
    if n_vocab not in workspaces:
        workspaces[n_vocab] = Workspace.create(n_vocab)
    return workspaces[n_vocab]


def _complaint(logits: np.ndarray, code: int) -> str:
    """What is wrong with logits for which `sample` returned `code`."""
    if code == NOT_FINITE:
        token_id = int(np.argmin(logits < np.inf))  # the first for which that is False
        return f"the model computed {logits[token_id]} as the logit of token {token_id}; it must be below +inf"
    return f"all of the {len(logits)} logits are -inf; a token must be left to choose"
