"""Tiny checkpoints as Hugging Face has them, with random weights that are the same on every machine.

What transformers computes with them is in ``archs.npz``, their configurations and the shapes of their tensors are in
``archs.json``: `record_archs` wrote both. Weights are drawn again wherever they are needed, so they lie in no file.
"""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.convert.tiny import N_VOCAB, write_checkpoint

__all__ = ["CONFIGURATIONS", "LOGITS", "TOKENS", "configurations", "converter", "draw_weights", "write_case"]

CONFIGURATIONS = Path(__file__).with_name("archs.json")
LOGITS = Path(__file__).with_name("archs.npz")
TOKENS = np.random.RandomState(3).randint(0, N_VOCAB, 48).astype(np.int32)


def configurations() -> dict[str, dict[str, Any]]:
    """By name of the case: ``config``, as in config.json, and ``shapes`` of the tensors by name."""
    return json.loads(CONFIGURATIONS.read_text())


def draw_weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Random float32 tensors of these names and shapes.

    No norm is 1 and no bias 0, so that leaving one out, or taking one for another, shows in the logits. RandomState
    promises the same numbers for ever.
    """
    return {name: _draw(name, tuple(shape)) for name, shape in shapes.items()}


def _draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        values /= math.sqrt(min(shape))
    elif name.endswith("weight"):
        values = 1 + 0.3 * values
    else:
        values *= 0.3
    return values.astype(np.float32)


def write_case(folder: Path, case: dict[str, Any]) -> Path:
    """Write config.json, tokenizer.json and the weights of a case; returns the folder."""
    return write_checkpoint(folder, case["config"], draw_weights(case["shapes"]))


def converter(folder: Path, cases: dict[str, dict[str, Any]]) -> Callable[[str], Path]:
    """A function that gives the GGUF file of a case, by its name; made in `folder` when it is first asked for."""
    from densecore.convert import convert_checkpoint  # those who record what transformers compute do without

    def file_of(name: str) -> Path:
        path = folder / f"{name}.gguf"
        if not path.exists():
            with warnings.catch_warnings():  # of what other programs leave out
                warnings.simplefilter("ignore", RuntimeWarning)
                convert_checkpoint(write_case(folder / name, cases[name]), path, "f32")
        return path

    return file_of
