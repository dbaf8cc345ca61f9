"""What an agent measured beside what the calibration fitted to it says: a page with tables and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from twin.fitting.tables import column, full_column, read_rows
from twin.kernels.latency import step_terms
from twin.latency import load_times_ns, step_coefficients
from twin.measurement_set import LAUNCHES, LOADS, STEPS
from twin.memory import kv_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twin.domain import Calibration
    from twin.fitting.tables import TableRow
    from twin.measurement_set import Manifest

MARKERS = {"decode": "o", "context": "s", "prefill": "^", "mixed": "D", "queue": "v"}


def write_points_report(path: Path, directory: Path, manifest: Manifest, calibration: Calibration) -> None:
    """Write a Markdown page on an agent's set and its calibration, with a plot (PNG) beside it."""
    name = manifest.base_model
    states = _rows_of(read_rows(directory, STEPS), name)
    predicted_ms = predicted_steps_ms(states, calibration)
    picture = path.with_suffix(".png")
    _plot(picture, states, predicted_ms)
    lines = [
        f"# Calibration {calibration.calibration_id}",
        "",
        f"Measured by {manifest.agent_id} on {manifest.device or manifest.gpu_type}, {manifest.measured_on}.",
        "",
        "## Errors",
        "",
        *_table(("figure", "value"), ((key, f"{value:.3g}") for key, value in calibration.errors.items())),
        "",
        "## Coefficients",
        "",
        *_table(("coefficient", "value", "standard error"), _coefficients(calibration)),
        "",
        "## Step times",
        "",
        f"![Measured and fitted step times]({picture.name})",
        "",
        *_table(
            ("state", "slots", "rank", "measured ms", "law ms", "off by %"), _steps(states, predicted_ms)
        ),
        "",
        "## Launches",
        "",
        *_table(
            ("slots", "rank", "KV tokens", "law", "failure"),
            _launches(_rows_of(read_rows(directory, LAUNCHES), name), calibration),
        ),
        "",
        "## Loads",
        "",
        *_table(
            ("rank", "max_lora_rank", "from", "median ms", "law ms"),
            _loads(_rows_of(read_rows(directory, LOADS), name), calibration),
        ),
        "",
        "## What stays uncertain",
        "",
        *([f"- {line}" for line in manifest.uncertain] or ["Nothing beyond the target of the plan."]),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def predicted_steps_ms(rows: Sequence[TableRow], calibration: Calibration) -> NDArray[np.float64]:
    """Return what the laws say of each held state's mean step, (num_rows,) float64."""
    law = step_coefficients(calibration.step)
    names = ("decodes", "prefill_tokens", "context_tokens", "adapters_in_batch")
    states = np.column_stack([full_column(rows, name) for name in names])
    slots, ranks = full_column(rows, "max_loras"), full_column(rows, "max_lora_rank")
    steps = [
        step_terms(state[None, :], int(rank), int(count))[0] @ law
        for state, rank, count in zip(states, ranks, slots, strict=True)
    ]
    return np.array(steps) + 1e-3 * calibration.scheduler.scanned_us * full_column(rows, "scanned")


def _rows_of(rows: Iterable[TableRow], base_model: str) -> list[TableRow]:
    return [row for row in rows if row["model"] == base_model]


def _coefficients(calibration: Calibration) -> Iterable[tuple[str, str, str]]:
    for part in ("memory", "step", "scheduler", "load"):
        law = getattr(calibration, part)
        for name in law.__slots__:
            key = f"{part}.{name}"
            error = calibration.standard_errors.get(key)
            yield key, f"{getattr(law, name):.4g}", "" if error is None else f"{error:.2g}"


def _steps(rows: Sequence[TableRow], predicted_ms: NDArray[np.float64]) -> Iterable[tuple[str, ...]]:
    for row, law_ms in zip(rows, predicted_ms, strict=True):
        measured_ms = row.required("step_ms")
        state = f"{row['kind']}: {row['concurrency']} requests, {row['adapters']} adapters, "
        state += f"{row['input_len']} in, {row['output_len']} out"
        yield (
            state,
            row["max_loras"],
            row["max_lora_rank"],
            f"{measured_ms:.2f}",
            f"{law_ms:.2f}",
            f"{100 * (law_ms / measured_ms - 1):+.1f}",
        )


def _launches(rows: Sequence[TableRow], calibration: Calibration) -> Iterable[tuple[str, ...]]:
    for row in sorted(rows, key=lambda row: (row.required("max_lora_rank"), row.required("max_loras"))):
        slots, rank = int(row.required("max_loras")), int(row.required("max_lora_rank"))
        yield str(slots), str(rank), row["kv_tokens"], str(kv_tokens(calibration, slots, rank)), row["error"]


def _loads(rows: Sequence[TableRow], calibration: Calibration) -> Iterable[tuple[str, ...]]:
    for row in rows:
        rank = np.array([int(row.required("adapter_rank"))], np.int32)
        from_cpu, from_disk = load_times_ns(calibration.load, rank, int(row.required("max_lora_rank")))
        law_ns = from_disk if row["source"] == "disk" else from_cpu
        yield (
            row["adapter_rank"],
            row["max_lora_rank"],
            row["source"],
            f"{row.required('median_ms'):.2f}",
            f"{law_ns[0] * 1e-6:.2f}",
        )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]


def _plot(path: Path, rows: Sequence[TableRow], predicted_ms: NDArray[np.float64]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    measured_ms, error_ms = full_column(rows, "step_ms"), np.nan_to_num(column(rows, "step_ms_se"))
    kinds = np.array([row["kind"] for row in rows])
    figure = Figure(figsize=(5.0, 4.5), layout="constrained")
    axes = figure.subplots()
    top = 1.1 * float(max(measured_ms.max(), predicted_ms.max()))
    axes.plot([0, top], [0, top], color="0.7", linewidth=1)
    for kind in sorted(set(kinds)):
        chosen = kinds == kind
        axes.errorbar(
            measured_ms[chosen],
            predicted_ms[chosen],
            xerr=error_ms[chosen],
            fmt=MARKERS.get(kind, "x"),
            markersize=5,
            linewidth=1,
            label=kind,
        )
    axes.set(xlabel="measured step, ms", ylabel="fitted step, ms", xlim=(0, top), ylim=(0, top))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
