"""Drift: a live server beside what the twin says of its load, and whether its calibration still holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

import orjson
import structlog

from service.errors import InvalidRequestError
from service.observability import DRIFT_RATIO, DRIFTED
from twin.domain import Adapter, ServerConfig, Workload
from twin.errors import InvalidInputError
from twin.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from service.services.clock import Clock
    from service.settings import Settings
    from service.storage.agents import AgentStore
    from twin.domain import Calibration, SimulationReport

KEPT_SAMPLES = 5
"""A verdict is the median of so many: one burst is no drift."""

MIN_REQUESTS = 20
WINDOW_S, WARMUP_S = 1200.0, 120.0
RUNNING_FLOOR = 1.0
"""Running and waiting requests differ by so many without meaning anything."""

QUANTITIES = ("itl", "throughput", "running", "waiting")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSample:
    """What a live server did in a window, and under which load; see `SampleRequest`."""

    calibration_id: str
    duration_s: float
    max_loras: int
    max_lora_rank: int
    adapters: int
    rate_rps: float
    input_tokens_mean: float
    output_tokens_mean: float
    num_requests: int
    running: float
    waiting: float
    itl_ms: float | None
    tot_tok_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a calibration compares with live servers.

    Attributes
    ----------
    calibration_id
        The calibration.
    drifted
        Whether the median of the last samples is beyond the limit in some quantity.
    ratios
        Measured over predicted, less 1, by quantity: medians of the last samples.
    num_samples
        How many these are.
    as_of
        When the last one came.
    proposal
        What to do about it; empty where nothing.
    """

    calibration_id: str
    drifted: bool
    ratios: Mapping[str, float]
    num_samples: int
    as_of: str
    proposal: str


class DriftService:
    """Compares samples with the twin and keeps the verdicts.

    Parameters
    ----------
    calibrations
        Those that may be compared, by id.
    recalibrate
        Begins a recalibration of a calibration id; called where the settings say so.
    """

    def __init__(
        self,
        store: AgentStore,
        calibrations: Callable[[], Mapping[str, Calibration]],
        settings: Settings,
        clock: Clock,
        recalibrate: Callable[[str], None],
    ) -> None:
        self._recalibrate = recalibrate
        self._store = store
        self._calibrations = calibrations
        self._settings = settings
        self._clock = clock

    def compare(self, sample: LiveSample) -> Drift:
        """Take in a sample and return how the calibration stands now.

        Raises
        ------
        InvalidRequestError
            The calibration is not known, too few requests were answered, or its server cannot be.
        """
        calibration = self._calibrations().get(sample.calibration_id)
        if calibration is None:
            known = ", ".join(sorted(self._calibrations()))
            raise InvalidRequestError(f"is unknown; known: {known}", field="calibration_id")
        if sample.num_requests < MIN_REQUESTS:
            raise InvalidRequestError(
                f"must be >= {MIN_REQUESTS}: fewer tell nothing, got {sample.num_requests}",
                field="num_requests",
            )
        try:
            report = predicted(sample, calibration)
        except InvalidInputError as error:
            raise InvalidRequestError(error.message, field=error.field) from error
        before, had_drifted = self._before(sample.calibration_id)
        kept = [*before, ratios_of(sample, report)][-KEPT_SAMPLES:]
        drift = self._judged(sample.calibration_id, kept)
        document = {"drift": asdict(drift), "samples": kept}
        self._store.put_drift(sample.calibration_id, orjson.dumps(document))
        self.show(drift)
        if drift.drifted and not had_drifted:
            log.warning("calibration_drifted", calibration_id=drift.calibration_id, ratios=dict(drift.ratios))
            if self._settings.drift_recalibrates:
                self._recalibrate(drift.calibration_id)
        return drift

    def known(self) -> dict[str, Drift]:
        """Return how each calibration that was compared stands."""
        found = self._store.drift()
        return {name: Drift(**orjson.loads(text)["drift"]) for name, text in found.items()}

    def show(self, drift: Drift) -> None:
        """Set the gauges of a calibration."""
        DRIFTED.labels(drift.calibration_id).set(int(drift.drifted))
        for quantity, ratio in drift.ratios.items():
            DRIFT_RATIO.labels(drift.calibration_id, quantity).set(ratio)

    def _before(self, calibration_id: str) -> tuple[list[dict[str, float]], bool]:
        """Return the last samples of a calibration, and whether it had drifted by them."""
        text = self._store.drift().get(calibration_id)
        if text is None:
            return [], False
        document = orjson.loads(text)
        return document["samples"], document["drift"]["drifted"]

    def _judged(self, calibration_id: str, samples: list[dict[str, float]]) -> Drift:
        ratios = {
            quantity: median(values)
            for quantity in QUANTITIES
            if (values := [sample[quantity] for sample in samples if quantity in sample])
        }
        limit = self._settings.drift_limit
        beyond = [quantity for quantity, ratio in ratios.items() if abs(ratio) > limit]
        drifted = len(samples) >= KEPT_SAMPLES and bool(beyond)
        proposal = ""
        if drifted:
            proposal = (
                f"{', '.join(beyond)} differ by more than {100 * limit:g} % from what {calibration_id} says: "
                "recalibrate (POST /recalibrate)"
            )
        return Drift(
            calibration_id=calibration_id,
            drifted=drifted,
            ratios=ratios,
            num_samples=len(samples),
            as_of=datetime.fromtimestamp(self._clock.wall_s(), UTC).isoformat(),
            proposal=proposal,
        )


def predicted(sample: LiveSample, calibration: Calibration) -> SimulationReport:
    """Return what the twin says of the load of a sample, spread evenly over its adapters."""
    adapters = [
        Adapter(
            adapter_id=f"adapter-{row}",
            rank=sample.max_lora_rank,
            rate_rps=sample.rate_rps / sample.adapters,
            input_tokens_mean=sample.input_tokens_mean,
            output_tokens_mean=sample.output_tokens_mean,
        )
        for row in range(sample.adapters)
    ]
    return simulate(
        Workload.from_adapters(adapters),
        ServerConfig(max_loras=sample.max_loras, max_lora_rank=sample.max_lora_rank),
        calibration,
        horizon_s=WINDOW_S,
        warmup_s=WARMUP_S,
    )


def ratios_of(sample: LiveSample, report: SimulationReport) -> dict[str, float]:
    """Return measured over predicted, less 1, of each quantity that both sides have."""
    pairs = {
        "itl": (sample.itl_ms, report.itl.mean_ms),
        "throughput": (sample.tot_tok_s, report.throughput_tok_s),
        "running": (sample.running + RUNNING_FLOOR, report.mean_num_requests_running + RUNNING_FLOOR),
        "waiting": (sample.waiting + RUNNING_FLOOR, report.mean_num_requests_waiting + RUNNING_FLOOR),
    }
    return {
        name: measured / expected - 1.0
        for name, (measured, expected) in pairs.items()
        if measured is not None and expected > 0 and math.isfinite(measured / expected)
    }
