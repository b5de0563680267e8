"""The models that are in the cache: listing and removing them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from densecore.exceptions import ModelLoadError
from densecore.hub.choice import ModelFiles, models_among
from densecore.hub.layout import Repository, cache_directory, is_commit

__all__ = ["CachedModel", "cached_models", "remove_models", "repositories", "unfinished_bytes"]


@dataclasses.dataclass(frozen=True)
class CachedModel:
    """A model in the cache, in one commit of its repository or in several.

    repo_id, name : the repository, and the first file
    parts : names of all files that belong to the model
    quantization : as its name says; None if it does not
    paths : its files, of every commit
    size_bytes : on the disk, what commits share counted once
    last_used : seconds since 1970
    missing_parts : names of parts that are not there
    """

    repo_id: str
    name: str
    parts: tuple[str, ...]
    quantization: str | None
    paths: tuple[Path, ...]
    size_bytes: int
    last_used: float
    missing_parts: tuple[str, ...]

    @property
    def reference(self) -> str:
        """What the model is called on the command line."""
        return f"{self.repo_id}:{self.name}"


def repositories(cache_dir: str | os.PathLike[str] | None = None) -> list[Repository]:
    """The model repositories that have a folder in the cache."""
    cache, found = cache_directory(cache_dir), []
    for folder in sorted(cache.glob("models--*")):
        with contextlib.suppress(ModelLoadError):  # a folder that huggingface_hub would not have made
            repository = Repository("/".join(folder.name.split("--")[1:]), cache)
            if repository.folder == folder and folder.is_dir() and not folder.is_symlink():
                found.append(repository)
    return found


def cached_models(repository: Repository) -> list[CachedModel]:
    """The models of a repository, each GGUF file or split one, by name."""
    commits = [path.name for path in _entries(repository.folder / "snapshots") if is_commit(path.name)]
    files = {commit: repository.filenames(commit) for commit in commits}
    models = models_among((name for names in files.values() for name in names), every=True)
    return [_cached_model(repository, model, files) for model in models]


def remove_models(repository: Repository, models: Iterable[CachedModel] | None = None) -> int:
    """Delete models, or with None the repository with all that is in it; the bytes that this freed.

    A blob goes when no file of the repository is left that links to it. What links lead to outside of the
    repository's folder is left alone.
    """
    if models is None:
        freed = _size_of(path for path in repository.folder.rglob("*") if not path.is_symlink())
        _delete(repository.folder)
        if (locks := repository.cache / ".locks" / repository.folder.name).is_dir():
            _delete(locks)
        return freed
    paths = [path for model in models for path in model.paths]
    blobs = {path.resolve() for path in paths if path.is_symlink()}
    freed = _size_of(path for path in paths if not path.is_symlink())
    for path in paths:
        path.unlink()
    return freed + _remove_unused(repository, blobs)


def unfinished_bytes(repository: Repository) -> int:
    """Bytes of downloads of a repository that were cut off."""
    return _size_of((repository.folder / "blobs").glob("*.incomplete"))


def _remove_unused(repository: Repository, blobs: set[Path]) -> int:
    folder = (repository.folder / "blobs").resolve()
    used = {path.resolve() for path in (repository.folder / "snapshots").rglob("*") if path.is_symlink()}
    freed = 0
    for blob in blobs - used:
        if blob.parent == folder and blob.exists():
            freed += blob.stat().st_size
            blob.unlink()
    return freed


def _cached_model(repository: Repository, model: ModelFiles, files: dict[str, list[str]]) -> CachedModel:
    paths = [repository.file(commit, part) for commit in files for part in model.parts if part in files[commit]]
    blobs = {path.resolve() for path in paths}
    fullest = max((set(model.parts) & set(names) for names in files.values()), key=len)
    return CachedModel(
        repository.repo_id,
        model.name,
        model.parts,
        model.quantization,
        tuple(paths),
        _size_of(blobs),
        max(max(blob.stat().st_atime, blob.stat().st_mtime) for blob in blobs),
        tuple(part for part in model.parts if part not in fullest),
    )


def _size_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _entries(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.iterdir())) if folder.is_dir() else iter(())


def _delete(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ModelLoadError(f"{folder}: cannot be deleted: {error.strerror or error}") from error
