"""The key-value pairs of a GGUF file, with getters that check type and range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error
from densecore.gguf.types import ValueType

__all__ = ["Metadata"]

T = TypeVar("T")
_REQUIRED: Any = object()


class Metadata(Mapping[str, Any]):
    """Read-only mapping from key to value, in file order.

    Values are ``int``, ``float``, ``bool``, ``str``, ``list[str]`` for arrays of strings, and read-only numpy
    arrays of one dimension for arrays of numbers and bools. Plain indexing checks nothing; each getter
    below returns `default` only if the key is absent, and raises ModelLoadError (file, key, value, what is
    allowed) if the value does not fit or if an absent key has no default.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        types: Mapping[str, ValueType] | None = None,
        path: str | Path = "metadata",
    ) -> None:
        self._values = dict(values)
        self._types = dict(types or {})
        self._path = path

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Metadata of {self._path}: {len(self)} keys>"

    def value_type(self, key: str) -> ValueType:
        """Type of the value in the file, of the elements for an array: what GGUFWriter.add_metadata takes."""
        return self._types[key]

    def error(self, key: str, problem: str, allowed: str) -> ModelLoadError:
        """A ModelLoadError about the value of `key`, for checks that only the caller can make."""
        return load_error(self._path, f"metadata {describe(key)}", problem, allowed)

    def integer(
        self, key: str, default: T = _REQUIRED, *, minimum: int | None = None, maximum: int | None = None
    ) -> int | T:
        """An integer from `minimum` to `maximum`, both included."""
        if key not in self._values:
            return self._absent(key, default, "an integer")
        value = self._values[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "an integer")
        return self._in_range(key, value, minimum, maximum)

    def number(
        self,
        key: str,
        default: T = _REQUIRED,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        positive: bool = False,
    ) -> float | T:
        """A finite number as float, from `minimum` to `maximum`; above zero if `positive`. Integers count."""
        if key not in self._values:
            return self._absent(key, default, "a number")
        value = self._values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        if not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        if positive and value <= 0:
            raise self._wrong(key, value, "a number above 0")
        return float(self._in_range(key, value, minimum, maximum))

    def boolean(self, key: str, default: T = _REQUIRED) -> bool | T:
        """True or False; numbers do not count."""
        return self._instance(key, default, bool, "a bool")

    def string(self, key: str, default: T = _REQUIRED) -> str | T:
        """A string, which may be empty."""
        return self._instance(key, default, str, "a string")

    def strings(self, key: str, default: T = _REQUIRED) -> list[str] | T:
        """An array of strings, as the list that this mapping holds: not to be changed."""
        return self._instance(key, default, list, "an array of strings")

    def array(self, key: str, default: T = _REQUIRED, dtype: Any = None) -> np.ndarray | T:
        """An array of numbers or bools, shape (n,), converted to `dtype` if its values allow that.

        Integers become floats or other integers that can hold every value; nothing else is converted.
        """
        value = self._instance(key, default, np.ndarray, "an array of numbers")
        if key not in self._values or dtype is None or value.dtype == dtype:
            return value
        allowed = f"an array that fits {np.dtype(dtype).name}"
        if not _fits(value, np.dtype(dtype)):
            raise self.error(key, f"is an array of {value.dtype.name} from {_extent(value)}", allowed)
        return value.astype(dtype)

    def _absent(self, key: str, default: Any, allowed: str) -> Any:
        if default is _REQUIRED:
            raise self.error(key, "is missing", allowed)
        return default

    def _instance(self, key: str, default: Any, kind: type, allowed: str) -> Any:
        if key not in self._values:
            return self._absent(key, default, allowed)
        if not isinstance(self._values[key], kind):
            raise self._wrong(key, self._values[key], allowed)
        return self._values[key]

    def _in_range(self, key: str, value: Any, minimum: float | None, maximum: float | None) -> Any:
        if (minimum is None or value >= minimum) and (maximum is None or value <= maximum):
            return value
        low = "" if minimum is None else f"at least {minimum}"
        high = "" if maximum is None else f"at most {maximum}"
        raise self._wrong(key, value, " and ".join(filter(None, (low, high))))

    def _wrong(self, key: str, value: Any, allowed: str) -> ModelLoadError:
        if isinstance(value, np.ndarray | list):
            kind = "strings" if isinstance(value, list) else value.dtype.name
            return self.error(key, f"is an array of {len(value)} {kind}", allowed)
        return self.error(key, f"is {describe(value)}", allowed)


def _fits(values: np.ndarray, dtype: np.dtype) -> bool:
    """Whether `dtype` holds all of `values`: integers as numbers of any kind, floats as floats."""
    if values.dtype.kind not in "iuf" or dtype.kind not in ("f" if values.dtype.kind == "f" else "iuf"):
        return False
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return True
    limits: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    lowest, highest = (np.asarray(limit).item() for limit in (limits.min, limits.max))
    return bool(lowest <= finite.min().item() and finite.max().item() <= highest)


def _extent(values: np.ndarray) -> str:
    return f"{values.min()} to {values.max()}" if values.size else "nothing"
