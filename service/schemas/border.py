"""What every model that we read is: strict, and refused by an error that names the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from service.errors import InvalidRequestError, MalformedBodyError

if TYPE_CHECKING:
    from collections.abc import Sequence


M = TypeVar("M", bound=BaseModel)

MAX_SHOWN = 120

MANY_FIELDS = 2_000
"""A text that may hold more is looked at before pydantic, which makes an error of each unknown field."""

MAX_FIELDS = 64
"""No object of ours has as many."""

MAX_DEPTH = 4
"""Objects of ours lie no deeper: request, workload, adapters, adapter."""


class Border(BaseModel):
    """Root of what we read: strict types, finite numbers, no unknown field."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def parse(model: type[M], document: bytes | str, *, wide: tuple[str, ...] = ()) -> M:
    """Return the model that a JSON text holds, or raise an error that names the field.

    Parameters
    ----------
    wide
        Top-level fields that are maps of any length.
    """
    _refuse_crowded_object(document, wide)
    try:
        return model.model_validate_json(document)
    except ValidationError as error:
        raise _request_error(error) from None


def _refuse_crowded_object(document: bytes | str, wide: tuple[str, ...]) -> None:
    """Refuse an object with a great many fields; what else is wrong, pydantic tells.

    Listing a million unknown fields takes pydantic ten seconds and a gigabyte, no other thread running.
    """
    colons = document.count(b":") if isinstance(document, bytes) else document.count(":")
    if colons <= MANY_FIELDS:
        return
    try:
        value = from_json(document)
    except ValueError:
        return
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if name not in wide}
    location = _crowded_object(value) if isinstance(value, (dict, list)) else None
    if location is not None:
        raise InvalidRequestError(
            f"is refused: an object may have at most {MAX_FIELDS} fields",
            field=field_path(location) or "body",
        )


def _crowded_object(value: Any, location: tuple[int | str, ...] = ()) -> tuple[int | str, ...] | None:
    """Return where an object with more than `MAX_FIELDS` fields is, None if there is none."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        return location
    if len(location) < MAX_DEPTH:
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(child, (dict, list)):
                found = _crowded_object(child, (*location, name))
                if found is not None:
                    return found
    return None


def _request_error(error: ValidationError) -> InvalidRequestError | MalformedBodyError:
    """Turn the first complaint of pydantic into ours."""
    first = error.errors(include_url=False, include_context=False)[0]
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "json_invalid":
        return MalformedBodyError(f"is not JSON: {message}"[: 2 * MAX_SHOWN], field="body")
    field = field_path(first["loc"]) or "body"
    got = "" if first["type"] in {"missing", "extra_forbidden"} else f", got {_shown(first['input'])}"
    return InvalidRequestError(f"is refused: {message}{got}", field=field)


def _shown(value: Any) -> str:
    """Return a refused value, shortened; a long one is not spelled out first."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'an array'} of length {len(value)}"
    return repr(value[:MAX_SHOWN] if isinstance(value, str) else value)[:MAX_SHOWN]


def field_path(location: Sequence[int | str]) -> str:
    """Return a path as users write it: ``adapters[3].rate_rps``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part[:MAX_SHOWN]}" if path else part[:MAX_SHOWN]
    return path
