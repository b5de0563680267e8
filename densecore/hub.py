"""Files from the Hugging Face Hub.

Everything goes through huggingface_hub, so its settings count: ``HF_ENDPOINT``, ``HF_HOME`` and the cache in it,
``HF_HUB_OFFLINE``, ``HF_TOKEN``. It is imported when something is downloaded, not before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from densecore.exceptions import ModelLoadError

__all__ = ["commit_of", "download", "download_if_present"]

_COMMIT = re.compile("[0-9a-f]{40}")


def download(repo_id: str, filename: str, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Path:
    """Path of a repository's file in the local cache, downloaded if it is not there or is out of date.

    Raises ModelLoadError if the repository, revision or file does not exist or must not be read, or if the Hub cannot
    be reached and the cache does not have the file.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir))
    except Exception as error:  # the library's errors share no class; none may reach the user as it is
        where = f"{repo_id!r} on the Hub" if revision is None else f"{repo_id!r} at {revision!r} on the Hub"
        raise ModelLoadError(f"{where}: {filename} cannot be loaded: {_reason(error)}") from error


def download_if_present(
    repo_id: str, filename: str, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """As `download`, but None if the repository does not have the file, or offline if the cache does not.

    With the hash of a commit as `revision`, what is known from before is not asked again.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        known = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir, revision=revision)
        if known is not None:  # a path, or a mark that the commit has no such file
            return Path(known) if isinstance(known, str) else None
    try:
        return download(repo_id, filename, revision=revision, cache_dir=cache_dir)
    except ModelLoadError as error:
        absent = isinstance(error.__cause__, EntryNotFoundError)
        unreachable = isinstance(error.__cause__, LocalEntryNotFoundError)
        if absent and (not unreachable or is_offline_mode()):
            return None
        raise


def commit_of(path: Path) -> str | None:
    """The commit that a file in the cache belongs to: further files of the same one go with it for sure."""
    return path.parent.name if _COMMIT.fullmatch(path.parent.name) else None


def _reason(error: Exception) -> str:
    """What went wrong, in one line that also says what would help."""
    from huggingface_hub import errors

    reasons: list[tuple[Any, str]] = [
        (errors.GatedRepoError, "access must be granted on its page first, then HF_TOKEN or `hf auth login` needed"),
        (errors.RepositoryNotFoundError, "no such repository, or a private one that needs HF_TOKEN"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.LocalEntryNotFoundError, "it is not in the cache, and the Hub cannot be reached or offline mode is on"),
        (errors.EntryNotFoundError, "the repository has no such file"),
        (errors.HFValidationError, "not a repository id, which looks like owner/name"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    text = str(error).strip() or "no reason given"
    return f"{type(error).__name__}: {text.splitlines()[0]}"
