"""The processes, placements from a file, benchmarks, and the API's description."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Everything else is imported by the command that needs it: `--help` and short commands stay fast.

if TYPE_CHECKING:
    from service.client import Client

WorkloadFile = Annotated[
    Path, typer.Option("--workload", help="A workload as JSON, or - for standard input.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 picks one.", show_default=False)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Data directory.", show_default=False)] = None,
    processes: Annotated[int | None, typer.Option(help="HTTP processes.", show_default=False)] = None,
) -> None:
    """Run the service: HTTP, its store (unless LOADMASTER_REDIS_URL names one) and two workers."""
    from service.observability import configure_logging  # noqa: PLC0415
    from service.serve import serve as run_service  # noqa: PLC0415

    settings = _settings(host=host, port=port, data_dir=data_dir, processes=processes)
    configure_logging(settings.log_level)
    run_service(settings)


def api(
    fd: Annotated[int, typer.Option(help="The listening socket.")],
    name: Annotated[str, typer.Option(help="Of this process among the others.")],
) -> None:
    """Answer as one of several processes of `serve`, which starts it."""
    from service.api import answer_among_others  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415

    settings = _settings()
    configure_logging(settings.log_level, process=name)
    answer_among_others(settings, fd, name)


def worker(
    queues: Annotated[
        str, typer.Option(help="Comma-separated: twin (simulations), train (what fits and trains).")
    ] = "twin,train",
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Jobs at a time.")] = 1,
) -> None:
    """Run a worker on the store that LOADMASTER_REDIS_URL names, else on that of LOADMASTER_DATA_DIR.

    Any number of them may run, on any number of hosts that reach the store.
    """
    from service.errors import UsageError  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415
    from service.storage.jobs import QUEUES  # noqa: PLC0415
    from service.worker.process import run_worker  # noqa: PLC0415

    settings = _settings()
    configure_logging(settings.log_level)
    names = [name.strip() for name in queues.split(",")]
    for name in names:
        if name not in QUEUES:
            raise UsageError(f"must be some of {', '.join(QUEUES)}, got {name!r}", field="--queues")
    run_worker(settings, names, concurrency)


Url = Annotated[
    str | None,
    typer.Option(help="Ask the service there, with the key of LOADMASTER_KEY.", show_default=False),
]


def place(workload: WorkloadFile, url: Url = None, json: Json = False) -> None:  # noqa: FBT002 (the flag's name)
    """Plan a workload: the answer of POST /place."""
    import orjson  # noqa: PLC0415

    from service.factory import local_catalog  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415
    from service.services.placement import PlacementService  # noqa: PLC0415

    settings = _settings()
    configure_logging(settings.log_level)
    document = read_input(workload)
    if url is None:
        answer = PlacementService(local_catalog(settings), settings).answer(document)
    else:
        with client_of(url) as client:
            answer = client.place(document).model_dump_json().encode()
    if json:
        sys.stdout.buffer.write(answer + b"\n")
        return
    _print_plan(orjson.loads(answer))


def re_place(
    workload: Annotated[
        Path,
        typer.Option(
            "--workload",
            help="A workload with `current`, the plan in force, as JSON, or - for standard input.",
            show_default=False,
        ),
    ],
    json: Json = False,  # noqa: FBT002
) -> None:
    """Get from the plan in force to one that holds: the answer of POST /re-place."""
    import orjson  # noqa: PLC0415

    from service.factory import local_catalog  # noqa: PLC0415
    from service.observability import configure_logging  # noqa: PLC0415
    from service.services.placement import PlacementService  # noqa: PLC0415
    from service.services.replacement import ReplacementService  # noqa: PLC0415

    settings = _settings()
    configure_logging(settings.log_level)
    placements = PlacementService(local_catalog(settings), settings)
    answer = ReplacementService(placements, settings).answer(read_input(workload))
    if json:
        sys.stdout.buffer.write(answer + b"\n")
        return
    plan = orjson.loads(answer)
    _print_plan(plan)
    typer.echo(
        f"{len(plan['moves'])} moves, restarts {plan['restarts']}, "
        f"opened {plan['opened']}, closed {plan['closed']}"
    )
    for row in plan["unmended"]:
        typer.echo(f"not mended: GPU {row['gpu']}: {row['reason']}")


def gpus_needed(
    url: Annotated[str, typer.Option(help="Where the service is.")] = "http://127.0.0.1:8080",
    base_model: Annotated[str | None, typer.Option(help="Needed where several are in force.")] = None,
    gpu_type: Annotated[str | None, typer.Option(help="Needed where several are in force.")] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Ask a running service how many GPUs to run: the answer of GET /gpus-needed."""
    which = {"base_model": base_model, "gpu_type": gpu_type}
    with client_of(url) as client:
        answer = client.gpus_needed(**{name: value for name, value in which.items() if value is not None})
    told = answer.model_dump_json() if json else f"{answer.gpus_needed} GPUs: {answer.reason}"
    sys.stdout.write(told + "\n")


def client_of(url: str) -> Client:
    """Return a client of the service there, with the key of LOADMASTER_KEY."""
    from service.client import Client  # noqa: PLC0415

    return Client(url, key=os.environ.get("LOADMASTER_KEY"))


class BenchPart(StrEnum):
    """What `bench` measures."""

    TWIN = "twin"
    SURROGATE = "surrogate"
    PLACE = "place"
    MARGINS = "margins"
    HTTP = "http"
    QUEUE = "queue"
    WORKERS = "workers"


def bench(
    part: Annotated[BenchPart | None, typer.Argument(help="What to measure; all of it if not given.")] = None,
    family: Annotated[str, typer.Option(help="Instance family of `bench place`, or all.")] = "all",
    seed: Annotated[int, typer.Option(min=0, help="Seed of `bench place` and `bench margins`.")] = 0,
    url: Annotated[
        str | None, typer.Option(help="For `bench http`: a service that runs; without it one is started.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="For `bench http`: placements a second with 1, 2, 4, ... HTTP processes, so many at last.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Measure speed (and for `place` quality) on this machine and print the figures as JSON."""
    import orjson  # noqa: PLC0415

    if part is None:
        minutes = {BenchPart.MARGINS, BenchPart.QUEUE, BenchPart.WORKERS}
        parts = [each for each in BenchPart if each not in minutes]
        figures = {str(each): _measure(each, family, seed, url) for each in parts}
    elif part is BenchPart.HTTP and processes is not None:
        figures = _measure_processes(processes, url)
    else:
        figures = _measure(part, family, seed, url)
    options = 0 if json else orjson.OPT_INDENT_2
    sys.stdout.buffer.write(orjson.dumps(figures, option=options | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def _measure_processes(most: int, url: str | None) -> Any:
    from service.bench_processes import bench_processes  # noqa: PLC0415
    from service.errors import UsageError  # noqa: PLC0415

    if url is not None:
        raise UsageError("starts services of its own: not with --url", field="--processes")
    return bench_processes(most)


def _measure_workers(part: BenchPart) -> Any:
    if part is BenchPart.WORKERS:
        from service.bench_workers import bench_workers  # noqa: PLC0415

        return bench_workers()
    from service.bench_queue import bench_queue  # noqa: PLC0415

    return bench_queue()


def _measure(part: BenchPart, family: str, seed: int, url: str | None) -> Any:
    if part is BenchPart.TWIN:
        from twin.bench import bench_twin  # noqa: PLC0415

        return bench_twin()
    if part is BenchPart.SURROGATE:
        from models.bench import bench_surrogate  # noqa: PLC0415

        return bench_surrogate()
    if part is BenchPart.PLACE:
        from placer.bench import ALL_FAMILIES, KNOWN_FAMILIES, bench_place  # noqa: PLC0415
        from service.errors import UsageError  # noqa: PLC0415

        known = (ALL_FAMILIES, *KNOWN_FAMILIES)
        if family not in known:
            raise UsageError(f"must be one of {', '.join(known)}, got {family!r}", field="--family")
        return bench_place(family, seed)
    if part is BenchPart.MARGINS:
        from placer.bench import bench_margins  # noqa: PLC0415

        return bench_margins(seed)
    if part in {BenchPart.QUEUE, BenchPart.WORKERS}:
        return _measure_workers(part)
    from service.bench import bench_http  # noqa: PLC0415

    return bench_http(url)


def openapi(
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("openapi/openapi.json"),
) -> None:
    """Write the API's OpenAPI description."""
    from service.app import create_app  # noqa: PLC0415
    from service.openapi import openapi_text  # noqa: PLC0415

    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(openapi_text(create_app(_settings())), encoding="utf-8")


def read_input(path: Path) -> bytes:
    """Return a file's bytes, or standard input's for ``-``."""
    return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()


def _settings(**overrides: Any) -> Any:
    from service.settings import Settings  # noqa: PLC0415

    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def _print_plan(plan: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("gpu", "adapters", "max_loras", "max_lora_rank", "tok/s", "starvation", "binding")
    for gpu in plan["gpus"]:
        predicted = gpu["predicted"]
        table.add_row(
            str(gpu["gpu"]),
            str(len(gpu["adapters"])),
            str(gpu["max_loras"]),
            str(gpu["max_lora_rank"]),
            f"{predicted['throughput_tok_s']:.0f}",
            f"{predicted['starvation_probability']:.3f}",
            gpu["binding_constraint"],
        )
    console = Console()
    console.print(table)
    console.print(f"{plan['num_gpus']} GPUs, lower bound {plan['lower_bound']}, feasible: {plan['feasible']}")
    for row in plan["unplaced"]:
        console.print(f"not placed: {row['adapter']}: {row['reason']}", markup=False)
