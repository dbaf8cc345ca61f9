"""``/docs``: the API's description as one page that loads nothing from anywhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}}
code,pre{{font:14px/1.4 ui-monospace,monospace}} pre{{background:#f5f5f5;padding:.8rem;overflow:auto}}
section{{border-top:1px solid #ddd;padding:.4rem 0}} h2 span{{color:#06c;margin-right:.6rem}}
</style></head><body><h1>{title} <small>{version}</small></h1>
<p>{description} The same as <a href="openapi.json">OpenAPI JSON</a>.</p>{routes}
<h1>Schemas</h1>{schemas}</body></html>"""


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Answer the description of every route and schema."""
    return Response(render(request.app.openapi()), media_type="text/html")


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    routes = "".join(
        _route(method, path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    schemas = "".join(
        f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>'
        f"<details><summary>JSON schema</summary>{_code(schema)}</details></section>"
        for name, schema in document["components"]["schemas"].items()
    )
    info = document["info"]
    return PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        description=escape(info["description"]),
        routes=routes,
        schemas=schemas,
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    answers = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer['description'])}{_schema_link(answer)}</li>"
        for status, answer in operation["responses"].items()
    )
    body = operation.get("requestBody")
    takes = f"<p>Body:{_schema_link(body)}</p>" if body else ""
    return (
        f"<section><h2><span>{escape(method.upper())}</span>{escape(path)}</h2>"
        f"<p>{escape(operation['summary'])} {escape(operation.get('description', ''))}</p>{takes}"
        f"<ul>{answers}</ul></section>"
    )


def _schema_link(part: dict[str, Any]) -> str:
    for content in part.get("content", {}).values():
        name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
        if name:
            return f' <a href="#{escape(name)}">{escape(name)}</a>'
    return ""


def _code(value: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
