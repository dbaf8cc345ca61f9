"""The OpenAPI document: what FastAPI knows, and the bodies that handlers parse themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.handlers.bodies import problems
from service.schemas.agents import (
    AgentSchema,
    HeartbeatRequest,
    MeasurementsRequest,
    SampleRequest,
    WorkOutcomeRequest,
)
from service.schemas.fleet import RatesRequest, RunningRequest
from service.schemas.problems import ProblemSchema
from service.schemas.recalibration import MeasurementSetRequest, RecalibrateRequest
from service.schemas.simulation import SimulateRequest
from service.schemas.versions import RollBackRequest
from service.schemas.what_if import WhatIfRequest
from service.schemas.workload import ColumnarWorkloadSchema, ReplaceRequest, WorkloadSchema
from service.services.guard import access_of

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
        _describe_security(document)
        app.openapi_schema = document
    return app.openapi_schema


def _describe_security(document: dict[str, Any]) -> None:
    """Tell of the key, and of the problems that the layer before the routes answers."""
    document["components"]["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key; none is needed without keys."}
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scopes = sorted(access_of(method.upper(), path).scopes)
            if scopes:
                operation["security"] = [{"key": []}, {}]
                refused = problems(
                    s401="A key is needed",
                    s403=f"The key lacks the scope {' or '.join(scopes)}; or, without keys, a foreign `Host`",
                    s429="The key asks too often; see Retry-After",
                )
                operation["responses"] |= {str(status): answer for status, answer in refused.items()}


def _own_schemas() -> dict[str, Any]:
    models = [
        (model, "validation")
        for model in (
            WorkloadSchema,
            ColumnarWorkloadSchema,
            ReplaceRequest,
            WhatIfRequest,
            RatesRequest,
            RunningRequest,
            SimulateRequest,
            RollBackRequest,
            RecalibrateRequest,
            MeasurementSetRequest,
            AgentSchema,
            HeartbeatRequest,
            MeasurementsRequest,
            SampleRequest,
            WorkOutcomeRequest,
            ProblemSchema,
        )
    ]
    _, document = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    return document["$defs"]


def openapi_text(app: FastAPI) -> str:
    """Return the document as it is committed."""
    return json.dumps(openapi_document(app), indent=2, sort_keys=True) + "\n"
