"""Where compiled kernels are kept: ``<root>/kernels/<key>``, a directory that belongs to this user alone.

The root is ``$DENSECORE_CACHE_DIR``, else ``$XDG_CACHE_HOME/densecore``, else ``~/.cache/densecore``, else a
private folder beneath the system's temporary directory; ``DENSECORE_CACHE=off`` turns the cache off. Cache files
are pickles, and loading one runs code: who may write here may run code as this user. So each directory
must be owned by this user and closed to writing by others, wherever symbolic links lead.

Nothing here raises. Whatever goes wrong with the file system costs a recompilation and one warning a process.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import stat
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from .cache_key import directory_key

# A directory of another key: another version, CPU or setting.
_KEY_NAME = re.compile(r"[0-9a-f]{32}")
_KEPT_DIRECTORIES = 16
_KEPT_SECONDS = 30 * 24 * 3600
_TOUCH_SECONDS = 3600


class CompileCacheWarning(UserWarning):
    """Compiled kernels cannot be kept (or not where they should be); work goes on, and starts slower."""


_warn_lock = threading.Lock()
_has_warned = False


def warn_once(problem: str) -> None:
    """Tell the user about the first problem of this process with the cache, and keep quiet on later ones."""
    global _has_warned
    with _warn_lock:
        if _has_warned:
            return
        _has_warned = True
    advice = "set DENSECORE_CACHE_DIR to a directory of your own that can be written (DENSECORE_CACHE=off: no cache)"
    warnings.warn(f"{problem}; {advice}", CompileCacheWarning, stacklevel=2)


@functools.cache
def cache_directory() -> Path | None:
    """The directory of this process's compiled kernels; None where nothing is kept.

    Found, created and tidied at the first call. A failure is reported by one :class:`CompileCacheWarning`.
    """
    if os.environ.get("DENSECORE_CACHE", "").strip().lower() in ("off", "0", "no", "false"):
        return None
    try:
        return _prepare(_user_root())
    except (OSError, RuntimeError) as error:
        return _fallback(error)


def _fallback(error: Exception) -> Path | None:
    """A directory beneath the system's temporary one, after *error* has ruled out the user's."""
    try:
        directory = _prepare(_temporary_root())
    except (OSError, RuntimeError) as second_error:
        warn_once(f"compiled kernels cannot be kept: {error}; {second_error}")
        return None
    warn_once(f"compiled kernels are kept in {directory.parent}, as the usual place cannot be used: {error}")
    return directory


def _user_root() -> Path:
    if configured := os.environ.get("DENSECORE_CACHE_DIR"):
        return Path(configured).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG Base Directory Specification: a relative path there is to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "densecore"


def _temporary_root() -> Path:
    """``<tmp>/densecore-<uid>``: anyone may plant a directory or a link there, so it is never followed."""
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    root = Path(tempfile.gettempdir()) / f"densecore-{user}"
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    if root.is_symlink():
        raise PermissionError(f"{root} is a symbolic link")
    return root


def _prepare(root: Path) -> Path:
    """Create and check *root*/kernels/<key>; returns it. Raises OSError where it is not ours alone."""
    kernels = root / "kernels"
    directory = kernels / directory_key()
    is_new = not directory.is_dir()
    for folder in (root, kernels, directory):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(folder, folder.stat())
    if is_new:
        _prune(kernels, keep=directory)
    else:
        _touch(directory)
    return directory


def check_private(path: Path, status: os.stat_result) -> None:
    """Raise PermissionError unless the file or directory belongs to this user and no other may write to it."""
    if not hasattr(os, "geteuid"):
        return
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"{path} can be written by other users (mode {mode:04o}; 0700 would be right)")


def _touch(directory: Path) -> None:
    """Mark the directory as in use, at most once an hour, and delete what killed processes left half written."""
    with contextlib.suppress(OSError):  # a read-only cache is still good for reading
        old = time.time() - _TOUCH_SECONDS
        if directory.stat().st_mtime < old:
            os.utime(directory)
            for leftover in directory.glob(".*.tmp"):
                if leftover.stat().st_mtime < old:
                    leftover.unlink()


def _prune(kernels: Path, keep: Path) -> None:
    """Delete directories of other keys: those unused for 30 days, and all but the most recently used ones."""
    oldest_kept = time.time() - _KEPT_SECONDS
    others = sorted(((age, path) for age, path in _key_directories(kernels) if path != keep), reverse=True)
    for rank, (last_use, path) in enumerate(others, start=2):
        if rank > _KEPT_DIRECTORIES or last_use < oldest_kept:
            shutil.rmtree(path, ignore_errors=True)


def _key_directories(kernels: Path) -> Iterator[tuple[float, Path]]:
    """(time of last use, path) of each directory named by a key; symbolic links are passed over."""
    with contextlib.suppress(OSError), os.scandir(kernels) as entries:
        for entry in entries:
            if _KEY_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)
