"""``/docs``: the reference of all routes, a page that loads nothing from elsewhere and runs no script."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse

from densecore.server.page import digests

__all__ = ["router"]

router = APIRouter()

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.1rem; }
code { font: 0.9em ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td { border-top: 1px solid #8884; padding: 0.25rem 0.75rem 0.25rem 0; vertical-align: top; overflow-wrap: anywhere; }
"""


@router.get("/docs", include_in_schema=False)
async def reference(http: HttpRequest) -> HTMLResponse:
    """Every route with the fields of its body, from the schema at ``/openapi.json``."""
    schema = http.app.openapi()
    title = f"{schema['info']['title']} {schema['info']['version']}"
    parts = [f"<h1>{escape(title)}</h1>", '<p>For programs: <a href="openapi.json">openapi.json</a></p>']
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method, path, operation)
    html = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    policy = (
        f"default-src 'none'; style-src {' '.join(digests(html, 'style'))}; frame-ancestors 'none'; base-uri 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    rows = [
        (field["name"], field.get("schema", {}), field.get("required")) for field in operation.get("parameters", ())
    ]
    rows += [(name, field, name in body.get("required", ())) for name, field in body.get("properties", {}).items()]
    if rows:
        yield f"<table>{''.join(_row(*row) for row in rows)}</table>"


def _row(name: str, field: dict[str, Any], required: bool | None) -> str:
    notes = ["required"] if required else []
    notes += [field["description"]] if "description" in field else []
    cells = (f"<code>{escape(name)}</code>", escape(_type(field)), escape("; ".join(notes)))
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _type(schema: dict[str, Any]) -> str:
    """What values there may be, in words; that null is allowed is said once for all fields, in docs/SERVER.md."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([schema.get("type", "any"), *limits])
