"""What the twin's JSON files share: an object is read, and a value is built from the fields it has."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, TypeVar

from twin.errors import InvalidInputError

T = TypeVar("T")


def read_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Return the JSON object that a text holds, or its bytes in UTF-8.

    Raises
    ------
    InvalidInputError
        Naming `name`: the text is no JSON, nests too deeply, or holds something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(name, f"must be JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError(name, "must be a JSON object")
    return document


def build(kind: type[T], document: object, name: str, *, of: str) -> T:
    """Return a dataclass from an object with its fields.

    Parameters
    ----------
    kind
        The dataclass, which checks its values.
    document
        What the file has in their place.
    name
        The file's word for it; errors name it, or ``name.field``.
    of
        What kind of file it is, for the error.

    Raises
    ------
    InvalidInputError
        It is no object, has an unknown field, lacks one, or a value is refused.
    """
    if not isinstance(document, dict):
        raise InvalidInputError(name, f"must be an object, got {document!r}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(document.keys() - known):
        raise InvalidInputError(f"{name}.{unknown[0]}", f"is not a field of {of}")
    try:
        return kind(**document)
    except TypeError as error:
        raise InvalidInputError(name, f"is not complete: {error}") from error
