"""Every error as one kind of answer: RFC 9457 problem details."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from placer.errors import InvalidProblemError
from service.errors import BodyTimeoutError, InvalidRequestError, ServiceError, UnauthenticatedError
from service.handlers.bodies import PROBLEM_JSON
from service.observability import REFUSED
from service.schemas.border import field_path
from service.schemas.problems import ProblemSchema
from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from fastapi import FastAPI

log = structlog.get_logger()


def install_problem_handlers(app: FastAPI) -> None:
    """Make the application answer each error as a problem."""
    for kind in (ServiceError, InvalidInputError, InvalidProblemError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer_problem)
    app.add_exception_handler(Exception, answer_unexpected)


async def answer_problem(_request: Request, error: Exception) -> Response:
    """Answer an error that the caller can mend or wait out."""
    if isinstance(error, ServiceError):
        return problem_response(error)
    if isinstance(error, (InvalidInputError, InvalidProblemError)):
        return problem_response(InvalidRequestError(error.message, field=error.field))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return problem_response(
            InvalidRequestError(f"is refused: {first['msg']}", field=field_path(first["loc"][1:]))
        )
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "_")
    return _response(code, status.phrase, status, str(error.detail), None, dict(error.headers or {}))


async def answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer a bug: logged whole, told in one sentence."""
    log.error("unexpected_error", path=request.url.path, exc_info=error)
    return problem_response(ServiceError("an unexpected error occurred; it was logged"))


def problem_response(error: ServiceError) -> Response:
    """Return the answer for one of our errors."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BodyTimeoutError):
        headers["Connection"] = "close"  # the rest of the body is not waited for
    return _response(error.code, error.title, error.status, error.detail, error.field, headers)


def _response(
    code: str, title: str, status: int, detail: str, field: str | None, headers: dict[str, Any]
) -> Response:
    REFUSED.labels(code).inc()
    problem = ProblemSchema(
        type=f"urn:loadmaster:problem:{code}",
        title=title,
        status=int(status),
        detail=detail,
        code=code,
        field=field,
    )
    return Response(orjson.dumps(problem.model_dump()), int(status), headers, media_type=PROBLEM_JSON)
