"""From floats to the formats of `formats`: the other direction, with a search for good scales.

`QUANTIZERS` maps the names of GGUF types (``"Q4_K"``) to functions (x, w) -> (blocks, error):

* x (n_blocks, qk) float32, the weights, finite; w of the same shape, how much an error of each matters, at least 0;
* blocks (n_blocks, type_size) uint8, and the sum of squares of what they are off from x, unweighted.

They run on one thread without the interpreter lock for most of the time: callers cut a tensor and use several threads.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import blocks_of_32, floats, k_quants

__all__ = ["QUANTIZERS"]

QUANTIZERS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]] = {
    name.removeprefix("quantize_").upper(): getattr(module, name)
    for module in (floats, blocks_of_32, k_quants)
    for name in module.__all__
}
