"""Watch a live vLLM between calibrations: what it does under its load, reported for comparison."""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

import httpx
import structlog

from service.agent.link import Link
from service.agent.vllm_metrics import LORA_INFO, RUNNING, WAITING, interval_between, read_exposition
from service.client import LoadmasterError
from service.schemas.agents import SampleRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.agent.settings import AgentSettings
    from service.agent.vllm_metrics import Exposition

SCRAPES = 6
"""Moments of a window at which running and waiting requests are counted."""

log = structlog.get_logger()


class DriftWatch(threading.Thread):
    """Samples a live server window after window until told to end."""

    def __init__(self, settings: AgentSettings, ending: threading.Event) -> None:
        super().__init__(name="drift", daemon=True)
        self._settings = settings
        self._ending = ending

    def run(self) -> None:
        """Sample and report; a server or service that is away is told of and tried again."""
        assert self._settings.drift_url is not None
        link = Link(self._settings)
        with httpx.Client(base_url=self._settings.drift_url, timeout=10.0) as http:
            while not self._ending.is_set():
                try:
                    self._sample(http, link)
                except (httpx.HTTPError, LoadmasterError, KeyError, ValueError) as error:
                    log.warning("drift_not_sampled", reason=repr(error)[:300])
                    self._ending.wait(self._settings.drift_window_s)
        link.close()

    def _sample(self, http: httpx.Client, link: Link) -> None:
        pause_s = self._settings.drift_window_s / (SCRAPES - 1)
        scrapes = [_scrape(http)]
        while len(scrapes) < SCRAPES:
            if self._ending.wait(pause_s):
                return
            scrapes.append(_scrape(http))
        sample = sample_of(
            scrapes,
            num_adapters=_num_adapters(http),
            calibration_id=self._settings.drift_calibration or "",
            max_lora_rank=self._settings.drift_max_lora_rank,
        )
        if sample is None:
            log.info("drift_idle", reason="no request was finished in the window")
        else:
            link.report_sample(sample)


def sample_of(
    scrapes: Sequence[Exposition], *, num_adapters: int, calibration_id: str, max_lora_rank: int
) -> SampleRequest | None:
    """Return what a live server did over some scrapes, None where it answered nothing."""
    seen = interval_between(scrapes[0], scrapes[-1])
    if seen.num_finished < 1 or seen.num_started < 1:
        return None
    return SampleRequest(
        calibration_id=calibration_id,
        duration_s=seen.duration_s,
        max_loras=int(scrapes[-1].labels.get(LORA_INFO, {}).get("max_lora", "0")) or max(num_adapters, 1),
        max_lora_rank=max_lora_rank,
        adapters=max(num_adapters, 1),
        rate_rps=seen.num_started / seen.duration_s,
        input_tokens_mean=max(seen.prompt_tokens / seen.num_started, 1.0),
        output_tokens_mean=max(seen.generated_tokens / seen.num_finished, 1.0),
        num_requests=int(seen.num_finished),
        running=statistics.fmean(one.first(RUNNING) for one in scrapes),
        waiting=statistics.fmean(one.first(WAITING) for one in scrapes),
        itl_ms=None if seen.itl_ms != seen.itl_ms else seen.itl_ms,
        tot_tok_s=(seen.prompt_tokens + seen.generated_tokens) / seen.duration_s,
    )


def _scrape(http: httpx.Client) -> Exposition:
    response = http.get("/metrics")
    response.raise_for_status()
    return read_exposition(response.text, time.monotonic())


def _num_adapters(http: httpx.Client) -> int:
    """Return how many adapters a server knows: its models that have a parent."""
    response = http.get("/v1/models")
    response.raise_for_status()
    return sum(1 for model in response.json()["data"] if model.get("parent"))
