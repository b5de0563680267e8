"""The type of each tensor of a file: rules of the mix, overrides, and what has to stay as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from densecore.exceptions import InvalidConfigError
from densecore.gguf import GGMLType, GGUFFile, TensorInfo
from densecore.quantize.config import QuantConfig
from densecore.quantize.mixes import FALLBACKS, MIXES, Place, role_of

__all__ = ["Choice", "choose_types"]

FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)
# Small matrices that steer much: routers, positions and token types, convolutions, relative positions.
_KEPT = re.compile(
    r"_norm\.weight$|ffn_gate_inp\.weight$|^position_embd\.|^token_types\.|ssm_conv1d|shortconv\.conv|attn_rel_b|"
    r"altup|laurel|per_layer_model_proj|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\."
)


@dataclass(frozen=True)
class Choice:
    """A tensor, and the type that it gets."""

    tensor: TensorInfo
    type: GGMLType
    is_output: bool = False  # it is what the model ends with

    @property
    def changes(self) -> bool:
        return self.type is not self.tensor.type


def choose_types(file: GGUFFile, config: QuantConfig, *, has_imatrix: bool = False) -> list[Choice]:
    """A choice for each tensor, in file order.

    Raises InvalidConfigError if something quantized would be quantized again, and that is not allowed.
    """
    tied = "output.weight" not in file.tensors
    choices = [
        Choice(
            tensor,
            _type_of(file, tensor, config, tied=tied, has_imatrix=has_imatrix),
            role_of(tensor.name, tied=tied) == "output",
        )
        for tensor in file.tensors.values()
    ]
    again = [choice.tensor for choice in choices if choice.changes and choice.tensor.type not in FLOATS]
    if again and not config.allow_requantize:
        raise InvalidConfigError(
            f"{file.path}: {len(again)} tensors are quantized already, such as {again[0].name} ({again[0].type.name}): "
            "start from the original model in F32, F16 or BF16, or allow to quantize again, which loses more "
            "(allow_requantize=True, --allow-requantize)"
        )
    return choices


def can_be_quantized(tensor: TensorInfo) -> bool:
    """Matrices, alone or in stacks, that models multiply with; vectors, and matrices that steer, stay as they are."""
    is_matrix = len(tensor.shape) >= 2 and tensor.shape[1] > 1
    return is_matrix and tensor.name.endswith(".weight") and not _KEPT.search(tensor.name)


def _type_of(file: GGUFFile, tensor: TensorInfo, config: QuantConfig, *, tied: bool, has_imatrix: bool) -> GGMLType:
    if not can_be_quantized(tensor):
        return tensor.type
    mix = MIXES[config.format]
    wanted = next((kind for pattern, kind in config.tensor_types.items() if re.search(pattern, tensor.name)), None)
    if wanted is None and config.pure:
        wanted = mix.base
    if wanted is None:
        role = role_of(tensor.name, tied=tied)
        wanted = mix.type_of(role, _place(file, tensor, has_imatrix=has_imatrix))
    return _that_fits(tensor, GGMLType[wanted])


def _place(file: GGUFFile, tensor: TensorInfo, *, has_imatrix: bool) -> Place:
    arch = file.metadata.get("general.architecture", "")
    found = re.match(r"blk\.(\d+)\.", tensor.name)
    n_heads, n_kv_heads = (_integer(file, f"{arch}.attention.head_count{kind}") for kind in ("", "_kv"))
    return Place(
        layer=int(found[1]) if found else 0,
        n_layers=_integer(file, f"{arch}.block_count") or 1,
        queries_per_key=n_heads // n_kv_heads if n_kv_heads else 1,
        n_experts=_integer(file, f"{arch}.expert_count"),
        has_imatrix=has_imatrix,
    )


def _integer(file: GGUFFile, key: str) -> int:
    """An integer of the metadata; 0 if it is not there, or one a layer."""
    value = file.metadata.get(key)
    return value if isinstance(value, int) else 0


def _that_fits(tensor: TensorInfo, wanted: GGMLType) -> GGMLType:
    """`wanted`, or what comes nearest to it and has blocks that divide the tensor's rows."""
    row = tensor.shape[0]
    if row % wanted.block_size and wanted.name in FALLBACKS:
        wanted = GGMLType[FALLBACKS[wanted.name]]
    return wanted if row % wanted.block_size == 0 else GGMLType.F16
