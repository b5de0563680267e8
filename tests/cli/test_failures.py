"""Whatever goes wrong is one line and a status."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable

import pytest

from densecore.cli import main
from densecore.cli.failures import guarded
from densecore.exceptions import InferenceError, ModelLoadError, TimeoutError


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ModelLoadError("m.gguf: is broken"), 1, "densecore: error: m.gguf: is broken"),
        (InferenceError("two\nlines \x1b[2J"), 1, "densecore: error: two lines  [2J"),
        (TimeoutError("too late"), 1, "densecore: error: too late"),
        (FileNotFoundError(2, "No such file", "x.txt"), 1, "densecore: error: x.txt: No such file"),
        (MemoryError("for 3 GiB"), 1, "densecore: error: not enough memory: for 3 GiB"),
        (ImportError("DENSECORE_ISA=x is not", name="DENSECORE_ISA"), 1, "densecore: error: DENSECORE_ISA=x is not"),
        (KeyboardInterrupt(), 130, "densecore: interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_become_a_line(capsys, error: BaseException, status: int, line: str) -> None:
    assert guarded(raising(error)) == status
    assert capsys.readouterr() == ("", line + "\n")


def test_a_fault_of_our_own_says_so(capsys) -> None:
    assert guarded(raising(KeyError("x"))) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected KeyError" in err
    assert "DENSECORE_DEBUG" in err


def test_debugging_shows_the_traceback(capsys, monkeypatch) -> None:
    monkeypatch.setenv("DENSECORE_DEBUG", "1")
    assert guarded(raising(ModelLoadError("broken"))) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("densecore: error: broken\n")


def test_a_reader_that_went_away_is_no_news(capfd) -> None:
    # capfd stands in for a stdout that may be pointed elsewhere
    assert guarded(raising(BrokenPipeError())) == 141
    assert capfd.readouterr().err == ""


def test_warnings_are_one_line(capsys) -> None:
    def work() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("first\nsecond", RuntimeWarning, stacklevel=1)
        return 0

    assert guarded(work) == 0
    assert capsys.readouterr().err == "densecore: warning: first second\n"


def test_log_records_are_one_line_without_traceback(capsys) -> None:
    def work() -> int:
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("densecore.engine").exception("a step failed")
        return 0

    assert guarded(work) == 0
    assert capsys.readouterr().err == "densecore: error: a step failed\n"


def test_main_returns_the_status_of_the_verb(capsys) -> None:
    assert main(["info", "/does/not/exist.gguf"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("densecore: error: /does/not/exist.gguf: ")
    assert err.count("\n") == 1
