"""From one model file to another: `quantize_model`."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densecore.checks import instance, path
from densecore.gguf import GGUFFile, GGUFWriter
from densecore.gguf.copy import copy_metadata
from densecore.kernels.threads import default_thread_count
from densecore.quantize.choice import FLOATS, Choice, choose_types
from densecore.quantize.config import QuantConfig
from densecore.quantize.imatrix_file import ImportanceMatrix
from densecore.quantize.inputs import Inputs
from densecore.quantize.mixes import MIXES
from densecore.quantize.tensor import Errors, quantized_strips

__all__ = ["QuantizationResult", "TensorResult", "quantize_model"]

QUANTIZATION_VERSION = 2  # of ggml's layouts
_PIECE = 1 << 24  # bytes that are copied at a time


@dataclass(frozen=True)
class TensorResult:
    """What became of a tensor.

    rmse, relative_error : root mean square error of its weights, and that relative to their root mean square; 0 for a
        tensor that stays as it is
    """

    name: str
    shape: tuple[int, ...]  # as in the file: (row length, rows, ...)
    source_type: str
    type: str
    source_bytes: int
    n_bytes: int
    rmse: float
    relative_error: float


@dataclass(frozen=True)
class QuantizationResult:
    """What `quantize_model` did.

    input_bytes, output_bytes : of the files
    compression : input_bytes / output_bytes
    bits_per_weight : of all tensors together
    seconds : that it took
    tensors : one entry a tensor, in file order
    """

    input_bytes: int
    output_bytes: int
    compression: float
    bits_per_weight: float
    seconds: float
    tensors: tuple[TensorResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain dicts and lists, for JSON."""
        return dataclasses.asdict(self)


Progress = Callable[[int, int, TensorResult], None]  # tensors done, tensors in all, the last one


def quantize_model(
    input_path: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    config: QuantConfig | None = None,
    verbose: bool = False,
    *,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Write the model `input_path` to `output_path` with the types that `config` says.

    Tensors are read, quantized and written in pieces: memory stays near that of a few strips, whatever the model's
    size. The output appears under its name when it is complete; until then what was there before stays.

    config : Q4_K_M by default
    verbose : a line a tensor on stderr
    progress : called after each tensor

    Raises
    ------
    ModelLoadError
        The input is missing or broken, has weights that are not finite, or types that cannot be read; or the
        importance matrix is, or belongs to another model.
    InvalidConfigError
        The input is quantized already and `config` does not allow to do that again; or arguments are of other kinds.
    DenseCoreError
        The output cannot be written, such as for a full disk.
    """
    config = QuantConfig() if config is None else instance("config", config, QuantConfig)
    source, target = path("input_path", input_path), path("output_path", output_path)
    started = time.perf_counter()
    matrix = None if config.imatrix is None else ImportanceMatrix.open(config.imatrix)
    with GGUFFile.open(source) as file:
        file.metadata.string("general.architecture")  # without it, it is no model
        choices = choose_types(file, config, has_imatrix=matrix is not None)
        writer = GGUFWriter(target, alignment=file.alignment)
        _add_metadata(file, writer, config, choices, matrix)
        results: list[TensorResult] = []
        num_threads = config.threads or default_thread_count()
        with ThreadPoolExecutor(num_threads, "densecore-quantize") as pool:
            run = _Run(file, matrix, pool, num_threads, results, len(choices), _both(verbose, progress))
            for choice in choices:
                tensor = choice.tensor
                writer.add_stream(tensor.name, choice.type, tensor.shape, partial(run.pieces, choice))
            writer.write()
        input_bytes = sum(path.stat().st_size for path in file.paths)
    output_bytes = Path(writer.path).stat().st_size
    num_weights = sum(math.prod(result.shape) for result in results)
    return QuantizationResult(
        input_bytes,
        output_bytes,
        input_bytes / output_bytes,
        8 * sum(result.n_bytes for result in results) / max(num_weights, 1),
        time.perf_counter() - started,
        tuple(results),
    )


@dataclass(frozen=True)
class _Run:
    """What the tensors of one run have in common."""

    file: GGUFFile
    matrix: ImportanceMatrix | None
    pool: Executor
    num_threads: int
    results: list[TensorResult]
    num_tensors: int
    progress: Progress

    def pieces(self, choice: Choice) -> Iterator[np.ndarray]:
        """The bytes of a tensor as they are to be written; its result is noted in the end."""
        tensor, kind, errors = choice.tensor, choice.type, Errors()
        if choice.changes:
            inputs = Inputs.of(self.matrix, tensor, kind, is_output=choice.is_output)
            yield from quantized_strips(self.file, tensor, kind, inputs, errors, self.pool, self.num_threads)
        else:
            data = self.file.tensor_data(tensor.name)
            for start in range(0, data.size, _PIECE):
                yield data[start : start + _PIECE]
        n_bytes = kind.n_bytes(tensor.n_elements)
        figures = tensor.n_bytes, n_bytes, errors.rmse, errors.relative
        self.results.append(TensorResult(tensor.name, tensor.shape, tensor.type.name, kind.name, *figures))
        self.progress(len(self.results), self.num_tensors, self.results[-1])


def _add_metadata(
    file: GGUFFile, writer: GGUFWriter, config: QuantConfig, choices: list[Choice], matrix: ImportanceMatrix | None
) -> None:
    """The input's, with the new file type, and where importance came from, under llama.cpp's keys."""
    replaced = ["general.file_type", "general.quantization_version"]
    copy_metadata(file, writer, [*replaced, *(key for key in file.metadata if key.startswith("quantize.imatrix."))])
    writer.add_metadata("general.file_type", MIXES[config.format].file_type)
    if any(choice.type not in FLOATS for choice in choices):
        writer.add_metadata("general.quantization_version", QUANTIZATION_VERSION)
    if matrix is not None:
        writer.add_metadata("quantize.imatrix.file", str(config.imatrix))
        writer.add_metadata("quantize.imatrix.dataset", ", ".join(matrix.datasets))
        writer.add_metadata("quantize.imatrix.entries_count", len(matrix.names))
        writer.add_metadata("quantize.imatrix.chunks_count", matrix.num_chunks)


def _both(verbose: bool, progress: Progress | None) -> Progress:
    def report(done: int, total: int, result: TensorResult) -> None:
        if verbose:
            print(tensor_line(done, total, result), file=sys.stderr, flush=True)
        if progress is not None:
            progress(done, total, result)

    return report


def tensor_line(done: int, total: int, result: TensorResult) -> str:
    """A line about a tensor, for people."""
    shape = " x ".join(map(str, result.shape))
    change = result.type if result.type == result.source_type else f"{result.source_type} -> {result.type}"
    error = f", error {100 * result.relative_error:.2f} %" if result.relative_error else ""
    return f"[{done}/{total}] {result.name} ({shape}) {change}{error}"
