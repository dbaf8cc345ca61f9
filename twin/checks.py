"""Checks that values make of themselves: each error names the field and the value."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from twin.errors import InvalidInputError


def require(condition: bool, name: str, message: str) -> None:  # noqa: FBT001 (an assertion's shape)
    """Raise `InvalidInputError` where the condition does not hold."""
    if not condition:
        raise InvalidInputError(name, message)


def require_integer(name: str, value: int, minimum: int, maximum: float = math.inf) -> None:
    """Raise `InvalidInputError` for what is no integer in the range."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    require(is_integer and value >= minimum, name, f"must be an integer >= {minimum}, got {value!r}")
    require(value <= maximum, name, f"must be <= {maximum}, got {value!r}")


def require_name(field: str, value: object) -> None:
    """Refuse what is no part of an id: text that is not empty and has no slash."""
    ok = isinstance(value, str) and bool(value) and "/" not in value
    require(ok, field, f"must be a name without '/', got {value!r}")


def require_share(field: str, value: object) -> None:
    """Refuse what is no number in (0, 1]."""
    ok = isinstance(value, (int, float)) and 0 < value <= 1
    require(ok, field, f"must be in (0, 1], got {value!r}")


def require_law(law: object, prefix: str) -> None:
    """Refuse a coefficient that is negative or not finite: no cost law of a server has one."""
    for name in law.__slots__:  # type: ignore[attr-defined]
        value = getattr(law, name)
        ok = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
        require(ok, f"{prefix}.{name}", f"must be finite and >= 0, got {value!r}")


def require_errors(prefix: str, errors: object) -> None:
    """Refuse errors that are no mapping of names to finite numbers >= 0."""
    require(isinstance(errors, Mapping), prefix, f"must be an object, got {errors!r}")
    for name, value in errors.items():  # type: ignore[attr-defined]
        ok = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
        require(ok, f"{prefix}.{name}", f"must be finite and >= 0, got {value!r}")
