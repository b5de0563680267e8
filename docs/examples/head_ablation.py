"""Which heads matter? Take each away in turn, and see how much worse the model predicts a text.

python head_ablation.py [model.gguf]
"""

import sys

import numpy as np

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()
TEXT = "def area(width, height):\n    return width * height\n\n\ndef volume(width, height, depth):\n    return width"


def loss(logits: np.ndarray, ids: list[int]) -> float:
    """Mean negative log-likelihood of each token after those before it; logits (num_tokens, n_vocab)."""
    logits = logits[:-1] - logits[:-1].max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -float(log_probabilities[np.arange(len(ids) - 1), ids[1:]].mean())


def without_head(head: int):
    def hook(z: np.ndarray) -> None:  # (num_tokens, n_heads, head_dim): what each head read
        z[:, head] = 0

    return hook


with DenseCore(path) as model:
    ids = model.prompt_tokens(TEXT)
    shapes: dict[str, tuple[int, ...]] = {}
    whole = loss(model.forward(ids, hooks={"blk.*.z": lambda z, name: shapes.update({name: z.shape})}), ids)
    print(f"the whole model: {whole:.3f} nats a token; what each head adds to that when it is gone:")
    for name, (_, n_heads, _) in shapes.items():
        losses = [loss(model.forward(ids, hooks={name: without_head(head)}), ids) for head in range(n_heads)]
        print(name, "  ".join(f"{value - whole:+.3f}" for value in losses))
