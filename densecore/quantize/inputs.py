"""What an importance matrix tells of the inputs of one tensor, in the form that the quantizers take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGMLType, TensorInfo
from densecore.kernels.quantizers import InputMoments, input_moments
from densecore.quantize.imatrix_file import ImportanceMatrix, block_length

__all__ = ["Inputs"]

_PRECISE = ("F32", "F16", "BF16", "Q8_0")  # what rounding leaves of these needs no care
_SHRINKAGE = 0.1


@dataclass(frozen=True)
class Inputs:
    """Of all matrices in a tensor, as far as they were measured.

    importance : (n_matrices, row length) float32, the mean square of what each column gets to multiply
    moments : how columns go together; of a tensor that is one matrix
    """

    importance: np.ndarray | None = None
    moments: InputMoments | None = None

    @classmethod
    def of(cls, matrix: ImportanceMatrix | None, tensor: TensorInfo, kind: GGMLType, *, is_output: bool) -> Inputs:
        """Of `tensor`, which becomes `kind`. ModelLoadError for those of another model, or that no inputs can have.

        is_output : it is what the model ends with, under this or another name
        """
        if matrix is None:
            return cls()
        name = "output.weight" if is_output and "output.weight" in matrix.sums else tensor.name
        importance = matrix.of(tensor, name)
        return cls(importance, None if kind.name in _PRECISE else _moments(matrix, tensor, name, importance))


def _moments(
    matrix: ImportanceMatrix, tensor: TensorInfo, name: str, squares: np.ndarray | None
) -> InputMoments | None:
    """Mean products of inputs, scaled to squares of 1 in the mean.

    Correlations are reduced: those of another text differ, all the more if few tokens were measured. With n tokens,
    the noise in a matrix of correlations of as many columns as a block has is like adding length / n to its diagonal.
    """
    correlations = matrix.correlations.get(name)
    if correlations is None or squares is None:
        return None
    n_blocks, length, _ = correlations.shape
    if (1, n_blocks * length) != squares.shape or length != block_length(tensor.shape[0]):
        raise ModelLoadError(
            f"{matrix.path}: {tensor.name} has correlations of shape {correlations.shape}, which do not fit the "
            f"model's tensor of shape {tensor.shape}: it was measured with another model"
        )
    count = float(matrix.counts[name][0])
    shrinkage = _SHRINKAGE + length / max(count, 1.0)
    symmetric = (correlations.astype(np.float32) + correlations.transpose(0, 2, 1)) / 2
    symmetric /= 1 + shrinkage
    symmetric[:, np.arange(length), np.arange(length)] = 1
    norms = np.sqrt(squares / max(squares.mean(), 1e-30) + 1e-6).reshape(n_blocks, length)
    try:
        return input_moments(symmetric * norms[:, :, None] * norms[:, None, :])
    except np.linalg.LinAlgError:
        raise ModelLoadError(
            f"{matrix.path}: {tensor.name} has correlations that no inputs can have: the file is broken"
        ) from None
