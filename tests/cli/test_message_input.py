"""Messages of one line and of several, and where the history is kept."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from densecore.cli import message_input
from densecore.cli.message_input import read_message


def lines_of(*lines: str) -> Callable[[str], str]:
    rest = iter(lines)

    def read_line(prompt: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read_line


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], "hello"),
        ([""], ""),
        (["a\\", "b\\", "c", "next"], "a\nb\nc"),
        (["a\\"], "a\n"),
        (['"""a', "b", 'c"""', "next"], "a\nb\nc"),
        (['"""', "  a", "", "b", '"""'], "  a\n\nb"),
        (['"""one line"""'], "one line"),
        (['"""not closed', "b"], "not closed\nb"),
        (["pasted\nlines"], "pasted\nlines"),
        (['"""pasted\nblock"""'], "pasted\nblock"),
    ],
)
def test_messages(lines: list[str], message: str) -> None:
    assert read_message(lines_of(*lines)) == message


def test_end_of_input() -> None:
    with pytest.raises(EOFError):
        read_message(lines_of())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_history_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = message_input._state_directory()
    assert directory == tmp_path / "densecore"
    assert mode(directory) == 0o700
    file = message_input._private_file(directory, "history")
    assert file is not None
    assert mode(file) == 0o600
    file.write_text("kept")
    file.chmod(0o644)
    assert message_input._private_file(directory, "history") == file
    assert mode(file) == 0o600
    assert file.read_text() == "kept"


def test_history_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "history").symlink_to(tmp_path / "elsewhere")
    assert message_input._private_file(tmp_path, "history") is None
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("variable", ["", "relative/path"])
def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message_input._state_directory() == tmp_path / ".local" / "state" / "densecore"


def test_works_without_a_place_for_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)
    assert message_input._state_directory() is None
    assert message_input._private_file(None, "history") is None
