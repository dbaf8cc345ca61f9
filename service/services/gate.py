"""The gate: which candidates may be published.

A candidate is compared with the surrogate in force on the same held-out twin runs, and on the measured runs
that its calibration was fitted to: the twin on all of them, the trees, which know steady service alone, on
those that ran for long. It may be worse by a margin, never beyond an absolute limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A figure that is looked at.

    Attributes
    ----------
    on
        ``held_out``: the trees on twin runs that they did not see; ``twin``: the twin on runs of real
        servers; ``measured``: the trees on those that ran for `STEADY_S`.
    figure
        Its name, as `models.figures` and `twin.validate` have it.
    higher_is_better
        For shares; errors are better low.
    margin
        By how much, in the figure's unit, a candidate may be worse than what is in force.
    limit
        Beyond it a candidate is refused whatever is in force.
    """

    on: Literal["held_out", "twin", "measured"]
    figure: str
    higher_is_better: bool
    margin: float
    limit: float


STEADY_S = 600.0
"""Measured runs that are shorter are half warm-up; no tree foretells those."""

RULES = (
    Rule(on="held_out", figure="throughput_smape_half_pct", higher_is_better=False, margin=0.5, limit=5.0),
    Rule(on="held_out", figure="itl_smape_half_pct", higher_is_better=False, margin=1.0, limit=8.0),
    Rule(on="held_out", figure="ttft_smape_half_pct", higher_is_better=False, margin=3.0, limit=35.0),
    Rule(on="held_out", figure="starvation_f1", higher_is_better=True, margin=0.02, limit=0.9),
    Rule(on="twin", figure="throughput_smape_half_pct", higher_is_better=False, margin=0.5, limit=6.0),
    Rule(on="twin", figure="itl_smape_half_pct", higher_is_better=False, margin=1.0, limit=15.0),
    Rule(on="twin", figure="starvation_accuracy", higher_is_better=True, margin=0.02, limit=0.85),
    Rule(on="measured", figure="throughput_smape_half_pct", higher_is_better=False, margin=0.5, limit=6.0),
    Rule(on="measured", figure="itl_smape_half_pct", higher_is_better=False, margin=1.0, limit=15.0),
    Rule(on="measured", figure="starvation_f1", higher_is_better=True, margin=0.02, limit=0.85),
    Rule(on="measured", figure="fits_accuracy", higher_is_better=True, margin=0.01, limit=0.95),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule applied; `candidate` None where there was nothing to measure it on."""

    on: str
    figure: str
    candidate: float | None
    in_force: float | None
    margin: float
    limit: float
    passed: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a candidate may be published, and every check."""

    passed: bool
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """A sentence for the reader."""
        failed = [check.reason for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else f"all {len(self.checks)} checks passed"

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            "checks": [asdict(check) for check in self.checks],
        }


def judge(
    candidate: Mapping[str, Mapping[str, float | None]],
    in_force: Mapping[str, Mapping[str, float | None]] | None,
    *,
    slack: float = 1.0,
) -> Verdict:
    """Return the verdict on a candidate.

    Parameters
    ----------
    candidate, in_force
        Figures by ``held_out``, ``twin`` and ``measured``; None where nothing is in force.
    slack
        Multiplies margins and the room that limits leave; 1 are the rules as they stand.
    """
    checks = tuple(
        _check(rule, candidate[rule.on].get(rule.figure), _figure(in_force, rule), slack) for rule in RULES
    )
    return Verdict(passed=all(check.passed for check in checks), checks=checks)


def _figure(in_force: Mapping[str, Mapping[str, float | None]] | None, rule: Rule) -> float | None:
    return None if in_force is None else in_force[rule.on].get(rule.figure)


def _check(rule: Rule, candidate: float | None, in_force: float | None, slack: float) -> Check:
    margin = slack * rule.margin
    limit = 1.0 - slack * (1.0 - rule.limit) if rule.higher_is_better else slack * rule.limit
    sign = -1.0 if rule.higher_is_better else 1.0
    name = f"{rule.on} {rule.figure}"
    passed, reason = True, f"{name} {candidate} holds"
    if candidate is None:
        passed = in_force is None
        reason = f"{name} could not be measured"
    elif sign * (candidate - limit) > 0:
        passed, reason = False, f"{name} {candidate:.4g} is beyond the limit {limit:.4g}"
    elif in_force is not None and sign * (candidate - in_force) > margin:
        passed = False
        reason = f"{name} {candidate:.4g} is worse than {in_force:.4g} in force by more than {margin:.4g}"
    return Check(
        on=rule.on,
        figure=rule.figure,
        candidate=candidate,
        in_force=in_force,
        margin=margin,
        limit=limit,
        passed=passed,
        reason=reason,
    )
