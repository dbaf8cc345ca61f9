"""New rates for some adapters of a workload document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.schemas.fleet import RatesRequest


def with_rates(document: bytes, request: RatesRequest) -> bytes:
    """Return a workload document with other rates; all else is as it was.

    Raises
    ------
    InvalidRequestError
        Naming ``rates.<id>`` of an adapter that the workload does not have.
    """
    value = orjson.loads(document)
    missing = dict(request.rates)
    adapters = value["adapters"]
    if isinstance(adapters, dict):
        rates = zip(adapters["id"], adapters["rate_rps"], strict=True)
        adapters["rate_rps"] = [missing.pop(name, rate_rps) for name, rate_rps in rates]
    else:
        for adapter in adapters:
            adapter["rate_rps"] = missing.pop(adapter["id"], adapter["rate_rps"])
    if missing:
        raise InvalidRequestError(
            "names no adapter of the workload in force", field=f"rates.{next(iter(missing))}"
        )
    return orjson.dumps(value)
