"""A process on a pseudo-terminal, for tests of what a person sees and types."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Sequence


class Terminal:
    """Write with `type`, wait for text with `expect`; `screen` is all that was shown, control sequences included."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.screen = ""
        self._seen = 0  # characters before what `expect` looks at

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def press_control_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def press_control_c_at_prompt(self, expected: str) -> None:
        """Again after a while: readline does not notice a signal in the instant before it begins to wait for keys."""
        for _ in range(10):
            self.press_control_c()
            with contextlib.suppress(AssertionError):
                self.expect(expected, timeout=3)
                return
        raise AssertionError(f"{expected!r} did not appear; shown: {self.screen!r}")

    def leave_by_control_d(self, timeout: float = 30.0) -> int:
        """Type Ctrl-D until the process ends, since one that comes before a prompt is set up gets lost."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.type("\x04")
            while self._read(1.0):
                if self.process.poll() is not None:
                    break
            if self.process.poll() is not None:
                break
        return self.wait(5)

    def expect(self, text: str, timeout: float = 120.0) -> str:
        """Wait until `text` appears after what was expected last, and return what was shown before it."""
        deadline = time.monotonic() + timeout
        while (at := self.screen.find(text, self._seen)) < 0:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} did not appear; shown: {self.screen[self._seen :]!r}")
        before = self.screen[self._seen : at]
        self._seen = at + len(text)
        return before

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status, once the process has ended and all that it wrote has been read."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 1))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self, timeout: float) -> bool:
        """Read what there is; False at the end of the output, or if nothing came in time."""
        if not select.select([self._master], [], [], max(timeout, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # Linux's way to say that the other side is closed
                raise
            return False
        self.screen += data.decode("utf-8", "replace")
        return bool(data)
