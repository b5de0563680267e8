"""How fast a model and its kernels are on this machine, and how fast they could be.

* ``steps``     times steps of a model, without engine, tokenizer and sampling
* ``results``   what was measured, in the fields of llama.cpp's ``llama-bench``
* ``roofs``     the machine's read bandwidth and multiply peaks, measured
* ``roofline``  how near the kernels of a model come to these roofs
* ``plot``      the same as a picture
"""

from __future__ import annotations

from densecore.benchmark.results import Result, as_csv, as_json, as_markdown, markdown_table, model_fields
from densecore.benchmark.roofline import Measurement, measure_kernels, roofline_table
from densecore.benchmark.roofs import Roofs, measure_roofs
from densecore.benchmark.steps import StepTimer, TimedSequences

__all__ = [
    "Measurement",
    "Result",
    "Roofs",
    "StepTimer",
    "TimedSequences",
    "as_csv",
    "as_json",
    "as_markdown",
    "markdown_table",
    "measure_kernels",
    "measure_roofs",
    "model_fields",
    "roofline_table",
]
