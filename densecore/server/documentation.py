"""What ``/docs`` tells about bodies, which routes read by themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

__all__ = ["describes"]


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
