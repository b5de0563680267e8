"""What a model is to be quantized to: `QuantConfig`, and one preset a mix."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from densecore.checks import flag, instance, integer, path
from densecore.exceptions import InvalidConfigError
from densecore.quantize.mixes import ALIASES, MIXES, QUANTIZED_BLOCKS

__all__ = ["PRESETS", "TENSOR_TYPES", "QuantConfig"]

MAX_THREADS = 1024
_DEFAULT = "q4_k_m"
TENSOR_TYPES = tuple(dict.fromkeys(mix.base for mix in MIXES.values()))  # what single tensors can get


@dataclass(frozen=True)
class QuantConfig:
    """A way to quantize, checked when it is made (InvalidConfigError).

    format : the mix, such as ``"q4_k_m"``; case does not matter. ``densecore quantize --help`` lists all
    algorithm : how scales are found; each format has one, which bears its name and is taken if none is given
    block_size : 32 is accepted for every format, as groups of at most 32 weights share a scale; else the format's own
    tensor_types : regular expression -> type, such as ``{"ffn_down": "q6_k"}``, for tensors whose name it is found in;
        the first that fits counts, before the rules of the mix
    imatrix : a file of `densecore imatrix`, which says how much each column of a matrix matters
    allow_requantize : quantize again what is quantized, which loses more than quantizing the original
    pure : the mix's base type for all matrices
    threads : 0 is one a core
    """

    format: str = ""
    algorithm: str = ""
    block_size: int = 32
    tensor_types: Mapping[str, str] = field(default_factory=dict)
    imatrix: str | os.PathLike[str] | None = None
    allow_requantize: bool = False
    pure: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        name = _mix_name("format", self.format or self.algorithm or _DEFAULT)
        algorithm = _mix_name("algorithm", self.algorithm or name)
        if name != algorithm:
            raise InvalidConfigError(
                f"format is {name!r} and algorithm {algorithm!r}: they must agree; give one of them"
            )
        self._set("format", name)
        self._set("algorithm", algorithm)
        own = QUANTIZED_BLOCKS.get(MIXES[name].base, 32)
        if integer("block_size", self.block_size, 1) not in (32, own):
            allowed = "32" if own == 32 else f"32 or {own}"
            raise InvalidConfigError(f"block_size must be {allowed} for {name}, not {self.block_size}")
        if self.imatrix is not None:
            path("imatrix", self.imatrix)
        instance("tensor_types", self.tensor_types, Mapping)
        self._set("tensor_types", {_pattern(key): _tensor_type(value) for key, value in self.tensor_types.items()})
        flag("allow_requantize", self.allow_requantize)
        flag("pure", self.pure)
        integer("threads", self.threads, 0, MAX_THREADS)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _mix_name(field_name: str, value: Any) -> str:
    name = value.lower() if isinstance(value, str) else ""
    name = ALIASES.get(name, name)
    if name not in MIXES:
        raise InvalidConfigError(f"{field_name} must be one of {', '.join(MIXES)}, not {value!r:.80}")
    return name


def _tensor_type(value: Any) -> str:
    name = value.upper() if isinstance(value, str) else ""
    if name not in TENSOR_TYPES:
        raise InvalidConfigError(f"a type of tensor_types must be one of {', '.join(TENSOR_TYPES)}, not {value!r:.80}")
    return name


def _pattern(value: Any) -> str:
    try:
        re.compile(value)
    except (re.error, TypeError) as error:
        raise InvalidConfigError(
            f"a key of tensor_types must be a regular expression, not {value!r:.80}: {error}"
        ) from None
    return value


# Q4_K_M_CFG, Q8_0_CFG and so on: one for each mix.
PRESETS = {f"{name.upper()}_CFG": QuantConfig(name) for name in MIXES}
