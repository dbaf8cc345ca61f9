"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check
        Its name.
    verdict
        ``bad``: the service cannot do its work so; ``warning``: it can, with less room than it should have.
    told
        What was found.
    do
        What to do about it; empty where nothing is to be done.
    """

    check: str
    verdict: Verdict
    told: str
    do: str = ""
