"""The roofline as a picture. Needs matplotlib, which the extra ``bench`` installs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densecore.benchmark.roofline import Measurement
from densecore.exceptions import UnsupportedFeatureError

__all__ = ["plot_roofline", "require_matplotlib"]


def require_matplotlib() -> None:
    """UnsupportedFeatureError, saying what to install, if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnsupportedFeatureError("a plot needs matplotlib: pip install 'densecore[bench]'") from None


def plot_roofline(path: Path, measurements: Sequence[Measurement], title: str) -> None:
    """Write a PNG: speed over intensity (multiply-adds for each byte read), under the roofs.

    Raises UnsupportedFeatureError without matplotlib.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    roofs = measurements[0].roofs
    intensities = [m.num_macs / m.num_bytes for m in measurements]
    x = np.geomspace(min(intensities) / 2, max(intensities) * 2, 200)
    for peak, name in ((roofs.int8_macs, "int8"), (roofs.float_macs, "float32")):
        axes.plot(x, np.minimum(x * roofs.read, peak), label=f"roof, {name}", linewidth=1)
    colours = {name: f"C{2 + index}" for index, name in enumerate(dict.fromkeys(m.kernel for m in measurements))}
    for intensity, m in zip(intensities, measurements, strict=True):
        label = f"{m.kernel}, {m.test}: {100 * m.share:.0f} %"
        shape = "o" if m.test.startswith("decode") else "s"
        axes.plot(intensity, m.num_macs / m.seconds / 1e9, shape, color=colours[m.kernel], label=label)
    axes.set(xlabel="multiply-adds a byte", ylabel="1e9 multiply-adds a second", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=120)
