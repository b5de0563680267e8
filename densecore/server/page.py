"""``/``: the chat page for browsers, and what this server is for programs."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, JSONResponse, Response

import densecore

__all__ = ["content_security_policy", "digests", "router", "wants_page"]

router = APIRouter()


@functools.cache
def _page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that it is sent with."""
    html = resources.files("densecore.server").joinpath("chat.html").read_text("utf-8")
    headers = {
        "Content-Security-Policy": content_security_policy(html),
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",  # the page of an older version would speak with this one
        "Vary": "Accept",
    }
    return html, headers


def content_security_policy(html: str) -> str:
    """Only the page's own script and style run, it speaks with this server alone, and no other page may frame it.

    Scripts and styles are named by their digests, so that nothing which a model writes can be one. Where browsers know
    of trusted types, text cannot even be made into markup.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(digests(html, "script")),
        "style-src": " ".join(digests(html, "style")),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def digests(html: str, tag: str) -> list[str]:
    """What a policy calls each element of that tag: the SHA-256 of its text."""
    texts = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]


def wants_page(accept: str) -> bool:
    """Whether an ``Accept`` header names HTML, and likes nothing that is JSON better (RFC 9110, section 12.5.1)."""
    weights = dict(_media_range(part) for part in accept.lower().split(","))
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)


def _media_range(part: str) -> tuple[str, float]:
    """A media type and its weight."""
    name, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        found = re.fullmatch(r"q=([01](?:\.\d{0,3})?)", parameter)
        if found:
            return name, float(found[1])
    return name, 1.0


@router.get("/", response_model=None, responses={200: {"content": {"text/html": {}}}})
async def root(http: HttpRequest) -> Response:
    """The chat page, if HTML is asked for; else what this is, and where to go."""
    if wants_page(http.headers.get("accept", "")):
        html, headers = _page()
        return HTMLResponse(html, headers=headers)
    described = {
        "name": "densecore",
        "version": densecore.__version__,
        "models": "/v1/models",
        "documentation": "/docs",
        "health": "/health",
        "metrics": "/metrics",
    }
    return JSONResponse(described, headers={"Vary": "Accept"})
