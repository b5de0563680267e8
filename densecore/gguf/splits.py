"""Models in several files: ``NAME-00001-of-0000N.gguf`` and so on, all in one directory.

The first part holds the metadata of the model. Every part says which one it is (``split.no``, from 0) and how
many there are (``split.count``); ``split.tensors.count`` is the number of tensors of the whole model.
"""

from __future__ import annotations

from pathlib import Path

from densecore.gguf.errors import load_error
from densecore.gguf.metadata import Metadata
from densecore.split_names import PART_NAME, part_names

__all__ = ["COUNT_KEY", "NO_KEY", "TENSORS_KEY", "check_part", "part_paths", "split_paths"]

NO_KEY = "split.no"
COUNT_KEY = "split.count"
TENSORS_KEY = "split.tensors.count"


def split_paths(path: Path, count: int) -> list[Path]:
    """Names of the `count` parts of the model ``NAME.gguf``."""
    return [path.with_name(name) for name in part_names(path.stem, count)]


def part_paths(path: Path) -> list[Path]:
    """All parts of the model that the file `path` is a part of, in order; `path` alone if it is not split.

    Only names are looked at, so that a link into a download cache finds its neighbours. ModelLoadError if
    the name says part 0, or a part beyond the last.
    """
    match = PART_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    number, count = int(match["number"]), int(match["count"])
    if not 1 <= number <= count:
        raise load_error(path, "file name", f"says part {number} of {count}", f"parts 1 to {count}")
    return split_paths(path.with_name(match["stem"] + ".gguf"), count)


def check_part(metadata: Metadata, index: int, count: int) -> None:
    """ModelLoadError unless `metadata` says that this is the part `index` (from 0) of `count`."""
    single = count == 1  # a model in one file says so, or nothing
    said = metadata.integer(COUNT_KEY, 1) if single else metadata.integer(COUNT_KEY)
    if said != count:
        allowed = f"{count}, as the file name says"
        if single:
            allowed = f"1, or files named NAME-00001-of-{max(said, 0):05d}.gguf and so on"
        raise metadata.error(COUNT_KEY, f"is {said}", allowed)
    number = metadata.integer(NO_KEY, 0) if single else metadata.integer(NO_KEY)
    if number != index:
        raise metadata.error(NO_KEY, f"is {number}", f"{index}, as this is file {index + 1} of {count}")
