"""How the tensors and settings of a checkpoint become those of a GGUF file: what all architectures share.

An architecture is a subclass of `Rules` in its own file of ``architectures/``. It lists its tensors as rows, one for
each tensor of the GGUF file: its name there, its name in the checkpoint, its shape in words, and how it changes. What
a row does not find is an error, and so is what no row asks for: nothing is left out in silence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from densecore.convert.activations import check_activation
from densecore.convert.checkpoint import Checkpoint
from densecore.convert.lazy import LazyTensor
from densecore.convert.rope import RopeSettings
from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error

__all__ = ["Change", "Row", "Rules", "linear", "row"]

Change = Callable[["Rules", LazyTensor], LazyTensor]
MAX_LAYERS = 4096
# What stands for a number in the name of a source, and the size that says how many there are.
_STACKS = {"{expert}": "experts", "{head}": "n_heads", "{kv_head}": "n_kv_heads"}


@dataclass(frozen=True)
class Row:
    """One tensor of the GGUF file.

    `target` and `source` are names, with ``{}`` for the number of the layer. `shape` names the dimensions in the
    checkpoint, such as ``q dim`` for (n_heads * head_dim, dim): keys of `Rules.sizes`, or numbers. `change` makes
    the tensor of the file from it. A source may feed several rows; one with ``{expert}``, ``{head}`` or ``{kv_head}``
    stands for a tensor of each, and the row's tensor is a stack of them.
    """

    target: str
    source: str
    shape: str
    change: Change | None = None
    optional: bool = False


def row(target: str, source: str, shape: str, change: Change | None = None, *, optional: bool = False) -> Row:
    """The tensor ``target.weight`` from ``source.weight``."""
    return Row(f"{target}.weight", f"{source}.weight", shape, change, optional)


def linear(target: str, source: str, shape: str, change: Change | None = None, *, bias: str = "optional") -> list[Row]:
    """A weight and its bias, which is ``optional`` or ``required``; or both are ``absent`` in some models.

    `change` is made to both.
    """
    weight = row(target, source, shape, change, optional=bias == "absent")
    n_out = shape.split()[0]
    return [weight, Row(f"{target}.bias", f"{source}.bias", n_out, change, optional=bias != "required")]


class Rules(ABC):
    """The rules of one architecture, for one checkpoint; see the module's text."""

    architecture: ClassVar[str]  # general.architecture
    classes: ClassVar[tuple[str, ...]]  # of transformers, whose checkpoints these are
    model_types: ClassVar[tuple[str, ...]]  # the same by model_type, where config.json names no class
    prefixes: ClassVar[tuple[str, ...]] = ("model.",)  # of names in checkpoints, which rows leave out
    ignored: ClassVar[tuple[str, ...]] = ("rotary_emb.inv_freq",)  # ends of names that no file needs
    parts_left_out: ClassVar[tuple[str, ...]] = ()  # beginnings of names: what is not for text
    space_prefix: ClassVar[bool | None] = None  # whether texts get a space in front; None: by the tokenizer
    activation: ClassVar[str] = "silu"  # silu, gelu or gelu_tanh
    activation_names: ClassVar[tuple[str, ...]] = ("hidden_act",)
    once: ClassVar[tuple[Row, ...]]  # tensors outside of the layers
    block: ClassVar[tuple[Row, ...]]  # tensors of each layer

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.config = checkpoint.config
        self.folder = checkpoint.folder
        self.name = checkpoint.name
        self.check_activation()
        self.sizes = self.read_sizes()
        self.n_layers = self.config.integer("num_hidden_layers", "n_layer", "n_layers", maximum=MAX_LAYERS)
        self._originals = self._by_short_name(checkpoint.tensors)
        self._used: set[str] = set()

    @abstractmethod
    def read_sizes(self) -> dict[str, int]:
        """The dimensions that shapes of rows name."""

    @abstractmethod
    def metadata(self) -> Iterator[tuple[str, Any]]:
        """Keys that begin with the architecture, without it, and their values."""

    def check_activation(self) -> None:
        """ModelLoadError unless config.json names the activation that runtimes of this architecture compute."""
        check_activation(self.config, self.activation, *self.activation_names)

    def prompts(self) -> Iterator[tuple[str, str]]:
        """Names and texts of prompts that the model was trained with, beside the chat template."""
        return iter(())

    def tensors(self) -> Iterator[tuple[str, LazyTensor]]:
        """All tensors of the file by name; ModelLoadError for what is missing, misshapen or left over."""
        yield from self.extra_tensors()
        for entry in self.once:
            yield from self.apply(entry)
        for layer in range(self.n_layers):
            for entry in self.block_rows(layer):
                yield from self.apply(entry, layer)
        self._refuse_unused()

    def block_rows(self, layer: int) -> tuple[Row, ...]:
        """The rows of one layer; all layers are alike unless a subclass says otherwise."""
        return self.block

    def extra_tensors(self) -> Iterator[tuple[str, LazyTensor]]:
        """Tensors that the checkpoint has as settings: those of RoPE, where there is one."""
        for name, values in RopeSettings(self.config).tensors(self.rope_dim) if self.rope_dim else ():
            yield name, self.generated(values)

    @property
    def rope_dim(self) -> int:
        """Elements of a head that RoPE rotates, 0 without one."""
        return 0

    def rename(self, name: str) -> str | None:
        """The name that rows use for the tensor `name` of the checkpoint; None if it is not needed."""
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return None if name.endswith(self.ignored) or name.startswith(self.parts_left_out) else name

    def apply(self, entry: Row, layer: int = 0) -> Iterator[tuple[str, LazyTensor]]:
        """The tensor that a row makes, if its source is there."""
        source = entry.source.replace("{}", str(layer))
        first = source
        for sign in _STACKS:
            first = first.replace(sign, "0")
        if entry.optional and first not in self._originals:
            return
        shape = self.shape_of(entry.shape)
        stack = next((sign for sign in _STACKS if sign in source), None)
        tensor = self.stacked(source, stack, shape) if stack else self.take(source, shape)
        yield entry.target.format(layer), entry.change(self, tensor) if entry.change else tensor

    def stacked(self, source: str, sign: str, shape: tuple[int, ...]) -> LazyTensor:
        """The tensors that `source` names with a number for `sign`, each of the shape `shape`, on a new first axis."""
        parts = [self.take(source.replace(sign, str(n)), shape) for n in range(self.sizes[_STACKS[sign]])]
        if len({part.dtype for part in parts}) > 1:
            raise load_error(self.folder, f"tensors {source}", "are of several types", "one type")
        pieces = tuple(piece for part in parts for piece in part.pieces)
        return LazyTensor(parts[0].dtype, (len(parts), *shape), pieces)

    def take(self, source: str, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor `source` of the checkpoint, which must have the shape `shape`."""
        if source not in self._originals:
            raise load_error(self.folder, f"tensor {source}", "is missing", f"a tensor of shape {list(shape)}")
        original, tensor = self._originals[source]
        if tensor.shape != shape:
            problem = f"has shape {list(tensor.shape)}"
            raise load_error(self.folder, f"tensor {describe(original)}", problem, f"{list(shape)}, by config.json")
        if tensor.dtype not in self.allowed_dtypes(source):
            allowed = f"{', '.join(self.allowed_dtypes(source))}; dequantize the checkpoint first"
            raise load_error(self.folder, f"tensor {describe(original)}", f"is {tensor.dtype}", allowed)
        self._used.add(source)
        return tensor

    def allowed_dtypes(self, source: str) -> tuple[str, ...]:
        """Types that the tensor `source` may have."""
        return ("F32", "F16", "BF16", "F64")

    def has(self, source: str) -> bool:
        """Whether the checkpoint has the tensor `source`."""
        return source in self._originals

    def shape_of(self, words: str) -> tuple[int, ...]:
        """The shape that a row names."""
        return tuple(int(word) if word.isdecimal() else self.sizes[word] for word in words.split())

    def generated(self, values: np.ndarray) -> LazyTensor:
        """A tensor that is computed from settings: float32, of the shape of `values`."""
        return LazyTensor("F32", values.shape, (np.ascontiguousarray(values, np.float32),))

    def error(self, problem: str, allowed: str) -> ModelLoadError:
        """A ModelLoadError about the checkpoint as a whole."""
        return load_error(self.folder, "checkpoint", problem, allowed)

    def _by_short_name(self, tensors: dict[str, LazyTensor]) -> dict[str, tuple[str, LazyTensor]]:
        found: dict[str, tuple[str, LazyTensor]] = {}
        for original, tensor in tensors.items():
            name = self.rename(original)
            if name is None:
                continue
            if name in found:
                problem = f"is there twice, also as {describe(found[name][0])}"
                raise load_error(self.folder, f"tensor {describe(original)}", problem, "each tensor once")
            found[name] = (original, tensor)
        return found

    def _refuse_unused(self) -> None:
        unused = [original for name, (original, _) in self._originals.items() if name not in self._used]
        if unused:
            names = ", ".join(describe(name) for name in unused[:4])
            problem = f"has {len(unused)} tensors that are not part of {self.architecture}: {names}"
            raise self.error(problem + (", ..." if len(unused) > 4 else ""), "tensors that DenseCore knows")
