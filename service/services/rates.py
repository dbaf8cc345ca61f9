"""New rates for some adapters of a workload document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.schemas.fleet import RatesRequest


def with_rates(document: bytes, request: RatesRequest) -> bytes:
    """Return a workload document with other rates, and errors of them; all else is as it was.

    Raises
    ------
    InvalidRequestError
        Naming ``rates.<id>`` or ``rates_std.<id>`` of an adapter that the workload does not have.
    """
    value = orjson.loads(document)
    for field, column in (("rates", "rate_rps"), ("rates_std", "rate_rps_std")):
        missing = dict(getattr(request, field))
        _exchange(value["adapters"], column, missing)
        if missing:
            raise InvalidRequestError(
                "names no adapter of the workload in force", field=f"{field}.{next(iter(missing))}"
            )
    return orjson.dumps(value)


def _exchange(
    adapters: list[dict[str, Any]] | dict[str, list[Any]], column: str, new: dict[str, Any]
) -> None:
    """Write new values into a column of rows or of columns; what is taken leaves `new`."""
    if not new:
        return
    if isinstance(adapters, dict):
        known = adapters.get(column) or [None] * len(adapters["id"])
        adapters[column] = [new.pop(name, value) for name, value in zip(adapters["id"], known, strict=True)]
        return
    for adapter in adapters:
        if adapter["id"] in new:
            adapter[column] = new.pop(adapter["id"])
