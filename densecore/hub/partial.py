"""One download, which goes on where an earlier one was cut off."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecore.exceptions import ModelLoadError

if TYPE_CHECKING:
    from densecore.hub.layout import Repository

__all__ = ["Progress", "check_room", "fetch_blob"]

Progress = Callable[[str, int, int | None], None]  # file name, bytes that are there, bytes in all
_SHA256 = re.compile("[0-9a-f]{64}")


class _PartialFile(io.BufferedWriter):
    """A file that grows at its end up to `size` bytes, and tells how far it has come."""

    def __init__(self, path: Path, size: int | None, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._size, self._report = size, report

    def write(self, data: Any) -> int:
        """Append; ModelLoadError if that is more than was promised, which might never end."""
        if self._size is not None and self.tell() + len(data) > self._size:
            raise ModelLoadError(f"the Hub sends more than the {self._size} bytes that {self.name} should have")
        count = super().write(data)
        self._report(self.tell())
        return count


def fetch_blob(
    repository: Repository, filename: str, etag: str, size: int | None, url: str, progress: Progress | None
) -> None:
    """Download `url` as the blob `etag`, unless it is there.

    Whatever ends the download, even Ctrl-C or a loss of power, what has come is kept for the next call. The bytes
    become the blob when their number is `size` and, for large files, whose etag it is, when SHA-256 is right.
    """
    from huggingface_hub.utils import WeakFileLock

    blob, partial, lock = repository.blob(etag), repository.partial(etag), repository.lock(etag)
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        if size is not None and partial.exists() and partial.stat().st_size > size:
            partial.unlink()
        _fetch(partial, filename, size, url, progress)
        _check(partial, repository.repo_id, filename, etag, size)
        partial.replace(blob)


def check_room(folder: Path, needed: int) -> None:
    """ModelLoadError if the disk has less room than `needed` bytes."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelLoadError(
            f"{folder}: {needed / 2**30:.2f} GiB are needed, and {free / 2**30:.2f} GiB are free: make room, or put "
            "the cache elsewhere (HF_HOME)"
        )


def _fetch(partial: Path, filename: str, size: int | None, url: str, progress: Progress | None) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    def report(done: int) -> None:
        if progress is not None:
            progress(filename, done, size)

    with _PartialFile(partial, size, report) as file, _bars(hidden=progress is not None):
        done = file.tell()
        check_room(partial.parent, max((size or 0) - done, 0))
        headers = build_hf_headers(library_name="densecore")
        headers["Accept-Encoding"] = "identity"  # so that bytes and their number are those of the file
        report(done)
        http_get(url, file, resume_size=done, headers=headers, expected_size=size, displayed_filename=filename)


@contextlib.contextmanager
def _bars(*, hidden: bool) -> Iterator[None]:
    """Without huggingface_hub's progress bars, where progress is shown otherwise."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not hidden or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _check(partial: Path, repo_id: str, filename: str, etag: str, size: int | None) -> None:
    """ModelLoadError, and nothing is kept, unless these are the bytes that were promised."""
    found = partial.stat().st_size
    problem = None if size in (None, found) else f"it has {found} bytes instead of {size}"
    if problem is None and _SHA256.fullmatch(etag):
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        problem = None if digest == etag else f"its SHA-256 is {digest} instead of {etag}"
    if problem is not None:
        partial.unlink()
        raise ModelLoadError(f"{repo_id!r} on the Hub: {filename} was damaged on its way: {problem}; try again")
