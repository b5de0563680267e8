"""JSON Schemas of many kinds: those in BOUNDED have only short outputs, but for white space."""

from __future__ import annotations

from typing import Any

__all__ = ["BOUNDED", "UNBOUNDED"]

Schema = dict[str, Any]

DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
WORD = {"type": "string", "maxLength": 5}


def record(required: int | None = None, **properties: Any) -> Schema:
    """An object with these properties and no others; the first `required` of them, or all, are required."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:required],
        "additionalProperties": False,
    }


BOUNDED: dict[str, Schema] = {
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "const number": {"const": 42},
    "const text": {"const": "Äpfel \"🦙\"\n"},
    "const object": {"const": {"a": [1, None, {"b": False}]}},
    "enum of texts": {"enum": ["red", "green", "blue"]},
    "enum of all kinds": {"enum": [1, "1", None, True, [1], {"a": 1}]},
    "digit": DIGIT,
    "integer from 10 to 99": {"type": "integer", "minimum": 10, "maximum": 99},
    "negative integer": {"type": "integer", "minimum": -128, "maximum": -1},
    "integer across zero": {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    "multiple of 7": {"type": "integer", "minimum": 0, "maximum": 1000, "multipleOf": 7},
    "short text": WORD,
    "text of exact length": {"type": "string", "minLength": 3, "maxLength": 3},
    "empty text": {"type": "string", "maxLength": 0},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"},
    "pattern of alternatives": {"type": "string", "pattern": "^(cat|dog|(bird){1,2})$"},
    "pattern with a quote": {"type": "string", "pattern": '^["\\\\]{1,3}$'},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "empty object": record(),
    "one property": record(a=DIGIT),
    "several properties": record(a=DIGIT, b=WORD, c={"type": "boolean"}, d={"type": "null"}),
    "optional properties": record(0, a=DIGIT, b=WORD, c={"type": "boolean"}),
    "some required": record(1, name=WORD, age={"type": "integer", "minimum": 0, "maximum": 150}, tag=WORD),
    "odd names": record(**{"": DIGIT, 'a "b"': DIGIT, "ü\n": DIGIT, "$ref": DIGIT}),
    "nested objects": record(a=record(b=record(c=record(d=DIGIT)))),
    "array of digits": {"type": "array", "items": DIGIT, "maxItems": 4},
    "array of exact length": {"type": "array", "items": DIGIT, "minItems": 3, "maxItems": 3},
    "empty array": {"type": "array", "maxItems": 0},
    "array of arrays": {
        "type": "array",
        "items": {"type": "array", "items": DIGIT, "maxItems": 2},
        "minItems": 1,
        "maxItems": 2,
    },
    "tuple": {"type": "array", "prefixItems": [DIGIT, WORD, {"type": "null"}], "items": False, "minItems": 3},
    "array of objects": {"type": "array", "items": record(x=DIGIT, y=DIGIT), "minItems": 1, "maxItems": 3},
    "anyOf": {"anyOf": [DIGIT, WORD, {"type": "null"}]},
    "anyOf of objects": {"anyOf": [record(kind={"const": "a"}, x=DIGIT), record(kind={"const": "b"}, y=WORD)]},
    "oneOf by type": {"oneOf": [DIGIT, WORD]},
    "oneOf by a property": {"oneOf": [record(kind={"const": "a"}, x=DIGIT), record(kind={"const": "b"}, y=WORD)]},
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 20}]},
    "allOf of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": DIGIT}, "required": ["a"]},
            {"properties": {"b": WORD}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": True, "b": True},
    },
    "several types": {"type": ["integer", "null", "boolean"], "minimum": 0, "maximum": 99},
    "reference": {"$ref": "#/$defs/point", "$defs": {"point": record(x=DIGIT, y=DIGIT)}},
    "references": record(
        **{"from": {"$ref": "#/properties/to"}, "to": {"type": "array", "items": DIGIT, "maxItems": 2}}
    ),
    "definitions of draft 7": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"d": DIGIT},
        "type": "array",
        "items": {"$ref": "#/definitions/d"},
        "minItems": 1,
        "maxItems": 2,
    },
    "annotations": DIGIT | {"title": "t", "description": "d", "default": 3, "examples": [1], "deprecated": True},
    "tool call": record(name={"enum": ["get_weather"]}, arguments=record(city=WORD, unit={"enum": ["C", "F"]})),
}  # fmt: skip

UNBOUNDED: dict[str, Schema] = {
    "anything": {},
    "any object": {"type": "object"},
    "any text": {"type": "string"},
    "any number": {"type": "number"},
    "number between": {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
    "any array": {"type": "array"},
    "long array": {"type": "array", "items": WORD, "minItems": 40},
    "map": {"type": "object", "additionalProperties": DIGIT},
    "map with a property": {"type": "object", "properties": {"a": DIGIT}, "required": ["a"]},
    "pattern properties": {
        "type": "object", "patternProperties": {"^x[0-9]$": DIGIT}, "additionalProperties": False,
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": record(1, value=DIGIT, children={"type": "array", "items": {"$ref": "#/$defs/node"}}),
        },
    },
    "list to the end": {"anyOf": [{"type": "null"}, record(head=DIGIT, tail={"$ref": "#"})]},
}  # fmt: skip
