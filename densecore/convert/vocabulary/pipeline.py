"""The checkpoint's own tokenizer in the `tokenizers` library, whose errors and panics become errors about the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tokenizers import Tokenizer as Pipeline

from densecore.convert.vocabulary.source import TokenizerSource
from densecore.exceptions import DenseCoreError
from densecore.gguf.errors import describe, load_error

__all__ = ["library_errors", "load_pipeline"]


def load_pipeline(source: TokenizerSource) -> Pipeline:
    """The tokenizer; ModelLoadError if the library cannot read it."""
    source.require()
    with library_errors(source):
        pipeline = Pipeline.from_file(str(source.path))
        pipeline.no_truncation()
        pipeline.no_padding()
    return pipeline


@contextlib.contextmanager
def library_errors(source: TokenizerSource) -> Iterator[None]:
    """What the library raises inside becomes a ModelLoadError: it has no narrow class, and a panic is no Exception."""
    try:
        yield
    except DenseCoreError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        problem = f"is not a tokenizer ({describe(str(error))})"
        raise load_error(source.path, "file", problem, "what the tokenizers library can use") from None
