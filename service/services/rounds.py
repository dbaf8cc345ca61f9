"""How a round of a background loop ends, whatever happens in it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from service.errors import ServiceError
from service.observability import LOOP_ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()


@contextmanager
def survived(loop: str, *, event: str) -> Iterator[None]:
    """Count what goes wrong in a round, for the next one comes soon.

    What is expected of a service, a store that is down first of all, is told by who sees it come and go; what
    is not expected is logged as `event`, with its stack.
    """
    try:
        yield
    except ServiceError:
        LOOP_ERRORS.labels(loop).inc()
    except Exception:
        LOOP_ERRORS.labels(loop).inc()
        log.exception(event)
