"""The autoscaler's day from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def simulate_scaling(
    trace: Annotated[Path, typer.Option(help="CSV with a column t_s, perhaps gzipped.")] = Path(
        "../shared/data/traces/azure_llm_2023_conv.csv.gz"
    ),
    adapters: Annotated[int, typer.Option(min=1, help="Adapters of the fleet.")] = 300,
    peak_rps: Annotated[float, typer.Option(min=0.1, help="Requests a second at the day's peak.")] = 200.0,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same day.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on one line.")] = False,  # noqa: FBT002
) -> None:
    """Simulate a day of GET /gpus-needed under a trace's rates and print how it scales, as JSON."""
    import orjson  # noqa: PLC0415 (light imports, as below)

    from service.observability import configure_logging  # noqa: PLC0415
    from service.scaling_day import Day, minute_counts, simulate_day  # noqa: PLC0415
    from service.services.catalog import load_catalog  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    settings = Settings()
    configure_logging(settings.log_level)
    if not trace.is_file():
        print(f"skipped: there is no trace at {trace}", file=sys.stderr)  # noqa: T201
        return
    catalog = load_catalog()
    target = catalog.find(gpu_type="h100-64gb", base_model="llama-3.1-8b-instruct")
    day = Day(
        num_adapters=adapters,
        peak_rps=peak_rps,
        window_s=settings.scale_down_window_s,
        rate_noise=settings.rate_noise,
        seed=seed,
    )
    figures = simulate_day(target, minute_counts(trace), day)
    options = orjson.OPT_APPEND_NEWLINE | (0 if json else orjson.OPT_INDENT_2)
    sys.stdout.buffer.write(orjson.dumps(figures, option=options))
