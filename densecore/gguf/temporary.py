"""Temporary names of files that are being written, and what killed processes have left under such names.

Whoever writes such a file holds a lock on it. The system lets go of a lock when its process ends, however it ends: a
file whose lock is free belongs to nobody.
"""

from __future__ import annotations

import glob
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing removed
    fcntl = None  # type: ignore[assignment]

__all__ = ["claim", "remove_abandoned", "temporary_path"]

_MIN_AGE = 60.0  # seconds: younger ones may just be about to be locked


def temporary_path(target: Path) -> Path:
    """A new name beside `target`."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def claim(file: IO[bytes]) -> None:
    """Lock `file`, which this process has just created; without effect where the file system has no locks."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_abandoned(target: Path) -> None:
    """Remove temporary files of `target` whose processes are gone."""
    if fcntl is None:
        return
    for found in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        if not re.fullmatch(r"\.[0-9a-f]{8}\.tmp", found.name[len(target.name) + 1 :]) or not found.is_file():
            continue
        with suppress(OSError), open(found, "rb") as file:  # one that is locked, or gone by now, is left alone
            if time.time() - found.stat().st_mtime > _MIN_AGE:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.unlink()
