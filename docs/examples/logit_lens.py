"""The logit lens (nostalgebraist 2020): what would the model say, if it stopped after each of its layers?

A hook takes the residual stream after every layer; then another one puts it in the place of the last layer's, so that
the final norm and the output matrix read it.

python logit_lens.py [model.gguf]
"""

import sys

import numpy as np

from densecore import DenseCore
from densecore.data import builtin_model_path

path = sys.argv[1] if len(sys.argv) > 1 else builtin_model_path()
TEXT = "import os\nimport sys\n\n\ndef main():\n    for line in sys."


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of a row."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


with DenseCore(path) as model:
    ids = model.prompt_tokens(TEXT)
    stream: dict[str, np.ndarray] = {}  # name -> (num_tokens, dim), in the order of the layers
    model.forward(ids, hooks={"blk.*.resid_post": lambda value, name: stream.update({name: value})})
    *_, last = stream
    for name, value in stream.items():
        logits = model.forward(ids, hooks={last: lambda _, value=value: value})
        after = probabilities(logits[-1])
        best = np.argsort(after)[::-1][:3]
        print(name, "  ".join(f"{model.detokenize([int(i)])!r} {after[i]:.0%}" for i in best))
