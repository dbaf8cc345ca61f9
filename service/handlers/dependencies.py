"""What handlers ask the application for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request, Response

from service.errors import NotReadyError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from service.factory import Services
    from service.handlers.bodies import BodyReader


def services_of(request: Request) -> Services:
    """Return this process's services."""
    return request.app.state.services


def bodies_of(request: Request) -> BodyReader:
    """Return what reads this process's request bodies."""
    return request.app.state.bodies


def ready_services(request: Request) -> Services:
    """Return this process's services once its kernels are compiled.

    Raises
    ------
    NotReadyError
        They are not yet: the request would wait for the compiler.
    """
    services = services_of(request)
    if not services.context.ready.is_set():
        raise NotReadyError("the kernels are being compiled", retry_after_s=2)
    return services


def json_response(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return encoded JSON as it stands."""
    return Response(content, status, headers, media_type="application/json")


def answer_of(schema: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer's schema as JSON."""
    return json_response(schema.model_dump_json().encode(), status, headers)
