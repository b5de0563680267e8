"""What all decoder models share: the frame around the layers.

An architecture is a subclass in its own file, which says what a layer consists of (`load_layer`) and what it computes
(`layer`). Adding one means copying the nearest file, changing these two functions, and naming it in `__init__.py`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.kernels import rope
from densecore.kernels.peaks import num_blocks
from densecore.kernels.plan import Plan
from densecore.kernels.sampling_types import Known
from densecore.models.adapters import AdapterSet
from densecore.models.batch import Batch, KVCache
from densecore.models.classifier import Classifier
from densecore.models.config import ModelConfig
from densecore.models.hooks import Hooks
from densecore.models.pooling import file_pooling
from densecore.models.record import RecordedSteps
from densecore.models.step import Step, Workspace
from densecore.models.weights import LayerNorm, WeightLoader
from densecore.models.windows import layer_windows

__all__ = ["Model", "Outputs"]

_LONG, _SHORT = "rope_factors_long.weight", "rope_factors_short.weight"  # as Phi 3 has them
_PAGES, _PAGE = 256, 4096  # of a file, and bytes of each, that its fingerprint is made of


class Outputs(NamedTuple):
    """What a step leaves, in buffers that the next one overwrites."""

    logits: np.ndarray  # (num_logits, n_vocab) of the tokens `batch.logits_indices`
    hidden: np.ndarray  # (num_hidden, dim) final hidden states of the tokens `batch.hidden_indices`
    peaks: np.ndarray  # (num_logits, num_blocks) of the logits: what sampling looks at first
    masses: np.ndarray  # (num_logits, num_blocks) of the logits whose `batch.mass_scales` are not 0

    @property
    def known(self) -> Known:
        """What is known of the logits, for sampling."""
        return Known(self.peaks, self.masses)

    @classmethod
    def none(cls, config: ModelConfig) -> Outputs:
        """Those of a step in which nothing is computed."""
        logits, hidden = (np.empty((0, width), np.float32) for width in (config.n_vocab, config.dim))
        blocks = 0, num_blocks(config.n_vocab)
        return cls(logits, hidden, np.empty(blocks, np.int32), np.empty(blocks, np.float32))


class Model(ABC):
    """A decoder: embedding, layers, final norm, output matrix.

    Attributes
    ----------
    config : dimensions.
    token_embd, output : embedding and output matrices (n_vocab, dim); the same data where the file has no ``output``.
    output_norm : the final norm, as `load_norm` made it.
    layers : one object of weights a layer, as `load_layer` made it.
    linears : all matrices by name: what adapters may change.
    grouped : names of tensors that hold several matrices, such as those of experts, which adapters cannot change.
    fused : by name, the parts of those in which several lie one below the other.
    classifier : the head of a reranker, or None.
    pooling : what the file says makes a vector of a text: "mean", "cls", "last" or "rank"; None if it does not.
    windows : of each layer, how many positions a token sees, itself included; 0 is all.
    adapters : the adapters that steps may use; set on the thread that computes, between steps.
    path, mapped : the file, and the map, or those of its parts, in which the matrices lie.
    """

    pairing: ClassVar[int] = rope.HALVES  # which elements of a head RoPE rotates together
    short_context: int = 0  # positions to which `frequencies` are good, where there are others for longer texts
    frequency_sets: np.ndarray  # (2, rope_dim / 2): these and those
    window_period: ClassVar[int] = 0  # each which layer has no window, in files with windows; 0: all have one

    def __init__(self, file: GGUFFile) -> None:
        self.config = config = self.read_config(file)
        if not file.metadata.boolean(f"{config.architecture}.attention.causal", True):
            raise ModelLoadError(f"{file.path}: {config.architecture} with attention both ways is not supported")
        load = WeightLoader(file)
        self.token_embd = load.linear("token_embd", config.n_vocab, config.dim, bias=False)
        self.output = replace(self.token_embd, name="output")
        if load.has("output.weight"):
            self.output = load.linear("output", config.n_vocab, config.dim, bias=False)
        self.output_norm = self.load_norm(load, "output_norm")
        self.load_positions(load)
        self.layers = [self.load_layer(load, f"blk.{layer}") for layer in range(config.n_layers)]
        self.classifier = Classifier.load(load, config.dim, is_encoder=False)
        load.refuse_unused()
        self.pooling = file_pooling(file.metadata)
        self.linears = load.linears | {"output": self.output}
        self.fused, self.grouped = load.parts, load.grouped
        self.adapters = AdapterSet()
        self.path, self.mapped = file.path, file.mapped
        self.epsilon = np.float32(config.norm_epsilon)
        self.windows = layer_windows(file.metadata, config, self.window_period)
        key = f"{config.architecture}.attention.scale"
        self.attention_scale = np.float32(file.metadata.number(key, self.usual_attention_scale(), positive=True))
        self.workspace = Workspace()
        self._recorded: RecordedSteps[Outputs] = RecordedSteps()

    @classmethod
    def read_config(cls, file: GGUFFile) -> ModelConfig:
        """The dimensions; for architectures whose keys mean something else."""
        return ModelConfig.read(file)

    def load_norm(self, load: WeightLoader, name: str) -> np.ndarray | LayerNorm:
        """What `Step.norm` takes: the weight (dim,) of an RMSNorm, unless an architecture has another kind."""
        return load.vector(f"{name}.weight", self.config.dim)

    def usual_attention_scale(self) -> float:
        """The factor on scores of attention in files that do not tell."""
        return self.config.head_dim**-0.5

    def load_positions(self, load: WeightLoader) -> None:
        """What tells the layers positions: the frequencies of RoPE, and the factor on what it rotates."""
        settings = self.config.rope

        def frequencies(name: str) -> tuple[np.ndarray, float]:
            divisors = load.vector(name, settings.rope_dim // 2) if load.has(name) else None
            return rope.rope_frequencies(**vars(settings), divisors=divisors)

        self.frequencies, self.magnitude = frequencies("rope_freqs.weight")
        if load.has(_LONG):
            self.frequencies, _ = frequencies(_SHORT)
            self.frequency_sets = np.stack([self.frequencies, frequencies(_LONG)[0]])
            self.short_context = settings.original_context

    def rope_set(self, num_tokens: int) -> int:
        """With which factors a sequence that grows to `num_tokens` is rotated: 0 are those for short ones, 1 for long.

        A sequence keeps them, as keys in the cache have been rotated: it is by its planned length that they are chosen.
        """
        return int(0 < self.short_context < num_tokens)

    @abstractmethod
    def load_layer(self, load: WeightLoader, prefix: str) -> Any:
        """The weights of the layer whose tensors begin with `prefix`, such as ``blk.0``."""

    @abstractmethod
    def layer(self, step: Step, x: np.ndarray, w: Any) -> None:
        """Compute one layer: x (num_tokens, dim) is the residual stream, changed in place."""

    @property
    def hooked_matrices(self) -> list[str]:
        """Names of the matrices whose inputs hooks can see; ``blk.N.experts`` is which experts get a token."""
        of_experts = sorted(name for name in self.grouped if name.endswith("_exps"))
        layers = dict.fromkeys(name.rpartition(".")[0] for name in of_experts)
        return [*self.linears, *of_experts, *(f"{layer}.experts" for layer in layers)]

    def forward(self, batch: Batch, cache: KVCache, num_threads: int, hooks: Hooks | None = None) -> np.ndarray:
        """Logits (num_logits, n_vocab) float32 of the tokens `batch.logits_indices`; see `outputs`."""
        return self.outputs(batch, cache, num_threads, hooks).logits

    def outputs(self, batch: Batch, cache: KVCache, num_threads: int, hooks: Hooks | None = None) -> Outputs:
        """Logits and hidden states float32, in buffers that the next call overwrites.

        Without hooks the step is recorded when its shape is first seen and replayed in one call; with hooks its
        operations run one by one. Both give the same bits.
        """
        if hooks is not None:
            return self.compute(Step(batch, cache, self.workspace, hooks, adapters=self.adapters))

        def record(inputs: Batch, plan: Plan) -> Outputs:
            return self.record(inputs, cache, self.workspace, plan)

        recorded = self.adapters.recorded if batch.uses_adapters else self._recorded
        return recorded.find(batch, cache, record).run(batch, num_threads)

    def record(self, batch: Batch, cache: KVCache, workspace: Workspace, plan: Plan) -> Outputs:
        """Add the operations of a step to `plan`; returns the buffers in which they will leave the results."""
        return self.compute(Step(batch, cache, workspace, plan=plan, adapters=self.adapters))

    def compute(self, step: Step) -> Outputs:
        """The model, from token ids to logits and hidden states."""
        self.prepare(step)
        x = self.embed(step)  # (num_tokens, dim)
        step.hook_global("embed", x)
        for step.layer, weights in enumerate(self.layers):
            self.layer(step, x, weights)
        hidden = self.hidden(step, x)  # (num_hidden, dim)
        logits = self.unembed(step, step.select(x, step.batch.logits_indices))  # (num_logits, n_vocab)
        step.hook_global("logits", logits)
        peaks = step.peaks(logits)
        return Outputs(logits, hidden, peaks, step.masses(logits, peaks))

    def prepare(self, step: Step) -> None:
        """What all layers of a step share: tables for RoPE."""
        if step.batch.rope_sets.size:
            step.prepare_rope_sets(self.frequency_sets, self.magnitude)
        else:
            step.prepare_rope(self.frequencies, self.magnitude)

    def embed(self, step: Step) -> np.ndarray:
        """Where the residual stream begins: (num_tokens, dim)."""
        return step.embed(self.token_embd)

    def hidden(self, step: Step, x: np.ndarray) -> np.ndarray:
        """Final hidden states (num_hidden, dim) of the tokens whose text is embedded."""
        indices = step.batch.hidden_indices
        if not indices.size:
            return np.empty((0, self.config.dim), np.float32)
        return step.norm(step.rows(x, indices, "hidden.rows"), self.output_norm, self.epsilon, "hidden")

    def unembed(self, step: Step, x: np.ndarray) -> np.ndarray:
        """From the end of the residual stream (num_logits, dim) to logits."""
        (logits,) = step.project(step.norm(x, self.output_norm, self.epsilon), self.output)
        return logits

    def fingerprint(self) -> str:
        """Tells this model's files from others: a hash of their sizes and of pages all over them."""
        digest = hashlib.blake2b(digest_size=16)
        for part in self.mapped:
            digest.update(part.size.to_bytes(8, "little"))
            for start in np.linspace(0, max(part.size - _PAGE, 0), _PAGES, dtype=np.int64):
                digest.update(part[start : start + _PAGE].data)
        return digest.hexdigest()
