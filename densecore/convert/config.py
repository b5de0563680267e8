"""``config.json`` of a checkpoint, with getters that check type and range."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from densecore.convert.json_files import read_json
from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error

__all__ = ["CheckpointConfig"]

REQUIRED: Any = object()
MAX_INTEGER = (1 << 31) - 1


class CheckpointConfig:
    """The settings of a checkpoint.

    Each getter takes the names under which a setting is known, oldest last, and uses the first that is there; null
    counts as absent. An absent setting without a default, or one that does not fit, is a ModelLoadError of one
    line. Of models with several parts, the part for text counts before the whole (``text_config``).
    """

    def __init__(self, values: dict[str, Any], path: Path, section: str = "") -> None:
        self.path = path
        self._values = values
        self._section = section

    @classmethod
    def read(cls, path: Path) -> CheckpointConfig:
        """From the file `path`."""
        values = read_json(path)
        text = values.get("text_config")
        return cls(values | text if isinstance(text, dict) else values, path)

    @property
    def architecture(self) -> str:
        """The model's class in transformers, or its ``model_type`` where no class is named."""
        names = self._values.get("architectures")
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
        return self.string("model_type")

    def has(self, *names: str) -> bool:
        """Whether any of `names` is set."""
        return self._find(names)[1] is not None

    def is_null(self, name: str) -> bool:
        """Whether the setting is there, and null: where that is not the same as absent."""
        return name in self._values and self._values[name] is None

    def integer(self, *names: str, default: Any = REQUIRED, minimum: int = 1, maximum: int = MAX_INTEGER) -> int:
        """An integer from `minimum` to `maximum`."""
        name, value = self._find(names)
        if value is None:
            return self._absent(names, default, "an integer")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not minimum <= value <= maximum:
            raise self.error(name, f"is {describe(value)}", f"an integer from {minimum} to {maximum}")
        return value

    def number(self, *names: str, default: Any = REQUIRED, minimum: float = -math.inf) -> float:
        """A finite number of at least `minimum`."""
        name, value = self._find(names)
        if value is None:
            return self._absent(names, default, "a number")
        if type(value) not in (int, float) or not math.isfinite(value) or value < minimum:
            least = "" if minimum == -math.inf else f" of at least {minimum:g}"
            raise self.error(name, f"is {describe(value)}", f"a finite number{least}")
        return float(value)

    def boolean(self, *names: str, default: Any = REQUIRED) -> bool:
        """True or False."""
        return self._instance(names, default, bool, "true or false")

    def string(self, *names: str, default: Any = REQUIRED) -> str:
        """A string."""
        return self._instance(names, default, str, "a string")

    def numbers(self, *names: str, default: Any = REQUIRED) -> list[float]:
        """A list of finite numbers."""
        values = self._instance(names, default, list, "a list of numbers")
        if not all(type(value) in (int, float) and math.isfinite(value) for value in values or ()):
            raise self.error(self._find(names)[0], f"is {describe(values)}", "a list of finite numbers")
        return values

    def strings(self, *names: str, default: Any = REQUIRED) -> list[str]:
        """A list of strings."""
        values = self._instance(names, default, list, "a list of strings")
        if not all(isinstance(value, str) for value in values or ()):
            raise self.error(self._find(names)[0], f"is {describe(values)}", "a list of strings")
        return values

    def section(self, *names: str) -> CheckpointConfig:
        """The settings inside of another one; empty if that is absent."""
        name, value = self._find(names)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, f"is {describe(value)}", "an object")
        return CheckpointConfig(value or {}, self.path, f"{self._section}{name}.")

    def value(self, name: str) -> Any:
        """The setting as it is, None if it is absent: for what other files say better."""
        return self._find((name,))[1]

    def __len__(self) -> int:
        return len(self._values)

    def error(self, name: str, problem: str, allowed: str) -> ModelLoadError:
        """A ModelLoadError about the setting `name`."""
        return load_error(self.path, f"{self._section}{name}", problem, allowed)

    def _find(self, names: tuple[str, ...]) -> tuple[str, Any]:
        for name in names:
            if (value := self._values.get(name)) is not None:
                return name, value
        return names[0], None

    def _absent(self, names: tuple[str, ...], default: Any, allowed: str) -> Any:
        if default is REQUIRED:
            raise self.error(names[0], "is missing", allowed)
        return default

    def _instance(self, names: tuple[str, ...], default: Any, kind: type, allowed: str) -> Any:
        name, value = self._find(names)
        if value is None:
            return self._absent(names, default, allowed)
        if not isinstance(value, kind):
            raise self.error(name, f"is {describe(value)}", allowed)
        return value
