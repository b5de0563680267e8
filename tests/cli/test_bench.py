"""``densecore bench``: the fields that llama-bench has, for every combination that was asked for."""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

from densecore.data import builtin_model_path
from tests.gguf_factory import make_model

from .conftest import Cli

# Of llama-bench's JSON: those that mean something on a CPU.
FIELDS = {
    "cpu_info", "backends", "model_filename", "model_type", "model_size", "model_n_params", "n_batch", "n_threads",
    "type_k", "type_v", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    "samples_ns", "samples_ts",
}  # fmt: skip
SMALL = ("-p", "4", "-n", "2", "-r", "2", "-q")


def test_json_has_llama_benchs_fields(cli: Cli) -> None:
    status, out, err = cli("bench", *SMALL, "-t", "1", "-o", "json")
    assert (status, err) == (0, "")
    prompt, generation = json.loads(out)
    assert set(prompt) >= FIELDS
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["n_depth"], prompt["n_threads"]) == (4, 0, 0, 1)
    assert (generation["n_prompt"], generation["n_gen"]) == (0, 2)
    assert prompt["model_filename"] == str(builtin_model_path())
    assert prompt["model_type"] == "llama 5.77M Q8_0"
    assert prompt["model_n_params"] == 5_770_496
    assert (prompt["type_k"], prompt["n_batch"]) == ("f16", 512)
    datetime.strptime(prompt["test_time"], "%Y-%m-%dT%H:%M:%SZ")


def test_figures_agree_with_the_samples(cli: Cli) -> None:
    for test in json.loads(cli("bench", *SMALL, "-o", "json").out):
        count = test["n_prompt"] + test["n_gen"]
        assert len(test["samples_ns"]) == 2
        assert test["samples_ts"] == pytest.approx([1e9 * count / ns for ns in test["samples_ns"]])
        assert test["avg_ns"] == pytest.approx(sum(test["samples_ns"]) / 2, abs=1)
        assert test["avg_ts"] == pytest.approx(sum(test["samples_ts"]) / 2)
        low, high = sorted(test["samples_ts"])
        assert test["stddev_ts"] == pytest.approx((high - low) / 2**0.5)


def test_every_combination(cli: Cli) -> None:
    out = cli("bench", "-p", "4,0,6", "-n", "2", "-d", "0,5", "-t", "1,2", "-r", "1", "-q", "-o", "json").out
    found = [tuple(t[k] for k in ("n_threads", "n_depth", "n_prompt", "n_gen")) for t in json.loads(out)]
    tests = [(4, 0), (6, 0), (0, 2)]
    assert found == [(threads, depth, *test) for threads in (1, 2) for depth in (0, 5) for test in tests]


def test_same_combination_is_measured_once(cli: Cli) -> None:
    out = cli("bench", "-p", "4,4", "-n", "0", "-t", "1,1", "-r", "1", "-q", "-o", "json").out
    assert len(json.loads(out)) == 1


def test_markdown(cli: Cli) -> None:
    lines = cli("bench", *SMALL, "-d", "3", "-t", "1").out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert set(lines[1]) <= set("|-:")
    assert [row[5] for row in cells[2:]] == ["pp4 @ d3", "tg2 @ d3"]
    assert cells[2][:3] == ["llama 5.77M Q8_0", "5.86 MiB", "5.77M"]
    assert all(len(line) == len(lines[0]) for line in lines)


def test_csv(cli: Cli) -> None:
    rows = list(csv.DictReader(io.StringIO(cli("bench", *SMALL, "-o", "csv").out)))
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [("4", "0"), ("0", "2")]
    assert set(rows[0]) >= FIELDS - {"samples_ns", "samples_ts"}


def test_file_without_a_file_type_is_named_by_its_tensors(cli: Cli, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m.gguf", tensor_type="Q8_0", drop=["general.file_type"])
    (test,) = json.loads(cli("bench", path, "-p", "2", "-n", "0", "-r", "1", "-q", "-o", "json").out)
    assert test["model_type"].endswith(" Q8_0")


def test_roofline_tables(cli: Cli) -> None:
    status, out, err = cli("bench", "--roofline", "-p", "4", "-d", "8", "-q")
    assert (status, err) == (0, "")
    assert "read GB/s" in out
    assert "matmul Q8_0 | decode" in out


def test_roofline_as_json_and_picture(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "roofs.png"
    facts = json.loads(cli("bench", "--roofline", picture, "-p", "4", "-d", "8", "-q", "-o", "json").out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [kernel["kernel"] for kernel in facts["kernels"]] == ["matmul Q8_0"] * 2 + ["attention"] * 2
    assert all(kernel["share"] > 0 for kernel in facts["kernels"])
    assert facts["roofs"][-1]["read"] > 0


def test_picture_without_matplotlib_is_refused_before_anything_is_measured(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = cli("bench", "--roofline", tmp_path / "roofs.png", "-q")
    assert (status, out) == (1, "")
    assert "densecore[bench]" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "0", "-n", "0"), "nothing to measure"),
        (("-p", "x"), "not a list of whole numbers"),
        (("-r", "0"), "not a whole number above 0"),
        (("-t", "-1"), "-t"),
        (("-t", "1,5000"), "threads must be"),
    ],
)
def test_wrong_usage(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    status, out, err = cli("bench", *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_missing_model(cli: Cli, tmp_path: Path) -> None:
    status, _, err = cli("bench", tmp_path / "none.gguf")
    assert status == 1
    assert "none.gguf" in err
