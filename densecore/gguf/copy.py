"""Making a file from another one: what both have in common."""

from __future__ import annotations

from collections.abc import Collection

from densecore.gguf.head import ALIGNMENT_KEY
from densecore.gguf.reader import GGUFFile
from densecore.gguf.splits import COUNT_KEY, NO_KEY, TENSORS_KEY
from densecore.gguf.writer import GGUFWriter

__all__ = ["copy_metadata"]

_OF_THE_FILE = (ALIGNMENT_KEY, NO_KEY, COUNT_KEY, TENSORS_KEY)  # the writer sets them itself


def copy_metadata(source: GGUFFile, writer: GGUFWriter, leave_out: Collection[str] = ()) -> None:
    """Adds to `writer` all pairs of `source` with their types, but those that describe the file and `leave_out`."""
    for key, value in source.metadata.items():
        if key not in _OF_THE_FILE and key not in leave_out:
            writer.add_metadata(key, value, source.metadata.value_type(key))
