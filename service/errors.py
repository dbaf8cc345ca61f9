"""Errors of the service: each knows its HTTP status, a stable code, and the field to mend."""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Root of every error raised by `service`.

    Attributes
    ----------
    code, status, title
        Stable name, HTTP status and summary of the class.
    field
        The offending part of the request (``adapters[3].rate_rps``), None where there is none.
    retry_after_s
        Seconds after which a retry may succeed, None where a retry cannot help.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(detail if field is None else f"{field} {detail}")
        self.detail = str(self)
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequestError(ServiceError):
    """A value in the request breaks a rule."""

    code = "invalid_request"
    status = 422
    title = "The request is not valid"


class MalformedBodyError(ServiceError):
    """The body is not JSON."""

    code = "malformed_body"
    status = 422
    title = "The body is not JSON"


class BodyTooLargeError(ServiceError):
    """The body is longer than we read."""

    code = "body_too_large"
    status = 413
    title = "The body is too large"


class TooLargeError(ServiceError):
    """Something that was given is larger than we keep."""

    code = "too_large"
    status = 413
    title = "Too large"


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    code = "body_timeout"
    status = 408
    title = "The body did not arrive in time"


class UnauthenticatedError(ServiceError):
    """No valid API key came with the request."""

    code = "unauthenticated"
    status = 401
    title = "An API key is needed"


class ForbiddenError(ServiceError):
    """The caller may not do this."""

    code = "forbidden"
    status = 403
    title = "Not allowed"


class RateLimitedError(ServiceError):
    """A key asks more often than it may."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"


class NotFoundError(ServiceError):
    """There is no such thing."""

    code = "not_found"
    status = 404
    title = "Not found"


class ConflictError(ServiceError):
    """Others change the same thing at the same time."""

    code = "conflict"
    status = 409
    title = "The request conflicts with another"


class VersionRefusedError(ServiceError):
    """A published version is damaged, or does not belong to its calibration."""

    code = "version_refused"
    status = 409
    title = "The version cannot be used"


class OverloadedError(ServiceError):
    """Too much is waiting already."""

    code = "overloaded"
    status = 503
    title = "The service is busy"


class NotReadyError(ServiceError):
    """The process is still starting."""

    code = "not_ready"
    status = 503
    title = "The service is starting"


class StoreUnavailableError(ServiceError):
    """The store does not answer, and the call needs it."""

    code = "store_unavailable"
    status = 503
    title = "The store is not reachable"


class NoPlanError(ServiceError):
    """No such workload is in force, or nothing of it can be served."""

    code = "no_plan"
    status = 503
    title = "There is no plan in force"


class DataDirInUseError(ServiceError):
    """Another process owns the data directory."""

    code = "data_dir_in_use"
    title = "The data directory is in use"

    def __init__(self, data_dir: str, holder: str) -> None:
        super().__init__(
            f"{data_dir} is in use by another `loadmaster serve` (process {holder or 'unknown'})"
        )


class KeyFileError(ServiceError):
    """The file of API keys cannot be trusted or read."""

    code = "key_file"
    title = "The API keys cannot be read"


class SocketDirectoryError(ServiceError):
    """Another user prepared the directory where our sockets are to be."""

    code = "socket_directory"
    title = "The sockets' directory is another user's"


class StoreStartError(ServiceError):
    """The embedded store cannot be started."""

    code = "store_start"
    title = "The embedded store did not start"


class UsageError(ServiceError):
    """A command line that cannot be carried out as given."""

    code = "usage"
    status = 422
    title = "The command cannot be carried out"


class ImportSourceError(ServiceError):
    """A source of a workload that cannot be read, or that does not tell enough."""

    code = "import_source"
    status = 422
    title = "The source cannot be imported"


class ExportError(ServiceError):
    """A plan that the chosen form cannot express."""

    code = "export"
    status = 422
    title = "The plan cannot be exported so"
