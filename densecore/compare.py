"""Models beside each other on a text: what quantizing or pruning costs, and what it brings.

The first model is the base, P; for each other one, Q, this tells at every scored position

* KL divergence, sum of P log(P / Q) over the vocabulary, in nats: how far its probabilities are from the base's;
* whether the most probable token is the same;

beside perplexity (`perplexity`), size and speed. The positions are those of perplexity: the second half of each chunk.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densecore.benchmark.plot import require_matplotlib
from densecore.exceptions import InvalidConfigError
from densecore.perplexity import Perplexity, negative_log_likelihoods, split_into_chunks, summarise

if TYPE_CHECKING:
    from densecore.llm import DenseCore

__all__ = ["Comparison", "compare_models", "comparison_table", "measure_speed", "plot_comparison"]

SPEED_TOKENS = 128, 32  # of a prompt, and generated
SPEED_REPETITIONS = 3


@dataclass(frozen=True)
class Comparison:
    """One model's figures; those of the divergence are None for the base.

    kl_mean, kl_99 : KL divergence from the base in nats, mean and 99th percentile
    kl_error : standard error of the mean
    top_1 : part of positions at which the most probable token is the base's
    prompt_speed, generation_speed : tokens a second, the best of a few; None if not measured
    """

    path: str
    n_bytes: int
    perplexity: Perplexity
    kl_mean: float | None = None
    kl_error: float | None = None
    kl_99: float | None = None
    top_1: float | None = None
    prompt_speed: float | None = None
    generation_speed: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare_models(
    models: Sequence[DenseCore],
    paths: Sequence[str | os.PathLike[str]],
    text: str,
    chunk_length: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Comparison]:
    """Figures of each model on `text`, without speed; the first model is the base.

    paths : of their files
    chunk_length : tokens in a chunk, as in `measure_perplexity`
    progress : called after each chunk with chunks done and chunks in all

    Raises InvalidConfigError if the models do not share a vocabulary, or if the text does not fill one chunk.
    """
    tokenizer = models[0].tokenizer
    token_ids = tokenizer.encode(text, add_special=True, parse_special=False)
    for model, path in zip(models, paths, strict=True):
        if model.tokenizer.encode(text, add_special=True, parse_special=False) != token_ids:
            raise InvalidConfigError(
                f"{path} makes other tokens of the text than {paths[0]}: their figures do not compare"
            )
    chunks = split_into_chunks(token_ids, chunk_length, tokenizer.bos_id if tokenizer.add_bos else None)
    measured = [_Measured() for _ in models]
    for done, chunk in enumerate(chunks, 1):
        base = None
        for model, figures in zip(models, measured, strict=True):
            logits = model.forward(chunk)[chunk_length // 2 : -1]  # (num_scored, n_vocab)
            figures.add(logits, chunk[chunk_length // 2 + 1 :], base)
            base = logits if base is None else base
        if progress is not None:
            progress(done, len(chunks))
    return [figures.result(str(path), len(chunks), chunk_length) for figures, path in zip(measured, paths, strict=True)]


class _Measured:
    """What is known of one model so far, one array a chunk."""

    def __init__(self) -> None:
        self.nlls: list[np.ndarray] = []
        self.divergences: list[np.ndarray] = []
        self.agreements: list[np.ndarray] = []

    def add(self, logits: np.ndarray, targets: list[int], base: np.ndarray | None) -> None:
        self.nlls.append(negative_log_likelihoods(logits, targets))
        if base is not None:
            if base.shape != logits.shape:
                raise InvalidConfigError(
                    f"the models have vocabularies of {base.shape[1]} and {logits.shape[1]} tokens: they do not compare"
                )
            self.divergences.append(kl_divergences(base, logits))
            self.agreements.append(base.argmax(1) == logits.argmax(1))

    def result(self, path: str, num_chunks: int, chunk_length: int) -> Comparison:
        perplexity = summarise(np.concatenate(self.nlls), num_chunks, chunk_length)
        n_bytes = Path(path).stat().st_size
        if not self.divergences:
            return Comparison(path, n_bytes, perplexity)
        divergences = np.concatenate(self.divergences)
        error = float(divergences.std(ddof=1) / divergences.size**0.5) if divergences.size > 1 else float("nan")
        high = float(np.quantile(divergences, 0.99))
        agreement = float(np.concatenate(self.agreements).mean())
        return Comparison(path, n_bytes, perplexity, float(divergences.mean()), error, high, agreement)


def kl_divergences(base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL divergence (num_tokens,) in nats of the probabilities that two models' logits (num_tokens, n_vocab) mean."""
    result = np.empty(len(base))
    for row, (p, q) in enumerate(zip(base, other, strict=True)):  # by row: a vocabulary can be large
        log_p, log_q = _log_softmax(p), _log_softmax(q)
        result[row] = np.dot(np.exp(log_p), log_p - log_q)
    return np.maximum(result, 0)  # rounding apart, it never is negative


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def measure_speed(path: str | os.PathLike[str], threads: int = 0) -> tuple[float, float]:
    """Tokens a second of a prompt of 128 tokens, and of generating 32: the best of three, kernels compiled before."""
    from densecore.benchmark import StepTimer
    from densecore.config import EngineConfig

    with StepTimer(path, EngineConfig(threads=threads)) as timer:
        sequences = timer.sequences(room=max(SPEED_TOKENS))
        speeds = []
        for measure, count in zip((sequences.prefill, sequences.decode), SPEED_TOKENS, strict=True):
            measure(count)
            speeds.append(count * 1e9 / min(measure(count) for _ in range(SPEED_REPETITIONS)))
    return speeds[0], speeds[1]


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """A table in Markdown."""
    from densecore.benchmark import markdown_table

    base = comparisons[0]
    rows = [
        {
            "model": Path(c.path).name,
            "MiB": f"{c.n_bytes / 2**20:.1f}",
            "perplexity": f"{c.perplexity.value:.4f} +- {c.perplexity.standard_error:.4f}",
            "change": f"{100 * (c.perplexity.value / base.perplexity.value - 1):+.2f} %",
            "KL divergence": _or_dash(c.kl_mean, "{:.5f}"),
            "KL 99 %": _or_dash(c.kl_99, "{:.4f}"),
            "same top token": _or_dash(c.top_1 and 100 * c.top_1, "{:.2f} %"),
            "prompt t/s": _or_dash(c.prompt_speed, "{:.0f}"),
            "generation t/s": _or_dash(c.generation_speed, "{:.0f}"),
        }
        for c in comparisons
    ]
    return markdown_table(list(rows[0]), [list(row.values()) for row in rows])


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def plot_comparison(path: str | os.PathLike[str], comparisons: Sequence[Comparison]) -> None:
    """Write a PNG: perplexity and KL divergence over size. UnsupportedFeatureError without matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for c in comparisons:
        size, name = c.n_bytes / 2**20, Path(c.path).stem
        left.errorbar(size, c.perplexity.value, c.perplexity.standard_error, fmt="o", capsize=3)
        left.annotate(name, (size, c.perplexity.value), textcoords="offset points", xytext=(6, 4), fontsize="small")
        if c.kl_mean is not None:
            right.plot(size, c.kl_mean, "o")
            right.annotate(name, (size, c.kl_mean), textcoords="offset points", xytext=(6, 4), fontsize="small")
    left.set(xlabel="MiB", ylabel="perplexity")
    right.set(xlabel="MiB", ylabel=f"KL divergence from {Path(comparisons[0].path).stem}, nats", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=120)
