"""Importance of layers as a picture."""

from __future__ import annotations

import os

from densecore.benchmark.plot import require_matplotlib
from densecore.prune.model import PruneResult

__all__ = ["plot_importance"]


def plot_importance(path: str | os.PathLike[str], result: PruneResult) -> None:
    """Write a PNG: a bar a layer, those that were left out hollow. UnsupportedFeatureError without matplotlib."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for layer, value in enumerate(result.layer_importance):
        colour = "C0" if layer in result.layers else "none"
        axes.bar(layer, value, color=colour, edgecolor="C0")
    axes.set(xlabel="layer (hollow: left out)", ylabel=f"importance by {result.importance_method}")
    figure.savefig(path, format="png", dpi=120)
