"""What a recalibration asks of workers: each step's name, queue and function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.storage.jobs import TRAIN_QUEUE, TWIN_QUEUE
from service.storage.recalibrations import PREFIX
from service.storage.steps import Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.storage.recalibrations import Recalibration

STEPS = "service.steps"
STEP_OF: Mapping[str, str] = {"fitting": "fit", "training": "train", "validating": "validate"}
"""The train queue's step of each stage that is one step; `simulating` is waves of batches and gatherings."""


def step_of(current: Recalibration, name: str, part: str = "") -> Step:
    """Return a step of the train queue; a gathering has a part for each time."""
    return _step(current, name, part, queue=TRAIN_QUEUE)


def batch_of(current: Recalibration, index: int) -> Step:
    """Return a batch of the present wave."""
    what = {"wave": current.wave, "index": index}
    return _step(current, "batch", f"{current.wave}-{index}", queue=TWIN_QUEUE, **what)


def train_steps_of(current: Recalibration) -> list[Step]:
    """Return every step of the train queue that this generation may have asked for so far."""
    waves = [None, *range(0 if current.wave is None else current.wave + 1)]
    gatherings = [f"{wave}{part}" for wave in waves for part in ("", "-drain")]
    return [
        *(step_of(current, name) for name in STEP_OF.values()),
        *(step_of(current, "gather", part) for part in gatherings),
    ]


def _step(current: Recalibration, name: str, part: str, *, queue: str, **what: Any) -> Step:
    # each generation's steps have names of their own
    words = (f"step-{current.job_id.removeprefix(PREFIX)}", name, part, str(current.generation))
    return Step(
        step_id="_".join(filter(None, words)),
        name=name,
        queue=queue,
        function=f"{STEPS}.{name}.run",
        payload={"job_id": current.job_id, "generation": current.generation, **what},
        request_id=current.request_id,
        traceparent=current.traceparent,
    )
