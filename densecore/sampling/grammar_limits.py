"""What llguidance's own limits do not bound: regular expressions of which a text has to match many at once.

To find out whether any text does, it goes through states that grow with each expression; forty take a gigabyte before
its limits notice. So their number is limited, counted from above.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["check_intersections"]

MAX_INTERSECTIONS = 12
_COMBINING = ("$ref", "allOf", "anyOf", "oneOf")
_JSON_WITHIN = re.compile(r"%json\s*")


def check_intersections(kind: str, source: Any) -> None:
    """Raise ValueError if a schema or grammar asks for too many expressions at once."""
    count = 0
    if kind == "json_schema":
        count = _in_schema(json.loads(source))
    elif kind == "grammar":
        count = source.count("&") + sum(map(_in_schema, _schemas_within(source)))
    if count > MAX_INTERSECTIONS:
        raise ValueError(
            f"texts would have to match up to {count} patterns at once (allOf, or & in a grammar);"
            f" at most {MAX_INTERSECTIONS} are allowed"
        )


def _in_schema(schema: Any) -> int:
    """A bound for the number of patterns that one text may have to match."""
    nodes = [node for node in _nodes(schema) if isinstance(node, dict)]
    patterns = sum("pattern" in node for node in nodes)
    combined = sum(len(node["allOf"]) for node in nodes if isinstance(node.get("allOf"), list))
    combined += sum("pattern" in node and any(name in node for name in _COMBINING) for node in nodes)
    return min(patterns, combined)


def _nodes(value: Any) -> Iterator[Any]:
    pending = [value]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, dict | list):
            pending.extend(node.values() if isinstance(node, dict) else node)


def _schemas_within(grammar: str) -> Iterator[Any]:
    """The schemas that a grammar in Lark syntax holds. What is no JSON is refused here."""
    for found in _JSON_WITHIN.finditer(grammar):
        yield json.JSONDecoder().raw_decode(grammar, found.end())[0]
