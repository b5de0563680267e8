"""The type numbers of GGUF: of metadata values and of tensors, with the size of a block of each.

Source: the GGUF specification and ``ggml.h`` of the ggml project; a test compares both tables with the
``gguf`` package, whose import would cost a third of a second here.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["GGMLType", "ValueType"]


class ValueType(IntEnum):
    """Type of a metadata value (``gguf_metadata_value_type``)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12

    @property
    def dtype(self) -> np.dtype:
        """Little-endian numpy type of a number or bool; KeyError for STRING and ARRAY."""
        return _DTYPES[self]


_DTYPES: dict[ValueType, np.dtype] = {
    ValueType.UINT8: np.dtype("u1"),
    ValueType.INT8: np.dtype("i1"),
    ValueType.UINT16: np.dtype("<u2"),
    ValueType.INT16: np.dtype("<i2"),
    ValueType.UINT32: np.dtype("<u4"),
    ValueType.INT32: np.dtype("<i4"),
    ValueType.FLOAT32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.UINT64: np.dtype("<u8"),
    ValueType.INT64: np.dtype("<i8"),
    ValueType.FLOAT64: np.dtype("<f8"),
}


class GGMLType(IntEnum):
    """Type of a tensor's elements (``ggml_type``); equal to ``gguf.GGMLQuantizationType`` as a number."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41

    @property
    def block_size(self) -> int:
        """Elements of one block (``QK``)."""
        return _BLOCKS[self][0]

    @property
    def type_size(self) -> int:
        """Bytes of one block."""
        return _BLOCKS[self][1]

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of `n_elements`, which must fill whole blocks."""
        assert n_elements % self.block_size == 0
        return n_elements // self.block_size * self.type_size


_QK_K = 256  # elements of a K-quant's super-block

_BLOCKS = {
    GGMLType.F32: (1, 4),
    GGMLType.F16: (1, 2),
    GGMLType.Q4_0: (32, 2 + 16),
    GGMLType.Q4_1: (32, 4 + 16),
    GGMLType.Q5_0: (32, 2 + 4 + 16),
    GGMLType.Q5_1: (32, 4 + 4 + 16),
    GGMLType.Q8_0: (32, 2 + 32),
    GGMLType.Q8_1: (32, 8 + 32),
    GGMLType.Q2_K: (_QK_K, 16 + 64 + 4),
    GGMLType.Q3_K: (_QK_K, 32 + 64 + 12 + 2),
    GGMLType.Q4_K: (_QK_K, 4 + 12 + 128),
    GGMLType.Q5_K: (_QK_K, 4 + 12 + 32 + 128),
    GGMLType.Q6_K: (_QK_K, 128 + 64 + 16 + 2),
    GGMLType.Q8_K: (_QK_K, 4 + 256 + 32),
    GGMLType.IQ2_XXS: (_QK_K, 2 + 64),
    GGMLType.IQ2_XS: (_QK_K, 2 + 64 + 8),
    GGMLType.IQ3_XXS: (_QK_K, 2 + 96),
    GGMLType.IQ1_S: (_QK_K, 2 + 32 + 16),
    GGMLType.IQ4_NL: (32, 2 + 16),
    GGMLType.IQ3_S: (_QK_K, 2 + 64 + 8 + 32 + 4),
    GGMLType.IQ2_S: (_QK_K, 2 + 64 + 8 + 8),
    GGMLType.IQ4_XS: (_QK_K, 2 + 2 + 4 + 128),
    GGMLType.I8: (1, 1),
    GGMLType.I16: (1, 2),
    GGMLType.I32: (1, 4),
    GGMLType.I64: (1, 8),
    GGMLType.F64: (1, 8),
    GGMLType.IQ1_M: (_QK_K, 32 + 16 + 8),
    GGMLType.BF16: (1, 2),
    GGMLType.TQ1_0: (_QK_K, 48 + 4 + 2),
    GGMLType.TQ2_0: (_QK_K, 64 + 2),
    GGMLType.MXFP4: (32, 1 + 16),
    GGMLType.NVFP4: (64, 4 + 32),
    GGMLType.Q1_0: (128, 2 + 16),
}
assert set(_BLOCKS) == set(GGMLType)
