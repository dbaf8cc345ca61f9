"""Limits of this installation that a schema cannot state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.settings import Settings


def check_size(num_adapters: int, settings: Settings, field: str = "adapters") -> None:
    """Refuse a workload with more adapters than this installation takes.

    Raises
    ------
    InvalidRequestError
        Naming `field`.
    """
    if num_adapters > settings.max_adapters:
        raise InvalidRequestError(
            f"must hold at most {settings.max_adapters} adapters, got {num_adapters}", field=field
        )
