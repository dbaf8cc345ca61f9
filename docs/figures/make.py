"""The tables and pictures of the guide, from the twin and the placer: ``python docs/figures/make.py``.

Prints the tables as Markdown and writes the pictures beside this file. The same seed gives the same figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from models.evaluation import TreePredictor
from models.evaluation import predict_run as tree_prediction
from placer.packing import place
from placer.problem import PlacementProblem
from service.reports.validation import TREE, TWIN, plot
from service.services.catalog import load_catalog
from twin.domain import Adapter, ServerConfig, Workload
from twin.measured import read_runs
from twin.memory import kv_tokens
from twin.simulate import simulate
from twin.validate import predict_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from twin.domain import Calibration, SimulationReport

BASE_MODEL, GPU_TYPE = "llama-3.1-8b-instruct", "h100-64gb"
HERE = Path(__file__).parent
MEASURED_RUNS = HERE.resolve().parents[2] / "shared" / "data" / "h100_vllm" / "runs.csv"
SEED = 0
SLOTS = (8, 16, 32, 64, 96, 128, 160, 192)
RANKS = (8, 16, 32)


def adapters(count: int, rate_rps: float, rank: int, prefix: str = "a") -> list[Adapter]:
    """Return equal adapters with the mean lengths of ShareGPT."""
    return [
        Adapter(
            adapter_id=f"{prefix}{number}",
            rank=rank,
            rate_rps=rate_rps,
            input_tokens_mean=223,
            output_tokens_mean=197,
        )
        for number in range(count)
    ]


def hour(
    rows: list[Adapter], calibration: Calibration, max_loras: int, max_lora_rank: int
) -> SimulationReport:
    """Return an hour of one server in the twin."""
    workload = Workload.from_adapters(rows, base_model=BASE_MODEL, gpu_type=GPU_TYPE)
    server = ServerConfig(max_loras=max_loras, max_lora_rank=max_lora_rank)
    return simulate(workload, server, calibration, horizon_s=3600.0, seed=SEED)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as Markdown."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, ["---"] * len(header), *rows)]
    print(f"\n{title}\n\n" + "\n".join(lines))  # noqa: T201


def slots_cost(calibration: Calibration) -> None:
    """Print and draw what `max_loras` does to 192 adapters, in a light hour and in one beyond capacity."""
    rows, light, heavy = [], [], []
    for max_loras in SLOTS:
        light.append(hour(adapters(192, 0.02, 16), calibration, max_loras, 16))
        heavy.append(hour(adapters(192, 0.25, 16), calibration, max_loras, 16))
        room = kv_tokens(calibration, max_loras, 16)
        rows.append(
            (
                max_loras,
                f"{room:,.0f}",
                f"{light[-1].itl.mean_ms:.0f}",
                f"{light[-1].ttft.mean_ms:,.0f}",
                f"{heavy[-1].throughput_tok_s:,.0f}",
                f"{heavy[-1].itl.mean_ms:.0f}",
            )
        )
    header = ("max_loras", "KV tokens", "light: ITL ms", "light: TTFT ms", "full: tok/s", "full: ITL ms")
    table("192 adapters of rank 16; light is 0.02, full is 0.25 requests/s each", header, rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(SLOTS, [report.throughput_tok_s for report in heavy], marker="o")
    _label(left, "max_loras", "tok/s beyond capacity")
    right.plot(SLOTS, [report.ttft.mean_ms for report in light], marker="o")
    right.set_yscale("log")
    _label(right, "max_loras", "TTFT in a light hour, ms")
    figure.savefig(HERE / "max-loras.svg")


def who_starves(calibration: Calibration) -> None:
    """Print what a few hot adapters leave to rare ones, by slots."""
    rows = []
    for max_loras in (8, 16, 32, 64):
        fleet = adapters(8, 2.0, 16, "hot") + adapters(56, 0.01, 16, "rare")
        report = hour(fleet, calibration, max_loras, 16)
        served = report.served_fraction
        waits_ms = report.adapters.mean_wait_ms
        rows.append(
            (
                max_loras,
                f"{np.nanmean(served[:8]):.2f}",
                f"{np.nanmean(served[8:]):.2f}",
                f"{np.nanmean(waits_ms[:8]):,.0f}",
                f"{np.nanmean(waits_ms[8:]):,.0f}",
                int(report.adapters.starving.sum()),
            )
        )
    header = ("max_loras", "hot: served", "rare: served", "hot: wait ms", "rare: wait ms", "starving")
    table("8 hot adapters (2 requests/s) and 56 rare ones (0.01) of rank 16", header, rows)


def ranks_cost(calibration: Calibration) -> None:
    """Print what one adapter of a larger rank costs 95 of rank 8."""
    rows = []
    for rank in RANKS:
        fleet = adapters(95, 0.5, 8) + adapters(1, 0.5, rank, "large")
        report = hour(fleet, calibration, 96, rank)
        room = kv_tokens(calibration, 96, rank)
        shown = f"{report.throughput_tok_s:,.0f}", f"{report.itl.mean_ms:.0f}"
        rows.append((rank, f"{room:,.0f}", *shown))
    header = ("largest rank", "KV tokens", "tok/s", "ITL ms")
    table("95 adapters of rank 8 and one larger, 96 slots, 0.5 requests/s each", header, rows)


def a_plan() -> None:
    """Draw a plan of 600 adapters: what each GPU carries, adapter by adapter."""
    target = load_catalog().find(gpu_type=GPU_TYPE, base_model=BASE_MODEL)
    generator = np.random.default_rng(SEED)
    rates = np.sort(0.02 + generator.pareto(1.3, 600) * 0.03)[::-1].clip(max=3.0)
    ranks = generator.choice([8, 16, 32], 600, p=[0.5, 0.35, 0.15])
    fleet = [
        Adapter(
            adapter_id=f"a{number}",
            rank=int(ranks[number]),
            rate_rps=float(rates[number]),
            input_tokens_mean=223,
            output_tokens_mean=197,
        )
        for number in range(600)
    ]
    workload = Workload.from_adapters(fleet, base_model=BASE_MODEL, gpu_type=GPU_TYPE)
    problem = PlacementProblem(
        workload=workload, calibration=target.calibration, surrogate=target.surrogate, num_trials=10_000
    )
    plan = place(problem)
    figure, axes = plt.subplots(figsize=(9, 0.42 * plan.num_gpus + 1.2), layout="constrained")
    tok_s = workload.rate_rps * (workload.input_tokens_mean + workload.output_tokens_mean)
    colours = {8: "#7fb3d5", 16: "#2e86c1", 32: "#1b4f72"}
    for gpu in plan.gpus:
        left = np.concatenate([[0.0], np.cumsum(tok_s[gpu.rows])])
        axes.barh(
            [gpu.gpu] * len(gpu.rows),
            tok_s[gpu.rows],
            left=left[:-1],
            color=[colours[int(workload.rank[row])] for row in gpu.rows],
            edgecolor="white",
            linewidth=0.2,
        )
        told = f"{len(gpu.rows)} adapters, max_loras {gpu.max_loras}"
        axes.text(left[-1] + 40, gpu.gpu, told, va="center", fontsize=8)
    axes.set_xlim(right=axes.get_xlim()[1] * 1.28)
    axes.set_yticks([gpu.gpu for gpu in plan.gpus])
    axes.invert_yaxis()
    axes.legend(
        [mpl.patches.Patch(color=colour) for colour in colours.values()],
        [f"rank {rank}" for rank in colours],
        loc="lower right",
        frameon=False,
    )
    _label(axes, "tokens a second that its adapters ask for", "GPU")
    figure.savefig(HERE / "plan.svg")
    header = ("GPU", "adapters", "max_loras", "max_lora_rank", "tok/s", "starvation", "binds")
    rows = [
        (
            gpu.gpu,
            len(gpu.rows),
            gpu.max_loras,
            gpu.max_lora_rank,
            f"{gpu.predicted.offered_tok_s:,.0f}",
            f"{gpu.predicted.starvation_probability:.3f}",
            gpu.binding_constraint,
        )
        for gpu in plan.gpus
    ]
    table(f"600 adapters: {plan.num_gpus} GPUs, lower bound {plan.lower_bound}", header, rows)


def measured_runs() -> None:
    """Draw what `loadmaster report validation` draws, where the measured runs are beside this clone."""
    if not MEASURED_RUNS.is_file():
        print(f"\nno picture of measured runs: {MEASURED_RUNS} is not there")  # noqa: T201
        return
    measured = read_runs(MEASURED_RUNS)
    for target in load_catalog().targets.values():
        calibration = target.calibration
        runs = [run for run in measured if run.model == calibration.base_model]
        tree = TreePredictor(surrogate=target.surrogate)
        predictors = {
            TWIN: [predict_run(run, calibration) for run in runs],
            TREE: [tree_prediction(tree, run, calibration) for run in runs],
        }
        plot(calibration.base_model, predictors).savefig(HERE / f"runs-{calibration.base_model}.png", dpi=90)


def _label(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Print and draw everything."""
    mpl.rcParams["svg.hashsalt"] = "loadmaster"  # the same bytes each time
    mpl.rcParams["svg.fonttype"] = "none"
    calibration = load_catalog().find(gpu_type=GPU_TYPE, base_model=BASE_MODEL).calibration
    slots_cost(calibration)
    who_starves(calibration)
    ranks_cost(calibration)
    a_plan()
    measured_runs()


if __name__ == "__main__":
    main()
