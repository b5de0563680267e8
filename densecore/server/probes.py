"""Whether the server lives, has started, and takes requests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from densecore.server.service import Service, service_of

__all__ = ["OPEN_PATHS", "router"]

router = APIRouter()

OPEN_PATHS = ("/", "/health", "/health/live", "/health/ready", "/health/startup")  # need no key


def _answer(status: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **more}


def _loading(service: Service) -> Response | None:
    """503 until the first model has been loaded once, with how far it is."""
    entry = service.registry.default
    if entry.name in service.registry.started:
        return None
    if entry.state == "failed":
        return JSONResponse(_answer("failed", model=entry.name, error=entry.error), 503)
    return JSONResponse(_answer("loading", model=entry.name, progress=entry.progress), 503, {"Retry-After": "2"})


def _draining(service: Service) -> Response | None:
    if not service.draining:
        return None
    return JSONResponse(_answer("draining", active=service.metrics.num_active), 503, {"Retry-After": "5"})


@router.get("/health", response_model=None)
@router.get("/health/ready", response_model=None)
async def ready(http: HttpRequest) -> Response | dict[str, Any]:
    """Whether requests are taken: a model is loaded, and the server is not about to end."""
    service = service_of(http)
    return _draining(service) or _loading(service) or _answer("healthy")


@router.get("/health/startup", response_model=None)
async def startup(http: HttpRequest) -> Response | dict[str, Any]:
    """Whether the first model has been loaded."""
    return _loading(service_of(http)) or _answer("healthy")


@router.get("/health/live", response_model=None)
async def live() -> dict[str, Any]:
    """Whether the process answers."""
    return _answer("healthy")
