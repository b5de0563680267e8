"""Where the files of a repository lie: the layout of huggingface_hub's cache, and nothing outside of it.

::

    CACHE/models--owner--name/blobs/ETAG                    contents, under the name that the server gives them
    CACHE/models--owner--name/blobs/ETAG.incomplete         what has come of it so far
    CACHE/models--owner--name/snapshots/COMMIT/FILENAME     a link to a blob
    CACHE/models--owner--name/refs/main                     the commit of a branch or tag
    CACHE/models--owner--name/.no_exist/COMMIT/FILENAME     an empty file: the commit has no such file
    CACHE/.locks/models--owner--name/ETAG.lock

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. Each name that comes from a server or a user
is checked here before it becomes a part of a path.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from densecore.exceptions import InvalidConfigError, ModelLoadError

__all__ = ["Repository", "cache_directory", "is_commit", "is_safe_filename"]

_COMMIT = re.compile("[0-9a-f]{40}")
_ETAG = re.compile("[0-9A-Za-z-]{1,128}")
_LONGEST_PART = 255  # bytes of a file name, on most file systems


def is_commit(text: object) -> bool:
    """Whether `text` is the hash of a commit."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def is_safe_filename(name: object) -> bool:
    """Whether a name of a file in a repository stays inside the folder that it is put in, on every system."""
    if not isinstance(name, str) or not name.isprintable() or set(name) & set('\\:*?"<>|'):
        return False
    parts = name.split("/")
    return all(part.strip(" .") and len(os.fsencode(part)) <= _LONGEST_PART for part in parts)


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache: `cache_dir`, or the one that huggingface_hub's settings name."""
    from huggingface_hub import constants

    chosen = constants.HF_HUB_CACHE if cache_dir is None else cache_dir
    if not isinstance(chosen, str | os.PathLike) or "\0" in os.fspath(chosen):
        raise InvalidConfigError(f"cache_dir must be the path of a folder, not {cache_dir!r}")
    return Path(os.path.abspath(os.path.expanduser(chosen)))


class Repository:
    """A repository's place in the cache. Raises ModelLoadError for ids and names that are not valid or not safe."""

    def __init__(self, repo_id: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ModelLoadError(f"{repo_id!r}: not a repository id, which looks like owner/name") from error
        self.repo_id = repo_id
        self.cache = cache_directory(cache_dir)
        self.folder = self.cache / "--".join(["models", *repo_id.split("/")])

    def blob(self, etag: str) -> Path:
        """The contents that the server calls `etag`."""
        if not _ETAG.fullmatch(etag):
            raise self._refused("hash", etag)
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """What has been downloaded of them so far."""
        return self.blob(f"{etag}").with_name(f"{etag}.incomplete")

    def lock(self, etag: str) -> Path:
        """Held by the process that downloads them."""
        return self.cache / ".locks" / self.folder.name / f"{self.blob(etag).name}.lock"

    def snapshot(self, commit: str) -> Path:
        """The folder of the files of a commit."""
        if not is_commit(commit):
            raise self._refused("commit", commit)
        return self.folder / "snapshots" / commit

    def file(self, commit: str, filename: str) -> Path:
        """A file of a commit."""
        return self.snapshot(commit) / self._checked(filename)

    def absent(self, commit: str, filename: str) -> Path:
        """Exists if the commit is known not to have the file."""
        return self.folder / ".no_exist" / self.snapshot(commit).name / self._checked(filename)

    def known_commit(self, revision: str | None) -> str | None:
        """The commit that a branch or tag was when it was last asked for; a commit is itself."""
        if is_commit(revision):
            return revision
        with contextlib.suppress(OSError, UnicodeDecodeError):
            commit = self._ref(revision).read_text()
            return commit if is_commit(commit) else None
        return None

    def cached(self, filename: str, revision: str | None) -> Path | None:
        """The file in the cache, of the newest commit of `revision` that is known."""
        commit = self.known_commit(revision)
        path = None if commit is None else self.file(commit, filename)
        return path if path is not None and path.exists() else None

    def filenames(self, commit: str) -> list[str]:
        """Names of the files of a commit that are in the cache."""
        folder = self.snapshot(commit)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def remember(self, revision: str | None, commit: str) -> None:
        """Note the commit of a branch or tag."""
        if revision != commit and self.known_commit(revision) != commit:
            _write_whole(self._ref(revision), self.snapshot(commit).name)

    def remember_absent(self, commit: str, filename: str) -> None:
        """Note that a commit lacks a file."""
        path = self.absent(commit, filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def link(self, commit: str, filename: str, etag: str) -> Path:
        """Make the blob a file of the commit: by a link, or where there are none by moving it."""
        path, blob = self.file(commit, filename), self.blob(etag)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # a link whose blob is gone
        try:
            path.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:
            shutil.move(blob, path)
        return path

    def _ref(self, revision: str | None) -> Path:
        revision = "main" if revision is None else revision
        if not is_safe_filename(revision):
            raise InvalidConfigError(f"{revision!r} is not a revision: give a branch, a tag or a commit")
        return self.folder / "refs" / revision

    def _checked(self, filename: str) -> str:
        if not is_safe_filename(filename):
            raise self._refused("file name", filename)
        return filename

    def _refused(self, kind: str, name: object) -> ModelLoadError:
        return ModelLoadError(
            f"{self.repo_id!r} on the Hub: {kind} {name!r} is not accepted, as files must stay inside of the cache"
        )


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see all of it, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
