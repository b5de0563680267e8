"""A step of one's own between logits and token: a text that avoids a letter, and a temperature that falls.

A logits processor gets the tokens so far and the logits of the next one, (n_vocab,) float32, and changes them.

python custom_sampler.py [model.gguf]
"""

import sys

import numpy as np

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()


class WithoutLetter:
    """Forbids every token that has the letter in it (a lipogram)."""

    def __init__(self, model: DenseCore, letter: str) -> None:
        tokenizer = model.tokenizer
        self.forbidden = [i for i in range(tokenizer.n_vocab) if letter in tokenizer.token_text(i).lower()]

    def __call__(self, token_ids: list[int], logits: np.ndarray) -> None:
        logits[self.forbidden] = -np.inf


class Cooling:
    """A temperature that falls from `first` to nearly greedy: adventurous at the beginning, careful at the end."""

    def __init__(self, first: float, num_prompt_tokens: int) -> None:
        self.first, self.start = first, num_prompt_tokens

    def __call__(self, token_ids: list[int], logits: np.ndarray) -> np.ndarray:
        temperature = max(self.first * 0.9 ** (len(token_ids) - self.start), 0.1)
        return logits / np.float32(temperature)


with DenseCore(path) as model:
    prompt = "def function(a):\n    "
    lipogram = model.generate(prompt, logits_processors=[WithoutLetter(model, "e")], temperature=0, max_tokens=30)
    print(f"without e: {lipogram!r}")
    cooling = Cooling(2.0, len(model.prompt_tokens(prompt)))
    text = model.generate(prompt, logits_processors=[cooling], temperature=1, seed=7, max_tokens=30)
    print(f"cooling: {text!r}")
