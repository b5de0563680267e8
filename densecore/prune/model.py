"""From one model file to a smaller one: `prune_model`."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from densecore.checks import instance, path
from densecore.exceptions import InvalidConfigError
from densecore.gguf import GGMLType, GGUFFile, GGUFWriter, TensorInfo
from densecore.gguf.copy import copy_metadata
from densecore.perplexity import split_into_chunks
from densecore.prune.config import PruneConfig
from densecore.prune.importance import Importance, measure, of_weights, random_importance
from densecore.prune.selection import Kept, select
from densecore.prune.structure import AXES, Structure, layer_of, role_of

__all__ = ["PruneResult", "prune_model"]

_FLOATS = {GGMLType.F32: np.uint32, GGMLType.F16: np.uint16, GGMLType.BF16: np.uint16}
_STRIP = 1 << 20  # elements that are cut at a time
CALIBRATION_CHUNK = 512  # tokens, less where the model's context is shorter


@dataclass(frozen=True)
class PruneResult:
    """What `prune_model` did.

    layers : numbers of the original's layers that remain
    layer_importance : of all layers of the original
    n_layers, dim, hidden_dim, n_heads, n_kv_heads : of the result; 0 for what pruning depth alone does not look at
    """

    strategy: str
    importance_method: str
    input_bytes: int
    output_bytes: int
    input_parameters: int
    output_parameters: int
    n_layers: int
    dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    layers: tuple[int, ...]
    layer_importance: tuple[float, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As plain dicts and lists, for JSON."""
        return dataclasses.asdict(self)


def prune_model(
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    config: PruneConfig | None = None,
    verbose: bool = False,
    *,
    calibration_text: str | None = None,
    threads: int = 0,
    progress: Callable[[str], None] | None = None,
) -> PruneResult:
    """Write the model `input_path` without its least important parts to `output_path`.

    Metadata and tensors are those of an ordinary model with fewer layers, channels or heads, which any program that
    reads GGUF loads. Weights keep their bits; only after pruning the residual stream by activation the weights of norms
    are scaled, because they then normalise other sums.

    config : a quarter of the layers by magnitude, by default
    calibration_text : what ``activation`` is measured on
    threads : that compute activations; 0 is the default of the engine
    verbose, progress : a line about each step, on stderr, or to a function

    Raises
    ------
    ModelLoadError
        The input is missing or broken.
    InvalidConfigError
        The model cannot be pruned like that; ``activation`` without a text, or one that is too short.
    DenseCoreError
        The output cannot be written, such as for a full disk.
    """
    config = PruneConfig() if config is None else instance("config", config, PruneConfig)
    source, target = path("input_path", input_path), path("output_path", output_path)
    started = time.perf_counter()
    tell = _teller(verbose, progress)
    with GGUFFile.open(source) as file:
        structure = Structure.read(file, whole_layers=config.strategy == "depth")
        importance = _importance(file, structure, config, calibration_text, threads, tell)
        kept = select(structure, importance, config)
        writer = GGUFWriter(target, alignment=file.alignment)
        _add_metadata(file, writer, structure, kept)
        num_parameters = _add_tensors(file, writer, structure, kept, importance, tell)
        writer.write()
        input_bytes = sum(part.stat().st_size for part in file.paths)
        input_parameters = sum(tensor.n_elements for tensor in file.tensors.values())
    new = _new_structure(structure, kept)
    return PruneResult(
        config.strategy,
        config.importance_method,
        input_bytes,
        writer.path.stat().st_size,
        input_parameters,
        num_parameters,
        new.n_layers,
        new.dim,
        new.hidden_dim,
        new.n_heads,
        new.n_kv_heads,
        tuple(int(layer) for layer in kept.layers),
        tuple(float(value) for value in importance.layers),
        time.perf_counter() - started,
    )


def _teller(verbose: bool, progress: Callable[[str], None] | None) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if verbose:
            print(line, file=sys.stderr, flush=True)
        if progress is not None:
            progress(line)

    return tell


def _importance(
    file: GGUFFile,
    structure: Structure,
    config: PruneConfig,
    text: str | None,
    threads: int,
    tell: Callable[[str], None],
) -> Importance:
    if config.importance_method == "random":
        return random_importance(structure, config.seed)
    if config.importance_method != "activation":
        return of_weights(file, structure, config.importance_method)
    if text is None:
        raise InvalidConfigError("importance by activation needs a text to measure it on (calibration_text, --text)")
    from densecore.llm import DenseCore

    with DenseCore(file.path, threads=threads) as model:
        tokenizer = model.tokenizer
        ids = tokenizer.encode(text, add_special=True, parse_special=False)
        bos_id = tokenizer.bos_id if tokenizer.add_bos else None
        chunks = split_into_chunks(ids, min(model.max_model_len, CALIBRATION_CHUNK), bos_id)
        return measure(
            file, structure, model.forward, chunks, lambda done, n: tell(f"calibration: chunk {done} of {n}")
        )


def _new_structure(s: Structure, kept: Kept) -> Structure:
    n_kv_heads = s.n_kv_heads if kept.heads is None else kept.heads.shape[1]
    return dataclasses.replace(
        s,
        n_layers=len(kept.layers),
        dim=s.dim if kept.dims is None else len(kept.dims),
        hidden_dim=s.hidden_dim if kept.channels is None else kept.channels.shape[1],
        n_kv_heads=n_kv_heads,
        n_heads=n_kv_heads * (s.n_heads // s.n_kv_heads) if s.n_kv_heads else 0,
    )


def _add_metadata(file: GGUFFile, writer: GGUFWriter, structure: Structure, kept: Kept) -> None:
    """The original's, with the new dimensions; arrays with an entry a layer lose those of layers that are gone."""
    arch, new = structure.architecture, _new_structure(structure, kept)
    changed = {f"{arch}.block_count": new.n_layers}
    if structure.hidden_dim:
        changed |= {
            f"{arch}.embedding_length": new.dim,
            f"{arch}.feed_forward_length": new.hidden_dim,
            f"{arch}.attention.head_count": new.n_heads,
            f"{arch}.attention.head_count_kv": new.n_kv_heads,
            # Without these, readers divide the embedding length by the number of heads.
            f"{arch}.attention.key_length": structure.head_dim,
            f"{arch}.attention.value_length": structure.head_dim,
            f"{arch}.rope.dimension_count": file.metadata.get(f"{arch}.rope.dimension_count", structure.head_dim),
        }
    leading = f"{arch}.leading_dense_block_count"  # of models whose other layers have experts
    if leading in file.metadata:
        changed[leading] = int((kept.layers < file.metadata.integer(leading)).sum())
    copy_metadata(file, writer, changed)
    for key, value in file.metadata.items():
        if key.startswith(f"{arch}.") and isinstance(value, np.ndarray) and len(value) == structure.n_layers:
            writer.add_metadata(key, value[kept.layers], file.metadata.value_type(key))
    for key, value in changed.items():
        writer.add_metadata(key, value)


def _add_tensors(
    file: GGUFFile,
    writer: GGUFWriter,
    structure: Structure,
    kept: Kept,
    importance: Importance,
    tell: Callable[[str], None],
) -> int:
    """All tensors that remain, cut while they are written; returns their number of elements."""
    numbers = {int(old): new for new, old in enumerate(kept.layers)}
    remaining = [tensor for tensor in file.tensors.values() if layer_of(tensor.name) in (None, *numbers)]
    total = 0
    for index, tensor in enumerate(remaining, 1):
        layer = layer_of(tensor.name)
        axes = AXES.get(role_of(tensor.name), ())
        cuts = [kept.along(axis, layer, structure) for axis in axes] + [None] * (len(tensor.shape) - len(axes))
        shape = tuple(size if cut is None else len(cut) for size, cut in zip(tensor.shape, cuts, strict=True))
        name = tensor.name if layer is None else f"blk.{numbers[layer]}.{role_of(tensor.name)}"
        _check_rows(file, tensor, cuts[0])
        scale = _norm_scale(tensor, kept, importance)
        lines = f"[{index}/{len(remaining)}] {tensor.name} -> {name} ({' x '.join(map(str, shape))})"
        writer.add_stream(name, tensor.type, shape, partial(_pieces, file, tensor, cuts, scale, partial(tell, lines)))
        total += math.prod(shape)
    return total


def _check_rows(file: GGUFFile, tensor: TensorInfo, cut: np.ndarray | None) -> None:
    if cut is not None and tensor.type not in _FLOATS:
        raise InvalidConfigError(
            f"{file.path}: {tensor.name} is {tensor.type.name}, whose rows cannot be cut: prune the original in F32, "
            "F16 or BF16 and quantize the result"
        )


def _norm_scale(tensor: TensorInfo, kept: Kept, importance: Importance) -> float:
    """By how much a norm divides more, now that it sees only some channels, where that was measured."""
    squares = importance.norm_squares.get(tensor.name)
    if squares is None or kept.dims is None or tensor.type is not GGMLType.F32:
        return 1.0
    return float(np.sqrt(squares[kept.dims].mean() / max(squares.mean(), 1e-30)))


def _pieces(
    file: GGUFFile,
    tensor: TensorInfo,
    cuts: list[np.ndarray | None],
    scale: float,
    done: Callable[[], None],
) -> Iterator[np.ndarray]:
    """The bytes of what remains of a tensor, strip by strip."""
    rows_cut = cuts[1] if len(cuts) > 1 else None
    num_rows = math.prod(tensor.shape[1:])
    data = file.tensor_data(tensor.name).reshape(num_rows, -1)
    rows = np.arange(num_rows) if rows_cut is None else rows_cut
    step = max(_STRIP // tensor.shape[0], 1)
    for first in range(0, len(rows), step):
        strip = data[rows[first : first + step]]
        if cuts[0] is not None:
            strip = strip.view(_FLOATS[tensor.type])[:, cuts[0]]
        if scale != 1.0:
            strip = np.ascontiguousarray(strip).view(np.float32) * np.float32(scale)
        yield np.ascontiguousarray(strip)
    done()
