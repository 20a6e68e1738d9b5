"""/docs: the OpenAPI document as a plain page, rendered here, without any other host."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

routes = APIRouter(include_in_schema=False)

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9rem; }
pre { overflow: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 6px; }
section { border-top: 1px solid #8886; padding: 0.5rem 0 1rem; }
h2 { font-size: 1.1rem; }
"""


@routes.get("/docs")
async def docs(request: Request) -> Response:
    """Every route with its parameters and body."""
    return HTMLResponse("".join(_page(request.app.openapi())))


@routes.get("/docs/style.css")
async def style() -> Response:
    """Its style sheet."""
    return Response(STYLE, media_type="text/css")


def _page(document: Mapping[str, Any]) -> Iterator[str]:
    title = escape(document["info"]["title"])
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    yield '<meta name="viewport" content="width=device-width">'
    yield f'<link rel="stylesheet" href="/docs/style.css"><h1>{title}</h1>'
    yield f"<p>{escape(document['info']['description'])} "
    yield '<a href="/openapi.json">openapi.json</a></p>'
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            yield from _operation(verb.upper(), path, operation)
    yield "<section><h2>Schemas</h2>"
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3>{_block(schema)}'
    yield "</section></html>"


def _operation(verb: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{verb} {escape(path)}</code> {escape(operation['summary'])}</h2>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    for parameter in operation.get("parameters", ()):
        yield f"<p><code>{escape(parameter['name'])}</code> ({escape(parameter['in'])})</p>"
        yield _block(parameter["schema"])
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>body: <code>{escape(kind)}</code></p>{_block(body['schema'])}"
    yield "</section>"


def _block(schema: Any) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
