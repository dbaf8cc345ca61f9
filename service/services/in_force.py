"""A plan in force, and what it tells an autoscaler."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from service.errors import NoPlanError
from service.schemas.fleet import GpusNeededSchema
from service.services.placement import encode_plan

if TYPE_CHECKING:
    from service.services.clock import Clock
    from service.services.placement import Plan
    from service.services.scaling import ScaleWindow
    from service.settings import Settings
    from service.storage.workloads import FleetKey, StoredWorkload

RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInForce:
    """The plan of one stored workload, and when that workload was last known to be the one in force.

    Attributes
    ----------
    key
        Base model and GPU type.
    version
        The stored workload's.
    document
        The workload as it was put.
    plan, answer
        The plan, and encoded as ``POST /place`` would give it.
    summary
        The plan in a sentence.
    window
        What was observed of this key; None where no GPU could ever serve any of it.
    confirmed_at, confirmed_at_s
        The same moment on the calendar and on the monotonic clock.
    """

    key: FleetKey
    version: str
    document: bytes
    plan: Plan
    answer: bytes
    summary: str
    window: ScaleWindow | None
    confirmed_at: datetime
    confirmed_at_s: float

    def confirmed(self, clock: Clock) -> PlanInForce:
        """Return the same plan, confirmed at this moment."""
        return replace(self, confirmed_at=_calendar(clock), confirmed_at_s=clock.monotonic_s())

    def gpus_needed(self, *, now_s: float, wall_s: float, settings: Settings, failure: str | None) -> bytes:
        """Return how many GPUs to ask for, encoded, in a time that does not depend on the workload.

        Raises
        ------
        NoPlanError
            There is no number yet.
        """
        placement = self.plan.placement
        if self.window is None:
            raise NoPlanError(
                f"has no adapter that a GPU can serve: {placement.unplaced[0].reason}",
                field="adapters",
                retry_after_s=RETRY_AFTER_S,
            )
        level = self.window.level_at(wall_s, settings.scale_down_window_s)
        age_s = now_s - self.confirmed_at_s
        answer = GpusNeededSchema(
            gpus_needed=level,
            raw=placement.num_gpus or None,
            lower_bound=placement.lower_bound,
            reason=self._reason(level, age_s, settings, failure),
            as_of=self.confirmed_at,
            stale=age_s > settings.stale_after_s,
            age_s=round(age_s, 3),
            feasible=placement.feasible,
            plan_id=self.plan.plan_id,
            base_model=self.key.base_model,
            gpu_type=self.key.gpu_type,
        )
        return answer.model_dump_json().encode()

    def _reason(self, level: int, age_s: float, settings: Settings, failure: str | None) -> str:
        assert self.window is not None, "there is a number to give a reason for"
        reason = self.summary
        num_gpus = self.plan.placement.num_gpus
        if num_gpus == 0:
            reason += f"; the last number, {level}, stands"
        elif level > num_gpus:
            why = (
                f"rates {100 * settings.rate_noise:g} % higher need {self.window.held}"
                if level <= self.window.held
                else f"up to {level} were needed in the last {settings.scale_down_window_s:g} s"
            )
            reason += f"; {level} are kept: {why}"
        if age_s > settings.stale_after_s:
            reason += f"; the workload in force could not be confirmed for {age_s:.0f} s"
            reason += f" ({failure})" if failure else ""
        return reason


def plan_in_force(
    key: FleetKey, stored: StoredWorkload, plan: Plan, window: ScaleWindow | None, clock: Clock
) -> PlanInForce:
    """Return the plan of a stored workload, confirmed at this moment."""
    return PlanInForce(
        key=key,
        version=stored.version,
        document=stored.document,
        plan=plan,
        answer=encode_plan(plan),
        summary=_summary(plan),
        window=window,
        confirmed_at=_calendar(clock),
        confirmed_at_s=clock.monotonic_s(),
    )


def _summary(plan: Plan) -> str:
    placement, workload = plan.placement, plan.problem.workload
    summary = (
        f"{len(plan.adapter_ids)} adapters offering {workload.offered_tok_s:.0f} tok/s "
        f"are planned on {placement.num_gpus} GPUs (lower bound {placement.lower_bound})"
    )
    if not placement.feasible:
        summary += f"; {len(placement.unplaced)} adapters could not be placed"
    return summary


def _calendar(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.wall_s(), UTC)
