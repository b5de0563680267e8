"""Quantization types, one file each: adding a format means adding a file that defines `FORMAT`, by hand or with `runs`.

`FORMATS` maps the names of GGUF types (``"Q4_K"``) to their :class:`~densecore.kernels.formats.base.Format`.
"""

from __future__ import annotations

import importlib
import pkgutil

from .base import Q8, Format, dequantize_row, vec_dot

__all__ = ["FORMATS", "Q8", "Format", "dequantize_row", "vec_dot"]

FORMATS: dict[str, Format] = {}
for _module in pkgutil.iter_modules(__path__):
    if _module.name not in ("base", "grids", "runs"):
        _format = importlib.import_module(f"{__name__}.{_module.name}").FORMAT
        FORMATS[_format.name] = _format
