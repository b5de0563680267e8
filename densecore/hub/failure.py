"""What went wrong with the Hub, in one line that says what would help."""

from __future__ import annotations

import errno
from typing import Any

from densecore.exceptions import DenseCoreError, ModelLoadError

__all__ = ["failure", "is_final", "is_offline"]

_NEEDS_ACCESS = "access must be granted on its page first, then HF_TOKEN or `hf auth login` needed"
_STATUS = {
    401: "the Hub does not accept the token (401): check HF_TOKEN, or log in with `hf auth login`",
    403: "access is refused (403): the token in HF_TOKEN may not read this repository",
    404: "the Hub does not have it (404)",
    416: "the Hub cannot go on with what was downloaded before (416): try again",
    429: "the Hub asks to wait (429, too many requests): try again{after}; with HF_TOKEN more is allowed",
}


def failure(where: str, what: str, error: Exception) -> ModelLoadError:
    """The error to raise: `what`, of `where`, could not be had because of `error`."""
    return ModelLoadError(f"{where}: {what} cannot be loaded: {_reason(error)}")


def is_final(error: Exception) -> bool:
    """Whether the Hub has answered that there is no such thing: then the cache is no substitute."""
    from huggingface_hub import errors

    final = (errors.RevisionNotFoundError, errors.EntryNotFoundError, DenseCoreError)
    return isinstance(error, final)


def is_offline(error: BaseException | None) -> bool:
    """Whether the user's offline mode, ``HF_HUB_OFFLINE``, kept the Hub from being asked."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    reasons: list[tuple[Any, str]] = [
        (errors.OfflineModeIsEnabled, "it is not in the cache, and offline mode is on (HF_HUB_OFFLINE)"),
        (errors.GatedRepoError, _NEEDS_ACCESS),
        (errors.RepositoryNotFoundError, "no such repository, or a private one that needs HF_TOKEN"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.EntryNotFoundError, "the repository has no such file"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    response = getattr(error, "response", None)
    if response is not None:
        return _status_reason(response)
    if isinstance(error, OSError) and error.errno is not None and not _is_of_network(error):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return f"{error.strerror}" + ("; what has come so far is kept: make room and try again" if full else "")
    text = " ".join(str(error).split()) or "no reason given"
    if _is_of_network(error):
        hint = "try again later, a download that was cut off then goes on"
        return f"the Hub cannot be reached: {type(error).__name__}: {text}; {hint}"
    return f"{type(error).__name__}: {text}"


def _status_reason(response: Any) -> str:
    status = response.status_code
    if status in _STATUS:
        seconds = str(response.headers.get("Retry-After", ""))
        return _STATUS[status].format(after=f" in {seconds} seconds" if seconds.isdecimal() else " later")
    if status >= 500:
        return f"the Hub has a problem of its own (status {status}): try again later; what has come so far is kept"
    return f"the Hub answers with status {status}"


def _is_of_network(error: Exception) -> bool:
    """Whether the error comes from the library that huggingface_hub talks HTTP with, which changes with its version."""
    library = type(error).__module__.split(".")[0]
    return library.startswith(("httpx", "httpcore", "requests", "urllib3")) or isinstance(error, ConnectionError)
