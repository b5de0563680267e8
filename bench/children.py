"""Engines as child processes that wait for requests: one at a time computes, the others are idle."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

__all__ = ["Child"]


class Child:
    """A process that reads requests, one JSON object a line, and writes an answer for each.

    Attributes
    ----------
    head : what it says of itself when it is ready: name, version, features.
    """

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the child
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        self._usage = psutil.Process(self._process.pid)
        try:
            self.head: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, call: str, **arguments: Any) -> Any:
        """The answer to a request; SystemExit with the end of the child's log if it died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its log says why
        return self._answer()

    def cpu_seconds(self) -> float:
        """Time on CPUs so far, over all threads."""
        times = self._usage.cpu_times()
        return times.user + times.system

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            try:
                return json.loads(line)
            except ValueError:
                print(line, end="", file=sys.stderr)  # a library that prints
        self._log.seek(0)
        raise SystemExit(f"{' '.join(self._process.args)} ended:\n{self._log.read()[-2000:]}")

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the input, which ends the process, and wait for that."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
