"""Who may ask: API keys, and the names by which the server may be called."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from densecore.server.errors import ApiError

__all__ = ["check_host", "check_origin", "client_of", "find_key"]

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")


def find_key(headers: Mapping[str, str], keys: Sequence[str]) -> str:
    """The key of a request, from ``Authorization: Bearer``; 401 if it is missing or is none of `keys`.

    All keys are compared, each in constant time, so that time tells nothing about them.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise ApiError(401, "An API key is needed: Authorization: Bearer KEY", code="missing_api_key")
    found = [key for key in keys if hmac.compare_digest(key.encode(), given.strip().encode("utf-8", "replace"))]
    if not found:
        raise ApiError(401, "The API key is not one of this server's", code="invalid_api_key")
    return found[0]


def client_of(key: str | None, address: str) -> str:
    """Whose token bucket a request takes from; a key is kept as its digest."""
    return address if key is None else hashlib.sha256(key.encode()).hexdigest()


def check_host(header: str, allowed: Sequence[str] = LOCAL_NAMES) -> None:
    """403 for a ``Host`` that is not this machine's own name.

    A web page can let its own name point to 127.0.0.1, and would then be free to ask (DNS rebinding).
    """
    name = header.strip().lower()
    if not name.startswith("["):
        name = name.rsplit(":", 1)[0] if name.count(":") == 1 else name
    else:
        name = name.partition("]")[0] + "]"
    if name not in allowed:
        raise ApiError(403, f"This server listens on this machine only, and is not {name!r:.100}", code="foreign_host")


def check_origin(headers: Mapping[str, str], allowed: Sequence[str]) -> None:
    """403 for a web page of another origin that is not `allowed`.

    Browsers let every page send simple requests, and only keep the answers from it: enough to keep a server busy.
    """
    origin = headers.get("origin")
    if origin is None or "*" in allowed or origin in allowed:
        return
    if origin.partition("://")[2] != headers.get("host", ""):
        raise ApiError(403, f"Web pages of {origin!r:.100} may not ask here; --cors allows it", code="foreign_origin")
