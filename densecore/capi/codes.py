"""Error codes of the C API, and the exceptions that they stand for."""

from __future__ import annotations

from densecore.exceptions import DenseCoreError, ModelLoadError, TimeoutError

__all__ = ["ERROR", "INVALID_MODEL", "OK", "OUT_OF_MEMORY", "TIMEOUT", "FailedRequestError", "code_of", "message_of"]

OK, ERROR, OUT_OF_MEMORY, INVALID_MODEL, TIMEOUT = 0, -1, -2, -3, -4

_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (MemoryError, OUT_OF_MEMORY),
    (ModelLoadError, INVALID_MODEL),
    (TimeoutError, TIMEOUT),
)


class FailedRequestError(DenseCoreError):
    """A request that ended with an error, told by code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: BaseException) -> int:
    """The code that tells a C program of this error."""
    if isinstance(error, FailedRequestError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def message_of(error: BaseException) -> str:
    """What GetLastError says of it: one line."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' if text else ''}{text}"
    return text or type(error).__name__
