"""Measured speeds in the fields of ``llama-bench``, so that what reads its output reads this."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from densecore.gguf import GGUFFile

__all__ = ["Result", "as_csv", "as_json", "as_markdown", "markdown_table", "model_fields"]


@dataclasses.dataclass(frozen=True)
class Result:
    """One test: its times, and the run that it belongs to.

    Attributes
    ----------
    n_prompt, n_gen : tokens of a prompt, or tokens generated; one of them is 0.
    n_depth : tokens in the cache before.
    n_threads : threads that computed.
    samples_ns : time of each repetition.
    run : fields that all tests of a run share.
    """

    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int
    samples_ns: list[int]
    run: dict[str, Any]
    test_time: str = dataclasses.field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    @property
    def samples_ts(self) -> list[float]:
        """Tokens a second of each repetition."""
        return [1e9 * (self.n_prompt + self.n_gen) / ns for ns in self.samples_ns]

    @property
    def name(self) -> str:
        """As llama-bench calls the test: ``pp512``, ``tg128 @ d4096``."""
        test = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return test + (f" @ d{self.n_depth}" if self.n_depth else "")

    def fields(self) -> dict[str, Any]:
        """Everything, under llama-bench's names."""
        own = {name: getattr(self, name) for name in ("n_prompt", "n_gen", "n_depth", "test_time")}
        return {
            **self.run,
            "n_threads": self.n_threads,
            **own,
            "avg_ns": round(mean(self.samples_ns)),
            "stddev_ns": round(deviation(self.samples_ns)),
            "avg_ts": mean(self.samples_ts),
            "stddev_ts": deviation(self.samples_ts),
            "samples_ns": self.samples_ns,
            "samples_ts": self.samples_ts,
        }


def mean(samples: Sequence[float]) -> float:
    """Average of at least one sample."""
    return sum(samples) / len(samples)


def deviation(samples: Sequence[float]) -> float:
    """Standard deviation, estimated from the samples; 0 for one of them."""
    centre = mean(samples)
    return math.sqrt(sum((sample - centre) ** 2 for sample in samples) / max(len(samples) - 1, 1))


def model_fields(file: GGUFFile) -> dict[str, Any]:
    """llama-bench's fields of a model file."""
    tensors = file.tensors.values()
    n_params = sum(tensor.n_elements for tensor in tensors)
    arch = file.metadata.get("general.architecture")
    return {
        "model_filename": str(file.path),
        "model_type": f"{arch} {short_count(n_params)} {_file_type(file)}",
        "model_size": sum(tensor.n_bytes for tensor in tensors),
        "model_n_params": n_params,
    }


def short_count(count: int) -> str:
    """Three digits and a unit: 494M, 1.24B."""
    for unit, size in (("B", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.{max(0, 2 - int(math.log10(count / size)))}f}{unit}"
    return str(count)


def _file_type(file: GGUFFile) -> str:
    """``general.file_type`` by name, such as Q4_K_M; without it, the tensor type that takes the most bytes."""
    from gguf import LlamaFileType  # takes a third of a second

    try:
        number: Any = file.metadata.get("general.file_type")
        return LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        sizes: Counter[str] = Counter()
        for tensor in file.tensors.values():
            sizes[tensor.type.name] += tensor.n_bytes
        return sizes.most_common(1)[0][0]


# ------------------------------------------------------------------------------------------------ output


def as_json(results: Sequence[Result]) -> str:
    """A list with one object a test."""
    return json.dumps([result.fields() for result in results], indent=2)


def as_csv(results: Sequence[Result]) -> str:
    """A line of names, then one line a test; without the single samples."""
    output = io.StringIO()
    writer = csv.writer(output, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows = [{k: v for k, v in result.fields().items() if not isinstance(v, list)} for result in results]
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return output.getvalue().rstrip("\n")


def as_markdown(results: Sequence[Result]) -> str:
    """A table as llama-bench prints it."""
    rows = [
        [
            str(result.run["model_type"]),
            f"{result.run['model_size'] / 2**20:.2f} MiB",
            short_count(result.run["model_n_params"]),
            str(result.run["backends"]),
            str(result.n_threads),
            result.name,
            f"{mean(result.samples_ts):.2f} ± {deviation(result.samples_ts):.2f}",
        ]
        for result in results
    ]
    return markdown_table(["model", "size", "params", "backend", "threads", "test", "t/s"], rows, left=4)


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first `left` columns are flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = ("-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(titles), f"|{'|'.join(rule)}|", *map(line, rows)])
