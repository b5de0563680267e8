"""Which type each tensor of a model gets: a mix is a type for most of them, and better ones for those that need it.

The names, the file types and the choices are those of llama.cpp's ``llama-quantize``, so that a ``Q4_K_M`` is what
people expect: the values and the second matrices of the feed-forward parts suffer most from rounding and get more
bits, in some layers at least; the output matrix (the embeddings, where these are the same) gets 6 bits or 8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["ALIASES", "FALLBACKS", "MIXES", "Mix", "Place", "role_of"]

QUANTIZED_BLOCKS = {"Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256, "IQ4_XS": 256}  # the others: 32

# Instead of types with blocks of 256, for rows that these do not divide.
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


@dataclass(frozen=True)
class Place:
    """Where a tensor stands, as far as the choice of its type depends on it."""

    layer: int  # 0 for tensors of no layer
    n_layers: int
    queries_per_key: int  # heads that share keys and values
    n_experts: int = 0
    has_imatrix: bool = False

    @property
    def is_in_first_eighth(self) -> bool:
        return self.layer < self.n_layers // 8

    @property
    def gets_more_bits(self) -> bool:
        """In the first and last eighth of the layers, and in each third one between them."""
        first = self.n_layers // 8
        return self.layer < first or self.layer >= 7 * self.n_layers // 8 or (self.layer - first) % 3 == 2


Rule = str | Callable[[Place], str | None]  # a type; None is the mix's base


@dataclass(frozen=True)
class Mix:
    """A mix: `base` for most matrices, and rules for roles that differ."""

    base: str
    file_type: int  # general.file_type
    rules: Mapping[str, Rule] = field(default_factory=dict)
    output: str = "Q6_K"  # of the output matrix

    def type_of(self, role: str, place: Place) -> str:
        """The type of a matrix with this role (`role_of`)."""
        if role == "output":
            return self.output
        if place.n_experts == 8 and self.base not in _FLOATS:
            # The attention of such models is small beside their experts: Mixtral gains much for few bytes.
            if role in ("attn_v", "attn_k"):
                return "Q8_0"
            if role == "attn_output" and self.base in ("Q2_K", "Q3_K", "Q4_K", "IQ4_NL", "IQ4_XS"):
                return "Q5_K"
        rule = self.rules.get(role)
        found = rule(place) if callable(rule) else rule
        kind = found or self.base
        is_llama_70b = place.queries_per_key == 8 and place.n_layers == 80  # its values are small and shared by many
        return "Q5_K" if is_llama_70b and role == "attn_v" and kind in ("Q3_K", "Q4_K") else kind


_FLOATS = ("F32", "F16", "BF16")


def _if_shared(kind: str, otherwise: str | None = None) -> Rule:
    """`kind` where four or more heads share keys and values."""
    return lambda place: kind if place.queries_per_key >= 4 else otherwise


def _more_bits(place: Place) -> str | None:
    return "Q6_K" if place.gets_more_bits else None


def _early(kind: str) -> Rule:
    return lambda place: kind if place.is_in_first_eighth else None


def _early_with_imatrix(kind: str) -> Rule:
    return lambda place: kind if place.is_in_first_eighth and place.has_imatrix else None


def _early_without_imatrix(kind: str) -> Rule:
    return lambda place: kind if place.is_in_first_eighth and not place.has_imatrix else None


_Q3_M: dict[str, Rule] = {
    "attn_v": lambda place: "Q5_K" if place.layer < 2 else "Q4_K",
    "ffn_down": lambda place: "Q5_K" if place.layer < place.n_layers // 16 else "Q4_K",
    "attn_output": "Q4_K",
}
_Q2: dict[str, Rule] = {"attn_v": _if_shared("Q4_K", "Q3_K"), "ffn_down": "Q3_K", "attn_output": "Q3_K"}
_M: dict[str, Rule] = {"attn_v": _more_bits, "ffn_down": _more_bits}
_IQ4: dict[str, Rule] = {"attn_v": _if_shared("Q5_K"), "ffn_down": _early_without_imatrix("Q5_K")}
_LARGE = "Q8_0"  # of embeddings and output in mixes that end in L (but q3_k_l): what people add to M

MIXES: dict[str, Mix] = {
    "f32": Mix("F32", 0, output="F32"),
    "f16": Mix("F16", 1, output="F16"),
    "bf16": Mix("BF16", 32, output="BF16"),
    "q8_0": Mix("Q8_0", 7, output="Q8_0"),
    "q4_0": Mix("Q4_0", 2, {"ffn_down": _early_with_imatrix("Q4_1")}),
    "q4_1": Mix("Q4_1", 3),
    "q5_0": Mix("Q5_0", 8, {"ffn_down": _early_with_imatrix("Q5_1")}),
    "q5_1": Mix("Q5_1", 9),
    "q2_k": Mix("Q2_K", 10, _Q2),
    "q2_k_s": Mix("Q2_K", 21, {"attn_v": _if_shared("Q4_K"), "ffn_down": _early("Q4_K")}),
    "q2_k_l": Mix("Q2_K", 10, _Q2 | {"token_embd": _LARGE}, _LARGE),
    "q3_k_s": Mix("Q3_K", 11),
    "q3_k_m": Mix("Q3_K", 12, _Q3_M),
    "q3_k_l": Mix("Q3_K", 13, {"attn_v": "Q5_K", "ffn_down": "Q5_K", "attn_output": "Q5_K"}),
    "q4_k_s": Mix(
        "Q4_K", 14, {"attn_v": lambda place: "Q5_K" if place.layer < 4 else None, "ffn_down": _early("Q5_K")}
    ),
    "q4_k_m": Mix("Q4_K", 15, _M),
    "q4_k_l": Mix("Q4_K", 15, _M | {"token_embd": _LARGE}, _LARGE),
    "q5_k_s": Mix("Q5_K", 16),
    "q5_k_m": Mix("Q5_K", 17, _M),
    "q5_k_l": Mix("Q5_K", 17, _M | {"token_embd": _LARGE}, _LARGE),
    "q6_k": Mix("Q6_K", 18),
    "q6_k_l": Mix("Q6_K", 18, {"token_embd": _LARGE}, _LARGE),
    "iq4_nl": Mix("IQ4_NL", 25, _IQ4),
    "iq4_xs": Mix("IQ4_XS", 30, _IQ4),
}
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

_ROLES = {
    "attn_qkv": "attn_v",  # what holds the values is as sensitive as they are
    "attn_kv_b": "attn_v",
    "ffn_down_exps": "ffn_down",
    "ffn_down_shexp": "ffn_down",
}


def role_of(name: str, *, tied: bool) -> str:
    """The role of the tensor `name` in the rules; `tied`: the model has no output matrix but its embeddings."""
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return "output"
    role = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
    return _ROLES.get(role, role)
