"""Single files from the Hub."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from densecore.exceptions import DenseCoreError, ModelLoadError
from densecore.hub.failure import failure, is_final, is_offline
from densecore.hub.layout import Repository, is_commit
from densecore.hub.partial import Progress, fetch_blob

__all__ = ["commit_of", "download", "download_if_present", "warn_of_cache"]

LOG = logging.getLogger("densecore.hub")


def download(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Path of a repository's file in the local cache, downloaded if it is not there or is out of date.

    A download that was cut off goes on where it stopped. `progress` is called with the file's name, bytes there, and
    bytes in all; without it huggingface_hub shows its own bar.

    Raises ModelLoadError if the repository, revision or file does not exist or must not be read, if what came is not
    what was promised, if the disk is full, or if the Hub cannot be reached and the cache does not have the file.
    """
    repository = Repository(repo_id, cache_dir)
    where = f"{repo_id!r} on the Hub" if revision is None else f"{repo_id!r} at {revision!r} on the Hub"
    known = repository.cached(filename, revision)
    if known is not None and is_commit(revision):
        return known
    try:
        return _download(repository, filename, revision, progress)
    except Exception as error:  # the library's errors share no class; none may reach the user as it is
        _remember_if_absent(repository, filename, error)
        if known is not None and not is_final(error):
            warn_of_cache(f"{repo_id}: {filename}", error)
            return known
        if isinstance(error, DenseCoreError):
            raise
        raise failure(where, filename, error) from error


def _download(repository: Repository, filename: str, revision: str | None, progress: Progress | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository.repo_id, filename, revision=revision)
    found = get_hf_file_metadata(url)
    commit, etag = found.commit_hash, found.etag
    if commit is None or etag is None:
        raise ModelLoadError(f"{url}: this server does not answer as the Hugging Face Hub does (check HF_ENDPOINT)")
    path = repository.file(commit, filename)
    if not path.exists():
        url = hf_hub_url(repository.repo_id, filename, revision=commit)
        fetch_blob(repository, filename, etag, found.size, url, progress)
        path = repository.link(commit, filename, etag)
    with contextlib.suppress(OSError):  # a cache that cannot be written serves all the same
        repository.remember(revision, commit)
    return path


def download_if_present(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path | None:
    """As `download`, but None if the repository does not have the file, or offline if the cache does not.

    With the hash of a commit as `revision`, what is known from before is not asked again.
    """
    from huggingface_hub.errors import EntryNotFoundError

    repository = Repository(repo_id, cache_dir)
    if revision is not None and is_commit(revision) and repository.absent(revision, filename).exists():
        return None
    try:
        return download(repo_id, filename, revision=revision, cache_dir=cache_dir)
    except ModelLoadError as error:
        if isinstance(error.__cause__, EntryNotFoundError) or is_offline(error.__cause__):
            return None
        raise


def commit_of(path: Path) -> str | None:
    """The commit that a file in the cache belongs to: further files of the same one go with it for sure."""
    return path.parent.name if is_commit(path.parent.name) else None


def warn_of_cache(what: str, error: Exception) -> None:
    """Say that something could not be asked for, and is taken from the cache; not when the user wants it so."""
    if not is_offline(error):
        LOG.warning("%s; the copy in the cache is used", failure(what, "a newer version", error))


def _remember_if_absent(repository: Repository, filename: str, error: Exception) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    response = getattr(error, "response", None)
    if isinstance(error, EntryNotFoundError) and response is not None:
        commit = response.headers.get("X-Repo-Commit")
        if is_commit(commit):
            with contextlib.suppress(OSError):  # a cache that cannot be written serves all the same
                repository.remember_absent(commit, filename)
