"""Refuse a JSON text that would take long to read, before any object is made of it."""

from __future__ import annotations

import numpy as np

from service.errors import InvalidRequestError
from service.kernels.json_scan import scan

MAX_DEPTH = 32
"""Nothing of ours is as deep."""

SMALL_BYTES = 128 * 1024
"""A shorter text is read within ten milliseconds, whatever it holds."""


def check_structure(document: bytes, max_values: int) -> None:
    """Refuse a text of many values or deep nesting.

    A parser holds the interpreter's lock from beginning to end: a text of millions of values would stop every
    other request. This look at it does not hold the lock.

    Raises
    ------
    InvalidRequestError
        Naming ``body``.
    """
    num_values, depth = scan(np.frombuffer(document, np.uint8), max_values, MAX_DEPTH)
    if depth > MAX_DEPTH:
        raise InvalidRequestError(f"is nested deeper than {MAX_DEPTH} levels", field="body")
    if num_values > max_values:
        raise InvalidRequestError(f"holds more than {max_values} values", field="body")
