"""Workload documents straight to columns: no object for each adapter where nothing is wrong.

A document is rows (``"adapters": [{...}]``) or columns (``"adapters": {"id": [...], ...}``). What is read
here is exactly what the schemas accept; anything else is left to them, who say what is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from pydantic_core import from_json

from service.columns import LAW_CODE, workload_of
from service.errors import InvalidRequestError
from service.schemas.border import parse
from service.schemas.workload import ColumnarWorkloadSchema, OptionsSchema, WorkloadSchema
from service.services.limits import check_size
from twin.domain import MAX_RANK
from twin.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from service.settings import Settings
    from twin.domain import Workload

TOP_FIELDS = frozenset({"base_model", "gpu_type", "adapters", "options"})
REQUIRED = ("id", "rank", "rate_rps", "input_tokens_mean", "output_tokens_mean")
OPTIONAL_NUMBERS = ("rate_rps_std", "input_tokens_cv", "output_tokens_cv", "arrival_cv")
OPTIONAL = (*OPTIONAL_NUMBERS, "arrival_law")
NUMBERS = frozenset({int, float})
MAX_NAME = 256

_REQUIRED_OF = itemgetter(*REQUIRED)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkloadRequest:
    """A workload and how to plan it."""

    workload: Workload
    options: OptionsSchema


class _NotPlainError(Exception):
    """The document is for the schemas to judge."""


def read_workload(document: bytes, settings: Settings) -> WorkloadRequest:
    """Return the workload that a JSON text holds, by rows or by columns.

    Raises
    ------
    MalformedBodyError, InvalidRequestError, InvalidInputError
        Naming the field.
    """
    try:
        value = orjson.loads(document)
        check_size(_num_adapters(value), settings)
        return _read_plain(value)
    except (orjson.JSONDecodeError, _NotPlainError, InvalidInputError):
        pass  # told by the schemas
    if _is_columnar(document):
        return _read_columns_slowly(document)
    request = WorkloadSchema.parse(document)
    check_size(len(request.adapters), settings)
    return WorkloadRequest(workload=request.to_domain(), options=request.options)


def _num_adapters(value: Any) -> int:
    """Return how many adapters a document has, 0 where it has none that can be counted."""
    adapters = value.get("adapters") if isinstance(value, dict) else None
    if isinstance(adapters, dict):
        adapters = adapters.get("id")
    return len(adapters) if isinstance(adapters, list) else 0


def _is_columnar(document: bytes) -> bool:
    try:
        value = from_json(document)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("adapters"), dict)


def _read_columns_slowly(document: bytes) -> WorkloadRequest:
    request = parse(ColumnarWorkloadSchema, document)
    columns = request.adapters.model_dump(exclude_unset=True)
    count = len(request.adapters.id)
    for name, values in columns.items():
        if len(values) != count:
            raise InvalidRequestError(
                f"must be as long as adapters.id ({count}), got {len(values)}", field=f"adapters.{name}"
            )
    try:
        workload = workload_of(request.base_model, request.gpu_type, columns)
    except InvalidInputError as error:
        raise InvalidRequestError(error.message, field=_by_column(error.field)) from error
    return WorkloadRequest(workload=workload, options=request.options)


def _by_column(field: str) -> str:
    """Return ``adapters.rank[3]`` for ``adapters[3].rank``."""
    return re.sub(r"^adapters(\[\d+\])\.(\w+)$", r"adapters.\2\1", field)


def _read_plain(value: Any) -> WorkloadRequest:
    if not isinstance(value, dict) or not value.keys() <= TOP_FIELDS:
        raise _NotPlainError
    base_model, gpu_type = _name(value.get("base_model")), _name(value.get("gpu_type"))
    adapters = value.get("adapters")
    if not adapters:
        raise _NotPlainError
    if isinstance(adapters, list):
        columns = _columns_of_rows(adapters)
    elif isinstance(adapters, dict):
        columns = _checked_columns(adapters)
    else:
        raise _NotPlainError
    _check_types(columns)
    return WorkloadRequest(workload=workload_of(base_model, gpu_type, columns), options=_options(value))


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise _NotPlainError
    return value


def _options(value: Mapping[str, Any]) -> OptionsSchema:
    if "options" not in value:
        return OptionsSchema()
    if not isinstance(value["options"], dict):
        raise _NotPlainError
    try:
        return OptionsSchema.model_validate(value["options"])
    except ValidationError:
        raise _NotPlainError from None


def _columns_of_rows(rows: list[Any]) -> dict[str, Sequence[Any]]:
    if set(map(type, rows)) != {dict}:
        raise _NotPlainError
    try:
        columns: dict[str, Sequence[Any]] = dict(
            zip(REQUIRED, zip(*map(_REQUIRED_OF, rows), strict=True), strict=True)
        )
    except KeyError:
        raise _NotPlainError from None
    num_more = sum(map(len, rows)) - len(REQUIRED) * len(rows)
    if num_more:
        for name in OPTIONAL:
            num_more -= sum(name in row for row in rows)
            columns[name] = [row.get(name) for row in rows]
        if num_more:  # fields that are not known here
            raise _NotPlainError
    return columns


def _checked_columns(columns: dict[str, Any]) -> dict[str, Any]:
    if not set(REQUIRED) <= columns.keys() <= {*REQUIRED, *OPTIONAL}:
        raise _NotPlainError
    if set(map(type, columns.values())) != {list} or len(set(map(len, columns.values()))) != 1:
        raise _NotPlainError
    return columns


def _check_types(columns: Mapping[str, Iterable[Any]]) -> None:
    """Refuse what JSON does not tell apart and the schemas do: a boolean is no number."""
    for name, values in columns.items():
        types = set(map(type, values))
        if name == "id":
            is_plain = types == {str}
        elif name == "rank":
            is_plain = types == {int} and min(values) >= 1 and max(values) <= MAX_RANK
        elif name == "arrival_law":
            is_plain = types <= {str, type(None)} and set(values) <= LAW_CODE.keys()
        elif name in OPTIONAL_NUMBERS:
            is_plain = types <= NUMBERS | {type(None)}
        else:
            is_plain = types <= NUMBERS
        if not is_plain:
            raise _NotPlainError
