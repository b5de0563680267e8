"""The notice that kernels are being compiled."""

from __future__ import annotations

import io

import pytest

from densecore.cli.session import ERASE_LINE, CompileNotice


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_counts_and_is_erased() -> None:
    stream = FakeTerminal()
    notice = CompileNotice(stream)
    notice("matmul", 1)
    notice("attend", 2)
    notice.hide()
    lines = stream.getvalue().split(ERASE_LINE)
    assert [line[:21] for line in lines] == ["", "compiling kernels: 1 ", "compiling kernels: 2 ", ""]
    assert "\n" not in stream.getvalue()


def test_tells_how_many_there_will_be_where_that_is_known() -> None:
    stream = FakeTerminal()
    notice = CompileNotice(stream, remaining=iter([2, 0, None]).__next__)
    for count in (3, 5, 6):
        notice("matmul", count)
    assert [line[19:26] for line in stream.getvalue().split(ERASE_LINE)[1:]] == ["3 of 5 ", "5 of 5 ", "6 (firs"]


def test_elsewhere_one_line_once() -> None:
    stream = io.StringIO()
    notice = CompileNotice(stream)
    for count in (1, 2, 3):
        notice("matmul", count)
    notice.hide()
    assert stream.getvalue() == "compiling kernels (first run on this CPU)…\n"


def test_hidden_until_allowed_again() -> None:
    stream = FakeTerminal()
    notice = CompileNotice(stream)
    notice.hide()
    notice("matmul", 1)
    assert stream.getvalue() == ""
    notice.allow()
    notice("matmul", 2)
    assert "2" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["quiet", "no stderr"])
def test_can_be_silenced(stream) -> None:
    notice = CompileNotice(stream, quiet=True)
    notice("matmul", 1)
    notice.hide()
    assert stream is None or stream.getvalue() == ""


def test_never_disturbs_the_kernel() -> None:
    stream = io.StringIO()
    stream.close()
    CompileNotice(stream_that_closed := FakeTerminal())("matmul", 1)
    assert stream_that_closed.getvalue()
    notice = CompileNotice(closing := FakeTerminal())
    closing.close()
    notice("matmul", 1)  # would raise ValueError
