"""The OpenAPI document: what FastAPI knows, and the bodies that handlers parse themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.schemas import ProblemSchema, SimulateRequest, WorkloadSchema
from service.schemas_fleet import RatesRequest

if TYPE_CHECKING:
    from fastapi import FastAPI

REPLACED = ("HTTPValidationError", "ValidationError")
"""FastAPI's error bodies, which nothing answers here."""


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """Return the document; it is made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"] | _own_schemas()
        document["components"]["schemas"] = {
            name: schemas[name] for name in sorted(schemas) if name not in REPLACED
        }
        app.openapi_schema = document
    return app.openapi_schema


def _own_schemas() -> dict[str, Any]:
    models = [
        (model, "validation") for model in (WorkloadSchema, RatesRequest, SimulateRequest, ProblemSchema)
    ]
    _, document = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return document["$defs"]


def openapi_text(app: FastAPI) -> str:
    """Return the document as it is committed."""
    return json.dumps(openapi_document(app), indent=2, sort_keys=True) + "\n"
