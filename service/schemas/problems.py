"""What is answered where something is wrong."""

from __future__ import annotations

from pydantic import BaseModel


class ProblemSchema(BaseModel):
    """RFC 9457 problem details, with the field to mend where there is one."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None
