"""``general.size_label``: how large a model is, in the few characters that file names have for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["size_label"]


def size_label(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Such as ``7.2B``, or ``8x7B`` for eight experts of which each, with what is shared, has 7 billion weights.

    `shapes` has the tensors of a GGUF file by name, experts as (n_experts, ...).
    """
    from gguf.utility import size_label as label_of  # takes a third of a second

    shared, expert, counts = 0, 0, []
    for name, shape in shapes.items():
        if "_exps." in name:
            counts.append(shape[0])
            expert += math.prod(shape[1:])
        else:
            shared += math.prod(shape)
    n_experts = sum(counts) // len(counts) if counts else 0
    return label_of(sum(map(math.prod, shapes.values())), shared, expert, n_experts)
