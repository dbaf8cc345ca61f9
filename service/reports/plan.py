"""A plan as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from service.reports.page import Section, as_image, number, page

if TYPE_CHECKING:
    from service.schemas.plan import GpuSchema, PlanSchema

BAR_INCHES = 0.28
BAR_HEIGHT = 0.27
"""Three beside each other leave a gap between GPUs."""

MAX_ROWS = 2_000
"""Adapters listed at most; the rest is counted."""


def plan_report(plan: PlanSchema) -> str:
    """Return the HTML of a plan: its GPUs, what binds them, what was not placed, where each adapter is."""
    told = (
        f"Plan {plan.plan_id} by {plan.calibration_id}, surrogate {plan.surrogate_version}. "
        f"Verification: {plan.verification.status}."
    )
    sections = [_summary(plan)]
    if plan.gpus:
        sections += [_load(plan), _gpus(plan)]
    if plan.unplaced:
        rows = [(row.adapter, row.code, row.reason) for row in plan.unplaced]
        sections.append(Section(heading="Not placed", header=("adapter", "code", "reason"), rows=rows))
    if plan.verification.gpus:
        sections.append(_verified(plan))
    sections.append(_adapters(plan))
    return page(f"{plan.num_gpus} GPUs", told, sections)


def _summary(plan: PlanSchema) -> Section:
    placed = sum(len(gpu.adapters) for gpu in plan.gpus)
    lines = [
        f"{placed} adapters on {plan.num_gpus} GPUs; {len(plan.unplaced)} without one.",
        f"No plan needs fewer than {plan.lower_bound} GPUs (by {plan.bound_rests_on}).",
        f"That some GPU starves has probability {plan.starvation_probability:.3g}.",
    ]
    if plan.given_up:
        lines.append(f"Given up: {plan.given_up}.")
    return Section(heading="Summary", lines=lines)


def _load(plan: PlanSchema) -> Section:
    figure = Figure(figsize=(9, 1.2 + BAR_INCHES * len(plan.gpus)), layout="constrained")
    offered, room = figure.subplots(1, 2, sharey=True)
    at = np.arange(len(plan.gpus))
    offered.barh(at, [gpu.predicted.offered_tok_s for gpu in plan.gpus], color="#2e86c1")
    offered.set(xlabel="tokens a second asked for", ylabel="GPU", yticks=at)
    offered.set_yticklabels([str(gpu.gpu) for gpu in plan.gpus])
    offered.invert_yaxis()
    for number_of, name in enumerate(("throughput", "slots", "kv_memory")):
        used = [1 - gpu.head_room.get(name, 1.0) for gpu in plan.gpus]
        room.barh(at + BAR_HEIGHT * (number_of - 1), used, height=BAR_HEIGHT, label=name)
    room.axvline(1.0, color="k", linewidth=0.8)
    room.set(xlabel="share of each limit in use")
    room.legend(frameon=False, fontsize=8)
    says = "What each GPU is asked for, and how much of each limit it uses; 1 is the limit."
    return Section(heading="Load", plot=as_image(figure), plot_says=says)


def _gpus(plan: PlanSchema) -> Section:
    header = (
        "GPU",
        "adapters",
        "max_loras",
        "max_lora_rank",
        "tok/s",
        "starvation",
        "ITL ms",
        "TTFT ms",
        "binds",
    )
    return Section(heading="GPUs", header=header, rows=[_gpu_row(gpu) for gpu in plan.gpus])


def _gpu_row(gpu: GpuSchema) -> tuple[object, ...]:
    predicted = gpu.predicted
    return (
        gpu.gpu,
        len(gpu.adapters),
        gpu.max_loras,
        gpu.max_lora_rank,
        number(predicted.throughput_tok_s),
        number(predicted.starvation_probability, 3),
        number(predicted.itl_ms),
        number(predicted.ttft_ms),
        gpu.binding_constraint,
    )


def _verified(plan: PlanSchema) -> Section:
    rows = [
        (
            row.gpu,
            "starved" if row.starved else "held",
            number(row.throughput_tok_s),
            number(row.offered_tok_s),
            number(row.itl_ms),
            number(row.ttft_ms),
        )
        for row in plan.verification.gpus or []
    ]
    header = ("GPU", "in the twin", "tok/s", "asked for", "ITL ms", "TTFT ms")
    return Section(heading="An hour in the twin", header=header, rows=rows)


def _adapters(plan: PlanSchema) -> Section:
    rows = [(name, gpu.gpu) for gpu in plan.gpus for name in gpu.adapters]
    lines = [f"The first {MAX_ROWS} of {len(rows)}."] if len(rows) > MAX_ROWS else []
    return Section(heading="Adapters", lines=lines, header=("adapter", "GPU"), rows=rows[:MAX_ROWS])
