"""A model from the Hub: asks what there is, chooses, and downloads all of its files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path

from densecore.exceptions import DenseCoreError, InvalidConfigError, ModelLoadError
from densecore.hub.choice import choose
from densecore.hub.download import download, warn_of_cache
from densecore.hub.failure import failure, is_final, is_offline
from densecore.hub.layout import Repository, is_safe_filename
from densecore.hub.partial import Progress, check_room
from densecore.hub.reference import ModelReference

__all__ = ["fetch_model"]


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of a commit, with their sizes in bytes where these are known."""

    commit: str
    sizes: dict[str, int | None]
    where: str


def fetch_model(
    reference: ModelReference | str,
    filename: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Path of a model in the cache, of its first file if it is split; downloaded where it is not there or out of date.

    The Hub is asked what the repository holds now. Where it cannot be asked, the newest state that is in the cache
    counts; with ``HF_HUB_OFFLINE=1`` that is so from the start.

    reference : ``owner/name``, or with what is meant of it: ``owner/name:Q4_K_M``, ``owner/name:file.gguf``
    filename : a GGUF file of the repository, of a split model any part
    progress : called with a file's name, bytes that are there, and bytes in all

    Raises
    ------
    InvalidConfigError
        `reference` names no repository, or `filename` no GGUF file.
    ModelLoadError
        There is no such model, or more than one; it may not be read, does not fit on the disk, was damaged on its way;
        or the Hub cannot be reached and the cache does not have it.
    """
    reference = reference if isinstance(reference, ModelReference) else ModelReference.parse(reference)
    selector = _selector(reference, filename)
    repository = Repository(reference.repo_id, cache_dir)
    listing = _list(repository, revision)
    model = choose(listing.sizes, selector, listing.where)
    paths = [repository.file(listing.commit, part) for part in model.parts]
    sizes = [listing.sizes[part] for part in model.parts]
    check_room(repository.folder, sum(map(_missing_bytes, paths, sizes)))
    for part in model.parts:
        download(reference.repo_id, part, revision=listing.commit, cache_dir=cache_dir, progress=progress)
    with contextlib.suppress(OSError):  # a cache that cannot be written serves all the same
        repository.remember(revision, listing.commit)
    _mark_used(paths)
    return paths[0]


def _selector(reference: ModelReference, filename: str | None) -> str | None:
    if filename is None:
        return reference.selector
    if reference.selector is not None:
        raise InvalidConfigError(f"give either filename or {str(reference)!r}, which says which file is meant")
    if not isinstance(filename, str) or not filename.lower().endswith(".gguf"):
        raise InvalidConfigError(f"filename must be the name of a GGUF file of the repository, not {filename!r}")
    return filename


def _list(repository: Repository, revision: str | None) -> _Listing:
    """What the Hub has, or if it does not answer, what the cache has."""
    where = repository.repo_id if revision is None else f"{repository.repo_id} at {revision}"
    known = repository.known_commit(revision)
    try:
        return _list_remote(repository.repo_id, revision, where)
    except Exception as error:  # the library's errors share no class; none may reach the user as it is
        names = [] if known is None or is_final(error) else repository.filenames(known)
        if known is None or not any(name.lower().endswith(".gguf") for name in names):
            if isinstance(error, DenseCoreError):
                raise
            raise failure(f"{repository.repo_id!r} on the Hub", "the model", error) from error
        warn_of_cache(where, error)
        offline = " (offline mode is on)" if is_offline(error) else " (the Hub was not reached)"
        return _Listing(known, dict.fromkeys(names), f"{where}, in the cache{offline}")


def _list_remote(repo_id: str, revision: str | None, where: str) -> _Listing:
    from huggingface_hub import HfApi

    found = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size for file in found.siblings or [] if isinstance(file.rfilename, str)}
    for name in sizes:
        if name.lower().endswith(".gguf") and not is_safe_filename(name):
            raise ModelLoadError(f"{where}: a file is called {name!r}, and must stay in its folder")
    return _Listing(str(found.sha), sizes, f"{where} on the Hub")


def _missing_bytes(path: Path, size: int | None) -> int:
    return 0 if path.exists() or not isinstance(size, int) else size


def _mark_used(paths: list[Path]) -> None:
    """Note the time of use in the files' access time, which many systems do not keep by themselves."""
    for path in paths:
        with contextlib.suppress(OSError):
            os.utime(path, (time.time(), path.stat().st_mtime))
