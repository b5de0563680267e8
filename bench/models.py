"""Models of real shapes with random weights, for measuring speed.

::

    python -m bench.models qwen2.5-0.5b --type Q4_K_M

The files load in DenseCore and in llama.cpp alike. Nothing is downloaded and nothing is quantized, so that a file of
gigabytes takes seconds. All layers of a model share the bytes of matrices of the same shape and type, which keeps the
memory that this takes small; vectors differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.random_blocks import random_weights
from bench.shapes import MIXES, SHAPES, Shape, tensor_shapes, tensor_type
from densecore.gguf import GGUFWriter

__all__ = ["default_folder", "make_model", "resized", "vocabulary", "write_model"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ADDED = ("attn_output", "ffn_down", "ffn_down_exps")  # what these compute is added to the residual stream
NORMAL, CONTROL = 1, 3  # tokenizer.ggml.token_type


def default_folder() -> Path:
    """Where models are kept: ``bench`` in the folder ``densecore`` of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "densecore", "bench")


def resized(shape: Shape, n_layers: int | None = None, n_vocab: int | None = None) -> Shape:
    """`shape` with another depth or vocabulary, and a name that says so."""
    name, changes = shape.name, {}
    if n_layers is not None and n_layers != shape.n_layers:
        name, changes = f"{name}-{n_layers}layers", {"n_layers": n_layers}
    if n_vocab is not None and n_vocab != shape.n_vocab:
        name, changes = f"{name}-{n_vocab}tokens", changes | {"n_vocab": n_vocab}
    return dataclasses.replace(shape, name=name, **changes)


def make_model(shape: Shape, mix: str, folder: Path | None = None, *, anew: bool = False) -> Path:
    """The file of this shape and type in `folder`; written unless it is there already."""
    folder = default_folder() if folder is None else folder
    path = folder / f"{shape.name}-{mix}.gguf"
    if anew or not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(path, shape, mix)
    return path


def write_model(path: Path, shape: Shape, mix: str, seed: int = 0) -> None:
    """Write a model of random weights, of about the size of trained ones: activations stay finite."""
    writer = GGUFWriter(path)
    for key, value in (_metadata(shape, mix) | vocabulary(shape)).items():
        writer.add_metadata(key, value)
    rng = np.random.default_rng(seed)
    matrices: dict[tuple, np.ndarray] = {}
    for name, size in tensor_shapes(shape):
        kind = tensor_type(shape, mix, name, size)
        if len(size) == 1:
            writer.add_tensor(name, _vector(name, size[0], rng))
            continue
        role = name.rsplit(".", 2)[-2]
        if (role, kind) not in matrices:
            deviation = _deviation(shape, role, size[-1])
            matrices[role, kind] = random_weights(kind, math.prod(size), deviation, rng)
        writer.add_tensor(name, matrices[role, kind], kind, size[::-1])
    writer.write()
    _evict(path)


def _evict(path: Path) -> None:
    """Leave the file on the disk alone: Linux then reads it in huge pages, as it does a file that is not new."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _deviation(shape: Shape, role: str, n_in: int) -> float:
    """Standard deviation of a matrix's elements.

    Products keep the size of their input. What is added to the residual stream is smaller by the number of additions,
    as in GPT-2 (Radford et al. 2019), so that the stream does not grow with depth.
    """
    if role in ("token_embd", "output"):
        return 1.0 if role == "token_embd" else n_in**-0.5
    return n_in**-0.5 * ((2 * shape.n_layers) ** -0.5 if role in _ADDED else 1.0)


def _vector(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    if name.endswith(".bias"):
        return rng.normal(0, 0.1, size).astype(np.float32)
    if name == "rope_freqs.weight":
        return np.geomspace(1, 32, size).astype(np.float32)
    return rng.normal(1, 0.1, size).astype(np.float32)


def _metadata(shape: Shape, mix: str) -> dict[str, Any]:
    arch = shape.architecture
    experts = {f"{arch}.expert_count": shape.n_experts, f"{arch}.expert_used_count": shape.n_experts_used}
    return (experts if shape.n_experts else {}) | {
        "general.architecture": arch,
        "general.name": f"{shape.name} with random weights",
        "general.file_type": MIXES[mix].number,
        "general.quantization_version": 2,
        f"{arch}.vocab_size": shape.n_vocab,
        f"{arch}.context_length": shape.context_length,
        f"{arch}.embedding_length": shape.dim,
        f"{arch}.block_count": shape.n_layers,
        f"{arch}.feed_forward_length": shape.hidden_dim,
        f"{arch}.attention.head_count": shape.n_heads,
        f"{arch}.attention.head_count_kv": shape.n_kv_heads,
        f"{arch}.attention.key_length": shape.head_dim,
        f"{arch}.attention.value_length": shape.head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": shape.norm_epsilon,
        f"{arch}.rope.dimension_count": shape.head_dim,
        f"{arch}.rope.freq_base": shape.rope_base,
    }


def vocabulary(shape: Shape) -> dict[str, Any]:
    """A byte-level BPE vocabulary of `n_vocab` tokens: the bytes, words of a made-up language, special tokens."""
    n_words = shape.n_vocab - 256 - len(SPECIAL_TOKENS)
    if n_words < 0:
        raise SystemExit(f"a vocabulary has at least {256 + len(SPECIAL_TOKENS)} tokens, not {shape.n_vocab}")
    merges = list(itertools.islice(_merges(), n_words))
    words = [merge.replace(" ", "") for merge in merges]
    tokens = [*_byte_alphabet(), *words, *SPECIAL_TOKENS]
    end = shape.n_vocab - len(SPECIAL_TOKENS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": shape.pre_tokenizer,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([NORMAL] * end + [CONTROL] * len(SPECIAL_TOKENS), np.int32),
        "tokenizer.ggml.merges": merges or ["a b"],
        "tokenizer.ggml.bos_token_id": end,
        "tokenizer.ggml.eos_token_id": end + 2,
        "tokenizer.ggml.add_bos_token": False,
    }


def _merges() -> Iterator[str]:
    """Merges that make all words of lower-case letters, with and without a space in front, shorter ones first."""
    letters = "etaoinshrdlucmfwypvbgkqjxz"
    words = ["\u0120", *letters]
    while True:
        for word, letter in itertools.product(words, letters):
            yield f"{word} {letter}"
        words = [word + letter for word, letter in itertools.product(words, letters)]


def _byte_alphabet() -> list[str]:
    """The character by which GPT-2 writes each byte: itself where it prints, else one from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Type, size and place of a model."""
    parser.add_argument("--type", default="Q4_K_M", choices=MIXES, help="file type (default Q4_K_M)")
    parser.add_argument("--layers", type=int, metavar="N", help="another depth")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"where it is kept (default {default_folder()})")


def main() -> None:
    """Write models and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m bench.models", description=__doc__)
    parser.add_argument("shape", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    add_model_arguments(parser)
    parser.add_argument("--vocab", type=int, metavar="N", help="another number of tokens")
    parser.add_argument("--force", action="store_true", help="write it even if it is there")
    args = parser.parse_args()
    for name in args.shape:
        shape = resized(SHAPES[name], args.layers, args.vocab)
        print(make_model(shape, args.type, args.out, anew=args.force))


if __name__ == "__main__":
    main()
