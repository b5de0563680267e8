"""What the schema tells beside FastAPI's own: bodies, which routes read by themselves, and errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from densecore.server.errors import TYPES
from densecore.server.probes import OPEN_PATHS

__all__ = ["STREAMS", "describes", "with_errors"]

STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}  # beside JSON
OF_ALL = (400, 401, 403, 404, 429, 503)
OF_BODIES = (408, 409, 413, 501)  # of routes that read one, besides
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def describes(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's words for a JSON body that is `model`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.update(_inlined(schema, schema.pop("$defs", {})))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    """`value` with definitions in the places that refer to them; none of ours refers to itself."""
    if isinstance(value, dict):
        name = str(value.get("$ref", "")).rsplit("/", 1)[-1]
        if name in definitions:
            return _inlined(definitions[name], definitions)
        return {key: _inlined(item, definitions) for key, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item, definitions) for item in value]
    return value


def with_errors(schema: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document with the errors that each route may answer with; FastAPI's own 422 is never one."""
    schema.get("components", {}).pop("schemas", None)  # of that error alone
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            responses = operation["responses"]
            responses.pop("422", None)
            if path in OPEN_PATHS:
                responses |= {"403": _error(403), "503": {"description": "not ready; the body says why"}}
                continue
            statuses = OF_ALL if method == "get" else sorted(OF_ALL + OF_BODIES)
            responses |= {str(status): _error(status) for status in statuses}
    return schema


def _error(status: int) -> dict[str, Any]:
    return {"description": TYPES[status], "content": {"application/json": {"schema": ERROR}}}
