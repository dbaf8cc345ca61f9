"""The plans in force, and what made them, as Prometheus gauges."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from service.observability import (
    BUILD_INFO,
    GPUS_NEEDED,
    PLAN_AGE,
    PLAN_GAP,
    PLAN_GPUS,
    PLAN_OUT_OF_RANGE,
    PLAN_RISK,
    PLAN_UNPLACED,
    SURROGATE_INFO,
)
from twin.simulate import TWIN_VERSION

if TYPE_CHECKING:
    from service.services.catalog import Catalog, Target
    from service.services.clock import Clock
    from service.services.in_force import PlanInForce
    from service.settings import Settings
    from service.storage.workloads import FleetKey

BY_FLEET = (GPUS_NEEDED, PLAN_AGE, PLAN_GAP, PLAN_GPUS, PLAN_OUT_OF_RANGE, PLAN_RISK, PLAN_UNPLACED)


def show_build(catalog: Catalog) -> None:
    """Set what this process is made of."""
    BUILD_INFO.labels(version("loadmaster"), platform.python_version(), TWIN_VERSION).set(1)
    for calibration_id, target in catalog.targets.items():
        show_surrogate(calibration_id, target, None)


def show_surrogate(calibration_id: str, target: Target, before: Target | None) -> None:
    """Set which surrogate plans now, and remove the one that did before."""
    if before is not None:
        SURROGATE_INFO.remove_by_labels(
            {"calibration_id": calibration_id, "surrogate_version": before.surrogate.version}
        )
    SURROGATE_INFO.labels(calibration_id, target.surrogate.version).set(1)


def show_plan(current: PlanInForce, clock: Clock, settings: Settings) -> None:
    """Set the gauges of a plan that was just adopted."""
    placement = current.plan.placement
    PLAN_GPUS.labels(*current.key).set(placement.num_gpus)
    PLAN_UNPLACED.labels(*current.key).set(len(placement.unplaced))
    outside = sum(bool(gpu.predicted.out_of_range) for gpu in placement.gpus)
    PLAN_OUT_OF_RANGE.labels(*current.key).set(outside)
    risks = [gpu.predicted.starvation_probability for gpu in placement.gpus]
    PLAN_RISK.labels(*current.key).set(max(risks, default=0.0))
    if placement.gap is not None:
        PLAN_GAP.labels(*current.key).set(placement.gap)
    else:
        _remove(PLAN_GAP, current.key)
    show_age(current, clock, settings)


def show_age(current: PlanInForce, clock: Clock, settings: Settings) -> None:
    """Set what changes with time alone; there is no number where none is known."""
    PLAN_AGE.labels(*current.key).set(clock.monotonic_s() - current.confirmed_at_s)
    if current.window is not None:
        level = current.window.level_at(clock.wall_s(), settings.scale_down_window_s)
        GPUS_NEEDED.labels(*current.key).set(level)


def forget_plan(key: FleetKey) -> None:
    """Remove the gauges of a workload that is no longer in force."""
    for gauge in BY_FLEET:
        _remove(gauge, key)


def _remove(gauge, key: FleetKey) -> None:  # noqa: ANN001 (prometheus_client's Gauge)
    gauge.remove_by_labels({"base_model": key.base_model, "gpu_type": key.gpu_type})
