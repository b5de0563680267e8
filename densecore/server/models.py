"""Models and what is not there yet: ``/v1/models``, load and unload; responses say 501."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Depends
from fastapi import Request as HttpRequest

from densecore.server.body import reads
from densecore.server.documentation import describes
from densecore.server.errors import ApiError, unavailable
from densecore.server.registry import ModelEntry
from densecore.server.schemas import ModelName, UnloadModel
from densecore.server.service import service_of

__all__ = ["router"]

router = APIRouter()


def _described(entry: ModelEntry) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": entry.name,
        "object": "model",
        "created": entry.created,
        "owned_by": "densecore",
        "state": entry.state,
    }
    if entry.model is not None:
        described["max_model_len"] = entry.model.max_model_len
    return described


@router.get("/v1/models", response_model=None)
async def list_models(http: HttpRequest) -> dict[str, Any]:
    """All models that may be named, loaded or not; answers while they load."""
    entries = service_of(http).registry.entries.values()
    return {"object": "list", "data": [_described(entry) for entry in entries]}


@router.post("/v1/models/load", openapi_extra=describes(ModelName), response_model=None)
async def load(http: HttpRequest, request: Annotated[ModelName, Depends(reads(ModelName))]) -> dict[str, Any]:
    """Load a model, and answer when it is there."""
    service = service_of(http)
    if service.draining:
        raise unavailable("The server is shutting down", 5)
    entry = service.registry.find(request.model)
    await service.registry.load(entry)
    return _described(entry)


@router.post("/v1/models/unload", openapi_extra=describes(UnloadModel), response_model=None)
async def unload(http: HttpRequest, request: Annotated[UnloadModel, Depends(reads(UnloadModel))]) -> dict[str, Any]:
    """Let go of a model; the next request for it loads it again."""
    registry = service_of(http).registry
    entry = registry.find(request.model)
    await registry.unload(entry, force=bool(request.force))
    return _described(entry)


@router.get("/v1/models/{name:path}", response_model=None)
async def model(http: HttpRequest, name: str) -> dict[str, Any]:
    """One model."""
    return _described(service_of(http).registry.find(name))


@router.post("/v1/responses", response_model=None)
async def later(http: HttpRequest) -> NoReturn:
    """In a later version."""
    raise ApiError(501, "The Responses API: not in this version of DenseCore yet", code="not_implemented")
