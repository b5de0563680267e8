"""The tables of type numbers and block sizes, against the gguf package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from densecore.gguf import GGMLType
from densecore.gguf.types import ValueType


@pytest.mark.parametrize("theirs", gguf.GGMLQuantizationType, ids=lambda kind: kind.name)
def test_tensor_type_is_that_of_the_gguf_package(theirs):
    ours = GGMLType[theirs.name]
    assert ours == theirs
    assert (ours.block_size, ours.type_size) == gguf.GGML_QUANT_SIZES[theirs]


@pytest.mark.parametrize("theirs", gguf.GGUFValueType, ids=lambda kind: kind.name)
def test_value_type_is_that_of_the_gguf_package(theirs):
    assert ValueType[theirs.name] == theirs


def test_bytes_of_elements():
    assert GGMLType.Q4_K.n_bytes(512) == 288
    assert GGMLType.F32.n_bytes(3) == 12


def test_dtypes_are_little_endian():
    number = np.array([0x01020304], ValueType.UINT32.dtype)
    assert number.tobytes() == b"\x04\x03\x02\x01"
