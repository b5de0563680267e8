"""Getters of the metadata: what they accept, convert and refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from densecore.exceptions import ModelLoadError
from densecore.gguf import Metadata
from densecore.gguf.types import ValueType

VALUES = {
    "int": 7,
    "negative": -3,
    "zero": 0,
    "float": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "true": True,
    "text": "llama",
    "empty": "",
    "tokens": ["a", "b"],
    "no tokens": [],
    "ints": np.array([1, 300], np.int32),
    "floats": np.array([0.5, -1e300]),
    "bools": np.array([True, False]),
    "no floats": np.array([], np.float32),
    "line\nbreak": 1,
}


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(VALUES, {"int": ValueType.UINT32}, "model.gguf")


def test_is_a_mapping_in_file_order(metadata):
    assert list(metadata) == list(VALUES)
    assert len(metadata) == len(VALUES)
    assert metadata["int"] == 7
    assert metadata.get("absent") is None
    assert "absent" not in metadata
    assert metadata.value_type("int") is ValueType.UINT32
    with pytest.raises(KeyError):
        metadata["absent"]


@pytest.mark.parametrize(
    ("getter", "key", "expected"),
    [
        ("integer", "int", 7),
        ("integer", "negative", -3),
        ("number", "float", 1.5),
        ("number", "int", 7.0),
        ("boolean", "true", True),
        ("string", "text", "llama"),
        ("string", "empty", ""),
        ("strings", "tokens", ["a", "b"]),
        ("strings", "no tokens", []),
    ],
)
def test_getter_returns_the_value(metadata, getter, key, expected):
    value = getattr(metadata, getter)(key)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("getter", ["integer", "number", "boolean", "string", "strings", "array"])
def test_absent_key_needs_a_default(metadata, getter):
    default = object()
    assert getattr(metadata, getter)("absent", default) is default
    assert getattr(metadata, getter)("absent", None) is None
    with pytest.raises(ModelLoadError, match=r"model\.gguf: metadata 'absent' is missing; allowed: an? "):
        getattr(metadata, getter)("absent")


@pytest.mark.parametrize(
    ("getter", "key", "allowed"),
    [
        *[("integer", key, "an integer") for key in ("float", "true", "text", "tokens", "ints")],
        *[("number", key, "a number") for key in ("true", "text", "tokens", "floats")],
        *[("number", key, "a finite number") for key in ("nan", "inf")],
        *[("boolean", key, "a bool") for key in ("int", "zero", "text", "bools")],
        *[("string", key, "a string") for key in ("int", "true", "tokens")],
        *[("strings", key, "an array of strings") for key in ("text", "ints", "no floats")],
        *[("array", key, "an array of numbers") for key in ("int", "tokens", "no tokens", "text")],
    ],
)
def test_wrong_type_is_refused_even_with_a_default(metadata, getter, key, allowed):
    for arguments in ((key,), (key, None), (key, VALUES[key])):
        with pytest.raises(ModelLoadError, match=rf"^model\.gguf: metadata '{key}' is .*; allowed: {allowed}$"):
            getattr(metadata, getter)(*arguments)


@pytest.mark.parametrize(
    ("getter", "key", "limits", "allowed"),
    [
        ("integer", "int", {"minimum": 8}, "at least 8"),
        ("integer", "int", {"maximum": 6}, "at most 6"),
        ("integer", "zero", {"minimum": 1, "maximum": 9}, "at least 1 and at most 9"),
        ("number", "float", {"maximum": 1}, "at most 1"),
        ("number", "negative", {"minimum": 0.5}, "at least 0.5"),
        ("number", "zero", {"positive": True}, "a number above 0"),
        ("number", "negative", {"positive": True}, "a number above 0"),
    ],
)
def test_value_out_of_range_is_refused(metadata, getter, key, limits, allowed):
    with pytest.raises(ModelLoadError, match=f"'{key}' is {VALUES[key]}; allowed: {allowed}$"):
        getattr(metadata, getter)(key, **limits)


def test_limits_include_themselves(metadata):
    assert metadata.integer("int", minimum=7, maximum=7) == 7


def test_value_equal_to_the_default_is_checked_too(metadata):
    with pytest.raises(ModelLoadError, match="at least 1"):
        metadata.integer("zero", 0, minimum=1)


def test_array_keeps_or_changes_its_type(metadata):
    assert metadata.array("ints").dtype == np.int32
    assert metadata.array("ints", dtype=np.uint16).tolist() == [1, 300]
    assert metadata.array("ints", dtype=np.float32).dtype == np.float32
    assert metadata.array("no floats", dtype=np.float16).shape == (0,)
    assert metadata.array("bools", dtype=bool).tolist() == [True, False]


@pytest.mark.parametrize(
    ("key", "dtype"),
    [("ints", np.uint8), ("ints", bool), ("floats", np.float32), ("floats", np.int32), ("bools", np.int32)],
)
def test_array_that_does_not_fit_is_refused(metadata, key, dtype):
    with pytest.raises(ModelLoadError, match=f"'{key}' is an array of .* fits {np.dtype(dtype).name}"):
        metadata.array(key, dtype=dtype)


def test_message_is_one_line(metadata):
    with pytest.raises(ModelLoadError) as caught:
        metadata.string("line\nbreak")
    assert str(caught.value).isprintable()


def test_callers_can_complain_in_the_same_form(metadata):
    message = str(metadata.error("int", "is 7", "a multiple of 2"))
    assert message == "model.gguf: metadata 'int' is 7; allowed: a multiple of 2"
