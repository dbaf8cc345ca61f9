"""The state of a process."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class HealthSchema(BaseModel):
    """State of this process; `store` tells of the store, which readiness does not depend on."""

    status: Literal["alive", "ready", "starting"]
    store: Literal["up", "down"] | None = None
    calibrations: list[str] | None = None
