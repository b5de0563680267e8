"""From floats to the formats of `formats`: the other direction, with a search for good scales.

`QUANTIZERS` maps the names of GGUF types (``"Q4_K"``) to functions (x, w, moments=None) -> (blocks, error):

* x (n_blocks, qk) float32, the weights, finite; w of the same shape, how much an error of each matters, at least 0;
* moments, of `input_moments`: what the matrix's inputs are like, for errors that cancel in what it computes (see
  `feedback`). x then has whole rows. Floats and Q8_0, whose errors are small, ignore it;
* blocks (n_blocks, type_size) uint8, and the sum of squares of what they are off from x, unweighted.

They run on one thread without the interpreter lock for most of the time: callers cut a tensor and use several threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import blocks_of_32, floats, k_quants
from .feedback import InputMoments, input_moments

__all__ = ["QUANTIZERS", "InputMoments", "input_moments"]

QUANTIZERS: dict[str, Callable[..., tuple[np.ndarray, float]]] = {
    name.removeprefix("quantize_").upper(): getattr(module, name)
    for module in (floats, blocks_of_32, k_quants)
    for name in module.__all__
}
